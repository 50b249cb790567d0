"""Formulas of docstrings become LaTeX, and that becomes MathML: nothing is lost, and all public ones are known."""

import doctest
import importlib
import inspect
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.public import MODULES, public

sys.path.append(str(Path(__file__).parents[1] / "docs"))
from extensions.formulas import to_latex, with_formulas

from tinyres import ops

NAMES = st.sampled_from(["x", "y", "P", "w", "g", "gamma", "eps", "momentum", "weight_decay", "b1", "lr"])


@st.composite
def expressions(draw, depth=3):
    """What the notation can say, at random."""
    part = expressions(depth - 1) if depth else NAMES
    kind = draw(st.integers(0, 9)) if depth else 0
    a, b, i = draw(part), draw(part), draw(st.sampled_from("ijk"))
    return [
        draw(NAMES),
        f"x_{i}",
        f"x[n, s {i} - p]",
        f"{a} + {b}",
        f"({a}) ({b})",
        f"({a}) / ({b})",
        f"({a})^2",
        f"sqrt({a})",
        f"sum_{{{i},n}} x_{i} |({b})|",
        f"dL/dx_{i} log({a}) - 1/P",
    ][kind]


def names(text):
    """Names of a formula; the parts of those that are written with a subscript."""
    found = re.findall(r"[A-Za-z]+(?:_[A-Za-z]{2,})*", re.sub(r"\bd(?=\w+(\[\w+\])?/d)|(?<=/)d", "", text))
    return set(found) - {"sqrt"}


def shown(latex):
    return set(re.findall(r"[A-Za-z]+(?:_[A-Za-z]{2,})*", latex.replace(r"\varepsilon", "eps")))


def mathml(latex):
    converter = pytest.importorskip("latex2mathml.converter")
    text = converter.convert(latex, display="block")
    tree = ElementTree.fromstring(text)  # well formed
    assert "\\" not in text
    assert "merror" not in text
    assert "&amp;" not in text
    return tree


def check(formula):
    latex = to_latex(formula)
    assert names(formula) <= shown(latex), latex
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\left") - latex.count(r"\leftarrow") == latex.count(r"\right")
    mathml(latex)
    return latex


@given(expressions(), st.sampled_from([" = ", " <- "]), expressions())
def test_nothing_is_lost(left, relation, right):
    check(left + relation + right)


@given(st.lists(expressions(depth=1), min_size=2, max_size=4))
def test_each_formula_has_a_line(parts):
    latex = to_latex(",   ".join(f"y = {part}" for part in parts))
    assert len(list(mathml(latex).iter("{http://www.w3.org/1998/Math/MathML}mtr"))) == len(parts)


@given(expressions())
def test_a_fraction_needs_no_brackets(a):
    inner = to_latex(a)
    assert to_latex(f"({a}) / ({a})") == rf"\frac{{{inner}}}{{{inner}}}"
    assert to_latex(f"y ({a})") == rf"y \left({inner}\right)"


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        (
            "dL/dw[o,c] = sum_{n,i} dy[n,o,i] x[n, c, s i - p]",
            r"\frac{\partial L}{\partial w_{o,c}} = \sum_{n,i} dy_{n,o,i} x_{n,c,s i - p}",
        ),
        ("dL[n]/dlogits_j = p[n,j]", r"\frac{\partial L_{n}}{\partial \text{logits}_{j}} = p_{n,j}"),
        ("sum_b |B_b| / n |a(b)|", r"\sum_{b} \frac{\left|B_{b}\right|}{n}\;\left|a\left(b\right)\right|"),
        ("r ([i = k] - 1/P)", r"r \left(\left[i = k\right] - \frac{1}{P}\right)"),
        ("2/d (x - m)", r"\frac{2}{d} \left(x - m\right)"),
        ("a b / c d", r"\frac{a b}{c} d"),
        ("g - dL/dbeta / P", r"g - \frac{\partial L}{\partial \beta} / P"),
        ("e^-|x|", r"e^{-\left|x\right|}"),
        ("v / (1 - b2^t)", r"\frac{v}{1 - b_{2}^{t}}"),
        ("(f(h) - f(-h)) / 2h - f'(0)", r"\frac{f\left(h\right) - f\left({-h}\right)}{2h} - f'\left(0\right)"),
        ("s <- alpha s", r"s \leftarrow \alpha s"),
        ("round-off of about u R / h", r"\text{round}\text{-off}\;\text{of}\;\text{about}\;\frac{u R}{h}"),
    ],
)
def test_the_notation(text, latex):
    assert to_latex(text) == latex


