"""The tensor: an array with Python's operators. Each operator is recorded on the tape.

Operations that need more than a line of code are in `tinyres.ops`. Each computes an array and calls `record`.

This file is long because a class is in one file: most of its methods are operations, each with its derivative.
"""

import contextlib
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import ref

import numpy as np

from tinyres import html, rules
from tinyres.arraylike import ArrayLike
from tinyres.kernels.launch import add_up, compute, reshaped
from tinyres.kernels.pending import Pending, known
from tinyres.rules import with_axes
from tinyres.spelling import either_spelling
from tinyres.tape import Array, Hook, HookHandle, Node, Pullback, check_finite, place, run_backward, state

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def _in_place(sign: str, function: Callable[[Any, Any], Any]) -> Callable[["Tensor", Any], "Tensor"]:
    """Make an operator that changes the values if no gradient is recorded, else gives a new tensor for the name."""

    def change(self: "Tensor", other: Any) -> "Tensor":
        if state.grad_enabled and (self.requires_grad or (isinstance(other, Tensor) and other.requires_grad)):
            if self.requires_grad and self.is_leaf:
                raise RuntimeError(
                    f"{sign}=: a tensor that collects gradients cannot be changed while operations are recorded: "
                    f"to update it, write `with tr.no_grad(): p {sign}= ...`; to compute with it, y = p {sign} ..."
                )
            return function(self, other)
        values = function(self._data, _operand(self, other)._data)
        if values.shape != self.shape:
            raise ValueError(f"{sign}=: got an operand that gives shape {values.shape}, expected {self.shape}")
        if not self._data.flags.writeable:  # a graph that is still alive has saved the old values
            self.data = self._data.copy()
        self._data[...] = values
        return self

    return change


def _compared(function: Callable[[Any, Any], Any]) -> Callable[["Tensor", Any], Array]:
    return lambda self, other: function(self._data, _values(other))


