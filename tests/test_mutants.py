"""The broken gradients still fit the code; `reliability/mutants.py` sees that the tests notice them."""

import shutil

import pytest

from tinyres.testing import mutants
from tinyres.testing.mutants import MUTANTS, PACKAGE


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(PACKAGE, tmp_path / "tinyres", ignore=shutil.ignore_patterns("__pycache__"))


def test_there_are_enough():
    assert len(MUTANTS) >= 40
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_mutant_changes_its_file_and_no_other(mutant, copy):
    mutant.apply(copy)
    for path in PACKAGE.rglob("*.py"):
        changed = copy / path.relative_to(PACKAGE)
        source = changed.read_text()
        assert (source != path.read_text()) == (changed == copy / mutant.file)
    compile((copy / mutant.file).read_text(), mutant.file, "exec")
    with pytest.raises(ValueError, match=r"0 times, expected once"):
        mutants.Mutant("again", mutant.file, "text that is nowhere", "", "").apply(copy)
