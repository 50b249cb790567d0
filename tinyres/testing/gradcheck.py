"""Check a gradient: compare it with differences of the function's values."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyres.tape import Array
from tinyres.tensor import Tensor

SMALL_INPUT, SMALL_JACOBIAN = 200, 100_000  # numbers up to which the whole Jacobian is checked by default


class GradcheckError(AssertionError):
    """Raised for a wrong gradient; the message says where it is."""


def gradcheck(
    fn: Callable[..., Tensor],
    *inputs: Any,
    eps: float = 1e-6,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    full: bool | None = None,
    seed: int = 0,
) -> bool:
    """Compare the gradients of `backward` with differences of the function's values, in float64.

    Parameters
    ----------
    fn : callable
        Takes one tensor for each of `inputs`, and returns a Tensor of any shape. It must be deterministic. Arguments
        that are not differentiated are set by a closure: ``lambda x: tr.ops.max_pool2d(x, 2)``.
    *inputs : array_like or Tensor
        The point at which to check. Converted to float64; float64 arrays are used as they lie in memory. Avoid points
        without a derivative, such as 0 for ReLU, or equal elements for max.
    eps : float
        Step, relative to ``max(1, abs(x))``.
    rtol, atol : float
        An element passes if ``abs(analytic - numeric) <= atol + rtol * max(abs(analytic), abs(numeric))``.
    full : bool, optional
        Whether to check each element of the Jacobian. This costs two calls of `fn` for each input number and
        one backward for each output number. By default True if there are at most 200 input numbers and the Jacobian
        has at most 100,000 elements. A random direction is checked in any case.
    seed : int
        Seed of the random direction and the random dL/dy.

    Returns
    -------
    bool
        True, so that it can be asserted.

    Raises
    ------
    GradcheckError
        If a gradient is wrong: the message has the input's number, the index, and both values. Also if a
        value is not finite, if a second forward and backward give a gradient with other bits, if a gradient
        has another shape or dtype than its input, or if an input was changed.
    TypeError
        If `fn` does not return a Tensor, or an input is not made of real numbers.
    ValueError
        If there is no input.

    Notes
    -----
    With h = eps max(1, abs(x_j)), and e_j = 1 at element j and 0 elsewhere,

        dy_i/dx_j = (y_i(x + h e_j) - y_i(x - h e_j)) / 2h + O(h^2) + O(u |y_i| / h),

    where u = 1.1e-16 is the rounding error of float64. The first error term comes from Taylor's formula. The second
    comes from the subtraction of two numbers that agree in most digits. Their sum is smallest at h about
    u^(1/3) = 5e-6. There it is about 1e-10 if values and derivatives are about 1. The default tolerances are 100 times
    larger. If the values are about 1,000, `atol` must be larger by this factor.

    For the random direction d and the random v = dL/dy, the two sides of
    sum_i v_i (y_i(x + h d) - y_i(x - h d)) / 2h = <dL/dx, d> cost two calls and one backward, for any number of
    elements. This test finds a wrong element almost surely, but cannot say which one it is.

    References
    ----------
    Baydin et al., "Automatic differentiation in machine learning: a survey", JMLR 18 (2018), section 2.1.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> from tinyres.testing import gradcheck
    >>> gradcheck(lambda a, b: (a * b).exp(), np.array([0.5, 1.0]), 2.0)
    True
    >>> def wrong(x):
    ...     return tr.record("square", x.data**2, (x,), lambda dy: (dy * x.data,))
    >>> gradcheck(wrong, [3.0])
    Traceback (most recent call last):
    GradcheckError: dy/dx of input 0 at index (0,), output index (0,): analytic 3, numeric 6, relative error 0.5
    """
    if not inputs:
        raise ValueError("inputs: got none, expected at least one array to differentiate with respect to")
    arrays = [_float64(i, value) for i, value in enumerate(inputs)]
    for i, a in enumerate(arrays):
        _finite(a, "got", f"of input {i}")
    originals = [a.copy() for a in arrays]
    rng = np.random.default_rng(seed)

    y = _call(fn, arrays)
    _finite(y.data, "fn gave", "of its output")
    _unchanged(arrays, originals)
    v = away_from_zero(rng, y.shape)
    gradients = _gradients(fn, arrays, v)
    _unchanged(arrays, originals)
    for i, (again, g) in enumerate(zip(_gradients(fn, arrays, v), gradients, strict=True)):
        if not np.array_equal(again, g):
            raise GradcheckError(
                f"input {i}: a second forward and backward gave another gradient, by up to "
                f"{np.max(np.abs(again - g)):.3g}; is fn random, or does its pullback change what it holds?"
            )
    if full or (full is None and _is_small(arrays, y)):
        _check_jacobian(fn, arrays, eps, rtol, atol)
    _check_direction(fn, arrays, gradients, v, rng, eps, rtol, atol)
    _unchanged(arrays, originals)
    return True


def _check_jacobian(fn: Any, arrays: Sequence[Array], eps: float, rtol: float, atol: float) -> None:
    tensors = _tensors(arrays)
    y = _call_on(fn, tensors)
    numeric = []  # for each input, of shape (elements of y, elements of the input)
    for i, a in enumerate(arrays):
        columns = np.zeros((y.size, a.size))
        for j in range(a.size):
            at = _index(j, a.shape)
            plus, minus = a.copy(), a.copy()
            step = eps * max(1.0, abs(a[at]))
            plus[at] += step
            minus[at] -= step
            above, below = ([*arrays[:i], x, *arrays[i + 1 :]] for x in (plus, minus))
            columns[:, j] = _difference(fn, above, below, step).reshape(-1) / (plus[at] - minus[at])
        numeric.append(columns)
    for k in range(y.size):
        dy = np.zeros(y.shape)
        dy[_index(k, y.shape)] = 1
        for i, (g, columns) in enumerate(zip(_backward(y, tensors, dy, retain_graph=True), numeric, strict=True)):
            expected = columns[k].reshape(g.shape)
            wrong = ~(np.abs(g - expected) <= atol + rtol * np.maximum(np.abs(g), np.abs(expected)))
            if wrong.any():
                index = _first(wrong)
                raise GradcheckError(
                    f"dy/dx of input {i} at index {index}, output index {_index(k, y.shape)}: "
                    f"{_both(g[index], expected[index])}{_how_many(wrong)}"
                )


def _check_direction(
    fn: Any,
    arrays: Sequence[Array],
    gradients: Sequence[Array],
    v: Array,
    rng: np.random.Generator,
    eps: float,
    rtol: float,
    atol: float,
) -> None:
    directions = [np.maximum(1, np.abs(a)) * away_from_zero(rng, a.shape) for a in arrays]
    plus, minus = ([a + sign * eps * d for a, d in zip(arrays, directions, strict=True)] for sign in (1, -1))
    changes = v * _difference(fn, plus, minus, eps) / (2 * eps)
    terms = np.concatenate([(g * d).reshape(-1) for g, d in zip(gradients, directions, strict=True)])
    analytic, numeric = float(terms.sum()), float(changes.sum())
    # Rounding errors are relative to the terms, which can be far larger than their sum.
    scale = max(1.0, float(np.linalg.norm(changes)), float(np.linalg.norm(terms)))
    if not abs(analytic - numeric) <= atol * scale + rtol * max(abs(analytic), abs(numeric)):
        raise GradcheckError(f"derivative along a random direction: {_both(analytic, numeric)}")


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random numbers of both signs that are not near 0: a wrong element times one of them is still visible."""
    return np.asarray(rng.uniform(0.5, 1, shape) * rng.choice([-1.0, 1.0], shape))


