"""Hostile files: a small good one of every kind that tinyres reads, ways to damage it, and nasties made by hand.

`tests/test_hostile.py` and `reliability/hostile.py` load them all.

This file is long because each kind of file has a good one, its own damage and its own nasties.
"""

import gzip
import io
import json
import os
import random
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import safetensors.numpy
from PIL import Image

import tinyres as tr
from tinyres import checkpoints, models, train
from tinyres.data import (
    DatasetError,
    DatasetNotFound,
    PictureError,
    cifar,
    cifar10,
    cifar100,
    download,
    read_csv,
    read_idx,
    read_npz,
    read_picture,
)
from tinyres.files import CHECKSUM, CheckpointError, digest
from tinyres.runs import read_config

MEMORY_DISK = "/dev/shm" if Path("/dev/shm").is_dir() else None  # for many small files
RECORDS = 2  # in each file of CIFAR


@contextmanager
def small_world():
    """A network of one block, forty drawn pictures, and CIFAR files of two records."""
    tiny = {"block": models.BasicBlock, "layers": [1], "widths": (4,), "shortcut": "A", "num_classes": 10}
    pictures = {split: tr.data.shapes(20, split, size=8) for split in ("train", "test")}
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(models.FAMILY, tiny=tiny))
        shapes = (lambda split: pictures[split], tr.data.SHAPES_CLASSES)
        stack.enter_context(mock.patch.dict(train.DATASETS, shapes=shapes))
        for name in ("CIFAR10", "CIFAR100"):
            archive = getattr(cifar, name)
            few = archive._replace(records=dict.fromkeys(archive.records, RECORDS))
            stack.enter_context(mock.patch.object(cifar, name, few))
        stack.enter_context(mock.patch.object(download, "_probe", no_network))
        stack.enter_context(mock.patch.object(download, "user_cache_path", return_value=Path("nowhere")))
        stack.enter_context(mock.patch.dict(os.environ, TINYRES_DATA="nowhere"))
        yield


def no_network(url: str) -> None:
    raise ConnectionError("no network in this test")


class Kind(NamedTuple):
    """A kind of file."""

    filename: str
    good: bytes
    load: Callable[[Path], Any]
    documented: tuple[type[Exception], ...]  # what the docstring of the function that loads it names
    inner: Callable[[random.Random, bytes], bytes] | None = None  # damage that the outermost check does not see

    def damaged(self, chance: random.Random) -> bytes:
        """The good file after a few random changes."""
        if self.inner and chance.random() < 0.5:
            return self.inner(chance, self.good)
        return mutate(chance, self.good)

    def outcome(self, content: bytes, folder: Path) -> str:
        """Load such a file: "loaded", or the name of the documented exception it was refused with."""
        path = folder / self.filename
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return self.verdict(path)

    def verdict(self, path: Path) -> str:
        """The outcome of a file that is there."""
        try:
            self.load(path)
        except self.documented as error:
            return type(error).__name__
        return "loaded"


# ---------------------------------------------------------------- random damage
NUMBERS = [0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1]


def mutate(chance: random.Random, content: bytes) -> bytes:
    """One to four changes: bits, bytes and whole ranges."""
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        content = chance.choice(CHANGES)(chance, bytearray(content))
    return bytes(content)


def _range(chance: random.Random, content: bytearray) -> slice:
    start = chance.randrange(len(content) + 1)
    return slice(start, start + chance.choice([1, 2, 4, 8, 64, 512]))


def flip_bit(chance, content):
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return content


def overwrite(chance, content):
    if content:
        content[chance.randrange(len(content))] = chance.randrange(256)
    return content


def insert(chance, content):
    at = chance.randrange(len(content) + 1)
    content[at:at] = chance.randbytes(chance.choice([1, 2, 8, 100]))
    return content


def delete(chance, content):
    del content[_range(chance, content)]
    return content


def swap(chance, content):
    first, second = _range(chance, content), _range(chance, content)
    content[first], content[second] = content[second], content[first]
    return content


def duplicate(chance, content):
    at = chance.randrange(len(content) + 1)
    content[at:at] = content[_range(chance, content)]
    return content


def splice_number(chance, content):
    """A number at the edge of some type, as bytes or as text, over what was there or before it."""
    number, width = chance.choice(NUMBERS), chance.choice([1, 2, 4, 8])
    order = chance.choice(["little", "big"])
    wrapped = (number % 2 ** (8 * width)).to_bytes(width, order)
    new = chance.choice([wrapped, f"{number}".encode(), f"{number % 2**64:o}".encode()])
    at = chance.randrange(len(content) + 1)
    content[at : at + chance.choice([0, len(new)])] = new
    return content


CHANGES = [flip_bit, overwrite, insert, delete, swap, duplicate, splice_number]

VALUES = [None, True, "", "x", [], {}, [None], {"x": 1}, 0, -1, 0.5, -0.0, 1e308, 10**400, 2**31, 2**63, 2**64]
VALUES += [float("nan"), float("inf"), 10**9, "tiny", "resnet20", "\ud800", "A" * 5000, [0] * 70, [[[[[]]]]]]


