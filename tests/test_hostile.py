"""Files that were made or damaged to do harm: loading ends soon, in little memory, and runs nothing that they hold."""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from support import damage
from support.damage import described, kinds, nasties, small_world
from typer.testing import CliRunner

from tinyres import cli
from tinyres.data import cifar, cifar10, cifar100

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("one_thread", "lenient")
PILLOWS = 2 * Image.MAX_IMAGE_PIXELS  # as many as it reads
EXAMPLES = settings.default.max_examples
PIXELS = PILLOWS if EXAMPLES >= 2000 else 50_000_000
MUTATIONS, EVERY = 2 * EXAMPLES, max(1, 2000 // EXAMPLES)  # of each kind of file; one bit of so many of a checkpoint's

with small_world():
    KINDS, NASTIES = kinds(), nasties()
WHOLE = ["info", "weights", "config", "cifar10 folder", "cifar100 folder", "idx", "npz"]
"""Kinds of which no truncation can be used; what else reads a checkpoint reads it with `checkpoints.load`, and of that
`test_every_truncation_is_noticed`."""


@pytest.fixture(autouse=True)
def world():
    with small_world():
        yield


@pytest.fixture(scope="module")
def lenient():
    """As users have it: what NumPy and Pillow warn of is no exception."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def place():
    with tempfile.TemporaryDirectory(dir=damage.MEMORY_DISK) as folder:
        yield Path(folder)


# ---------------------------------------------------------------- damage
@pytest.mark.parametrize("name", WHOLE)
def test_every_truncation_is_refused(place, name):
    kind = KINDS[name]
    assert kind.outcome(kind.good, place) == "loaded"
    assert {outcome for _, outcome in truncations(kind, place)} == {kind.documented[0].__name__}


def truncations(kind, folder):
    """(length, outcome) of the good file cut off at every length, from the longest."""
    kind.outcome(kind.good, folder)
    for length in reversed(range(len(kind.good))):
        os.truncate(folder / kind.filename, length)
        yield length, kind.verdict(folder / kind.filename)


@pytest.mark.parametrize(("name", "load"), [("cifar10 archive", cifar10), ("cifar100 archive", cifar100)])
def test_a_truncated_archive_is_refused_or_read_rightly(place, name, load):
    """What comes after the last file that is wanted does not matter."""
    kind = KINDS[name]
    outcomes = set()
    for _, outcome in truncations(kind, place):
        outcomes.add(outcome)
        if outcome == "loaded":
            images, labels = load(place / kind.filename)
            assert len(images) == len(labels) == damage.RECORDS * (5 if load is cifar10 else 1)
            assert not images.any()
    assert outcomes == {"DatasetError", "loaded"}


@pytest.mark.parametrize("name", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_picture_is_refused_but_for_its_last_bytes(place, name):
    kind = KINDS[name]
    loaded = [length for length, outcome in truncations(kind, place) if outcome == "loaded"]
    assert min(loaded, default=len(kind.good)) > 0.75 * len(kind.good)


@pytest.mark.parametrize("name", KINDS)
def test_random_damage_gives_what_can_be_used_or_a_documented_exception(place, name):
    outcomes = {KINDS[name].outcome(KINDS[name].damaged(random.Random(f"{name} {i}")), place) for i in range(MUTATIONS)}
    assert "loaded" in outcomes or name == "checkpoint"  # which has a checksum
    assert len(outcomes) > 1 or name == "checkpoint"


def test_damage_that_the_outermost_check_does_not_see_gets_past_it(place):
    """Else the mutations of headers, descriptions and archives would show nothing."""
    for name, outermost in [("model", "checksum|SHA-256|not a safetensors"), ("cifar10 archive", "zlib|CRC|gzip")]:
        said = {message(KINDS[name], KINDS[name].inner(random.Random(i), KINDS[name].good), place) for i in range(100)}
        assert len(said) > 4
        assert not [text for text in said if re.search(outermost, text)]


def message(kind, content, folder):
    """What is said of such a file, without its numbers; nothing where it is loaded."""
    (folder / kind.filename).write_bytes(content)
    try:
        kind.load(folder / kind.filename)
    except kind.documented as error:
        return re.sub("[0-9]+", "", str(error))
    return ""


# ---------------------------------------------------------------- nasties
@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What the script says of all nasties; in a process of its own, whose memory is measured."""
    path = tmp_path_factory.mktemp("report") / "report.json"
    options = ["--pixels", str(PIXELS), "--mutations", "17", "--seconds", "3", "--every", str(EVERY), "--json", path]
    command = [sys.executable, ROOT / "reliability" / "hostile.py", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert path.exists(), done.stderr
    return json.loads(path.read_text()), done


@pytest.mark.parametrize(("kind", "name"), [(kind, nasty.name) for nasty in NASTIES for kind in nasty.kinds])
def test_nasty(report, kind, name):
    """As expected, and soon."""
    (row,) = [row for row in report[0]["nasties"] if (row["kind"], row["name"]) == (kind, name)]
    assert row["wrong"] is None
    assert row["message"] is None or len(row["message"]) < 1000


def test_memory_is_bounded(report):
    """By the largest picture that is allowed, one of 16 bits: 4 bytes a pixel to decode, and 2 to narrow them to 8. A
    bomb of a gigabyte cannot hide."""
    assert report[0]["peak MiB"] <= 200 + 1000 * PIXELS / PILLOWS  # the script's 1,200, where as many are allowed


def test_every_flipped_bit_of_a_run_is_noticed(report):
    assert report[0]["bits"]["noticed"] == report[0]["bits"]["turned"] > 30_000 // EVERY


def test_the_script_tells_what_it_found(report):
    assert report[1].returncode == 0
    assert "; 0 wrong" in report[1].stdout
    assert "nasties: " in report[1].stdout


# ---------------------------------------------------------------- nothing in a file is run
AUDIT = """
import io, pickle, sys, warnings
from pathlib import Path
import numpy as np
import pooch  # imported where a data set is looked for, which is no code of the file
from support.damage import kinds, nasties, small_world
import tinyres as tr

WATCHED = {"pickle.find_class", "marshal.loads", "exec", "compile", "import", "os.system", "os.exec", "os.posix_spawn",
           "subprocess.Popen", "socket.connect", "ctypes.dlopen"}
class Harmless: pass
class Evil:
    def __reduce__(self): return Harmless, ()
def torch_zip():
    import zipfile
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Evil()))
    return content.getvalue()
objects = io.BytesIO()
np.save(objects, np.array([Evil()], object), allow_pickle=True)
pickles = [pickle.dumps(Evil(), protocol) for protocol in range(6)] + [torch_zip(), objects.getvalue()]
seen, hear = [], False
def hook(event, arguments):
    parsed = event == "compile" and arguments[1] == "<unknown>"  # by ast, as NumPy reads a header: nothing is run
    if hear and event in WATCHED and not parsed:
        seen.append(f"{event} {arguments!r:.100}")
place = Path(sys.argv[1])
warnings.simplefilter("ignore")
tr.set_num_threads(1)
with small_world():
    every = kinds()
    contents = {name: [kind.good, *pickles] for name, kind in every.items()}
    for nasty in nasties():
        for name in nasty.kinds:
            if name not in ("png", "cifar10 archive") and "bomb" not in nasty.name:  # bombs; they hold nothing to run
                contents[name].append(nasty.make())
    for name, kind in every.items():  # modules that are imported late, kernels that come from their cache
        kind.outcome(kind.good, place)
        kind.outcome(pickles[0], place)
    sys.addaudithook(hook)
    loads = 0
    for name, kind in every.items():
        for content in contents[name]:
            hear = True
            outcome = kind.outcome(content, place)
            hear = False
            loads += 1
            assert content not in pickles or outcome != "loaded", (name, content)
print(loads, seen)
hear = True
pickle.loads(pickles[-3])
print(seen)
"""


def test_nothing_is_unpickled_or_run_while_loading(tmp_path):
    """An audit hook hears of it; it stays for as long as its process lives."""
    command = [sys.executable, "-c", AUDIT, tmp_path]
    path = f"{ROOT / 'tests'}:{ROOT}"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    heard, control = done.stdout.splitlines()
    assert re.fullmatch(r"\d{3,} \[\]", heard), heard
    assert "pickle.find_class" in control  # the hook does hear


# ---------------------------------------------------------------- the commands
def bad(*arguments):
    """Run a command that must fail, and return its message."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr) < 1500
    return " ".join(result.stderr.split())


@pytest.fixture
def run(tmp_path):
    """Writes a run's folder whose last checkpoint is described so."""
    folder = tmp_path / "run"
    folder.mkdir()

    def write(**changes):
        (folder / "last.safetensors").write_bytes(described(**changes))
        (folder / "config.json").write_text(json.dumps(good_config()))
        return folder

    return write


def good_config():
    return json.loads(damage.taken_apart(described())[0]["__metadata__"]["tinyres"])["config"]


def test_commands_refuse_checkpoints_that_describe_nonsense(run, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for changes, message in [
        ({"image_size": 10**9}, "image_size: got 1000000000, expected a whole number from 1 to 1,024"),
        ({"classes": ["a"]}, "classes: got ['a'], expected a list of 10 names"),
        ({"config": []}, "config: got [], expected the configuration of a run"),
        ({"mean": [10**400] * 3}, "mean, std: expected three numbers each"),
    ]:
        path = run(**changes) / "last.safetensors"
        for command in (["eval", path], ["predict", path, tmp_path / "a.png"], ["export", path, "--onnx", "a.onnx"]):
            assert f"last.safetensors: {message}" in bad(*command)


@pytest.mark.parametrize("command", [["train", "--resume", "--out"], ["verify"]])
def test_commands_refuse_runs_that_are_nonsense(run, command):
    folder = run(step=10**9)
    assert "last.safetensors: " in (message := bad(*command, folder))
    assert "step: got 1000000000, expected" in message
    assert "step: got '4', expected" in bad(*command, run(step="4"))
    for content in damage.NASTY_JSON.values():
        (folder / "config.json").write_bytes(content)
        assert "config.json: no configuration of a run" in bad(*command, folder)


@pytest.mark.parametrize("name", damage.NASTY_ARRAYS)
def test_training_refuses_weights_that_are_nonsense(tmp_path, name):
    (tmp_path / "a.safetensors").write_bytes(damage.NASTY_ARRAYS[name]())
    options = ["--dataset", "shapes", "--model", "tiny", "--validation", "5", "--out", tmp_path / "run"]
    assert "a.safetensors: not a safetensors file" in bad("train", *options, "--weights", tmp_path / "a.safetensors")
    assert not (tmp_path / "run").exists()


def test_prediction_refuses_a_bomb(run, tmp_path):
    (tmp_path / "a.png").write_bytes(damage.png(30_000, 30_000, data=damage.SMALL))
    message = bad("predict", run() / "last.safetensors", tmp_path / "a.png")
    assert "a.png: not an image that can be read" in message


def test_training_refuses_an_archive_that_is_a_bomb(tmp_path):
    (tmp_path / cifar.CIFAR10.filename).write_bytes(damage.gzip_bomb(damage.member("x", size=2**30), 2))
    options = ["--dataset", "cifar10", "--data", tmp_path, "--model", "tiny", "--out", tmp_path / "run"]
    assert "an entry of 1,073,741,824 bytes, more than the data set has in all" in bad("train", *options)
