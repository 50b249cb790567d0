"""What a release promises: its public names, one version, and workflows that only run what a developer can run."""

import re
import tomllib
from pathlib import Path

import pytest
from support.public import NAMES, every_name, parameters

import tinyres as tr

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SETUP = "choco install make --yes"  # what a developer's machine has, and GitHub's may not
MAKE = re.compile(r"""make ([a-z]+)( [A-Z]+=([\w./-]+|"\$?[\w ./-]+"))*""")


def test_public_names_are_those_that_are_written_down():
    """With parameters and options. What goes is a new major version, and what is new a minor version: see
    docs/versions.md."""
    found, known = set(every_name()), set(NAMES.read_text().splitlines())
    gone, new = ("\n".join(sorted(names)) for names in (known - found, found - known))
    write = f"python tests/support/public.py writes {NAMES.name} again; say it in CHANGELOG.md"
    assert not gone, (
        f"gone: put them back, unless this is a new major version, or a call of before still means the same. {write}\n"
        f"{gone}\nnew:\n{new}"
    )
    assert not new, f"new: a minor version. {write}\n{new}"


def test_parameters_are_written_as_a_caller_knows_them():
    def function(x, /, weight: int, bias: int | None = None, *rest: int, stride: int = 1, **more: int) -> int: ...

    assert parameters(function) == "(x, /, weight, bias=, *rest, stride=, **more)"
    assert parameters(tr.optim.SGD.step) == "()"
    assert parameters(3) == parameters(tr.export.ExportError) == ""
    assert {"tinyres", "tinyres train --model", "tinyres train --no-flip"} <= {*every_name()}


def test_all_say_the_same_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", tr.__version__)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited[1] == tr.__version__
    assert f"\n## {tr.__version__} (" in (ROOT / "CHANGELOG.md").read_text()
    shown = re.findall(r"^tinyres (\S+), kernels for", (ROOT / "docs" / "howto" / "install.md").read_text(), re.M)
    assert shown == [tr.__version__]


def commands(text):
    """What the steps of a workflow run, a line each."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'tinyres[docs]'")
    for job in yaml.safe_load(text)["jobs"].values():
        if "uses" in job:  # another workflow, whose own steps are looked at as well
            assert ROOT / job["uses"] in WORKFLOWS
        for step in job.get("steps", ()):
            assert ("run" in step) != ("uses" in step)
            yield from step.get("run", "").splitlines()
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"]), "pinned by version"


def target(line):
    """What a whole line makes, or None if it does anything else."""
    found = MAKE.fullmatch(line)
    return found and found[1]


@pytest.mark.parametrize(
    "line", ["make test && a", "make test; a", "make test A=$(a)", 'make test A="`a`"', "make -C a"]
)
def test_a_line_that_does_more_is_none_of_make(line):
    assert target(line) is None


@pytest.mark.skipif(not WORKFLOWS, reason="no workflows beside the package: it is installed")
def test_workflows_run_what_a_developer_can_run():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    run = {path.stem: [*commands(path.read_text())] for path in WORKFLOWS}
    for name, lines in run.items():
        for line in lines:
            assert line == SETUP or target(line) in targets, (name, line)
    gate = re.findall(r"\bmake (?:-j \d )?(\w+)", (ROOT / ".ci" / "run").read_text())
    assert {*gate} <= {target(line) for line in run["test"]}


@pytest.mark.skipif(not WORKFLOWS, reason="no workflows beside the package: it is installed")
def test_pythons_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    makefile = re.search(r"^PYTHONS +\?= (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert named == set(makefile) == set(re.findall(r'"(3\.\d+)"', (ROOT / ".github/workflows/test.yml").read_text()))
    assert project["requires-python"] == f">={makefile[0]}"