def mutate_json(chance: random.Random, value: Any) -> str:
    """JSON text of a value in which something is replaced, left out, exchanged or there twice."""
    value = deepcopy(value)
    for _ in range(chance.choice([1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            break
        holder, key = chance.choice(places)
        other, there = chance.choice(places)
        match chance.randrange(4):
            case 0:
                del holder[key]
            case 1:
                holder[key], other[there] = deepcopy(other[there]), deepcopy(holder[key])  # one may hold the other
            case _:
                holder[key] = deepcopy(chance.choice(VALUES))
    text = json.dumps(value)
    keys, braces = re.findall(r'"\w+": ', text), [match.end() for match in re.finditer("{", text)]
    if keys and chance.random() < 0.25:
        at = chance.choice(braces)
        text = f"{text[:at]}{chance.choice(keys)}{json.dumps(chance.choice(VALUES))}, {text[at:]}"
    return text


def _places(value: Any):
    """All (container, key) in a tree of dicts and lists."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


# ---------------------------------------------------------------- checkpoints
def with_header(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file of this header: text, or what JSON can hold."""
    text = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def taken_apart(content: bytes) -> tuple[Any, bytes]:
    """Header and data of a safetensors file."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def sealed(arrays: dict[str, np.ndarray], description: str) -> bytes:
    """A checkpoint with any text for a description, and the checksum that belongs to it."""
    metadata = {"tinyres": description}
    return safetensors.numpy.save(arrays, metadata={**metadata, CHECKSUM: digest(arrays, metadata)})


def damage_header(chance: random.Random, content: bytes) -> bytes:
    header, data = taken_apart(content)
    if chance.random() < 0.5:
        return with_header(mutate(chance, json.dumps(header).encode()), data)
    return with_header(mutate_json(chance, header), data)


def damage_description(chance: random.Random, content: bytes) -> bytes:
    """The checksum is made right again."""
    description = json.loads(taken_apart(content)[0]["__metadata__"]["tinyres"])
    arrays = safetensors.numpy.load(content)
    if chance.random() < 0.2:
        text = mutate(chance, json.dumps(description).encode()).decode(errors="replace")
        return sealed(arrays, text)
    if chance.random() < 0.2:
        del arrays[chance.choice(list(arrays))]
    return sealed(arrays, mutate_json(chance, description).encode("utf-8", "replace").decode())


def described(**changes: Any) -> bytes:
    """A checkpoint of a tiny run that has just begun, with other things in its description."""
    network = models.create("tiny")
    config = train.Config(dataset="shapes", model="tiny", epochs=2, batch_size=5, validation=5)
    arrays = {f"model.{name}": array for name, array in network.state_dict().items()}
    optimizer = tr.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    arrays |= {f"optimizer.{name}": array for name, array in optimizer.state_dict().items()}
    info = {
        "format": checkpoints.FORMAT,
        "model": {"name": "tiny", "options": {"num_classes": 10}},
        "classes": list(tr.data.SHAPES_CLASSES),
        "image_size": 8,
        "resize": 8,
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
        "config": json.loads(config_json(config)),
        "step": 4,
        "sums": {"loss": 2.5, "correct": 1, "images": 5},
        "history": [{"epoch": 1, "step": 3, "lr": 0.1, "train_loss": 2.0, "train_accuracy": 0.5}],
    }
    return sealed(arrays, json.dumps({**info, **changes}))


def config_json(config: train.Config) -> str:
    return json.dumps({name: getattr(config, name) for name in config.__dataclass_fields__})


def load_weights(path: Path) -> None:
    models.load_weights(models.create("tiny"), path, replace_head=True)


def predict(path: Path) -> None:
    """As the command does."""
    model, info = checkpoints.load_model(path)
    picture = path.parent / "good.png"
    if not picture.exists():
        Image.new("RGB", (9, 8)).save(picture)
    pixels = read_picture(picture, info["image_size"], resize=info.get("resize"))[None]
    options = {"mean": info["mean"], "std": info["std"], "shuffle": False}
    with tr.no_grad():
        for x, _ in tr.data.Loader(pixels, np.zeros(1, np.int64), 1, **options).epoch(0):
            best = model(tr.Tensor(x)).data.argmax()
    assert isinstance(info["classes"][best], str)
    with suppress(ValueError, TypeError):  # that the command catches
        train.Config(**info["config"])


def begin(path: Path) -> None:
    """Read a configuration, and make a run of it: that needs data, and may say that there is none."""
    config = read_config(path.parent)
    with suppress(ValueError, DatasetNotFound):
        train.Run(config, path.parent / "run", resume=True)


def resume(path: Path) -> None:
    """A step of a run whose configuration is the one that the checkpoint should have."""
    good = taken_apart(described())[0]["__metadata__"]["tinyres"]
    (path.parent / "config.json").write_text(json.dumps(json.loads(good)["config"]))
    run = train.Run(read_config(path.parent), path.parent, resume=True)
    with suppress(train.Diverged):
        run.train_to(min(run.step + 1, run.total_steps))


# ---------------------------------------------------------------- CIFAR
def binary(archive: Any, split: str = "train") -> bytes:
    """A file of the archive, of black pictures of the first class."""
    return bytes(archive.records[split] * (archive.label_bytes + cifar.PIXELS))


def member(name: str, content: bytes = b"", **fields: Any) -> bytes:
    """A header and its content as a tar archive holds them."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    size = info.size
    if size < 0 or size >= 8**11:  # the base-256 way, which tarfile reads
        info.size = 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size != info.size:
        header[124:136] = (size % 2**96).to_bytes(12, "big")
        header[124] |= 0x80
    return right_checksum(header) + content + bytes(-len(content) % 512)


def right_checksum(header: bytes) -> bytes:
    header = bytearray(header)
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header)


def archive_of(archive: Any, split: str = "train") -> bytes:
    """The members that a split needs, as an uncompressed tar archive."""
    return b"".join(member(f"{archive.folder}/{n}", binary(archive, split)) for n in archive.files[split]) + bytes(1024)


def packed(tar: bytes) -> bytes:
    return gzip.compress(tar, 1, mtime=0)


def damage_tar(chance: random.Random, content: bytes) -> bytes:
    """Damage inside of the compression, mostly in a header whose checksum is made right again."""
    tar = bytearray(gzip.decompress(content))
    headers = [at for at in range(0, len(tar), 512) if tar[at + 257 : at + 262] == b"ustar"]
    at = chance.choice(headers)
    if chance.random() < 0.2:
        return packed(mutate(chance, bytes(tar)))
    header = mutate(chance, bytes(tar[at : at + 512]))[:512].ljust(512, b"\0")
    if chance.random() < 0.3:
        header = header[:156] + chance.choice(b"0123456789xgLKSA").to_bytes(1, "little") + header[157:]
    tar[at : at + 512] = right_checksum(header)
    return packed(bytes(tar))


# ---------------------------------------------------------------- tables
def npy(shape: Any, data: bytes = b"", descr: str = "|u1") -> bytes:
    """A file of one array that claims a shape."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + data


def zipped(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, inside in members.items():
            file.writestr(f"{name}.npy", inside)
    return content.getvalue()


def npz(x: bytes = npy((2, 3, 5, 5), bytes(150)), y: bytes = npy((2,), bytes(2))) -> bytes:
    return zipped(x=x, y=y)


def damage_npz(chance: random.Random, content: bytes) -> bytes:
    """Damage in an array or its header, whose checksum is made right again."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name.removesuffix(".npy"): file.read(name) for name in file.namelist()}
    name = chance.choice(list(members))
    end = members[name].index(b"\n") + 1
    header, data = members[name][:end], members[name][end:]
    damaged = mutate(chance, header) + data if chance.random() < 0.7 else header + mutate(chance, data)
    return zipped(**members | {name: damaged})


def idx(*shape: int, data: bytes = bytes(8), kind: int = 8) -> bytes:
    """An array in MNIST's format that claims a shape."""
    return bytes([0, 0, kind, len(shape) % 256]) + struct.pack(f">{len(shape)}I", *shape) + data


# ---------------------------------------------------------------- pictures
def picture(suffix: str, size: tuple[int, int] = (12, 9), **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, Image.registered_extensions()[suffix], **options)
    return content.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A piece of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, *, bits: int = 8, colour: int = 0, data: bytes = b"", extra: bytes = b"") -> bytes:
    """A PNG file that claims a size; its pixels are whatever there is."""
    start = struct.pack(">IIBBBBB", width % 2**32, height % 2**32, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def damage_png(chance: random.Random, content: bytes) -> bytes:
    """Damage in a piece whose checksum is made right again; or pieces in another order, or twice."""
    pieces, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        pieces.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    i = chance.randrange(len(pieces))
    name, inside = pieces[i]
    match chance.randrange(4):
        case 0:
            pieces.insert(chance.randrange(len(pieces) + 1), pieces[i])
        case 1:
            pieces[i] = chance.choice([b"tRNS", b"PLTE", b"zTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL"]), inside
        case _:
            pieces[i] = name, mutate(chance, inside)
    return content[:8] + b"".join(chunk(*piece) for piece in pieces)


# ---------------------------------------------------------------- the kinds
def kinds() -> dict[str, Kind]:
    """All kinds of files, by name; to be made and used in the `small_world`."""
    refusals, data = (CheckpointError,), (DatasetError, DatasetNotFound)
    run = described()
    arrays = {"a": np.arange(3, dtype=np.float32), "b": np.zeros((), np.int64)}
    weights = safetensors.numpy.save(models.create("tiny").state_dict(), metadata={"format": "pt"})
    config = config_json(train.Config(dataset="shapes", model="tiny")).encode()
    small = sealed(arrays, json.dumps({"format": checkpoints.FORMAT, "step": 1}))
    folder10, folder100 = cifar.CIFAR10.folder, cifar.CIFAR100.folder
    tar10, tar100 = (packed(archive_of(archive)) for archive in (cifar.CIFAR10, cifar.CIFAR100))
    return {
        "checkpoint": Kind("a.safetensors", small, checkpoints.load, refusals, damage_header),
        "info": Kind("a.safetensors", small, checkpoints.load_info, refusals, damage_header),
        "model": Kind("a.safetensors", run, predict, refusals, damage_description),
        "weights": Kind("a.safetensors", weights, load_weights, refusals, damage_header),
        "run": Kind("last.safetensors", run, resume, refusals, damage_description),
        "config": Kind(
            "config.json", config, begin, refusals,
            lambda chance, content: mutate_json(chance, json.loads(content)).encode("utf-8", "replace"),
        ),
        "cifar10 archive": Kind("a.tar.gz", tar10, cifar10, data, damage_tar),
        "cifar100 archive": Kind("a.tar.gz", tar100, cifar100, data, damage_tar),
        "cifar10 folder": Kind(
            f"{folder10}/test_batch.bin", binary(cifar.CIFAR10), lambda path: cifar10(path.parent, "test"), data
        ),
        "cifar100 folder": Kind(
            f"{folder100}/test.bin", binary(cifar.CIFAR100), lambda path: cifar100(path.parent, "test"), data
        ),
        "idx": Kind("a-idx3-ubyte", idx(2, 2, 2), read_idx, (DatasetError,)),
        "npz": Kind("a.npz", npz(), read_npz, data, damage_npz),
        "csv": Kind("a.csv", b"file,label\na.csv,cat\n./a.csv,dog\n", read_csv, data),
        **{
            suffix: Kind(f"a.{suffix}", picture(f".{suffix}"), lambda path: read_picture(path, 8), (PictureError,))
            for suffix in ("jpg", "gif", "bmp", "tif", "webp", "ppm")
        },
        "png": Kind("a.png", picture(".png"), lambda path: read_picture(path, 8), (PictureError,), damage_png),
    }  # fmt: skip


# ---------------------------------------------------------------- nasties
MANY = 2**24  # bytes of a bomb's one piece
CUT = "not a safetensors file, or a damaged one"


class Nasty(NamedTuple):
    """A file made to do harm, and what is said of it: a regular expression, or None where it is loaded."""

    name: str
    kinds: tuple[str, ...]
    make: Callable[[], bytes]
    message: str | None


def header_of(*entries: str, data: bytes = bytes(8)) -> bytes:
    """A safetensors file of entries in a JSON object, which may be there twice."""
    return with_header("{" + ", ".join(entries) + "}", data)


def entry(name: str = "a", dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> str:
    return f"{json.dumps(name)}: {json.dumps({'dtype': dtype, 'shape': shape, 'data_offsets': offsets})}"


def poisoned() -> bytes:
    """Weights whose every bit is 1: NaN, or -1."""
    state = models.create("tiny").state_dict()
    return safetensors.numpy.save({n: np.full(a.shape, -1, f"i{a.itemsize}").view(a.dtype) for n, a in state.items()})


def twice_sealed() -> bytes:
    """Two checksums, of which the second, which counts, is wrong."""
    content = sealed({}, json.dumps({"format": checkpoints.FORMAT}))
    header, data = taken_apart(content)
    text = json.dumps(header)
    return with_header(text.replace("}}", f', "{CHECKSUM}": "{"0" * 64}"}}}}'), data)


def scalar_head() -> bytes:
    state = models.create("tiny").state_dict()
    return safetensors.numpy.save({**state, "fc.weight": np.zeros((), np.float32)})


SAFETENSORS = ("checkpoint", "info", "weights")
NASTY_ARRAYS = {
    "overlapping offsets": lambda: header_of(entry("a", offsets=(0, 4)), entry("b", offsets=(2, 6)), data=bytes(6)),
    "a hole between offsets": lambda: header_of(entry("a", offsets=(0, 4)), entry("b", offsets=(5, 9)), data=bytes(9)),
    "offsets beyond the end": lambda: header_of(entry(shape=(1000,), offsets=(0, 4000))),
    "offsets backwards": lambda: header_of(entry(offsets=(4, 0)), data=bytes(4)),
    "offsets below zero": lambda: header_of(entry(offsets=(-4, 0)), data=bytes(4)),
    "offsets that are no numbers": lambda: header_of(entry(offsets=("0", None)), data=bytes(4)),
    "bytes after the end": lambda: header_of(entry(), data=bytes(5)),
    "a header of 2^60 bytes": lambda: (2**60).to_bytes(8, "little") + b"{}",
    "a header of 2^64 - 1 bytes": lambda: b"\xff" * 8 + b"{}",
    "a header longer than the file": lambda: (99).to_bytes(8, "little") + b"{}",
    "no header": lambda: bytes(8),
    "a header that is a list": lambda: with_header([]),
    "a header nested deep": lambda: with_header("[" * 100_000),
    "a header of half a letter": lambda: with_header(b'{"\xff": 1}'),
    "a shape whose product overflows": lambda: header_of(entry(shape=(2**32, 2**32))),
    "a shape of 2^40 numbers": lambda: header_of(entry(shape=(2**40,), offsets=(0, 2**42))),
    "a shape below zero": lambda: header_of(entry(shape=(-1,))),
    "a shape of fractions": lambda: header_of(entry(shape=(1.5,))),
    "another type than the bytes are": lambda: header_of(entry(dtype="F64"), data=bytes(4)),
    "a type that is not": lambda: header_of(entry(dtype="PICKLE"), data=bytes(4)),
    "a type that is a list": lambda: header_of(entry(dtype=["F32"]), data=bytes(4)),
    "metadata that is no text": lambda: header_of('"__metadata__": {"tinyres": {"format": 2}}', entry(), data=bytes(4)),
}
NO_MODEL = "does not describe a model .*more numbers than"
NASTY_DESCRIPTIONS = {
    "no such model": ({"model": {"name": "A" * 10**6, "options": {}}}, "does not describe a model"),
    "a model for 10^12 classes": ({"model": {"name": "tiny", "options": {"num_classes": 10**12}}}, NO_MODEL),
    "a model for 10^9 classes": ({"model": {"name": "tiny", "options": {"num_classes": 10**9}}}, NO_MODEL),
    "a model for 10^7 classes": (
        {"model": {"name": "resnet50", "options": {"num_classes": 10**7}}},
        NO_MODEL,
    ),
    "a model for 10^30 classes": ({"model": {"name": "tiny", "options": {"num_classes": 10**30}}}, NO_MODEL),
    "a model of 10^9 layers": ({"model": {"name": "tiny", "options": {"layers": [10**9]}}}, "options: got .'layers'"),
    "the deepest model": ({"model": {"name": "resnet1202", "options": {}}}, "do not belong to this model"),
    "a model that is text": ({"model": "tiny"}, "does not describe a model"),
    "options that are text": ({"model": {"name": "tiny", "options": "ab"}}, "does not describe a model"),
    "classes that are a number": ({"classes": 10}, "classes: got 10, expected a list of 10 names"),
    "too few classes": ({"classes": ["a"]}, "classes: got .'a'., expected a list of 10 names"),
    "classes without names": ({"classes": [None] * 10}, "classes: got .None, .*, expected a list of 10 names"),
    "pictures of 1,024 pixels a side": ({"image_size": 1024, "resize": 1170}, None),
    "pictures of 10^9 pixels a side": ({"image_size": 10**9}, "image_size: got 1000000000, expected"),
    "pictures of no pixels": ({"image_size": 0, "resize": 0}, "image_size: got 0, expected a whole number from 1"),
    "a size that is text": ({"image_size": "8"}, "image_size: got '8', expected"),
    "a size that is true": ({"image_size": True}, "image_size: got True, expected"),
    "a resize below the size": ({"resize": 7}, "resize: got 7, expected"),
    "a resize of 10^400": ({"resize": 10**400}, "resize: got 1000.*000, expected"),
    "a mean that is no number": ({"mean": [float("nan")] * 3}, "mean, std: expected three numbers each"),
    "a mean of 10^400": ({"mean": [10**400] * 3}, "mean, std: expected three numbers each"),
    "a deviation of zero": ({"std": [1, 0, 1]}, "mean, std: expected three numbers each"),
    "four deviations": ({"std": [1] * 4}, "mean, std: expected three numbers each"),
    "deviations that are text": ({"std": ["1"] * 3}, "mean, std: expected three numbers each"),
    "a configuration that is a list": ({"config": []}, "config: got .., expected the configuration of a run"),
    "a configuration that is none": ({"config": None}, "config: got None, expected the configuration of a run"),
}
NASTY_RUNS = {
    "a step that is text": ({"step": "4"}, "step: got '4', expected 0 to 6"),
    "a step below zero": ({"step": -1}, "step: got -1, expected 0 to 6"),
    "a step and a half": ({"step": 1.5}, "step: got 1.5, expected 0 to 6"),
    "a step after the last": ({"step": 10**9}, "step: got 1000000000, expected 0 to 6"),
    "a history that is a number": ({"history": 1}, "history: got 1, expected"),
    "a history of text": ({"history": ["epoch"]}, "history: got .'epoch'., expected"),
    "a history without epochs": ({"history": [{"lr": 1}]}, "history: got .{'lr': 1}., expected"),
    "a history of lists": ({"history": [{"epoch": [1]}]}, "history: got .*, expected"),
    "sums that are none": ({"sums": None}, "sums: got None, expected loss, correct and images"),
    "sums that lack one": ({"sums": {"loss": 1.0, "images": 1}}, "sums: got .*, expected loss, correct and images"),
    "sums of text": ({"sums": {"loss": "1", "correct": 1, "images": 1}}, "sums: got .*, expected loss"),
    "sums of fewer images than none": ({"sums": {"loss": 1.0, "correct": 1, "images": -5}}, "sums: got .*, expected"),
}
NASTY_JSON = {
    "nested deep": b"[" * 10**6,
    "nested deep in a field": b'{"epochs": ' + b"[" * 10**6,
    "a number of 5,000 digits": b'{"epochs": ' + b"1" * 5000 + b"}",
    "a number of 400 digits": b'{"lr": 1' + b"0" * 400 + b"}",
    "not a number": b'{"lr": NaN}',
    "a bare surrogate": b'{"model": "\\ud800"}',
    "another encoding": '{"epochs": 1}'.encode("utf-16"),
    "epochs and a half": b'{"epochs": 1.5}',
    "true epochs": b'{"epochs": true}',
    "a batch of text": b'{"batch_size": "128"}',
    "a flip of text": b'{"flip": "no"}',
    "data that is a list": b'{"data": [1]}',
    "weights that are a number": b'{"weights": 1}',
    "a model that is a list": b'{"model": ["resnet20"]}',
    "a seed that is none": b'{"seed": null}',
    "pictures of 10^9 pixels a side": b'{"dataset": "folder", "data": ".", "image_size": 1000000000}',
    "a field of the class": b'{"__class__": "x"}',
}


def gzip_bomb(first: bytes, pieces: int) -> bytes:
    """A gzip file that begins so and goes on in zeros: 16 MiB for each piece of 16 kB."""
    return packed(first) + packed(bytes(MANY)) * pieces


def without_first(entries: bytes, name: str = "data_batch_1.bin") -> bytes:
    """An archive in which something stands in the place of the first file."""
    archive = archive_of(cifar.CIFAR10)
    size = len(member(name, binary(cifar.CIFAR10)))
    return packed(entries + archive[size:])


def first(**fields: Any) -> bytes:
    return without_first(member(FIRST, **fields))


FIRST = f"{cifar.CIFAR10.folder}/data_batch_1.bin"
ABSENT = "there is no file cifar-10-batches-bin/data_batch_1.bin in this archive"
BROKEN = "not a whole .tar.gz archive"
FULL = {"content": bytes(2 * 3073)}
NASTY_ARCHIVES = {
    "a path with ..": (lambda: without_first(member(f"../{FIRST}", bytes(2 * 3073))), ABSENT),
    "an absolute path": (lambda: without_first(member(f"/{FIRST}", bytes(2 * 3073))), ABSENT),
    "a path with .. that leads back": (
        lambda: without_first(member(f"x/../{FIRST}", bytes(2 * 3073))), ABSENT),
    "a symbolic link": (lambda: first(type=tarfile.SYMTYPE, linkname="/etc/passwd"), ABSENT),
    "a hard link": (lambda: first(type=tarfile.LNKTYPE, linkname="/etc/passwd"), ABSENT),
    "a character device": (lambda: first(type=tarfile.CHRTYPE, devmajor=1, devminor=5), ABSENT),
    "a block device": (lambda: first(type=tarfile.BLKTYPE, devmajor=8), ABSENT),
    "a pipe": (lambda: first(type=tarfile.FIFOTYPE), ABSENT),
    "a folder": (lambda: first(type=tarfile.DIRTYPE), ABSENT),
    "a sparse file": (lambda: first(type=tarfile.GNUTYPE_SPARSE), f"{ABSENT}|expected 6,146 bytes"),
    "a file of 2^60 bytes": (lambda: first(size=2**60), f"{BROKEN}.*more than the data set"),
    "a file of less than no bytes": (lambda: first(size=-512), f"{BROKEN}.*-512 bytes"),
    "an entry that leads back to itself": (
        lambda: packed(member("x", size=-512, type=tarfile.REGTYPE)), f"{BROKEN}.*-512 bytes"),
    "a bomb before the data": (lambda: gzip_bomb(member("x", size=2**30), 64), f"{BROKEN}.*more than the data"),
    "a bomb in an attribute": (
        lambda: gzip_bomb(member("x", size=2**30, type=tarfile.XHDTYPE), 64), f"{BROKEN}.*more than the data"),
    "a bomb in a long name": (
        lambda: gzip_bomb(member("x", size=2**30, type=tarfile.GNUTYPE_LONGNAME), 64), f"{BROKEN}.*more than the data"),
    "a bomb after the end": (lambda: gzip_bomb(bytes(1024), 64), ABSENT),
    "a million entries": (lambda: packed(member("x") * 2**15) * 32, f"{BROKEN}.*more than 1,000 entries"),
    "attributes of attributes of attributes": (
        lambda: packed(member("x", b"8 a=bcd\n", type=tarfile.XHDTYPE) * 900 + archive_of(cifar.CIFAR10)), None),
    "an attribute that no pattern finds an end of": (
        lambda: packed(member("x", b"1" * 2**22, type=tarfile.XHDTYPE) + archive_of(cifar.CIFAR10)), None),
    "a file that is there twice": (lambda: packed(member(FIRST, **FULL) + archive_of(cifar.CIFAR10)), None),
    "text after the end": (lambda: packed(archive_of(cifar.CIFAR10)) + b"text", None),
}  # fmt: skip


def npz_bomb() -> bytes:
    """Images of 8 GiB; they are so many zeros that a sixteenth of them is compressed, and claimed to be all."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        with file.open("x.npy", "w") as inside:
            inside.write(npy((2**13, 1, 2**10, 2**10)))
            for _ in range(32):
                inside.write(bytes(MANY))
        file.writestr("y.npy", npy((2**13,), bytes(2**13)))
        file.filelist[0].file_size = 2**33
    return content.getvalue()


NO_NUMBERS = "not an .npz file of numbers that can be read"
NO_SHAPE = "a shape that no array can have"
NASTY_TABLES = {
    "a bomb of images": ("npz", npz_bomb, "unpacked, they have 8,589,"),
    "a shape of 2^40 numbers": ("npz", lambda: npz(npy((2**40,))), NO_NUMBERS),
    "a shape of 2^70 numbers": ("npz", lambda: npz(npy((2**70,))), NO_NUMBERS),
    "a shape below zero": ("npz", lambda: npz(npy((-2, 3, 5, 5))), NO_NUMBERS),
    "a shape of fractions": ("npz", lambda: npz(npy((2.5, 3, 5, 5))), NO_NUMBERS),
    "a shape nested deep": ("npz", lambda: npz(npy("(" * 9000)), NO_NUMBERS),
    "a header of 60,000 letters": ("npz", lambda: npz(npy(" " * 60_000)), NO_NUMBERS),
    "an array of objects": ("npz", lambda: npz(npy((2, 3, 5, 5), bytes(99), "|O")), f"{NO_NUMBERS}.*allow_pickle"),
    "an array of text": ("npz", lambda: npz(npy((2, 3, 5, 5), bytes(600), "<U1")), "x: got <U1 of shape"),
    "images that are NaN": ("npz", lambda: npz(npy((2, 3, 1, 2), b"\xff" * 48, "<f4")), "x: got nan"),
    "images that no float32 can hold": (
        "npz", lambda: npz(npy((2, 3, 1, 2), struct.pack("<12d", *[1e300] * 12), "<f8")), "x: got 1e.300"),
    "labels that are infinite": (
        "npz", lambda: npz(y=npy((2, 2), struct.pack("<4f", *[float("inf")] * 4), "<f4")), "y: got inf"),
    "a label of 2^64 - 1": ("npz", lambda: npz(y=npy((2,), b"\xff" * 16, "<u8")), "y: got 18446744073709551615"),
    "a label below zero": ("npz", lambda: npz(y=npy((2,), b"\xff" * 2, "|i1")), "y: got -1"),
    "no labels": ("npz", lambda: zipped(x=npy((2, 3, 5, 5), bytes(150))), "labels: got 'y', expected one of x"),
    "no arrays": ("npz", zipped, "the file is empty"),
    "a member that is no array": ("npz", lambda: npz(b"\x93NUMPX"), "x: expected an array"),
    "a pickle for a table": ("npz", lambda: b"\x80\x04\x95pickle", "not an .npz file"),
    "2^32 bytes that are not there": ("idx", lambda: idx(2**16, 2**16), "found 8"),
    "2^40 bytes": ("idx", lambda: idx(2**20, 2**20), "a size of 1,099,511,627,776 bytes"),
    "no elements, on axes of 2^32 - 1": ("idx", lambda: idx(0, *[2**32 - 1] * 4, data=b""), NO_SHAPE),
    "255 axes": ("idx", lambda: idx(*[1] * 255, data=bytes(1)), NO_SHAPE),
    "255 axes that are not there": ("idx", lambda: bytes([0, 0, 8, 255]), "cut off"),
    "a bomb of an array": ("idx", lambda: gzip_bomb(idx(2, 2, 2), 64), "expected 8 bytes"),
    "a name of 5,000 letters": ("csv", lambda: b"file,label\n" + b"a" * 5000 + b",cat\n", "no such file"),
    "a name with a zero": ("csv", lambda: b"file,label\na\0,cat\n", "no such file|not a CSV"),
    "a path that leads back": ("csv", lambda: b"file,label\n" + b"../" * 900 + b"a,cat\n", "no such file"),
    "a field of a million letters": ("csv", lambda: b"file,label\na.csv," + b"a" * 10**6, "field larger"),
    "a quote that does not end": ("csv", lambda: b'file,label\na.csv,"cat\n', "not a CSV"),
    "100,000 columns": ("csv", lambda: b"file,label" + b"," * 100_000 + b"\na.csv,cat\n", "2 columns, expected"),
    "100,000 lines that are wrong": ("csv", lambda: b"file,label\n" + b"x,y\n" * 100_000, "and 99,995 more"),
}  # fmt: skip


def zeros(count: int) -> bytes:
    """Many zeros, compressed."""
    squeeze = zlib.compressobj(1)
    return b"".join(squeeze.compress(bytes(MANY)) for _ in range(count // MANY)) + squeeze.flush()


def largest(*, bits: int = 8, colour: int = 0, more: int = 0) -> bytes:
    """Black, and as many pixels as are allowed, or some rows more."""
    rows = 2 * Image.MAX_IMAGE_PIXELS // 7000 // 100 * 100 + more
    depth = {0: 1, 2: 3, 3: 1}[colour] * bits
    line = bytes(1 + 7000 * depth // 8)
    squeeze = zlib.compressobj(1)
    data = b"".join(squeeze.compress(line * 100) for _ in range(rows // 100)) + squeeze.flush()
    palette = chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    return png(7000, rows, bits=bits, colour=colour, data=data, extra=palette)


def patched(content: bytes, at: int, *values: int, form: str) -> bytes:
    """Other numbers at a place in a file."""
    new = struct.pack(form, *values)
    return content[:at] + new + content[at + len(new) :]


def jpeg_of(width: int, height: int) -> bytes:
    content = picture(".jpg")
    return patched(content, content.index(b"\xff\xc0") + 5, height, width, form=">HH")


SMALL = zlib.compress(bytes(10 * 9))
MOST = "million pixels|pixels, more than|exceeds limit"
NASTY_PICTURES = {
    "a PNG of 2^31 - 1 pixels a side": ("png", lambda: png(2**31 - 1, 2**31 - 1, data=SMALL), "pixels"),
    "a PNG of 2^32 - 1 pixels a side": ("png", lambda: png(-1, -1, data=SMALL), ""),
    "a PNG of no pixels": ("png", lambda: png(0, 0, data=SMALL), ""),
    "a PNG of 30,000 pixels a side": ("png", lambda: png(30_000, 30_000, data=SMALL), "pixels"),
    "a PNG just too large": ("png", lambda: largest(more=200), r"exceeds limit of \d+ pixels"),
    "a PNG as large as may be, in colour": ("png", lambda: largest(colour=2), None),
    "a PNG as large as may be, of 16 bits": ("png", lambda: largest(bits=16), None),
    "a PNG as large as may be, of a palette": ("png", lambda: largest(colour=3, bits=1), None),
    "a PNG with more pixels than it claims": ("png", lambda: png(9, 9, data=zeros(2**28)), None),
    "a PNG with a text of 256 MiB": (
        "png", lambda: png(9, 9, data=SMALL, extra=chunk(b"zTXt", b"a\0\0" + zeros(2**28))), ""),
    "a PNG with a colour profile of 256 MiB": (
        "png", lambda: png(9, 9, data=SMALL, extra=chunk(b"iCCP", b"a\0\0" + zeros(2**28))), ""),
    "a PNG of 200,000 pieces": ("png", lambda: png(9, 9, data=SMALL, extra=chunk(b"tEXt", b"a\0b") * 200_000), None),
    "a JPEG of 65,535 pixels a side": ("jpg", lambda: jpeg_of(65_535, 65_535), "pixels"),
    "a GIF of 65,535 pixels a side": ("gif", lambda: patched(picture(".gif"), 6, 65_535, 65_535, form="<HH"), "pixels"),
    "a BMP of 2^31 - 1 pixels a side": (
        "bmp", lambda: patched(picture(".bmp"), 18, 2**31 - 1, 2**31 - 1, form="<II"), "pixels"),
    "a PPM of 10^9 pixels a side": ("ppm", lambda: b"P6 1000000000 1000000000 255 ", "pixels"),
    "a WebP of 16,383 pixels a side": (
        "webp", lambda: patched(picture(".webp", lossless=True), 21, 0x0FFFFFFF, form="<I"), ""),
    "a pickle": ("png", lambda: b"\x80\x04\x95pickle", "not an image"),
}  # fmt: skip


def nasties() -> list[Nasty]:
    """All of them, to be made and used in the `small_world`."""
    every = [Nasty(name, SAFETENSORS, make, CUT) for name, make in NASTY_ARRAYS.items()]
    every += [
        Nasty("an array of a name twice", ("checkpoint",), lambda: header_of(entry(), entry(), data=bytes(4)), ""),
        Nasty("a checksum twice", ("checkpoint",), twice_sealed, "its SHA-256 differs"),
        Nasty(
            "an empty shape of 2^64 - 1",
            ("weights",),
            lambda: header_of(entry(shape=(0, 2**64 - 1), offsets=(0, 0)), data=b""),
            "",
        ),
        Nasty("a shape of 70 axes", ("weights",), lambda: header_of(entry(shape=(1,) * 70), data=bytes(4)), ""),
        Nasty("NaN in every number", ("weights",), poisoned, None),
        Nasty("a classifier of one number", ("weights",), scalar_head, r"fc.weight: got shape \(\), expected"),
        Nasty(
            "a number of 5,000 digits",
            ("checkpoint", "info"),
            lambda: sealed({}, '{"format": ' + "1" * 5000 + "}"),
            "no tinyres checkpoint",
        ),
        Nasty(
            "a format of 1 MB",
            ("checkpoint", "info"),
            lambda: sealed({}, json.dumps({"format": "A" * 10**6})),
            "format 'A+[.]+A+', expected 3",
        ),
    ]
    for name, (changes, message) in NASTY_DESCRIPTIONS.items():
        every.append(Nasty(name, ("model",), lambda changes=changes: described(**changes), message))
    for name, (changes, message) in NASTY_RUNS.items():
        every.append(Nasty(name, ("run",), lambda changes=changes: described(**changes), message))
    for name, content in NASTY_JSON.items():
        every.append(Nasty(name, ("config",), lambda content=content: content, "no configuration of a run"))
    every.append(Nasty("a field twice", ("config",), lambda: b'{"epochs": 0, "epochs": 1}', None))
    for name, (make, message) in NASTY_ARCHIVES.items():
        every.append(Nasty(name, ("cifar10 archive",), make, message))
    for name, (kind, make, message) in (NASTY_TABLES | NASTY_PICTURES).items():
        every.append(Nasty(name, (kind,), make, message))
    return every
