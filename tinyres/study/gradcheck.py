"""Gradcheck, explained: the difference between a difference quotient and the derivative, for steps of every size.

A large step gives an error because the function is curved (truncation), a small step because its values are rounded
(round-off), and a step across a kink because the function is a different one there. Between large and small there is a
best step. Its error says how much a gradient check can prove.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tinyres import plots
from tinyres.study.problems import Problem, sample
from tinyres.tape import Array, no_grad
from tinyres.tensor import Tensor
from tinyres.testing.gradcheck import away_from_zero

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = np.logspace(-15, 0, 151)
NEIGHBOURS = 9  # steps in a median, nearly a decade: a single error may be small by chance
DTYPES = {"float64": np.float64, "float32": np.float32}
COLOURS = {"float64": plots.RESIDUAL, "float32": plots.PLAIN}
KINK, KINK_TEXT = "#e09f3e", "#9a6212"


class Curve(NamedTuple):
    """Errors of difference quotients in one dtype, relative to the derivative, for every step of `STEPS`.

    The predictions are ``truncation * h**2``, ``forward_truncation * h`` and ``roundoff / h``.
    """

    central: list[float]
    forward: list[float]
    truncation: float
    forward_truncation: float
    roundoff: float
    best_step: float
    best_error: float
    predicted_step: float | None  # None without truncation
    predicted_error: float | None
    slopes: dict[str, float | None]  # of "central", "forward" (truncation), "round-off"; None if unknown


class Errors(NamedTuple):
    """The results of `errors`."""

    op: str
    derivative: float
    kink: float | None  # the smallest step that crosses a kink; None if there is none up to a step of 1
    curves: dict[str, Curve]  # for "float64" and "float32"


def errors(op: str, seed: int = 0) -> Errors:
    """Measure the error of an operation's difference quotients, for each step and dtype.

    Parameters
    ----------
    op : str
        An operation of `tinyres.ops`.
    seed : int
        Seed of the inputs x, the direction d and the weights v.

    Returns
    -------
    Errors

    Raises
    ------
    ValueError
        If there is no such operation, or the derivative is 0, since then there is no relative error.

    Notes
    -----
    With f(t) = sum_i v_i y_i(x + t d), the derivative is f'(0) = <dL/dx, d>, by `backward` with dL/dy = v, and

        (f(h) - f(-h)) / 2h - f'(0) = h^2 f'''/6 + O(h^4) + round-off of about u R / h     (central)
        (f(h) - f(0)) / h - f'(0)   = h f''/2 + O(h^2) + the same                          (forward),

    Here u is half of the dtype's spacing at 1, and R^2 = sum_i (v_i y_i)^2 + sum_j (x_j dL/dx_j)^2: every result, and
    every input x + h d, is rounded, with random errors. The central error is smallest where the derivative of the sum
    is 0, at h = (3 u R / f''')^(1/3), which is of the order u^(1/3). The error there is 3/2 u R / h. f'' and f''' are
    measured by differences of f, in float64.

    A kink is crossed if the gradient at x + h d or x - h d has zeros in other places than the gradient at x, or the
    same value with the opposite sign. ReLU and maximum either pass a gradient on or not, and abs passes it on with or
    without a change of sign; so the zeros and signs show which branch each element took.

    References
    ----------
    Press et al., "Numerical Recipes", 3rd edition (2007), section 5.7.

    Examples
    --------
    >>> found = errors("exp")
    >>> slopes = found.curves["float64"].slopes
    >>> round(slopes["central"], 1), round(slopes["forward"], 1), found.kink
    (2.0, 1.0, None)
    """
    problem = sample(op, seed)
    rng = np.random.default_rng([seed, 1])  # other numbers than those of the inputs
    direction = [away_from_zero(rng, a.shape) for a in problem.inputs]
    shape = problem(*(Tensor(a) for a in problem.inputs)).shape
    v = away_from_zero(rng, shape)
    kink = _first_kink(problem, direction, v)
    line = _Line(problem, direction, v, np.float64)
    if not line.derivative:
        raise ValueError(f"seed: with {seed}, {op} does not change along the direction at all; choose another")
    second, third = _higher_derivatives(line, kink)
    curves = {name: _curve(_Line(problem, direction, v, dtype), second, third, kink) for name, dtype in DTYPES.items()}
    return Errors(op, line.derivative, kink, curves)


class _Line:
    """The function along the direction in one dtype, with its derivative at 0 and the size of its rounding errors."""

    def __init__(self, problem: Problem, direction: list[Array], v: Array, dtype: Any) -> None:
        self.problem, self.dtype, self.v = problem, dtype, v
        self.x = [a.astype(dtype) for a in problem.inputs]
        self.d = [a.astype(dtype) for a in direction]
        y, gradients = _gradients(problem, self.x, v.astype(dtype))
        self.unit = float(np.finfo(dtype).eps / 2)
        self.derivative = float(sum((g.astype(float) * d).sum() for g, d in zip(gradients, self.d, strict=True)))
        terms = [v * y, *(g * x for g, x in zip(gradients, self.x, strict=True))]
        self.scale = float(np.sqrt(sum((t.astype(float) ** 2).sum() for t in terms)))

    def __call__(self, t: float) -> Array:
        """The terms v_i y_i(x + t d): differences are taken of each term before they are summed, in float64."""
        with no_grad():
            y = self.problem(*(Tensor(x + self.dtype(t) * d) for x, d in zip(self.x, self.d, strict=True)))
        return self.v * y.data.astype(float)

    def central(self, h: float) -> float:
        return float((self(h) - self(-h)).sum()) / (2 * float(self.dtype(h)))

    def forward(self, h: float) -> float:
        return float((self(h) - self(0)).sum()) / float(self.dtype(h))


def _gradients(problem: Problem, arrays: list[Array], v: Array) -> tuple[Array, list[Array]]:
    tensors = [Tensor(a, requires_grad=True) for a in arrays]
    y = problem(*tensors)
    y.backward(v)
    return y.data, [np.zeros_like(t.data) if t.grad is None else t.grad for t in tensors]


# ---------------------------------------------------------------- kinks
def _first_kink(problem: Problem, direction: list[Array], v: Array) -> float | None:
    """The smallest step where a branch differs from that at 0. It is searched in `STEPS`, then by halving."""

    def gradients(t: float) -> list[Array]:
        return _gradients(problem, [a + t * d for a, d in zip(problem.inputs, direction, strict=True)], v)[1]

    here = gradients(0)

    def crossed(h: float) -> bool:
        pairs = [pair for t in (h, -h) for pair in zip(gradients(t), here, strict=True)]
        return any((((g == 0) != (g0 == 0)) | ((g == -g0) & (g != 0))).any() for g, g0 in pairs)

    after = next((h for h in STEPS if crossed(h)), None)
    if after is None:
        return None
    low, high = (after / 10**0.1, float(after))
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if crossed(middle) else (middle, high)
    return float(high)


# ---------------------------------------------------------------- predicted and measured errors
def _higher_derivatives(line: _Line, kink: float | None) -> tuple[float, float]:
    """|f''| and |f'''| at 0, or 0 if they cannot be told from rounding errors."""
    h = min(3e-3, (kink or 1) / 4)
    below, low, here, high, above = (line(k * h).sum() for k in (-2, -1, 0, 1, 2))
    second, third = abs(high - 2 * here + low) / h**2, abs(above - 2 * high + 2 * low - below) / (2 * h**3)
    noise = 100 * line.unit * line.scale
    return float(second if second > noise / h**2 else 0), float(third if third > noise / h**3 else 0)


def _curve(line: _Line, second: float, third: float, kink: float | None) -> Curve:
    exact = line.derivative
    central, forward = (
        np.array([abs(quotient(h) - exact) / abs(exact) for h in STEPS]) for quotient in (line.central, line.forward)
    )
    truncation, bend, roundoff = third / 6 / abs(exact), second / 2 / abs(exact), line.unit * line.scale / abs(exact)
    smooth = _running_median(central)
    best = int(len(smooth) - 1 - np.argmin(smooth[::-1]))  # of equal errors, the largest step
    predicted = (roundoff / (2 * truncation)) ** (1 / 3) if truncation else None
    within = min(0.1, kink or 1)  # beyond this, other terms matter
    resolved = 1e3 * line.unit  # below this, x + h d can hardly be told from x
    slopes = {
        "central": _slope(central, (within > STEPS) & (truncation * STEPS**2 > 30 * roundoff / STEPS)),
        "forward": _slope(forward, (within > STEPS) & (bend * STEPS > 30 * roundoff / STEPS)),
        "round-off": _slope(
            central, (within > STEPS) & (resolved < STEPS) & (roundoff / STEPS > 30 * truncation * STEPS**2)
        ),
    }
    return Curve(
        central.tolist(),
        forward.tolist(),
        truncation,
        bend,
        roundoff,
        float(STEPS[best]),
        float(smooth[best]),
        predicted,
        1.5 * roundoff / predicted if predicted else None,
        slopes,
    )


def _running_median(values: Array) -> Array:
    half = NEIGHBOURS // 2
    padded = np.concatenate([values[:1].repeat(half), values, values[-1:].repeat(half)])
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, NEIGHBOURS), 1))


def _slope(errors: Array, where: Array) -> float | None:
    """The slope of a straight line through the errors on logarithmic axes."""
    where = where & (errors > 0)
    if np.count_nonzero(where) < NEIGHBOURS:
        return None
    return float(np.polyfit(np.log(STEPS[where]), np.log(errors[where]), 1)[0])


def verdict(found: Errors) -> list[str]:
    """Describe the curves in sentences."""
    sentences = []
    for name, curve in found.curves.items():
        text = f"{found.op}, {name}: best step {curve.best_step:.1e}, with a relative error of {curve.best_error:.1e}"
        if curve.predicted_step:
            text += f" (predicted {curve.predicted_step:.1e} and {curve.predicted_error:.1e})"
        slopes = [f"{part} {slope:.2f}" for part, slope in curve.slopes.items() if slope is not None]
        sentences.append(f"{text}{'; slopes: ' + ', '.join(slopes) if slopes else ''}.")
    first = found.curves["float64"]
    if not first.truncation:
        kind = "a parabola" if first.forward_truncation else "a straight line"
        until = "" if found.kink is None else ", until the kink"
        sentences.append(f"{found.op} is {kind} along this direction{until}: central differences truncate nothing.")
    if found.kink is not None:
        sentences.append(f"Steps from {found.kink:.2g} on cross a kink of {found.op}, and measure another function.")
    return sentences


# ---------------------------------------------------------------- picture
def draw(studies: list[Errors]) -> "Figure":
    """Draw the error for each step on logarithmic axes, in a panel for each operation."""
    width = max(7.5, 4.6 * len(studies))
    figure, axes = plots.subplots(1, len(studies), width=width, height=4.8, sharey=True, squeeze=False)
    for axis, found in zip(axes[0], studies, strict=True):
        _draw(axis, found)
    axes[0, 0].set(ylabel="relative error of the difference quotient")
    axes[0, 0].legend(frameon=False, fontsize=9, loc="lower left")
    figure.suptitle("Difference quotients: central thick, forward thin, predicted dotted and dashed", fontsize=11)
    return figure


def _draw(axis: Any, found: Errors) -> None:
    floor, top = 1e-17, 1e4  # a logarithmic axis cannot show an error of 0
    axis.set(xscale="log", yscale="log", xlim=(STEPS[0], STEPS[-1]), ylim=(floor, top), xlabel="step h", title=found.op)
    for name, curve in found.curves.items():
        colour = COLOURS[name]
        axis.plot(STEPS, np.maximum(curve.forward, floor), color=colour, linewidth=0.7, alpha=0.5)
        axis.plot(STEPS, np.maximum(curve.central, floor), color=colour, linewidth=1.6, label=name)
        axis.plot(STEPS, curve.roundoff / STEPS, ":", color=colour, linewidth=1.2)
        best = curve.best_step, max(curve.best_error, floor)
        axis.plot(*best, "o", color=colour, markersize=8, markeredgecolor="white", zorder=5)
        axis.annotate(
            f"{curve.best_error:.0e}\nat {curve.best_step:.0e}", best, (-8, -6), textcoords="offset points",
            ha="right", va="top", fontsize=8, color=colour,
        )  # fmt: skip
    exact = found.curves["float64"]
    _guide(axis, exact.roundoff, -1, "u R / h", 1e-12, "left", "bottom")
    if exact.truncation:
        _guide(axis, exact.truncation, 2, "h² f‴/6", 1e-7, "left", "top")
    if exact.forward_truncation:
        _guide(axis, exact.forward_truncation, 1, "h f″/2", 10**-6.5, "right", "bottom")
    if found.kink is not None:
        axis.axvspan(found.kink, STEPS[-1], color=KINK, alpha=0.15, linewidth=0)
        axis.axvline(found.kink, color=KINK, linewidth=1.5)
        axis.annotate(
            f"kink from {found.kink:.1g} on", (found.kink, top), (-4, -4), textcoords="offset points",
            ha="right", va="top", fontsize=8, color=KINK_TEXT,
        )  # fmt: skip


def _guide(axis: Any, factor: float, power: int, text: str, at: float, ha: str, va: str) -> None:
    """Draw a predicted error, factor * h**power, and its formula."""
    if power > 0:
        axis.plot(STEPS, factor * STEPS**power, "--", color="0.35", linewidth=1)
    offset = 5 if ha == "left" else -5, 3 if va == "bottom" else -3
    axis.annotate(
        text, (at, factor * at**power), offset, textcoords="offset points", ha=ha, va=va, fontsize=8, color="0.25"
    )
