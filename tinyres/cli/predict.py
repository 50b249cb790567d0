"""`tinyres predict`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tinyres import checkpoints, nn, ops
from tinyres.cli.options import Checkpoint
from tinyres.console import RESULTS, Json, Threads, UserError, console, errors, numbers_to, reading, show, work_together
from tinyres.data import Loader, PictureError, find_pictures, read_picture
from tinyres.data.pictures import in_channels
from tinyres.evaluation import BATCH
from tinyres.parallel.world import world
from tinyres.tape import Array, no_grad
from tinyres.tensor import Tensor


def predict(
    checkpoint_file: Checkpoint,
    images: Annotated[
        list[Path], typer.Argument(help="PNG or JPEG files of any size, or folders of them.", show_default=False)
    ],
    top: Annotated[int, typer.Option(help="How many classes to show.", rich_help_panel=RESULTS)] = 3,
    json_file: Json = None,
    threads: Threads = None,
) -> None:
    """Classify pictures: print the most likely classes and their probabilities.

    The shorter side of a picture is scaled to the network's size, and a square is cut from its middle, as in training.
    Files of a folder that cannot be read are skipped and listed.
    """
    with errors(), numbers_to(json_file) as take:
        work_together(threads)
        if top < 1:
            raise UserError(f"--top: got {top}, expected 1 or more")
        model, info = checkpoints.load_model(checkpoint_file)
        if info.get("floats"):
            raise UserError(
                f"{checkpoint_file}: the network was trained on floats, so it cannot classify pictures; in Python, use "
                "tr.Trainer.load"
            )
        model = nn.fuse(model, image_size=info["image_size"])
        paths = _expand(images)
        starts = range(0, len(paths), BATCH)  # few at a time: a folder may be larger than the memory
        found: dict[str, list[float]] = {}
        with reading() as progress:
            for start in starts[world().rank :: world().size]:  # several processes take turns
                pixels = _read(paths[start : start + BATCH], images, info)
                if pixels:
                    rows = _probabilities(model, np.stack(list(pixels.values())), info)
                    found |= zip(map(str, pixels), rows.tolist(), strict=True)
                progress(min(start + BATCH, len(paths)), len(paths))
        if world().size > 1:
            for others in world().texts(json.dumps(found)):
                found |= json.loads(others)
        read = [path for path in paths if str(path) in found]
        if not read:
            raise UserError(f"none of the {len(paths)} pictures can be read")
        if world().rank == 0:
            _show(read, np.array([found[str(path)] for path in read], np.float32), info["classes"], top, take)


def _expand(images: list[Path]) -> list[Path]:
    """The pictures, with folders replaced by the pictures in them; each picture once."""
    paths: dict[Path, None] = {}
    for path in images:
        inside = find_pictures(path) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"{path}: no pictures in this folder")
        paths |= dict.fromkeys(inside)
    return list(paths)


def _read(paths: list[Path], named: list[Path], info: dict[str, Any]) -> dict[Path, Array]:
    """Pixels of the pictures that can be read. If one that the user named cannot be read, this is an error."""
    pixels = {}
    for path in paths:
        try:
            pixels[path] = read_picture(path, info["image_size"], resize=info.get("resize"))
        except PictureError as error:
            if path in named:
                raise
            console(stderr=True).print(f"Passed over: {error}", soft_wrap=True)
    return pixels


def _probabilities(model: nn.Module, pixels: Array, info: dict[str, Any]) -> Array:
    labels = np.zeros(len(pixels), np.int64)  # unknown, but the loader needs labels
    pixels = in_channels(pixels, len(info["mean"]))
    loader = Loader(pixels, labels, BATCH, mean=info["mean"], std=info["std"], shuffle=False)
    with no_grad():
        return np.concatenate([ops.softmax(model(Tensor(x))).data for x, _ in loader.epoch(0)])


def _show(paths: list[Path], probabilities: Array, classes: list[str], top: int, take: Callable[[Any], None]) -> None:
    top = min(top, len(classes))
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    rows = [[(classes[k], float(p[k])) for k in ks] for p, ks in zip(probabilities, best, strict=True)]
    take(
        [
            {"image": str(path), "top": [{"class": name, "probability": p} for name, p in row]}
            for path, row in zip(paths, rows, strict=True)
        ]
    )
    table = Table("image", *(f"{i + 1}" for i in range(top)))
    for path, row in zip(paths, rows, strict=True):
        table.add_row(str(path), *(f"{name} {p:.1%}" for name, p in row))
    show(table)
