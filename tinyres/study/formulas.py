"""The formulas of each operation and of its gradients, from the docstrings, for pages.

Notation: ``_{...}`` is below the line and ``^{...}`` above it. dL/dy is the gradient of the operation's result, dL/dx
the gradient that it gives to its input.
"""

import html
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Formula(NamedTuple):
    """Lines of text; `where` explains the symbols, in words."""

    forward: tuple[str, ...]
    backward: tuple[str, ...]
    where: str = ""


FORMULAS: dict[str, Formula] = {
    "input": Formula((), (), "the image: nothing computed it, and its gradient is where backward ends"),
    "add": Formula(("y = a + b",), ("dL/da = dL/dy", "dL/db = dL/dy"), "both get the whole gradient, unchanged"),
    "sub": Formula(("y = a − b",), ("dL/da = dL/dy", "dL/db = −dL/dy")),
    "mul": Formula(("y = a b",), ("dL/da = dL/dy · b", "dL/db = dL/dy · a"), "element by element"),
    "div": Formula(("y = a / b",), ("dL/da = dL/dy / b", "dL/db = −dL/dy · a / b^{2}"), "element by element"),
    "pow": Formula(
        ("y = a^{b}",), ("dL/da = dL/dy · b a^{b−1}", "dL/db = dL/dy · y log a"), "no gradient to b where a = 0"
    ),
    "neg": Formula(("y = −x",), ("dL/dx = −dL/dy",)),
    "exp": Formula(("y = e^{x}",), ("dL/dx = dL/dy · y",)),
    "log": Formula(("y = log x",), ("dL/dx = dL/dy / x",)),
    "sqrt": Formula(("y = √x",), ("dL/dx = dL/dy / (2 y)",)),
    "abs": Formula(("y = |x|",), ("dL/dx = dL/dy · sign x",), "no gradient at 0"),
    "clip": Formula(
        ("y = min(max(x, low), high)",),
        ("dL/dx = dL/dy · [low ≤ x ≤ high]",),
        "what was cut off has no influence on the loss",
    ),
    "astype": Formula(("y = x, rounded to another precision",), ("dL/dx = dL/dy, in that of x",)),
    "matmul": Formula(("y = a b",), ("dL/da = dL/dy b^{T}", "dL/db = a^{T} dL/dy"), "products of matrices"),
    "getitem": Formula(
        ("y = x[index]",),
        ("dL/dx[index] = dL/dy, 0 elsewhere",),
        "what was not taken has no influence on the loss; what was taken twice gets both gradients",
    ),
    "reshape": Formula(("y = x in another shape",), ("dL/dx = dL/dy in the shape of x",), "nothing is computed"),
    "permute": Formula(("y = x, axes permuted",), ("dL/dx = dL/dy, axes permuted back",), "nothing is computed"),
    "pad": Formula(
        ("y = x, with constants around it",), ("dL/dx = dL/dy where x is",), "what is constant needs no gradient"
    ),
    "concat": Formula(("y = [a, b, …]",), ("dL/da, dL/db, … = dL/dy, cut at the same places",)),
    "stack": Formula(("y_{0} = a, y_{1} = b, …",), ("dL/da = dL/dy_{0}, dL/db = dL/dy_{1}, …",)),
    "where": Formula(
        ("y = a where the condition holds, else b",),
        ("dL/da = dL/dy where it holds, else 0", "dL/db = 0 where it holds, else dL/dy"),
    ),
    "sum": Formula(("y = Σ_{i} x_{i}",), ("dL/dx_{i} = dL/dy",), "every term counts the same"),
    "var": Formula(
        ("m = 1/n Σ_{i} x_{i}", "y = 1/d Σ_{i} (x_{i} − m)^{2}"),
        ("dL/dx_{i} = dL/dy · 2 (x_{i} − m) / d",),
        "d: the n values less the correction; what passes through m sums to 0",
    ),
    "std": Formula(
        ("m = 1/n Σ_{i} x_{i}", "y = √(1/d Σ_{i} (x_{i} − m)^{2})"),
        ("dL/dx_{i} = dL/dy · (x_{i} − m) / (d y)",),
        "d: the n values less the correction; no gradient where y = 0",
    ),
    "max": Formula(("y = max_{i} x_{i}",), ("dL/dx_{i} = dL/dy · [x_{i} = y] / k",), "k elements are equal to y"),
    "maximum": Formula(
        ("y = max(a, b)",),
        ("dL/da = dL/dy · [a > b]", "dL/db = dL/dy · [b > a]"),
        "where they are equal, each gets half",
    ),
    "relu": Formula(("y = max(x, 0)",), ("dL/dx = dL/dy · [y > 0]",), "a gate: open where y is positive"),
    "sigmoid": Formula(
        ("y = 1 / (1 + e^{−x})",), ("dL/dx = dL/dy · y (1 − y)",), "a factor of at most 1/4: why gradients vanish"
    ),
    "tanh": Formula(("y = tanh x",), ("dL/dx = dL/dy · (1 − y^{2})",)),
    "silu": Formula(("s = 1 / (1 + e^{−x})", "y = x s"), ("dL/dx = dL/dy · (s + y (1 − s))",)),
    "gelu": Formula(
        ("y = x Φ(x)",),
        ("dL/dx = dL/dy · (Φ(x) + x e^{−x^{2}/2} / √(2π))",),
        "Φ(x): the probability that a normal number is below x",
    ),
    "binary_cross_entropy": Formula(
        ("s = 1 / (1 + e^{−x})", "L = −t log s − (1 − t) log(1 − s)"),
        ("dL/dx = s − t",),
        "t: 1 for yes, 0 for no; where a yes counts w times as much, t is w t, and s is (1 + (w − 1) t) s",
    ),
    "softmax": Formula(
        ("y_{i} = e^{x_{i}} / Σ_{j} e^{x_{j}}",), ("dL/dx_{i} = y_{i} (dL/dy_{i} − Σ_{j} dL/dy_{j} · y_{j})",)
    ),
    "log_softmax": Formula(
        ("y_{i} = x_{i} − log Σ_{j} e^{x_{j}}",), ("dL/dx_{i} = dL/dy_{i} − e^{y_{i}} Σ_{j} dL/dy_{j}",)
    ),
    "cross_entropy": Formula(
        ("p = softmax(x)", "L = −1/N Σ_{n,k} q_{n,k} log p_{n,k}"),
        ("dL/dx = (p − q) / N",),
        "q: 1 for the label, 0 for the other classes; N: images. What is too probable is pushed down, the label up",
    ),
    **{
        name: Formula(
            ("y = (x − μ) / √(σ^{2} + ε)",),
            ("dL/dx = (dL/dy − 1/P Σ dL/dy − y/P Σ dL/dy · y) / √(σ^{2} + ε)",),
            "μ, σ²: mean and variance over the P values " + of,
        )
        for name, of in (("layer_norm", "of a sample's last axes"), ("group_norm", "of a group of a sample's channels"))
    },
    "dropout": Formula(
        ("y = m x",), ("dL/dx = m dL/dy",), "m: 0 with probability p, else 1/(1 − p), drawn for each element"
    ),
    "max_pool2d": Formula(
        ("y = largest x of each window",),
        ("dL/dx = dL/dy of each window whose largest it is, 0 elsewhere",),
        "of equal elements, the first gets all of it",
    ),
    "avg_pool2d": Formula(
        ("y = 1/P Σ x over the P pixels of each window",), ("dL/dx = Σ dL/dy / P over the windows it is in",)
    ),
}
"""For all operations except those of `_VARIED`, by their name on the tape. There, `ops.mean` is a sum and a
division, `ops.min` a max between two neg, `ops.transpose` a permute, `ops.flatten`, `ops.squeeze` and
`ops.unsqueeze` a reshape, and `ops.global_avg_pool2d` an avg_pool2d."""


