"""The engine's properties in words, the tests that say each, and a plugin of pytest that tells which of them fail.

    python -m pytest -p support.properties --properties FILE.json tests

runs a sample of these tests and no other, each property until it fails: every case of the registry in one memory
layout, one dtype and on one backend, and 25 examples of what Hypothesis draws. `reliability/properties.py` runs it on
mutants. And

    python tests/support/properties.py

puts the properties, and which mutants they have noticed, into docs/testing.md.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, settings

EXAMPLES = 25
settings.register_profile("sample", deadline=None, derandomize=True, max_examples=EXAMPLES, phases=[Phase.generate])


class Property(NamedTuple):
    name: str
    says: str
    tests: tuple[str, ...]  # FILE.FUNCTION, without `test_`


PROPERTIES = (
    Property(
        "differences",
        "A gradient is what differences of the function's own values say, on both backends.",
        ("ops.gradient", "ops.convolution_gradient", "ops.pooling_gradients", "ops.gradient_of_every_way_to_convolve"),
    ),
    Property(
        "backends",
        "The kernels give the results and gradients of the reference, which computes in float64.",
        ("ops.backends_agree",),
    ),
    Property(
        "float32",
        "In float32 the reference gives what it gives in float64, but for rounding.",
        ("ops.reference_in_float32_follows_float64",),
    ),
    Property(
        "again",
        "Again gives the same bits: backward through one graph, and all of it. No array is written to but one's own.",
        ("ops.again_bit_for_bit",),
    ),
    Property(
        "alone",
        "The gradient of one input is the same where no other needs one.",
        ("ops.gradient_of_one_input_alone",),
    ),
    Property(
        "composition",
        "Batch norm with ReLU and shortcut in one is the three in a row, and those are elementary operations in a row.",
        ("ops.fused_batch_norm_is_its_composition", "ops.batch_norm_from_elementary_operations"),
    ),
    Property(
        "NumPy",
        "Operators, indexing, shapes and reductions give NumPy's values, and the gradients that differences give.",
        (
            "tensor.operators_broadcast_like_numpy",
            "tensor.functions_of_each_element",
            "tensor.basic_indexing",
            "tensor.fancy_indexing",
            "tensor.reshape_and_permute",
            "tensor.reductions",
            "tensor.matmul",
            "tensor.torchs_words_are_numpys",
            "tensor.shapes_are_numpys",
        ),
    ),
    Property(
        "graphs",
        "In any graph, a tensor's gradient is the sum over all its uses; recomputing what was dropped changes no bit.",
        (
            "tensor.fan_out_and_accumulation",
            "tensor.fan_out_through_every_kind_of_gradient",
            "tensor.record_under_hypothesis_graphs",
            "tensor.leaves_never_share_a_gradient",
            "tensor.earlier_gradient_is_not_changed_by_a_later_backward",
            "recompute.any_graph_has_the_same_gradients",
        ),
    ),
    Property(
        "laws",
        "What is known of a function: softmax ignores a shift, the loss is linear in the target, equal maxima share.",
        (
            "ops.softmax_ignores_a_shift",
            "ops.label_smoothing",
            "ops.the_loss_is_linear_in_the_probabilities",
            "ops.a_class_without_probability_has_no_part_in_the_loss",
            "ops.maximum_shares_where_equal",
            "tensor.equal_maxima_share",
            "ops.batch_norm_updates_its_running_statistics",
            "ops.batch_norms_gradient_is_that_of_the_statistics_it_used",
        ),
    ),
    Property(
        "definition",
        "A kernel computes its definition: the loops of the formula, or the reference, in any memory layout.",
        (
            "kernels.convolution_is_its_definition",
            "kernels.convolution_adds_its_input_gradient_to_a_total",
            "kernels.batch_norm_is_its_definition",
            "kernels.pooling_is_its_definition",
            "kernels.relu_and_its_gradient_are_their_definitions",
        ),
    ),
    Property(
        "adjoint",
        "The gradient A* of a linear kernel A is its transpose: (A x) · y = x · (A* y) for all x and y.",
        (
            "kernels.gradients_are_adjoint_to_the_forward",
            "kernels.average_pooling_is_adjoint_to_its_gradient",
            "kernels.col2im_is_the_transpose_of_im2col",
        ),
    ),
)
OF = {test: p.name for p in PROPERTIES for test in p.tests}


TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "testing.md"
RESULT = TESTS.parent / "benchmarks" / "results" / "properties.json"


# ---------------------------------------------------------------- the page
def listed() -> str:
    """The properties, numbered."""
    rows = (f"| {i} | {p.name} | {p.says} |" for i, p in enumerate(PROPERTIES, 1))
    return "\n".join(["| | property | what it says |", "|---|---|---|", *rows])


def noticed(result: dict) -> str:
    """Which property, by its number, has noticed which mutant, and how that was measured."""
    mutants = result["mutants"]
    rows = [[m["name"], *(mark(m["noticed"][p.name]) for p in PROPERTIES)] for m in mutants]
    counts = (sum(m["noticed"][p.name] is not None for m in mutants) for p in PROPERTIES)
    sums = [f"**noticed, of {len(rows)}**", *map(str, counts)]
    head = ["mutant", *(str(i) for i, _ in enumerate(PROPERTIES, 1))], ["---", *[":-:"] * len(PROPERTIES)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [*head, *rows, sums])
    return f"""{table}