class Tensor(ArrayLike):
    """An array that remembers how it was computed.

    Parameters
    ----------
    array : array_like
        Copied. float32 and float64 keep their dtype; anything else becomes float32.
    requires_grad : bool
        Whether `backward` should put a gradient in `grad`.
    dtype : float32 or float64, optional
        Convert to it.

    Attributes
    ----------
    data : ndarray
        The values. They are read-only while a recorded operation needs them for its gradient, that is, until
        `backward` has run. Writing to them before raises ``ValueError: assignment destination is read-only``.
    grad : ndarray or None
        Sum of all gradients so far, with the shape and dtype of `data`. Only leaves (tensors that were not computed
        from others) get one, and tensors whose `retain_grad` was called.
    requires_grad : bool
        Whether operations on this tensor are recorded, so that `backward` can reach it.

    Notes
    -----
    A tensor keeps its dtype. Python and NumPy constants are converted to the dtype of the tensor. An operation on two
    tensors of different dtypes raises TypeError. Comparisons give arrays of bool, `argmax` and `argmin` arrays of int.

    NumPy's functions do not record gradients. They use a tensor's values, and raise TypeError for a tensor that
    requires a gradient. ``np.asarray(t)`` is `data` itself, not a copy. Its ``copy`` and ``dtype`` work as for arrays.

    Libraries that support DLPack can share a tensor's memory: ``torch.from_dlpack(t)``, and `tr.from_dlpack` for the
    way back. This raises BufferError if the tensor requires a gradient (share ``t.detach()``) or is read-only.
    tinyres does not notice what the other library writes: do not write to values that a recorded operation needs.

    Methods with ``axis`` and ``keepdims`` also accept PyTorch's names ``dim`` and ``keepdim``.

    Examples
    --------
    >>> import tinyres as tr
    >>> w = tr.Tensor([[1.0, -2.0]], requires_grad=True)
    >>> loss = (w * w + 3 * w).sum()
    >>> loss.backward()
    >>> w.grad
    array([[ 5., -1.]], dtype=float32)
    """

    __slots__ = (
        "__weakref__", "_data", "_node", "_pending", "_statistics", "grad", "grad_hooks", "hooks", "requires_grad",
    )  # fmt: skip

    def __init__(self, array: Any, requires_grad: bool = False, *, dtype: Any = None) -> None:
        if isinstance(array, Tensor):
            array = array.data
        if isinstance(array, np.ndarray | np.generic) and array.dtype in DTYPES:
            data = np.array(array, as_dtype(array.dtype if dtype is None else dtype))
        else:
            values = np.asarray(array)
            if values.dtype.kind not in "fiub" or (values.dtype.itemsize < 4 and values.dtype.kind == "f"):
                raise TypeError(f"array: got dtype {values.dtype}, expected float32, float64, integers or bool")
            data = values.astype(as_dtype(np.float32 if dtype is None else dtype))
        self._data: Array = data
        self._pending: Pending | None = None
        self._statistics: tuple[Array, Array] | None = None
        self.grad: Array | None = None
        self.requires_grad = bool(requires_grad)
        self._node: Node | None = None
        self.hooks: list[Hook] = []
        self.grad_hooks: Sequence[Callable[[Tensor], None]] = ()

    @classmethod
    def _wrap(cls, data: Array | Pending) -> "Tensor":
        """Tensor around an array of the right dtype, which is not copied or may still have to be computed."""
        tensor = Tensor.__new__(Tensor)
        if isinstance(data, Pending):
            tensor._pending = data  # and the slot `_data` stays empty, see `__getattr__`
        else:
            tensor._data, tensor._pending = data, None
        tensor.grad, tensor.requires_grad, tensor._statistics = None, False, None
        tensor._node, tensor.hooks, tensor.grad_hooks = None, [], ()
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
        self._data, self._pending, self._statistics = value, None, None

    def __getattr__(self, name: str) -> Any:
        """Python calls this for an attribute that is not set: for the values, when they are read for the first time."""
        if name != "_data":
            raise AttributeError(f"'Tensor' object has no attribute {name!r}")
        assert self._pending is not None
        self._data = self._pending.array()
        return self._data

    @property
    def _held(self) -> Array | Pending:
        """The values, or the pending computation that will give them."""
        return self._data if self._pending is None else self._pending

    @property
    def shape(self) -> tuple[int, ...]:
        return self._held.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._held.dtype

    @property
    def ndim(self) -> int:
        return self._held.ndim

    @property
    def size(self) -> int:
        return self._held.size

    @property
    def is_leaf(self) -> bool:
        """Whether the user made it: no recorded operation computed it."""
        return self._node is None

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("a tensor of shape () is a single number, and has no length: item() gives the number")
        return len(self._data)

    def __iter__(self) -> Iterator["Tensor"]:
        if not self.ndim:
            raise TypeError("a tensor of shape () is a single number, and cannot be iterated: item() gives the number")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        values = np.array2string(self._data, prefix="Tensor(", separator=", ")
        return f"Tensor({values}, dtype={self.dtype}{', requires_grad=True' if self.requires_grad else ''})"

    def _repr_html_(self) -> str:
        """The HTML that notebooks show."""
        return html.of_tensor(self._data, requires_grad=self.requires_grad)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __bool__(self) -> bool:
        return bool(self._data)

    def __float__(self) -> float:
        return self.item()

    def __int__(self) -> int:
        return int(self.item())

    def item(self) -> float:
        """The value of a tensor with one element, as a Python float; ValueError for other sizes."""
        if self.size != 1:
            raise ValueError(f"item: only a tensor with one element is a number, this one has shape {self.shape}")
        return float(self._data.reshape(()))

    def numpy(self) -> Array:
        """The values, not copied; the same array as `data`."""
        return self._data

    def detach(self) -> "Tensor":
        """The same values, without their history: no gradient passes through."""
        return Tensor._wrap(self._held)

    # -- gradients
    def register_hook(self, hook: Hook) -> HookHandle:
        """Call `hook` with dL/dself during `backward`, as soon as this gradient is complete.

        Parameters
        ----------
        hook : callable
            Takes the gradient, an ndarray of this tensor's shape, which it must not change in place. It returns None,
            or another array that is used instead.

        Returns
        -------
        HookHandle
            Its `remove` removes the hook.

        Raises
        ------
        RuntimeError
            If this tensor does not require a gradient.
        """
        if not self.requires_grad:
            raise RuntimeError("register_hook: this tensor does not require a gradient, so none will come")
        return HookHandle(self._node.hooks if self._node else self.hooks, hook)

    def register_post_accumulate_grad_hook(self, hook: "Callable[[Tensor], None]") -> HookHandle:
        """Call `hook` with this leaf during `backward`, as soon as its `grad` is complete.

        Parameters
        ----------
        hook : callable
            Takes the tensor. Its return value is ignored.

        Returns
        -------
        HookHandle
            Its `remove` removes the hook.

        Raises
        ------
        RuntimeError
            If this tensor is not a leaf, or does not require a gradient.

        Examples
        --------
        >>> import tinyres as tr
        >>> w = tr.Tensor([1.0, 2.0], requires_grad=True)
        >>> handle = w.register_post_accumulate_grad_hook(lambda w: print(w.grad))
        >>> (w * w).sum().backward()
        [2. 4.]
        """
        if not self.requires_grad or self._node is not None:
            what = "was computed from others" if self._node is not None else "does not require a gradient"
            raise RuntimeError(f"register_post_accumulate_grad_hook: this tensor {what}, so it accumulates no gradient")
        if not isinstance(self.grad_hooks, list):
            self.grad_hooks = []
        return HookHandle(self.grad_hooks, hook)

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
            dL/dself. It can be left out if self is a single number, and is then 1.
        retain_graph : bool
            Keep the graph, so that backward can run through it again. By default, backward frees it as it goes.

        Raises
        ------
        RuntimeError
            If this tensor does not require a gradient; if `gradient` is needed and missing; if an earlier
            backward has freed the graph or a part of it.
        ValueError
            If `gradient` does not have this tensor's shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor requires no gradient; was it computed under no_grad?")
        if gradient is None:
            if self.size != 1:
                raise RuntimeError(
                    f"backward: a tensor of shape {self.shape} is not a single number, so dL/dself must be given: "
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
        return record("add", compute(np.add, self._data, other._data), (self, other), lambda dy: (dy, dy))

    def __sub__(self, other: Any) -> "Tensor":
        other = _operand(self, other)
        y = compute(np.subtract, self._data, other._data)
        return record("sub", y, (self, other), lambda dy: (dy, compute(np.negative, dy)))

    def __mul__(self, other: Any) -> "Tensor":
        other = _operand(self, other)
        a, b = self._data, other._data
        y = compute(np.multiply, a, b)
        return record("mul", y, (self, other), lambda dy: (compute(np.multiply, dy, b), compute(np.multiply, dy, a)))

    def __truediv__(self, other: Any) -> "Tensor":
        other = _operand(self, other)
        a, b = self._data, other._data
        return record("div", a / b, (self, other), lambda dy: (dy / b, -dy * (a / b) / b))  # b * b may overflow

    def __pow__(self, exponent: Any) -> "Tensor":
        exponent = _operand(self, exponent)
        y, pullback = rules.power(self._data, exponent._data, needs_b=exponent.requires_grad)
        return record("pow", y, (self, exponent), pullback)

    def __matmul__(self, other: Any) -> "Tensor":
        """Matrix product over the last two axes; the other axes are broadcast."""
        other = _operand(self, other)
        y, pullback = rules.matmul(self._data, other._data)
        return record("matmul", y, (self, other), pullback)

    def __neg__(self) -> "Tensor":
        y = compute(np.negative, self._data)
        return record("neg", y, (self,), lambda dy: (compute(np.negative, dy),))

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

    # -- arithmetic in place
    __iadd__ = _in_place("+", operator.add)
    __isub__ = _in_place("-", operator.sub)
    __imul__ = _in_place("*", operator.mul)
    __itruediv__ = _in_place("/", operator.truediv)
    __ipow__ = _in_place("**", operator.pow)
    __imatmul__ = _in_place("@", operator.matmul)

    # -- comparisons, which give arrays
    __lt__ = _compared(operator.lt)
    __le__ = _compared(operator.le)
    __gt__ = _compared(operator.gt)
    __ge__ = _compared(operator.ge)
    __eq__ = _compared(operator.eq)  # type: ignore[assignment]  # an array, as in NumPy
    __ne__ = _compared(operator.ne)  # type: ignore[assignment]
    __hash__ = object.__hash__  # by identity: a parameter can be a key

    # -- functions of each element
    def exp(self) -> "Tensor":
        y = np.exp(self._data)
        return record("exp", y, (self,), lambda dy: (dy * y,))

    def log(self) -> "Tensor":
        """Natural logarithm: -inf at 0 and NaN for negative numbers, without a warning."""
        x = self._data
        with np.errstate(divide="ignore", invalid="ignore"):
            return record("log", np.log(x), (self,), lambda dy: (dy / x,))

    def sqrt(self) -> "Tensor":
        """Square root: NaN for negative numbers, without a warning."""
        with np.errstate(invalid="ignore"):
            y = np.sqrt(self._data)
        return record("sqrt", y, (self,), lambda dy: (dy / (y + y),))

    def abs(self) -> "Tensor":
        """Absolute value; the gradient at 0 is 0."""
        x = self._data
        return record("abs", np.abs(x), (self,), lambda dy: (dy * np.sign(x),))

    __abs__ = abs

    def clip(self, min: float | None = None, max: float | None = None) -> "Tensor":
        """Limit values to the range from `min` to `max`. One of the two may be None, which means no limit."""
        y, pullback = rules.clip(self._data, min, max)
        return record("clip", y, (self,), pullback, low=min, high=max)

    def astype(self, dtype: Any) -> "Tensor":
        """Convert to float32 or float64. The gradient is converted back to this tensor's dtype."""
        before = self.dtype
        y = self._data.astype(as_dtype(dtype))
        return record("astype", y, (self,), lambda dy: (dy.astype(before),), dtype=y.dtype)

    # -- shapes
    def __getitem__(self, index: Any) -> "Tensor":
        index = tuple(_values(i) for i in index) if isinstance(index, tuple) else _values(index)
        y, pullback = rules.getitem(self._data, index)
        return record("getitem", y, (self,), pullback, index=index)

    def reshape(self, *shape: Any) -> "Tensor":
        """The same elements in another shape. One length may be -1: it is computed from the others."""
        shape = _one_by_one(shape)
        before = self.shape
        return record("reshape", reshaped(self._data, shape), (self,), lambda dy: (reshaped(dy, before),))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        """Merge the axes from `start_dim` to `end_dim` into one."""
        first, last = (
            rules.axes_of(d, max(self.ndim, 1), name)[0] for name, d in (("start_dim", start_dim), ("end_dim", end_dim))
        )
        if first > last:
            raise ValueError(f"start_dim: got {start_dim}, expected at most end_dim, {end_dim}")
        merged = int(np.prod(self.shape[first : last + 1]))
        return self.reshape(*self.shape[:first], merged, *self.shape[last + 1 :])

    @either_spelling
    def squeeze(self, axis: int | tuple[int, ...] | None = None) -> "Tensor":
        """Remove axes of length 1: all of them, or only those in `axis`. Those in `axis` must have length 1."""
        axes = [i for i, n in enumerate(self.shape) if n == 1] if axis is None else rules.axes_of(axis, self.ndim)
        if long := [a for a in axes if self.shape[a] != 1]:
            raise ValueError(f"axis: got {axis} for shape {self.shape}, expected axes of length 1, {long[0]} is longer")
        return self.reshape(tuple(n for i, n in enumerate(self.shape) if i not in axes))

    @either_spelling
    def unsqueeze(self, axis: int) -> "Tensor":
        """Insert an axis of length 1 at position `axis`; -1 puts it at the end."""
        (place,) = rules.axes_of(axis, self.ndim + 1)
        return self.reshape((*self.shape[:place], 1, *self.shape[place:]))

    def permute(self, *axes: Any) -> "Tensor":
        """The axes in another order. Each axis is named once."""
        axes = _one_by_one(axes)
        order = rules.axes_of(axes, self.ndim, "axes")
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(f"axes: got {axes}, expected each of the {self.ndim} axes of shape {self.shape} once")
        inverse = tuple(int(i) for i in np.argsort(order))
        return record("permute", self._data.transpose(order), (self,), lambda dy: (dy.transpose(inverse),), axes=order)

    def transpose(self, *axes: int) -> "Tensor":
        """Swap two axes, as in PyTorch. For all axes in a new order, as in NumPy's transpose, call `permute`."""
        if len(axes) != 2 or not all(isinstance(a, int) for a in axes):
            raise TypeError(
                f"transpose: got {', '.join(map(str, axes)) or 'nothing'}, expected the two axes to swap; for all "
                "axes in a new order, call permute; .T reverses them"
            )
        order = list(range(self.ndim))
        a, b = rules.axes_of(axes, self.ndim)
        order[a], order[b] = order[b], order[a]
        return self.permute(order)

    @property
    def T(self) -> "Tensor":
        """All axes reversed."""
        return self.permute(tuple(reversed(range(self.ndim))))

    # -- reductions
    @either_spelling
    def sum(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Tensor":
        """Sum over the given axes (all of them by default), added in float64."""
        shape, axes = self.shape, rules.axes_of(axis, self.ndim)
        y = add_up(self._data, axes, keepdims=keepdims)
        return record("sum", y, (self,), lambda dy: (np.broadcast_to(with_axes(dy, axes, len(shape)), shape),))

    @either_spelling
    def mean(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Tensor":
        """Mean over the given axes (all of them by default)."""
        count = rules.count("mean", self.shape, axis)
        return self.sum(axis, keepdims=keepdims) / count

    @either_spelling
    def var(
        self, axis: int | tuple[int, ...] | None = None, *, correction: float = 1, keepdims: bool = False
    ) -> "Tensor":
        """Variance over the given axes (all of them by default), as in PyTorch.

        The sum of squares is divided by the number of values minus `correction`. NumPy's default is ``correction=0``.
        """
        y, pullback = rules.variance(self._data, axis, correction=correction, keepdims=keepdims)
        return record("var", y, (self,), pullback)

    @either_spelling
    def std(
        self, axis: int | tuple[int, ...] | None = None, *, correction: float = 1, keepdims: bool = False
    ) -> "Tensor":
        """Standard deviation, the square root of `var`. Where it is 0, the gradient is 0."""
        y, pullback = rules.deviation(self._data, axis, correction=correction, keepdims=keepdims)
        return record("std", y, (self,), pullback)

    @either_spelling
    def max(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Tensor":
        """Maximum over the given axes (all of them by default). Equal maxima share the gradient equally."""
        y, pullback = rules.largest(self._data, axis, keepdims=keepdims)
        return _Extremes._of(record("max", y, (self,), pullback))

    @either_spelling
    def min(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> "Tensor":
        """Minimum over the given axes (all of them by default). Equal minima share the gradient equally."""
        rules.count("minimum", self.shape, axis)
        return _Extremes._of(-(-self).max(axis, keepdims=keepdims))

    @either_spelling
    def argmax(self, axis: int | None = None, *, keepdims: bool = False) -> Array:
        """Index of the maximum along an axis, or in the flattened tensor: an array of int. The first of equal ones."""
        rules.count("maximum", self.shape, axis)
        return np.asarray(np.argmax(self._data, axis, keepdims=keepdims))

    @either_spelling
    def argmin(self, axis: int | None = None, *, keepdims: bool = False) -> Array:
        """Index of the minimum, as `argmax` for the maximum."""
        rules.count("minimum", self.shape, axis)
        return np.asarray(np.argmin(self._data, axis, keepdims=keepdims))


class _Extremes(Tensor):
    """Maxima or minima. PyTorch returns a pair of values and indices: here, unpacking gives a clear error."""

    __slots__ = ()

    @classmethod
    def _of(cls, tensor: Tensor) -> Tensor:
        tensor.__class__ = cls
        return tensor

    _ALONE = "max and min give only values, not a pair of values and indices: for the indices, call argmax or argmin"

    def __iter__(self) -> Iterator[Tensor]:
        raise TypeError(self._ALONE)

    def __getattr__(self, name: str) -> Any:
        if name in ("values", "indices"):
            raise AttributeError(self._ALONE)
        return super().__getattr__(name)


# ---------------------------------------------------------------- recording
def record(
    name: str,
    y: Array | Pending,
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
    y : ndarray or Pending
        Its result, or a pending computation, which runs when the values are first read.
    parents : sequence of Tensor
        Its inputs.
    pullback : callable
        Takes dL/dy, returns dL/dparent for each parent, or None for a parent that needs no gradient. A gradient may
        have the broadcast shape: the tape sums it to the parent's shape. The pullback may use arrays from outside, but
        not the result's Tensor (a reference cycle). It must not change dL/dy, and returns new arrays or views of dL/dy.
    takes_totals : bool
        Call ``pullback(dy, totals)``. `totals` has an entry for each parent: the sum of the gradients that later
        operations gave it, or None if there is no such sum or it may not be changed. The pullback can add to this
        array in place and return it, if that is cheaper than a new array.
    **attributes
        Further settings that define the operation, such as a stride. The node keeps them, for code that reads the tape.

    Returns
    -------
    Tensor
        It requires a gradient if a parent does and `no_grad` is not active. Only then is the pullback kept. The arrays
        that the pullback uses are then read-only until the pullback is freed.

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
    out = Tensor._wrap(y if isinstance(y, Pending) else np.asarray(y))
    if state.anomaly:
        others = [a for a in attributes.values() if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
        what = f"forward of {place(name, '.'.join(state.scope))}"
        check_finite(what, out._data, "an output", [*(p._data for p in parents), *others])
    if state.trace is not None:
        state.trace(place(name, ".".join(state.scope)), known(out._held), [known(p._held) for p in parents])
    if state.grad_enabled and any(p.requires_grad for p in parents):
        out.requires_grad = True
        sources = [(p._node or p) if p.requires_grad else None for p in parents]
        inputs = [p._held for p in parents]
        out._node = Node(name, out._held, sources, pullback, attributes, takes_totals)
        out._node.lock([out._held, *inputs])
        if state.watch is not None:
            state.watch.recorded(out._node, inputs)
    return out


def as_tensor(name: str, value: Any) -> Tensor:
    """`value` if it is a Tensor, else a Tensor made of it; `name` is the argument's, for the message."""
    if isinstance(value, Tensor):
        return value
    try:
        return Tensor(value)
    except (TypeError, ValueError) as error:
        why = f": {error}" if "lose its gradient" in str(error) else ""
        raise TypeError(f"{name}: got {type(value).__name__}, expected a Tensor or an array of numbers{why}") from error


def as_dtype(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype, float32 or float64; TypeError for others."""
    if dtype is not None:  # NumPy would take None for float64
        with contextlib.suppress(TypeError):
            if (found := np.dtype(dtype)) in DTYPES:
                return found
    raise TypeError(f"dtype: got {dtype!r}, expected float32 or float64")


def _values(value: Any) -> Any:
    return value._data if isinstance(value, Tensor) else value


def _operand(tensor: Tensor, other: Any) -> Tensor:
    """The other operand as a Tensor of the same dtype: constants are converted, tensors must have this dtype."""
    if not isinstance(other, Tensor):
        array = np.asarray(other)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"operand: got {type(other).__name__}, expected a Tensor, a number or an array of numbers")
        other = Tensor._wrap(array.astype(tensor.dtype))
    elif other.dtype != tensor.dtype:
        raise TypeError(
            f"operands of dtypes {tensor.dtype} and {other.dtype}: tensors are never converted silently, convert one "
            "of them, e.g. t.astype(np.float32)"
        )
    return other


def _one_by_one(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values as one tuple, whether they were given one by one or as one sequence."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], Sequence) else values
