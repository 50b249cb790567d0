"""The commands about a network's size and speed: `summary`, `profile` and `warmup`."""

import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from support.commands import bad, good

from tinyres import console as console_module
from tinyres import models, profile

pytestmark = pytest.mark.usefixtures("small_world")


def test_summary_as_json_and_as_a_table():
    found = json.loads(good("summary", "resnet20", "--json"))
    assert (found["model"], found["parameters"], found["multiply_adds"]) == ("resnet20", 269_722, 40_551_040)
    assert found["layers"][0]["name"] == "conv1"
    text = good("summary", "resnet20")
    assert "269,722" in text
    assert "40,551,040" in text
    assert json.loads(good("summary", "tiny", "--num-classes", "3", "--json"))["layers"][-1]["output"] == [3]
    assert json.loads(good("summary", "tiny", "--image-size", "9", "--json"))["layers"][0]["output"] == [8, 9, 9]
    found = json.loads(good("summary", "resnet50_v1", "--json"))  # 224 pixels, those of its stem
    assert (found["image_size"], found["multiply_adds"]) == (224, 3_857_973_248)
    assert json.loads(good("summary", "resnet18", "--stem", "cifar", "--json"))["image_size"] == 32
    assert json.loads(good("summary", "resnet34", "--shortcut", "A", "--json"))["multiply_adds"] == 3_644_493_824


