"""The code of every page and docstring does what it says, and nothing public is without a page, text and example."""

import dataclasses
import doctest
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.public import MODULES, public

import tinyres as tr
from tinyres import cli
from tinyres.study.commands import app
from tinyres.study.gym import LEVELS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)


# ---------------------------------------------------------------- pages
def test_every_study_has_a_section_and_an_api():
    text, api = ((DOCS / name).read_text() for name in ("studies.md", "api/study.md"))
    groups = [group.name for group in app.registered_groups]
    for name in [command.name for command in app.registered_commands] + groups:
        assert f"\n## {name}\n" in text, f"docs/studies.md: no section on {name}"
    for path in Path(tr.__file__).parent.glob("study/*.py"):
        there = f"automodule:: tinyres.study.{path.stem}\n" in api
        assert there or path.stem == "__init__", f"docs/api/study.md: no {path.stem}"


def test_no_line_begins_with_a_percent_sign():
    """It would be a comment: what follows "27.9" on such a line would be missing from the page."""
    lines = [(path.name, line) for path in PAGES for line in path.read_text().splitlines()]
    assert [(name, line) for name, line in lines if line.lstrip().startswith("%")] == [("commands.md", "% commands")]


@pytest.mark.parametrize(
    "page",
    [
        *("start/matrices", "start/thirty_lines", "start/residual_block"),
        *("tour/tape", "tour/conv2d", "tour/batch_norm", "tour/training_loop"),
    ],
)
def test_levels_of_the_gym_that_a_page_names_are_of_its_operations(page):
    (line,) = re.findall(r"^Practise in \{doc\}`\.\./gym`: (.*)$", (DOCS / f"{page}.md").read_text(), re.M)
    named = set()
    for numbers, ops in re.findall(r"levels? ([\d, and]+) (?:breaks? )?(`\w+`|the sums)", line):
        named |= {(int(n), ops.strip("`")) for n in re.findall(r"\d+", numbers)}
    assert named
    levels = {(v.number, "the sums" if v.mutant.file.endswith("tape.py") else v.op) for v in LEVELS}
    assert named <= levels
    assert {pair for pair in levels if pair[1] in {op for _, op in named}} == named, "all of them"


def test_the_page_of_the_gym_lists_all_levels():
    rows = re.findall(r"^\| \d+ \|.*", (DOCS / "gym.md").read_text(), re.M)
    assert rows == [f"| {level.number} | `{level.op}` | `tinyres/{level.mutant.file}` |" for level in LEVELS]


def test_the_shortest_path_on_the_page_of_the_tour_is_the_one_of_the_study():
    results = (ROOT / "benchmarks/results/study-identity-path.jsonl").read_text()
    lines = [json.loads(line) for line in results.splitlines()]
    nets = [net for line in lines for net in line["numbers"]["networks"] if net["model"] == "resnet56"]
    stages = [stage for net in nets for stage in net["moments"][0]["measured"] if stage["name"] == "layer1"]
    assert {stage["blocks"] for stage in stages} == {9}
    (found,) = re.findall(
        r"(\d+) to (\d+) % of the positions are open in all nine blocks, and (\d+) to (\d+) % of the\s+norm is left",
        (DOCS / "tour/residual_block.md").read_text(),
    )
    values = [[stage[of] for stage in stages] for of in ("open", "kept")]
    assert [int(text) for text in found] == [round(100 * end(some)) for some in values for end in (min, max)]


def test_every_picture_is_shown_and_small():
    texts = [path.read_text() for path in [*PAGES, ROOT / "README.md"]]
    for path in [*DOCS.glob("*.png"), *DOCS.glob("*.svg")]:
        assert any(f"{path.name})" in line and not line.startswith("%") for t in texts for line in t.splitlines()), path
        assert path.stat().st_size < 300_000, path


# ---------------------------------------------------------------- docstrings
def shown_elsewhere(value):
    """Errors are raised, protocols implemented, and records returned: the examples are where that happens."""
    record = inspect.isclass(value) and (issubclass(value, tuple) or dataclasses.is_dataclass(value))
    error = inspect.isclass(value) and issubclass(value, Exception)
    return record or error or getattr(value, "_is_protocol", False)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_function_and_class_has_an_example(module):
    without = [name for name, value in public(module) if ">>>" not in (value.__doc__ or "")]
    assert [name for name in without if not shown_elsewhere(dict(public(module))[name])] == []


def test_examples_of_all_modules_are_run(pytestconfig):
    assert "--doctest-modules" in pytestconfig.getini("addopts")
    assert "tinyres" in pytestconfig.getini("testpaths")


# ---------------------------------------------------------------- pages
def blocks(text):
    """The Python of a page, block by block, each where it stands, so that errors name the page's own lines."""
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S):
        yield "\n" * text[: match.start(1)].count("\n") + match[1]


def run_page(path):
    """Run a page from top to bottom, in one namespace; blocks of ``>>>`` as doctests."""
    names = {"__name__": path.stem}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for source in blocks(path.read_text()):
        if source.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(source, names, path.name, str(path), 0)
            report = []
            assert not runner.run(test, out=report.append, clear_globs=False).failed, "".join(report)
            names.update(test.globs)
        else:
            exec(compile(source, str(path), "exec"), names)


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_code_of_a_page_does_what_it_says(path, one_thread):
    run_page(path)