def test_a_long_chain_has_a_line_for_each_step_and_remarks_stay_with_their_formula():
    long = " + ".join("x" * 12)
    assert to_latex(f"y = {long} = {long} = {long}").count("&=") == 3
    assert to_latex("a = b = c").count("&") == 0
    assert (
        to_latex("a <- b      (Li et al. 2018, section 4)") == r"a \leftarrow b\qquad\text{(Li et al. 2018, section 4)}"
    )
    assert to_latex("a = b   over all i, j with i = h").count("\n") == 3


@pytest.mark.parametrize("text", ["(a", "a)", "x[n", "a +", "/ b", "a $ b", "sqrt x", "|x", "f(a]", "x_", "@wraps"])
def test_what_is_no_formula_is_an_error(text):
    with pytest.raises(ValueError, match="formula: got"):
        to_latex(text)


# ---------------------------------------------------------------- docstrings
def documented():
    """All public docstrings of the package, by name."""
    for module in MODULES:
        yield module, importlib.import_module(module).__doc__
        for name, value in public(module):
            yield f"{module}.{name}", value.__doc__
            for member, method in vars(value).items() if inspect.isclass(value) else ():
                if inspect.isfunction(method) or isinstance(method, property):
                    yield f"{module}.{name}.{member}", method.__doc__


def found():
    for name, text in documented():
        before = inspect.cleandoc(text or "").splitlines()
        after = with_formulas(before)
        formula = [line for line in after if line == ".. math::"]
        if formula:
            yield name, before, after


def test_all_formulas_of_public_docstrings_are_known():
    known = {name for name, *_ in found()}
    for name in ("ops.conv2d", "ops.batch_norm", "optim.AdamW", "nn.fuse", "testing.gradcheck", "average.Lookahead"):
        assert f"tinyres.{name}" in known
    for name, before, after in found():
        left = [line for line in before if line not in after]
        assert left, name
        assert all(names(line) <= shown("\n".join(after)) for line in left), name
        blocks = re.findall(r"\.\. math::\n\n((?:   .*\n?)+)", "\n".join(after))
        assert len(blocks) == after.count(".. math::")
        for block in blocks:
            mathml(block)


MOVES = {"astype", "flatten", "reshape", "squeeze", "transpose", "unsqueeze"}
"""Operations whose gradient is the same numbers, in the shape or dtype of x."""


@pytest.mark.parametrize("op", sorted(set(ops.__all__) - MOVES))
def test_the_gradient_of_each_operation_is_a_formula(op):
    lines = with_formulas(inspect.cleandoc(getattr(ops, op).__doc__).splitlines())
    assert re.search(r"^   .*\\frac\{\\partial [yL].*=", "\n".join(lines), re.M)


def test_code_stays_code_and_lists_stay_lists():
    lines = ["A::", "", "    y = x", "", "Parameters", "----------", "x : int", "", "    Of it.", "- a", "", "  b."]
    assert with_formulas(lines) == lines
    assert with_formulas([]) == []
    assert with_formulas(["a", "", "    y = x", ""]) == ["a", "", ".. math::", "", "   y = x", ""]


@pytest.mark.parametrize("module", ["formulas", "papers", "docstrings"])
def test_the_examples_are_right(module):
    pytest.importorskip("sphinx")
    result = doctest.testmod(importlib.import_module(f"extensions.{module}"))
    assert result.attempted
    assert result.failed == 0
