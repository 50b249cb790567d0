"""The broken gradients fit the code, and gradcheck shows them; `reliability/mutants.py` sees that the tests do."""

import importlib
import inspect
import shutil

import numpy as np
import pytest
from support.registry import REGISTRY

import tinyres as tr
from tinyres.testing import GradcheckError, gradcheck, mutants
from tinyres.testing.mutants import MUTANTS, PACKAGE
from tinyres.testing.mutation import Mutant
from tinyres.testing.strategies import numbers


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
        Mutant("again", mutant.file, "text that is nowhere", "", "").apply(copy)


def functions(names):
    """All of a module, those of its classes too, by their full names; of decorated ones, what is inside."""
    classes = [c for c in names.values() if inspect.isclass(c) and c.__module__ == names["__name__"]]
    found = (
        inspect.unwrap(f) for space in (names, *map(vars, classes)) for f in space.values() if inspect.isfunction(f)
    )
    return {f.__qualname__: f for f in found if f.__module__ == names["__name__"]}


@pytest.fixture
def broken(monkeypatch):
    """The package as it is in this process, but its functions run the code of a mutant."""

    def put_in(mutant, copy):
        mutant.apply(copy)
        module = importlib.import_module("tinyres." + mutant.file.removesuffix(".py").replace("/", "."))
        names = {"__name__": module.__name__}
        exec((copy / mutant.file).read_text(), names)
        for name, function in functions(vars(module)).items():
            monkeypatch.setattr(function, "__code__", functions(names)[name].__code__)

    return put_in


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.op], ids=lambda m: m.name)
def test_gradcheck_of_its_operation_shows_it(mutant, copy, broken):
    def check_all():
        entry, rng = REGISTRY[mutant.op], np.random.default_rng(0)
        with tr.use_backend("reference"):
            for case in entry.cases:
                inputs = [numbers(rng, shape, values=entry.values) for shape in case.shapes]
                gradcheck(lambda *args, options=case.options: entry.call(*args, **options), *inputs)

    check_all()
    broken(mutant, copy)
    with pytest.raises((GradcheckError, ValueError), match=r"analytic .* numeric|gave a gradient of shape"):
        check_all()


def test_lines_that_are_no_fault_are_refused():
    with pytest.raises(ValueError, match=r"mutants\.txt, tape\.py: expected a name, .*got 'a name alone'"):
        tuple(mutants._read("@ tape.py: test_tensor.py\na fault\n-x\n+y\na name alone\n"))