def _convolution(how: Mapping[str, Any], inputs: int) -> Formula:
    """`ops.conv2d`: Dumoulin and Visin, "A guide to convolution arithmetic", 2016, chapter 4."""
    bias, relu, shortcut = how["bias"], how["relu"], inputs > 2 + how["bias"]
    dilated = how["dilation"] != (1, 1)
    k, l = ("d k", "d l") if dilated else ("k", "l")
    place = f"s i+{k}−p, s j+{l}−p"
    terms = "b_{o} + " * bias + f"Σ_{{c,k,l}} x_{{n, c, {place}}} w_{{o,c,k,l}}" + " + r_{n,o,i,j}" * shortcut
    g = "g" if relu else "dL/dy"
    return Formula(
        (f"y_{{n,o,i,j}} = {f'max({terms}, 0)' if relu else terms}",),
        (
            *(["g = dL/dy · [y > 0]"] * relu),
            f"dL/dw_{{o,c,k,l}} = Σ_{{n,i,j}} {g}_{{n,o,i,j}} x_{{n, c, {place}}}",
            f"dL/dx_{{n,c,h,v}} = Σ_{{o,k,l}} {g}_{{n,o,i,j}} w_{{o,c,k,l}}",
            *([f"dL/db_{{o}} = Σ_{{n,i,j}} {g}_{{n,o,i,j}}"] * bias),
            *([f"dL/dr = {g}"] * shortcut),
        ),
        f"stride s = {_pair(how['stride'])}, padding p = {_pair(how['padding'])}; "
        f"in dL/dx over the i, j with s\u00a0i+{k}−p\u00a0=\u00a0h, s\u00a0j+{l}−p\u00a0=\u00a0v"
        + f"; dilation d = {_pair(how['dilation'])}" * dilated
        + f"; in {how['groups']} groups of channels" * (how["groups"] > 1)
        + "; r: the shortcut" * shortcut,
    )


