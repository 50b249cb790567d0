"""The tensor: an array with Python's operators, each of which goes on the tape.

Operations that need more than a line are in `tinyres.ops`; each computes an array and calls `record`.
"""

from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import numpy as np

from tinyres.tape import Array, Hook, Node, Pullback, check_finite, place, run_backward, state

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


class Tensor:
    """An array that remembers how it was computed.

    Parameters
    ----------
    array : array_like
        Copied. float32 and float64 keep their dtype; anything else becomes float32.
    requires_grad : bool
        Whether `backward` should put a gradient in `grad`.

    Attributes
    ----------
    data : ndarray
        The values. Read-only while a recorded operation needs them unchanged for its gradient, that is until
        `backward` has run: writing to it then raises ``ValueError: assignment destination is read-only``.
    grad : ndarray or None
        Sum of all gradients so far, of the shape and dtype of `data`. Only leaves get one (tensors not computed
        from others), and those that asked with `retain_grad`.
    requires_grad : bool

    Notes
    -----
    A tensor keeps its dtype. Python and NumPy constants take that of the tensor they meet; two tensors of
    different dtypes do not mix. Comparisons give arrays of bool.

    Examples
    --------
    >>> import tinyres as tr
    >>> w = tr.Tensor([[1.0, -2.0]], requires_grad=True)
    >>> loss = (w * w + 3 * w).sum()
    >>> loss.backward()
    >>> w.grad
    array([[ 5., -1.]], dtype=float32)
    """

    __slots__ = ("__weakref__", "_data", "_node", "grad", "hooks", "requires_grad")
    __array_ufunc__ = None  # array * tensor is Tensor.__rmul__, not an array of objects

    def __init__(self, array: Any, requires_grad: bool = False) -> None:
        if isinstance(array, Tensor):
            array = array.data
        if isinstance(array, np.ndarray | np.generic) and array.dtype in DTYPES:
            data = np.array(array)
        else:
            values = np.asarray(array)
            if values.dtype.kind not in "fiub" or (values.dtype.itemsize < 4 and values.dtype.kind == "f"):
                raise TypeError(f"array: got dtype {values.dtype}, expected float32, float64, integers or bool")
            data = values.astype(np.float32)
        self._data: Array = data
        self.grad: Array | None = None
        self.requires_grad = bool(requires_grad)
        self._node: Node | None = None
        self.hooks: list[Hook] = []

    @classmethod
    def _wrap(cls, data: Array) -> "Tensor":
        """Tensor around an array of the right dtype, not copied."""
        tensor = Tensor.__new__(Tensor)
        tensor._data, tensor.grad, tensor.requires_grad = data, None, False
        tensor._node, tensor.hooks = None, []
        return tensor

    # -- what it is
    @property
    def data(self) -> Array:
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        value = np.asarray(value)
        if value.shape != self.shape or value.dtype != self.dtype:
            raise ValueError(
                f"data: got shape {value.shape} {value.dtype}, expected {self.shape} {self.dtype}; "
                "a tensor keeps its shape and dtype, make a new Tensor for others"
            )
        self._data = value

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def is_leaf(self) -> bool:
        """Whether it was made by the user, not computed by a recorded operation."""
        return self._node is None

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        values = np.array2string(self._data, prefix="Tensor(", separator=", ")
        return f"Tensor({values}, dtype={self.dtype}{', requires_grad=True' if self.requires_grad else ''})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self._data, dtype=dtype, copy=copy)

    def __bool__(self) -> bool:
        return bool(self._data)

    def __float__(self) -> float:
        return float(self.item())

    def item(self) -> float:
        """The value of a tensor of one element, as a Python float."""
        if self.size != 1:
            raise ValueError(f"item: only a tensor of one element is a number, this one has shape {self.shape}")
        return float(self._data.reshape(()))

    def numpy(self) -> Array:
        """The values, not copied; the same array as `data`."""
        return self._data

    def detach(self) -> "Tensor":
        """The same values, without their history: no gradient passes through."""
        return Tensor._wrap(self._data)

    # -- gradients
    def register_hook(self, hook: Hook) -> Callable[[], None]:
        """Call `hook` with dL/dself during `backward`, once it is complete.

        Parameters
        ----------
        hook : callable
            Takes the gradient, an ndarray of this tensor's shape, not to be changed in place; may return another
            one to be used instead, or None.

        Returns
        -------
        callable
            Removes the hook.
        """
        if not self.requires_grad:
            raise RuntimeError("register_hook: this tensor does not require a gradient, so none will come")
        hooks = self._node.hooks if self._node else self.hooks
        hooks.append(hook)
        return lambda: hooks.remove(hook) if hook in hooks else None

    def retain_grad(self) -> None:
        """Keep the gradient of a computed tensor in `grad`, as a leaf does."""
        if self._node is not None:
            this = ref(self)  # the node must not keep its own output alive

            def keep(gradient: Array) -> None:
                if (tensor := this()) is not None:
                    tensor.grad = gradient.copy() if tensor.grad is None else tensor.grad + gradient

            self.register_hook(keep)

    def backward(self, gradient: Any = None, *, retain_graph: bool = False) -> None:
        """Add dself/dleaf, for every leaf that requires it, to that leaf's `grad`.

        Parameters
        ----------
        gradient : array_like of the shape of this tensor, optional
            dL/dself. Can be left out where self is a single number; it is 1 then.
        retain_graph : bool
            Keep the graph, so that backward can run through it again. Else it is freed on the way.

        Raises
        ------
        RuntimeError
            Where nothing here requires a gradient; where `gradient` is needed and missing; where the graph,
            or a part of it, has been freed by an earlier backward.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor requires no gradient; was it computed under no_grad?")
        if gradient is None:
            if self.size != 1:
                raise RuntimeError(
                    f"backward: a tensor of shape {self.shape} is no single number, so dL/dself must be given: "
                    "call backward(gradient) or reduce it, e.g. with sum() or mean()"
                )
            gradient = np.ones_like(self._data)
        gradient = np.array(gradient, self.dtype)
        if gradient.shape != self.shape:
            raise ValueError(f"gradient: got shape {gradient.shape}, expected this tensor's, {self.shape}")

        run_backward(self._node or self, gradient, retain_graph=retain_graph)

    # -- arithmetic
    def __add__(self, other: Any) -> "Tensor":
        other = _operand(self, other)
        return record("add", self._data + other._data, (self, other), lambda dy: (dy, dy))

    def __sub__(self, other: Any) -> "Tensor":
        other = _operand(self, other)
        return record("sub", self._data - other._data, (self, other), lambda dy: (dy, -dy))

    def __mul__(self, other: Any) -> "Tensor":
        other = _operand(self, other)
        a, b = self._data, other._data
        return record("mul", a * b, (self, other), lambda dy: (dy * b, dy * a))

    def __truediv__(self, other: Any) -> "Tensor":
        other = _operand(self, other)
        a, b = self._data, other._data
        return record("div", a / b, (self, other), lambda dy: (dy / b, -dy * a / (b * b)))

    def __pow__(self, exponent: Any) -> "Tensor":
        """d(a ** b) = b a^(b - 1) da + a^b log(a) db, and no gradient to b where a = 0."""
        exponent = _operand(self, exponent)
        a, b, needs_b = self._data, exponent._data, exponent.requires_grad
        y = a**b

        def pullback(dy: Array) -> Sequence[Array | None]:
            da = dy * np.where(b == 0, 0, b * a ** np.where(b == 0, 1, b - 1))
            if not needs_b:
                return da.astype(dy.dtype, copy=False), None
            return da, dy * np.where(a == 0, 0, y * np.log(np.where(a == 0, 1, a)))

        return record("pow", y, (self, exponent), pullback)

    def __matmul__(self, other: Any) -> "Tensor":
        """Matrix product of the last two axes, the others broadcast. For y = a b: da = dy b^T, db = a^T dy."""
        other = _operand(self, other)
        a, b = self._data, other._data
        if not a.ndim or not b.ndim or a.shape[-1] != b.shape[max(b.ndim - 2, 0)]:
            raise ValueError(
                f"matmul: shapes {a.shape} and {b.shape} do not fit; the last axis of the first must be as long as "
                "the second to last (or only) axis of the second"
            )

        def pullback(dy: Array) -> Sequence[Array]:
            # a vector is a matrix of one row (left) or one column (right)
            rows, columns = (a[None] if a.ndim == 1 else a), (b[:, None] if b.ndim == 1 else b)
            dy = np.expand_dims(dy, -1) if b.ndim == 1 else dy
            dy = np.expand_dims(dy, -2) if a.ndim == 1 else dy
            da, db = dy @ columns.swapaxes(-1, -2), rows.swapaxes(-1, -2) @ dy
            return (da[..., 0, :] if a.ndim == 1 else da), (db[..., 0] if b.ndim == 1 else db)

        return record("matmul", np.asarray(a @ b), (self, other), pullback)

    def __neg__(self) -> "Tensor":
        return record("neg", -self._data, (self,), lambda dy: (-dy,))

    def __radd__(self, other: Any) -> "Tensor":
        return self + other

    def __rsub__(self, other: Any) -> "Tensor":
        return _operand(self, other) - self

    def __rmul__(self, other: Any) -> "Tensor":
        return self * other

    def __rtruediv__(self, other: Any) -> "Tensor":
        return _operand(self, other) / self

    def __rpow__(self, other: Any) -> "Tensor":
        return _operand(self, other) ** self

    def __rmatmul__(self, other: Any) -> "Tensor":
        return _operand(self, other) @ self

    # -- comparisons, which give arrays
    def __lt__(self, other: Any) -> Array:
        return self._data < _values(other)

    def __le__(self, other: Any) -> Array:
        return self._data <= _values(other)

    def __gt__(self, other: Any) -> Array:
        return self._data > _values(other)

    def __ge__(self, other: Any) -> Array:
        return self._data >= _values(other)

    def __eq__(self, other: Any) -> Array:  # type: ignore[override]  # an array, as in NumPy
        return self._data == _values(other)

    def __ne__(self, other: Any) -> Array:  # type: ignore[override]
        return self._data != _values(other)

    __hash__ = object.__hash__  # by identity: a parameter can be a key

    # -- functions of each element
    def exp(self) -> "Tensor":
        y = np.exp(self._data)
        return record("exp", y, (self,), lambda dy: (dy * y,))

    def log(self) -> "Tensor":
        """Natural logarithm; -inf at 0 and NaN below, without a warning."""
        x = self._data
        with np.errstate(divide="ignore", invalid="ignore"):
            return record("log", np.log(x), (self,), lambda dy: (dy / x,))

    def sqrt(self) -> "Tensor":
        """Square root; NaN below 0, without a warning."""
        with np.errstate(invalid="ignore"):
            y = np.sqrt(self._data)
        return record("sqrt", y, (self,), lambda dy: (dy / (y + y),))

    # -- shapes
    def __getitem__(self, index: Any) -> "Tensor":
        index = tuple(_values(i) for i in index) if isinstance(index, tuple) else _values(index)
        x = self._data
        parts = index if isinstance(index, tuple) else (index,)
        basic = all(i is None or i is ... or isinstance(i, int | slice) for i in parts)  # takes each element once

        def pullback(dy: Array) -> Sequence[Array]:
            dx = np.zeros_like(x)
            if basic:
                dx[index] = dy
            else:
                np.add.at(dx, index, dy)  # an element taken twice gets both gradients
            return (dx,)

        return record("getitem", np.array(x[index]), (self,), pullback, index=index)

    def reshape(self, *shape: Any) -> "Tensor":
        """The same elements in another shape; one length may be -1."""
        shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        before = self.shape
        return record("reshape", self._data.reshape(shape), (self,), lambda dy: (dy.reshape(before),))

    def transpose(self, *axes: Any) -> "Tensor":
        """Permute the axes; without an argument, reverse them."""
        axes = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = _axes(tuple(axes), self.ndim) if axes else tuple(reversed(range(self.ndim)))
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(
                f"axes: got {tuple(axes)}, expected each of the {self.ndim} axes of shape {self.shape} once"
            )
        inverse = tuple(int(i) for i in np.argsort(order))
        return record(
            "transpose", self._data.transpose(order), (self,), lambda dy: (dy.transpose(inverse),), axes=order
        )

    @property
    def T(self) -> "Tensor":
        """All axes reversed, as by `transpose()`."""
        return self.transpose()

    # -- reductions
    def sum(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Tensor":
        """Sum over the given axes (all of them by default)."""
        shape, axes = self.shape, _axes(axis, self.ndim)
        y = np.asarray(self._data.sum(axes, keepdims=keepdims))
        return record("sum", y, (self,), lambda dy: (np.broadcast_to(_with_axes(dy, axes, len(shape)), shape),))

    def mean(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Tensor":
        """Mean over the given axes (all of them by default)."""
        count = int(np.prod([self.shape[a] for a in _axes(axis, self.ndim)]))
        if count == 0:
            raise ValueError(f"mean: axis of length 0 in shape {self.shape}; an empty set has no mean")
        return self.sum(axis, keepdims=keepdims) / count

    def max(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Tensor":
        """Maximum over the given axes (all of them by default). Equal maxima share the gradient equally."""
        x, axes = self._data, _axes(axis, self.ndim)
        if any(x.shape[a] == 0 for a in axes):
            raise ValueError(f"max: axis of length 0 in shape {x.shape}; an empty set has no maximum")
        top = np.asarray(x.max(axes, keepdims=True))

        def pullback(dy: Array) -> Sequence[Array]:
            hit = (x == top).astype(x.dtype)
            return (hit / hit.sum(axes, keepdims=True) * _with_axes(dy, axes, x.ndim),)

        return record("max", top if keepdims else top.squeeze(axes), (self,), pullback)


# ---------------------------------------------------------------- recording
def record(
    name: str,
    y: Array,
    parents: Sequence[Tensor],
    pullback: Pullback,
    *,
    takes_totals: bool = False,
    **attributes: Any,
) -> Tensor:
    """Make a tensor of `y` and put the operation that computed it on the tape.

    Parameters
    ----------
    name : str
        The operation's name, for messages and pictures.
    y : ndarray
        Its result.
    parents : sequence of Tensor
        Its inputs.
    pullback : callable
        Takes dL/dy, returns dL/dparent for each parent, or None where none is wanted. A gradient may have the
        broadcast shape: the tape sums it down to the parent's. It must close over arrays, never over
        the result's Tensor (a cycle), must not change dL/dy, and must return new arrays or views of dL/dy.
    takes_totals : bool
        Call ``pullback(dy, totals)``, with what has been added up for each parent by operations that came later, or
        None where that is nothing or may not be changed. A pullback can add to such an array, where that is cheaper
        than to return one of its own, and return it.
    **attributes
        What else defines the operation, such as a stride. The node keeps them, for those who read the tape.

    Returns
    -------
    Tensor
        With `requires_grad` where a parent has it and `no_grad` is not on. Only then the pullback is kept, and
        the arrays that it closes over are made read-only until it is freed.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> def cube(x):
    ...     a = x.data
    ...     return tr.record("cube", a**3, (x,), lambda dy: (3 * a**2 * dy,))
    >>> x = tr.Tensor(2.0, requires_grad=True)
    >>> cube(x).backward()
    >>> float(x.grad)
    12.0
    """
    out = Tensor._wrap(np.asarray(y))
    if state.anomaly:
        others = [a for a in attributes.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        what = f"forward of {place(name, '.'.join(state.scope))}"
        check_finite(what, out._data, "an output", [*(p._data for p in parents), *others])
    if state.grad_enabled and any(p.requires_grad for p in parents):
        out.requires_grad = True
        sources = [(p._node or p) if p.requires_grad else None for p in parents]
        out._node = Node(name, out._data, sources, pullback, attributes, takes_totals)
        out._node.lock([out._data, *(p._data for p in parents)])
        if state.watch is not None:
            state.watch.recorded(out._node, [p._data for p in parents])
    return out


def as_tensor(name: str, value: Any) -> Tensor:
    """`value` if it is a Tensor, else a Tensor made of it; `name` is the argument's, for the message."""
    if isinstance(value, Tensor):
        return value
    try:
        return Tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: got {type(value).__name__}, expected a Tensor or an array of numbers") from error


def _values(value: Any) -> Any:
    return value._data if isinstance(value, Tensor) else value


def _operand(tensor: Tensor, other: Any) -> Tensor:
    """The other operand as a Tensor of the same dtype: constants adapt, tensors have to agree."""
    if not isinstance(other, Tensor):
        array = np.asarray(other)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"operand: got {type(other).__name__}, expected a Tensor, a number or an array of numbers")
        other = Tensor._wrap(array.astype(tensor.dtype))
    elif other.dtype != tensor.dtype:
        raise TypeError(
            f"operands of dtypes {tensor.dtype} and {other.dtype}: nothing is promoted silently, convert one of "
            "them, e.g. Tensor(t.data.astype(np.float32))"
        )
    return other


def _axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    axes = tuple(range(ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    for a in axes:
        if not -ndim <= a < ndim:
            raise ValueError(f"axis: got {a}, expected one from {-ndim} to {ndim - 1} for {ndim} dimensions")
    return tuple(a % ndim for a in axes)


def _with_axes(dy: Array, axes: tuple[int, ...], ndim: int) -> Array:
    """Put the axes back, with length 1, that a reduction took away."""
    return dy if dy.ndim == ndim else np.expand_dims(dy, axes)