× a value was wrong; ! an error came before there was a value to compare, such as a gradient of the wrong shape.
Measured on {result["date"]} by `{result["command"]}` on {result["processor"]}, with Python {result["python"]}, NumPy
{result["numpy"]}, Numba {result["numba"]} and Hypothesis {result["hypothesis"]}, seed: {result["seed"]}."""


def mark(failure: list[str] | None) -> str:
    wrong = ("AssertionError", "assert ", "tinyres.testing.gradcheck.GradcheckError")
    return "" if failure is None else "×" if failure[1].startswith(wrong) else "!"


def drawn() -> Iterator[tuple[str, list[str]]]:
    """Files of tests, and the properties in them that Hypothesis draws examples for."""
    for path in sorted(TESTS.glob("test_*.py")):
        functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        names = [f.name for f in functions if any(ast.unparse(d).startswith("given(") for d in f.decorator_list)]
        if names := [name.removeprefix("test_").replace("_", " ") for name in names if name.startswith("test_")]:
            yield path.name, names


def all_drawn() -> str:
    return "\n".join(f"- `{file}`: {'; '.join(names)}." for file, names in drawn())


def filled(page: str) -> str:
    """The page's text with what belongs between its marks."""
    parts = {
        "properties": listed(),
        "drawn": all_drawn(),
        "noticed": noticed(json.loads(RESULT.read_text())),
    }
    for name, part in parts.items():
        begin, _, rest = page.partition(f"<!-- {name} -->\n")
        _, end, rest = rest.partition("\n<!-- end -->")
        assert end, f"docs/testing.md: no place for {name}"
        page = f"{begin}<!-- {name} -->\n{part}{end}{rest}"
    return page


# ---------------------------------------------------------------- the plugin
def property_of(item: pytest.Item) -> str | None:
    return OF.get(f"{item.path.stem}.{item.originalname}".replace("test_", ""))


def in_sample(item: pytest.Item) -> bool:
    """One layout, dtype and backend of a case: another with the next case."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    if not {"name", "i"} <= given.keys():
        return True
    from support.registry import REGISTRY  # once pytest rewrites asserts and conftest has chosen the threads

    orders, k = REGISTRY[given["name"]].cases[given["i"]].orders, given["i"]
    turns = {"order": orders[k % len(orders)], "dtype": (np.float32, np.float64)[k // 2 % 2]}
    turns["kernels"] = ("reference", "numba")[k % 2]
    return all(given[key] == turn for key, turn in turns.items() if key in given)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--properties", type=Path, metavar="FILE", help="write there which properties fail, and where")


class Watch:
    """What was noticed so far: for each property the test that failed, or None."""

    def __init__(self, file: Path) -> None:
        self.file, self.failed = file, dict.fromkeys(p.name for p in PROPERTIES)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        chosen = [item for item in items if property_of(item) and in_sample(item)]
        chosen_ids = {item.nodeid for item in chosen}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen_ids])
        items[:] = chosen

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.failed[property_of(item)]:
            pytest.skip("this property has failed already")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item):
        report = yield
        if report.failed and not self.failed[property_of(item)]:
            message = (
                report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else str(report.longrepr)
            )
            self.failed[property_of(item)] = [item.nodeid, message.partition("\n")[0]]
        return report

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.failed, indent=2))


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("--properties"):
        config.pluginmanager.register(Watch(file))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
