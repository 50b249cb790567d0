"""The page on testing: its tables are what the suite has and what was measured."""

import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from support import properties
from support.properties import PAGE, PROPERTIES, RESULT, TESTS
from support.registry import REGISTRY

from tinyres import backend
from tinyres.testing.mutants import MUTANTS


def test_the_page_has_what_is_listed_and_stored():
    page = PAGE.read_text()
    assert page == properties.filled(page), "python tests/support/properties.py puts it right"
    assert properties.filled(page.replace("×", " ", 1)) == page


def test_every_property_has_its_tests():
    for test in properties.OF:
        file, name = test.split(".")
        source = (TESTS / f"test_{file}.py").read_text()
        assert re.search(rf"^def test_{name}\(", source, re.M), test
    assert sum(len(p.tests) for p in PROPERTIES) == len(properties.OF), "a test belongs to one property"


def test_the_stored_result_is_of_mutants_and_properties_that_there_are():
    result = json.loads(RESULT.read_text())
    files = {m.name: m.file for m in MUTANTS}
    for m in result["mutants"]:
        assert files[m["name"]] == m["file"]
        assert list(m["noticed"]) == [p.name for p in PROPERTIES]
        for name, failure in m["noticed"].items():
            if failure:
                file, function = re.match(r"tests/test_(\w+)\.py::test_(\w+)", failure[0]).groups()
                assert properties.OF[f"{file}.{function}"] == name
        if not any(m["noticed"].values()):
            assert PAGE.read_text().count(m["name"]) == 2, "in the table, and in the text, which says what notices it"
    assert len(MUTANTS) == int(re.search(r"`tinyres.testing.mutants` has (\d+) of them", PAGE.read_text())[1])
    assert result["examples"] == properties.EXAMPLES


@pytest.mark.parametrize(
    "axes", [("order", "kernels"), ("order", "dtype"), ("order", "dtype", "kernels"), ("kernels",)]
)
def test_of_each_case_the_sample_has_one(axes):
    """And in all, each layout, dtype and backend."""
    seen = set()
    for name, entry in REGISTRY.items():
        for i, case in enumerate(entry.cases):
            values = {"order": case.orders, "dtype": (np.float32, np.float64), "kernels": sorted(backend.BACKENDS)}
            every = [dict(zip(axes, some, strict=True)) for some in itertools.product(*(values[a] for a in axes))]
            items = [SimpleNamespace(callspec=SimpleNamespace(params={"name": name, "i": i, **e})) for e in every]
            [kept] = [item for item in items if properties.in_sample(item)]
            seen |= set(map(str, kept.callspec.params.values()))
    assert {str(v) for a in axes for v in values[a]} <= seen


def test_the_code_for_pytorch_does_what_it_says():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
    [code] = [c for c in re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.M | re.S) if "import torch" in c]
    names = {}
    exec("import numpy as np\nfrom tinyres.testing import check_vjp\n" + code, names)
    with pytest.raises(AssertionError, match="relative error"):
        names["check_vjp"](names["fn"], lambda x, dy: 0.99 * names["vjp"](x, dy), np.linspace(-2, 2, 9))