def _affine(how: Mapping[str, Any], inputs: int) -> Formula:
    bias = inputs > 2
    return Formula(
        ("y = x W^{T}" + " + b" * bias,),
        ("dL/dx = dL/dy W", "dL/dW = (dL/dy)^{T} x", *(["dL/db = Σ_{n} dL/dy_{n}"] * bias)),
    )


def _normalisation(how: Mapping[str, Any], inputs: int) -> Formula:
    """`ops.batch_norm`: Ioffe and Szegedy, "Batch normalization", 2015, algorithm 1, with terms collected."""
    relu, shortcut = how["relu"], inputs > 3
    terms = "γ z + β" + " + r" * shortcut
    g = "g" if relu else "dL/dy"
    inner = f"{g} − (dL/dβ + z · dL/dγ) / P"
    return Formula(
        ("z = (x − μ) / √(σ^{2} + ε)", f"y = {f'max({terms}, 0)' if relu else terms}"),
        (
            *(["g = dL/dy · [y > 0]"] * relu),
            f"dL/dβ = Σ {g}",
            f"dL/dγ = Σ {g} z",
            "dL/dx = γ / √(σ^{2} + ε) · " + (f"({inner})" if how["training"] else g),
            *([f"dL/dr = {g}"] * shortcut),
        ),
        (
            "μ, σ²: mean and variance over the P values of a channel, which depend on x as well"
            if how["training"]
            else "μ, σ²: the running mean and variance, constants"
        )
        + "; r: the shortcut, which gets the gradient as it is" * shortcut,
    )


_VARIED = {"conv2d": _convolution, "linear": _affine, "batch_norm": _normalisation}


def formula(name: str, attributes: Mapping[str, Any], inputs: int) -> Formula | None:
    """The formula of an operation, with the options that it was called with.

    Parameters
    ----------
    name : str
        The name of a node, e.g. ``"conv2d"``.
    attributes : mapping
        The attributes of a node: whether there was a bias or a ReLU, the stride, and others.
    inputs : int
        Number of input tensors.

    Returns
    -------
    Formula or None
        None for an operation that does not belong to the library.

    Examples
    --------
    >>> formula("relu", {}, 1).backward
    ('dL/dx = dL/dy · [y > 0]',)
    """
    return _VARIED[name](attributes, inputs) if name in _VARIED else FORMULAS.get(name)


def to_html(line: str) -> str:
    """A line as HTML: single letters italic, like variables, and indices and exponents small.

    Examples
    --------
    >>> to_html("y_{i} = max(x^{2}, 0)")
    '<i>y</i><sub><i>i</i></sub> = max(<i>x</i><sup>2</sup>, 0)'
    """
    line = re.sub(r"(?<![^\W\d_])(d?)([A-Za-zα-ωμσγβε])(?![^\W\d_])", r"\1<i>\2</i>", html.escape(line))
    while (marked := re.sub(r"([_^])\{([^{}]*)\}", _script, line)) != line:  # from the inside to the outside
        line = marked
    return line


def _script(match: re.Match[str]) -> str:
    tag = "sub" if match[1] == "_" else "sup"
    return f"<{tag}>{match[2]}</{tag}>"


def _pair(values: tuple[int, int]) -> str:
    return str(values[0]) if values[0] == values[1] else f"{values}"
