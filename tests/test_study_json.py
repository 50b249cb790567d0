"""`--json` of each study: the numbers that its table rounds, in a file beside the text or alone on the terminal."""

import json

import pytest
from support.json_keys import check_keys
from support.runs import call_tiny, config
from test_study import command, good

from tinyres import train
from tinyres.study import memory, warm_up
from tinyres.study.commands import app

TRAINED = ["--dataset", "shapes", "--batch-size", 12, "--seed", 1]
SHORT = ["--dataset", "shapes", "--epochs", 1, "--subset", 20, "--seed", 1]

# what is typed, and what the table has of the numbers
STUDIES = {
    "batch-norm": (
        ["tiny", "--scale", 1, "--scale", 2, "--dataset", "shapes", "--batch-size", 12, "--seed", 1],
        lambda n: [f"{point['factor']:.3f}" for point in n["points"]],
    ),
    "bottleneck": (
        ["--image-size", 64],
        lambda n: [f"{cost[kind]:,}" for cost in n["blocks"]["bottleneck"] for kind in ("parameters", "multiply_adds")],
    ),
    "degradation": (
        ["--networks", "plain20,resnet20", "--epochs", 2, *TRAINED],
        lambda n: [f"{curve[split][-1]:.2%}" for curve in n["curves"] for split in ("train", "test")],
    ),
    "explain": (
        ["tiny", "--seed", 1],
        lambda n: [f"{b[k]:.4g}" for b in n["blocks"] for k in ("norm_of_value", "norm_of_gradient")],
    ),
    "gradcheck": (
        ["exp", "relu"],
        lambda n: [f"{curve['best_error']:.1e}" for curves in n["curves"].values() for curve in curves.values()],
    ),
    "gradient-flow": (
        ["tiny", "--steps", 1, *TRAINED],
        lambda n: [f"{moment['loss']:.4g}" for net in n["networks"] for moment in net["moments"]],
    ),
    "identity-path": (
        ["tiny", "--steps", 1, *TRAINED],
        lambda n: [f"{s['kept']:.3f}" for net in n["networks"] for m in net["moments"] for s in m["measured"]],
    ),
    "landscape": (
        ["--networks", "tiny", "--points", 5, "--images", 10, *SHORT],
        lambda n: [f"{net['loss']:.3f}" for net in n["networks"]] + [f"{net['error']:.1%}" for net in n["networks"]],
    ),
    "memory": (
        ["tiny", "--batch-size", 2, "--image-size", 8, "--steps", 1],
        lambda n: [memory.shown(step["peak_bytes"]) for step in n["steps"]],
    ),
    "responses": (
        ["run", "--images", 20],
        lambda n: [f"{max(layer['std'] for layer in net['layers']):.3f}" for net in n["networks"]],
    ),
    "skip-path": (
        ["tiny", "--steps", 1, *TRAINED],
        lambda n: [f"{split['cosine']:.2f}" for moment in n["moments"] for split in moment["measured"]],
    ),
    "warm-up": (
        ["tiny", "--steps", 2, *TRAINED],
        lambda n: [f"{warm_up.smooth(curve['errors'])[-1]:.1%}" for curve in n["curves"]],
    ),
}


@pytest.fixture(autouse=True)
def small(tiny, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    call_tiny(monkeypatch, "plain20", "resnet20")


def untimed(numbers):
    """Without what a clock said."""
    steps = [{**step, "seconds": None} for step in numbers["steps"]]
    return {**numbers, "steps": steps, "verdict": numbers["verdict"][:1]}


@pytest.mark.parametrize("name", STUDIES)
def test_numbers_are_those_of_the_table(name, tmp_path):
    words, cells = STUDIES[name]
    if name == "responses":  # which takes a run that is there
        train.Run(config(epochs=1), tmp_path / "run").fit()
    out = ["--out", tmp_path / ("page.html" if name == "explain" else "out")]
    text = good(name, *words, *out, "--json", "numbers.json")
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    check_keys(f"tinyres study {name}", numbers)
    assert cells(numbers)
    for cell in cells(numbers):
        assert cell in text
    if name != "explain":  # which writes a page
        assert numbers == json.loads((tmp_path / "out" / f"{name}.json").read_text())

    run = command(name, *words, *out, "--json", "-")
    assert run.exit_code == 0
    alone = json.loads(run.stdout)
    assert untimed(alone) == untimed(numbers) if name == "memory" else alone == numbers
    assert "─" not in run.stderr  # no table


def test_levels_of_the_gym(tmp_path):
    assert command("gym", "start", "2").exit_code == 0
    run = command("gym", "--json")
    found = json.loads(run.stdout)
    check_keys("tinyres study gym", found)
    assert [level["number"] for level in found["levels"]] == list(range(1, 24))
    assert [level["state"] for level in found["levels"]][:3] == [None, "begun", None]
    text = good("gym", "--json", "levels.json")
    assert json.loads((tmp_path / "levels.json").read_text()) == found
    assert all(level["op"] in text and level["file"] in text for level in found["levels"])


def test_each_study_is_tried_here():
    assert {info.name for info in app.registered_commands} == set(STUDIES)