@pytest.mark.parametrize("name", ["resnet152", "preact_resnet1001", "resnext50_32x4d", "plain20"])
def test_summary_at_80_columns_keeps_names_whole(name, monkeypatch):
    to = Console(highlight=False, width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr(console_module, "out", to)
    lines = good("summary", name).splitlines()
    assert max(map(len, lines)) <= 80
    rows = models.summarize(models.create(name), models.image_size(name))
    words = [line.split() for line in lines]
    for row in rows:
        output = "x".join(map(str, row.output))
        assert any(word[:1] == [row.name] and output in word for word in words), row.name


def test_summary_of_pictures_with_other_channels():
    found = json.loads(good("summary", "tiny", "--in-channels", "1", "--json"))
    assert found["layers"][0]["parameters"] == 8 * 9
    assert "in_channels: got 0, expected 1 or more" in bad("summary", "tiny", "--in-channels", "0")


def test_summary_compares_blocks():
    text = good("summary", "--compare", "basic,bottleneck", "--image-size", "64")
    assert re.search(r"256 +│ 16\^2 +│ basic +│ +1,180,672 │ +301,989,888", text)
    assert "16.9 x" in text  # 18 / (17 / 16)
    found = json.loads(good("summary", "--compare", "basic,bottleneck", "--image-size", "64", "--json"))["blocks"]
    assert found["basic"][0]["multiply_adds"] == 18 * 256**2 * 16**2
    assert "there is no 'basik'" in bad("summary", "--compare", "basik")
    assert "expected the name of a model, or --compare" in bad("summary")
    assert "expected the name of a model, or --compare" in bad("summary", "tiny", "--compare", "basic")


def cells(line):
    return [cell.strip() for cell in line.split("│")[1:-1]]


@pytest.mark.usefixtures("ceilings")
def test_profile_as_a_table_and_as_json(tmp_path):
    text = good("profile", "tiny", "--batch-size", "2", "--steps", "2", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["model"], found["batch_size"], found["image_size"], found["options"]) == ("tiny", 2, 32, {})
    assert len(found["all_step_seconds"]) == 2
    table = [cells(line) for line in text.splitlines() if line.startswith("│")]
    assert len(table) == len(found["rows"]) + len(found["totals"]) + 1

    def shown(seconds):
        return f"{1000 * seconds:,.2f}" if seconds else ""

    for line, row in zip(table, found["rows"], strict=False):
        assert line[:3] == [row["module"], row["op"], " x ".join(map(str, row["output"]))]
        assert (line[3], line[7]) == (shown(row["forward"]["seconds"]), shown(row["backward"]["seconds"]))
    line, row = next((line, row) for line, row in zip(table, found["rows"], strict=False) if row["module"] == "conv1")
    for at, cost in ((4, row["forward"]), (8, row["backward"])):
        assert line[at : at + 2] == [f"{cost['gflop_per_second']:.1f}", f"{cost['gb_per_second']:.1f}"]
        assert line[at + 2] == f"{max(cost['of_sgemm'], cost['of_copy']):.0%}"
    for line, total in zip(table[len(found["rows"]) :], found["totals"], strict=False):
        assert line[0].startswith(total["kind"])
        assert line[1:5] == [*(shown(total[k]) for k in ("forward", "backward", "seconds")), f"{total['share']:.1%}"]
    assert table[-1][:5] == ["step", "", "", shown(found["step_seconds"]), "100.0%"]
    assert "n = 2), on the tape" in text
    assert f"): {found['images_per_second']:,.1f} images/s, 50,000 images in" in text
    assert len(found["repeated_step_seconds"]) == 2
    assert "Ceilings 100 GFLOP/s (sgemm) and 10.0 GB/s (copy), 1 threads" in text


@pytest.mark.usefixtures("ceilings")
def test_profile_options_reach_the_measurement(tmp_path):
    options = ["--stem", "imagenet", "--num-classes", "7", "--shortcut", "B", "--image-size", "16", "--batch-size", "3"]
    tail = ["--steps", "1", "--images", "600", "--threads", "1", "--sort", "time", "--json", "out.json"]
    text = good("profile", "tiny", *options, *tail)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["options"] == {"stem": "imagenet", "num_classes": 7, "shortcut": "B"}
    assert found["rows"][0]["output"] == [3, 8, 8, 8]
    assert any(row["op"] == "max_pool2d" for row in found["rows"])
    assert found["rows"][-2]["output"] == [3, 7]
    assert found["epoch"] == {"images": 600, "seconds": 600 / 3 * np.median(found["repeated_step_seconds"])}
    times = [cells(line) for line in text.splitlines() if line.startswith("│")][: len(found["rows"])]
    spent = [sum(float(line[at] or 0) for at in (3, 7)) for line in times]
    assert all(a >= b - 0.02 for a, b in itertools.pairwise(spent))  # as rounded
    assert spent[0] > spent[-1]


@pytest.mark.usefixtures("ceilings")
def test_profile_in_a_narrow_terminal_loses_no_name(monkeypatch):
    monkeypatch.setattr(
        "tinyres.cli.profile.out", Console(highlight=False, width=80, force_terminal=True, color_system=None)
    )
    text = good("profile", "tiny", "--batch-size", "2", "--steps", "1")
    assert max(map(len, text.splitlines()[:-3])) <= 80
    assert "…" not in text
    assert "GFLOP/s" not in text.split("Step ")[0]
    assert "100.0%" in text


def test_profile_has_the_sizes_that_models_were_made_for(monkeypatch):
    asked = []

    def stop(net, **options):
        asked.append(options)
        raise ValueError("enough")

    monkeypatch.setattr(profile, "profile", stop)
    for arguments in (["resnet20"], ["resnet18"], ["resnet18", "--stem", "cifar"]):
        assert bad("profile", *arguments) == "Error: enough"
    assert [(options["batch_size"], options["image_size"]) for options in asked] == [(128, 32), (16, 224), (128, 32)]
    assert asked[0]["steps"] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21"], "there is no 'resnet21'; did you mean resnet"),
        (["tiny", "--batch-size", "0"], "--batch-size: got 0, expected 1 or more"),
        (["tiny", "--image-size", "0"], "--image-size: got 0, expected 1 or more"),
        (["tiny", "--steps", "0"], "--steps: got 0, expected 1 or more"),
        (["tiny", "--images", "-1"], "--images: got -1, expected 1 or more"),
        (["tiny", "--sort", "name"], "--sort: got 'name', expected one of run, time, forward, backward"),
        (["tiny", "--stem", "wide"], "stem: got 'wide', expected one of 'cifar', 'imagenet'"),
        (["tiny", "--num-classes", "0"], "num_classes: got 0, expected 1 or more"),
        (["tiny", "--threads", "0"], "--threads: got 0 threads, expected 1 to"),
        (
            ["tiny", "--json", "nowhere/out.json"],
            "--json: got nowhere/out.json, expected a file in a folder that exists",
        ),
        (["tiny", "--json", "."], "--json: got ., expected a file in a folder that exists"),
        (["tiny", "--batch-size", "1", "--image-size", "2"], "expected more than one value per channel in training"),
        (["tiny", "--batch-size", "1000000000000"], "Unable to allocate"),
    ],
)
def test_profile_mistakes(tmp_path, arguments, message):
    assert message in bad("profile", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_warmup_compiles_each_kernel_once_and_says_so(monkeypatch):
    called = []
    steps = [(name, lambda name=name: called.append(name)) for name in ("one", "two")]
    monkeypatch.setattr(console_module.warmup, "steps", lambda: iter(steps))
    assert re.search(r"2 kernels ready in \d", good("warmup"))
    assert called == ["one", "two"]


def test_warmup_is_all_that_a_training_step_needs():
    """In a new process: after the calls of `warmup` a step compiles nothing more, nor loads it."""
    code = """
from tinyres.kernels import warmup
for name, compile_kernel in warmup.steps():
    compile_kernel()
import numpy as np, numba, tinyres as tr
from numba.core import event
class Listener(event.Listener):
    def on_start(self, e): raise SystemExit(f"compiles {e.data}")
    def on_end(self, e): pass
event.register("numba:compile", Listener())
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (4, 3, 16, 16), np.uint8)
loader = tr.data.Loader(images, np.arange(4), 4, mean=[0.5] * 3, std=[0.2] * 3, augment=tr.data.Augment())
for net in (tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(16, 32), shortcut=s) for s in "AB"):
    for x, y in loader.epoch(0):
        loss = tr.ops.cross_entropy(net(tr.Tensor(x)), y)
        loss.backward()
        tr.optim.SGD(net.parameters(), 0.1).step()
        net.eval()
        with tr.no_grad():
            net(tr.Tensor(x))
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "done", done.stderr
