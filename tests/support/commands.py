"""The command line as its tests use it: called in this process, in a world of small networks and pictures."""

import contextlib
import re

import pytest
from typer.testing import CliRunner

import tinyres as tr
from tinyres import cli, models, train
from tinyres.data import download

# also run in new processes, so it is text
TINY = """
import tinyres as tr
from tinyres import models, train
def pictures(split):
    return tr.data.shapes(50 if split == "train" else 20, split, size=16)
models.FAMILY["tiny"] = {
    "block": models.BasicBlock, "layers": [1, 1], "widths": (8, 16), "shortcut": "A", "num_classes": 10
}
train.DATASETS["shapes"] = (pictures, tr.data.SHAPES_CLASSES)
tr.set_num_threads(1)
"""
TRAIN = ["train", "--dataset", "shapes", "--model", "tiny", "--epochs", "2", "--batch-size", "12", "--validation", "8"]


@contextlib.contextmanager
def small_world(folder):
    """Small models and data, an empty current folder, and no data or network from outside."""
    threads = tr.num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for table in (models.FAMILY, train.DATASETS):
            for name, value in table.items():
                patch.setitem(table, name, value)
        patch.setitem(models.FAMILY, "tiny", None)
        exec(TINY, {})
        patch.chdir(folder)
        patch.delenv("TINYRES_DATA", raising=False)
        patch.setattr(download, "user_cache_path", lambda name: folder / "cache")
        patch.setattr(download, "_probe", no_network)
        yield
    tr.set_num_threads(threads)


def no_network(url):
    raise ConnectionError("no network in this test")


def tinyres(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def good(*arguments):
    result = tinyres(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def bad(*arguments, code=1):
    """Run what must fail, and return its message."""
    result = tinyres(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr) < 1500
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