@pytest.mark.parametrize("path", sorted(DOCS.glob("start/*.md")), ids=lambda path: path.stem)
def test_every_answer_shows_itself_by_code(path):
    answers = re.findall(r"^:::\{dropdown\} Answer\n(.*?)^:::$", path.read_text(), re.M | re.S)
    assert answers or path.stem == "index"
    assert [a for a in answers if not any("assert " in code for code in blocks(a))] == []


def test_a_page_that_says_something_wrong_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n```python\nx = 1\n```\n\n```python\n>>> x\n1\n```\n\n```python\nassert x == 1\n```\n")
    run_page(page)
    page.write_text(page.read_text().replace("x = 1\n", "x = 2\n", 1))
    with pytest.raises(AssertionError, match="Expected"):
        run_page(page)
    page.write_text(page.read_text().replace(">>> x\n1\n", ">>> x\n2\n"))
    with pytest.raises(AssertionError) as error:
        run_page(page)
    assert error.traceback[-1].lineno == 12


# ---------------------------------------------------------------- what a page says about errors
def quoted(page):
    """Messages in the last table of a page: what its first column quotes, if it has a blank."""
    table = (DOCS / page).read_text().partition("\n## If it goes wrong\n")[2]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| ")][1:]
    return [text for cell in first for text in re.findall(r"`([^`]+)`", cell) if " " in text]


def message_of(action, *arguments):
    with pytest.raises(Exception) as error:  # noqa: PT011 (any: the message is what is compared)
        action(*arguments)
    return str(error.value)


def own_op(pullback):
    x = tr.Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    tr.record("unit_rows", 2 * x.data, (x,), pullback).sum().backward()


def test_messages_of_the_tutorial_on_operations_are_real():
    x = tr.Tensor(np.ones((2, 2), np.float32), requires_grad=True)
    said = [
        message_of(own_op, lambda dy: dy),
        message_of(own_op, lambda dy: (dy.sum(1),)),
        message_of(own_op, lambda dy: (dy * np.ones(1),)),
        message_of(own_op, lambda dy: (np.multiply(dy, 2, out=dy),)),
        message_of(np.asarray, x),
        message_of(tr.Tensor(2 * x.data).sum().backward),
        message_of(tr.testing.gradcheck, tr.ops.relu, np.zeros((2, 2))),
    ]
    messages = quoted("tutorials/own_op.md")
    assert len(messages) == len(said)
    assert [m for m in messages if not any(m in text for text in said)] == []


def test_messages_of_the_tutorial_on_blocks_are_real():
    class Block(tr.models.BasicBlock):
        def __init__(self, in_channels, channels, stride=1, downsample=None):
            super().__init__(in_channels, channels, stride, downsample)
            self.alpha = tr.nn.Parameter(np.zeros(1, np.float32))

    class Short(Block):
        def __init__(self, in_channels, channels, stride=1):
            super().__init__(in_channels, channels, stride)

    class Early(tr.models.BasicBlock):
        def __init__(self, *arguments):
            self.alpha = tr.nn.Parameter(np.zeros(1, np.float32))

    class Plain(Block):
        def forward(self, x):
            return x + self.bn2(self.conv2(self.bn1(self.conv1(x))))

    class Double(Block):
        def __init__(self, in_channels, channels, stride=1, downsample=None):
            super().__init__(in_channels, channels, stride, downsample)
            self.more = tr.nn.Conv2d(channels, 2 * channels, 1)

        def forward(self, x):
            return self.more(super().forward(x))

    def run(block, layers=(1, 1)):
        tr.models.ResNet(block, list(layers), widths=(8, 16))(tr.Tensor(np.ones((2, 3, 8, 8), np.float32)))

    x = tr.Tensor(np.ones((2, 8, 4, 4), np.float32))
    other = tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(8, 16)).state_dict()
    own = tr.models.ResNet(Block, [1, 1], widths=(8, 16))
    said = [
        message_of(run, Short),
        message_of(Early, 8, 8),
        message_of(run, Plain),
        message_of(run, Double, (2, 1)),
        message_of(lambda: tr.Tensor(np.zeros(1)) * Block(8, 8)(x)),
        message_of(tr.testing.gradcheck, Block(8, 8), np.ones((2, 8, 3, 3))),
        message_of(own.load_state_dict, other),
    ]
    messages = quoted("tutorials/own_block.md")
    assert len(messages) == len(said)
    assert [m for m in messages if not any(m in text for text in said)] == []
    assert own.load_state_dict(other, strict=False).missing_keys == ["layer1.0.alpha", "layer2.0.alpha"]


# ---------------------------------------------------------------- names
def found(name):
    value = tr
    for part in name.split(".")[1:]:
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def test_names_that_are_known_from_elsewhere_are_there():
    text = (DOCS / "known_from.md").read_text()
    names = set(re.findall(r"`(tr(?:\.\w+)+)", text))
    assert len(names) > 100
    assert [name for name in sorted(names) if not found(name)] == []
    commands = {name for name, _ in re.findall(r"`(?:mpiexec -n 2 )?tinyres (\w+)( --[\w-]+)?", text)}
    assert commands <= {command.name for command in cli.app.registered_commands}
    assert not found("tr.no_such.name")