def _difference(fn: Any, plus: Sequence[Array], minus: Sequence[Array], step: float) -> Array:
    """fn(plus) - fn(minus), element by element: an output that does not change gives exactly 0."""
    ends = [_call(fn, side).data for side in (plus, minus)]
    for sign, end in zip("+-", ends, strict=True):
        _finite(end, "fn gave", f"of its output, a step of {sign}{step:.3g} away from the inputs")
    return np.asarray(ends[0] - ends[1])


def _gradients(fn: Any, arrays: Sequence[Array], v: Array) -> list[Array]:
    tensors = _tensors(arrays)
    return _backward(_call_on(fn, tensors), tensors, v, retain_graph=False)


def _backward(y: Tensor, tensors: Sequence[Tensor], dy: Array, *, retain_graph: bool) -> list[Array]:
    """Gradients of all inputs; zeros for inputs that `y` does not depend on."""
    for t in tensors:
        t.grad = None
    if y.requires_grad:
        y.backward(dy, retain_graph=retain_graph)
    gradients = []
    for i, t in enumerate(tensors):
        g = np.zeros(t.shape) if t.grad is None else t.grad
        if g.shape != t.shape or g.dtype != t.dtype:
            raise GradcheckError(
                f"input {i}: gradient has shape {g.shape} and dtype {g.dtype}, expected {t.shape} and {t.dtype}"
            )
        _finite(g, "backward gave", f"of the gradient of input {i}")
        gradients.append(g)
    return gradients


def _call(fn: Any, arrays: Sequence[Array]) -> Tensor:
    return _call_on(fn, _tensors(arrays))


def _call_on(fn: Any, tensors: Sequence[Tensor]) -> Tensor:
    y = fn(*tensors)
    if not isinstance(y, Tensor):
        raise TypeError(f"fn: returned {type(y).__name__}, expected a Tensor")
    return y


def _float64(i: int, value: Any) -> Array:
    array = np.asarray(value.data if isinstance(value, Tensor) else value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"inputs: input {i} has dtype {array.dtype}, expected real numbers")
    return array.astype(np.float64, copy=False)


def _unchanged(arrays: Sequence[Array], originals: Sequence[Array]) -> None:
    for i, (after, before) in enumerate(zip(arrays, originals, strict=True)):
        if not np.array_equal(after, before):
            index = _first(before != after)
            raise GradcheckError(f"input {i} was changed at index {index}, from {before[index]} to {after[index]}")


def _tensors(arrays: Sequence[Array]) -> list[Tensor]:
    """Tensors of the same arrays, not copies: their layout in memory is part of the check."""
    tensors = [Tensor._wrap(a) for a in arrays]
    for t in tensors:
        t.requires_grad = True
    return tensors


def _is_small(arrays: Sequence[Array], y: Tensor) -> bool:
    size = sum(a.size for a in arrays)
    return size <= SMALL_INPUT and size * y.size <= SMALL_JACOBIAN


# ---------------------------------------------------------------- messages
def _finite(array: Array, before: str, after: str) -> None:
    if not np.isfinite(array).all():
        index = _first(~np.isfinite(array))
        raise GradcheckError(f"{before} {array[index]} at index {index} {after}, of shape {array.shape}")


def _both(analytic: float, numeric: float) -> str:
    relative = abs(analytic - numeric) / max(abs(analytic), abs(numeric))
    return f"analytic {analytic:.10g}, numeric {numeric:.10g}, relative error {relative:.3g}"


def _how_many(wrong: Array) -> str:
    count = int(np.count_nonzero(wrong))
    return f" ({count} of this input's {wrong.size} are wrong)" if count > 1 else ""


def _first(where: Array) -> tuple[int, ...]:
    return _index(int(np.argmax(where)), where.shape)


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))
