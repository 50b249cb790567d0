"""What a release promises: its public names, one version, and workflows that only run what a developer can run."""

import re
import tomllib
from pathlib import Path

import pytest
from support.public import every_name

import tinyres as tr

ROOT = Path(__file__).parents[1]
NAMES = Path(__file__).parent / "data" / "public_names.txt"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SETUP = ("choco install make", "sudo apt-get install --yes ")  # what a developer's machine has, and GitHub's may not


def test_public_names_are_those_that_are_written_down():
    """A name that goes is a new major version, and a new one a minor version: see docs/versions.md."""
    found, known = set(every_name()), set(NAMES.read_text().split())
    gone, new = ("\n".join(sorted(names)) for names in (known - found, found - known))
    assert not gone, f"gone: put them back, or in a new major version delete their lines\n{gone}"
    assert not new, f"new: add them to {NAMES.name}, and to CHANGELOG.md\n{new}"


def test_all_say_the_same_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", tr.__version__)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited[1] == tr.__version__
    assert f"\n## {tr.__version__} (" in (ROOT / "CHANGELOG.md").read_text()


def commands(text):
    """What the steps of a workflow run, a line each."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: pip install 'tinyres[docs]'")
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            yield from step.get("run", "").splitlines()
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"]), "pinned by version"


@pytest.mark.skipif(not WORKFLOWS, reason="no workflows beside the package: it is installed")
def test_workflows_run_what_a_developer_can_run():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    run = {path.stem: [*commands(path.read_text())] for path in WORKFLOWS}
    for name, lines in run.items():
        for line in lines:
            assert line.startswith(SETUP) or line.split()[:2] in [["make", target] for target in targets], (name, line)
    gate = re.findall(r"\bmake (?:-j \d )?(\w+)", (ROOT / ".ci" / "run").read_text())
    assert {*gate} <= {line.split()[1] for line in run["test"] if line.startswith("make ")}


@pytest.mark.skipif(not WORKFLOWS, reason="no workflows beside the package: it is installed")
def test_pythons_are_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    makefile = re.search(r"^PYTHONS +\?= (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert named == set(makefile) == set(re.findall(r'"(3\.\d+)"', (ROOT / ".github/workflows/test.yml").read_text()))
    assert project["requires-python"] == f">={makefile[0]}"
