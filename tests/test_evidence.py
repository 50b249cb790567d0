"""Tables and pictures of the documentation are those of the results that are stored."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import studies
import tables
from pages import studies as pages
from pages import writing

from tinyres.testing.mutants import MUTANTS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.parametrize(
    ("page", "table"),
    [(page, table) for page, some in tables.TABLES.items() for table in some],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_table_is_that_of_its_results(page, table):
    made = tables.made(table)
    assert made.count("\n") >= 3  # a head and a row
    assert tables.on_page(table.__name__, (ROOT / page).read_text()) == made


def test_every_comment_has_its_table():
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    found = {str(page.relative_to(ROOT)): re.findall(r"<!-- table: (.+) -->", page.read_text()) for page in pages}
    known = {page: [table.__name__ for table in some] for page, some in tables.TABLES.items()}
    assert {page: sorted(names) for page, names in found.items() if names} == {p: sorted(n) for p, n in known.items()}


def test_other_results_make_another_table(tmp_path, monkeypatch):
    """Or the comparison could not fail."""
    lines = [line for name in ("batch-norm", "identity-path") for line in studies.read(name)]
    for line in lines:
        text = json.dumps(line).replace('"product": 1', '"product": 9').replace('"kept": 0.4', '"kept": 0.1')
        with studies.path_of(line["study"], tmp_path).open("a") as file:
            file.write(text + "\n")
    monkeypatch.setattr(studies.read, "__defaults__", (tmp_path,))
    for table in (pages.norms, pages.identity):
        assert tables.made(table) != tables.on_page(table.__name__, (DOCS / "studies.md").read_text())


def test_a_table_is_put_below_its_comment(tmp_path):
    def count():
        yield from writing.head("", "n")
        yield writing.row("a", "2")

    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- table: count -->\n\n| old |\n|---|\n| 1 |\n\n| other |\n|---|\n")
    tables.write(page, [count])
    assert page.read_text() == "# Page\n\n<!-- table: count -->\n\n| | n |\n|---|---|\n| a | 2 |\n\n| other |\n|---|\n"
    page.write_text("<!-- table: count -->\n\nA paragraph.\n")
    tables.write(page, [count])
    assert page.read_text() == "<!-- table: count -->\n\n| | n |\n|---|---|\n| a | 2 |\n\nA paragraph.\n"
    page.write_text("# Page\n")
    with pytest.raises(LookupError, match=r"got 0 comments .*count.*, expected one"):
        tables.write(page, [count])


LEAST = {  # curves of each axis, where they are not four
    "speed.png": [1, 200],  # PyTorch's speed beside the bars; three for each convolution
    "warm-up.png": [3],  # two trainings, and the error at which a warm-up ends
    "skip-path.png": [4, 0, 0, 0, 0],  # two maps, and the scale of each
    "soak.png": [1, 2, 1],  # memory; files and threads; speed
    "landscape.png": [1, 1, 2, 0],  # the middle of two maps, two networks, and the maps' scale
    "memory.png": [1, 1, 5],  # where backward begins, in two areas; the middle half of each kind of checkpoint
    "bottleneck.png": [0, 0, 0],  # bars
    "timeline.png": [0],  # bars
}


@pytest.mark.parametrize("name", tables.PICTURES)
def test_a_picture_is_drawn_from_what_is_stored(name):
    figure = tables.PICTURES[name]()
    assert (DOCS / name).exists()
    for axis, least in zip(figure.axes, LEAST.get(name, [4] * len(figure.axes)), strict=True):
        assert len(axis.lines) >= least
        assert axis.lines or axis.collections or axis.images or len(axis.patches) >= 8


SEEDS = dict.fromkeys(["batch-norm", "gradcheck", "gradient-flow", "identity-path", "skip-path"], 5)
SEEDS |= dict.fromkeys(["degradation", "landscape", "responses", "warm-up"], 3)  # these take long
SEEDS["memory"] = 1  # counts, the same with each seed


def test_all_studies_that_are_stored_are_looked_at():
    assert sorted(SEEDS) == sorted(path.stem.removeprefix("study-") for path in studies.RESULTS.glob("study-*.jsonl"))


@pytest.mark.parametrize("study", SEEDS)
def test_results_say_how_they_came_about(study):
    of_each: dict[tuple[str, ...], list[int]] = {}
    for line in studies.read(study):
        of_each.setdefault(tuple(line["options"]), []).append(line["seed"])
        assert line["machine"]["processor"]
        assert line["machine"]["simd"]
        numbers, seed = line["numbers"], line["seed"]
        if study in ("landscape", "responses"):
            assert numbers["runs"]
            assert all(run.startswith(f"study/degradation-{seed}/") for run in numbers["runs"])
        if study not in studies.WITHOUT_SEED:
            assert (numbers["recipe"] if study == "degradation" else numbers)["seed"] == seed
        assert "/" not in " ".join(line["options"]), "a place on one machine"
    assert of_each
    for options, seeds in of_each.items():
        assert seeds == list(range(1 if "resnet1202" in options else SEEDS[study]))  # a seed of it takes 47 minutes


def test_every_mutant_has_been_tried():
    stored = json.loads((studies.RESULTS / "mutants.json").read_text())["mutants"]
    assert [mutant["name"] for mutant in stored] == [mutant.name for mutant in MUTANTS]
    assert all(mutant["test"] for mutant in stored)


def test_seeds_that_are_there_are_not_run_again(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        studies, "run", lambda study, options, seed, *where: asked.append((options, seed)) or {"seed": seed}
    )
    options = ["--data", "/a", "--image-size", "8", "--threads", "1"]
    for seeds in (["0", "1"], ["1", "2"]):
        words = ["bottleneck", "--seeds", *seeds, "--results", str(tmp_path), "--", *options]
        monkeypatch.setattr(sys, "argv", ["studies.py", *words])
        studies.main()
    assert asked == [(options, seed) for seed in (0, 1, 2)]
    lines = studies.read("bottleneck", tmp_path)
    assert [line["options"] for line in lines] == [["--image-size", "8"]] * 3
    assert [line["machine"]["threads"] for line in lines] == [1, 1, 1]


@pytest.mark.parametrize(("study", "seeded"), [("landscape", True), ("responses", False)])
def test_networks_of_a_seed_are_measured(monkeypatch, capsys, study, seeded):
    """With directions of the same seed, if there are any."""
    asked = []

    def run(command, check):
        asked.append(command)
        Path(command[command.index("--json") + 1]).write_text("{}")

    monkeypatch.setattr(studies.subprocess, "run", run)
    studies.run(study, ["--images", "250"], 2, Path("study"), ["plain20", "resnet20"])
    words = " ".join(asked[0])
    assert f"study {study} study/degradation-2/plain20 study/degradation-2/resnet20 --images 250" in words
    assert ("--seed 2" in words) == seeded
    monkeypatch.setattr(sys, "argv", ["studies.py", study, "--trained", "plain20"])
    with pytest.raises(SystemExit):
        studies.main()
    assert "--trained: needs --keep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.158, "0.16"), (7304.5, "7,300"), (99_999.0, "100,000"), (2.17e-6, r"$2.2 \cdot 10^{-6}$")],
)
def test_powers(value, text):
    assert writing.power(value) == text
    numbers = [float(n) for n in re.findall(r"[-\d.]+", text.replace(",", "").replace("10^", ""))]
    assert numbers[0] * 10 ** (numbers[1] if len(numbers) > 1 else 0) == pytest.approx(value, rel=0.05)
