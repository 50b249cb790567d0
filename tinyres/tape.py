"""The tape: it records a computation and runs it backward.

A node is one operation that was carried out. It knows its parents, and a pullback: a function that takes dL/dy,
the gradient of the loss with respect to the operation's result, and returns one gradient for each parent. This file
does the rest of differentiation: it orders the nodes, adds the gradients of a result that is used twice, sums over
broadcast axes, and checks for errors. Reverse-mode differentiation is nothing more than this; see Baydin et al.,
"Automatic differentiation in machine learning: a survey", JMLR 18 (2018), section 3.2.

Leaves are the tensors that collect gradients. The tape uses only their shape, dtype, `grad` and hooks.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from tinyres import backend
from tinyres.kernels.launch import add_up, compute
from tinyres.kernels.pending import Pending, known
from tinyres.kernels.threads import survive_forks
from tinyres.readonly import lock, unlock

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Pullback: TypeAlias = Callable[..., Sequence[Array | None]]  # of dL/dy, or of dL/dy and `totals`: see `record`
Hook: TypeAlias = Callable[[Array], Array | None]


class Leaf(Protocol):
    """Where gradients are collected."""

    grad: Array | None
    hooks: list[Hook]
    grad_hooks: "Sequence[Callable[[Any], None]]"

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...


class HookHandle:
    """A registered hook. To remove it, call `remove` or the handle itself, or use the handle in a `with` block."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        """Remove the hook. A second call does nothing."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)
            self._hooks = []

    __call__ = remove

    def __enter__(self) -> "HookHandle":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class Watch(Protocol):
    """The object that the tape reports to, see `watching`."""

    def recorded(self, node: "Node", inputs: Sequence[Array | Pending]) -> None:
        """An operation on these arrays was carried out and recorded. A pending input has an array's shape and dtype,
        and its ``array()`` gives the values."""

    def summed(self, node: "Node | Leaf") -> None:
        """A gradient of this node's result was added to the sum of earlier ones."""


class Trace(Protocol):
    """The object that is told of each array that an operation computed, forward or backward, and of its inputs."""

    def __call__(self, where: str, result: Array, sources: Sequence[Array]) -> None: ...


# ---------------------------------------------------------------- state of the thread
class _State(threading.local):
    grad_enabled = True
    anomaly = False
    recomputing = False  # a checkpoint runs again: it must not repeat side effects, such as new running statistics
    watch: Watch | None = None
    trace: Trace | None = None

    def __init__(self) -> None:
        self.scope: list[str] = []  # names of the modules being called, outermost first


state = _State()


@contextlib.contextmanager
def setting(name: str, value: Any) -> Iterator[None]:
    """Set one value of this thread's state inside this block."""
    before = getattr(state, name)
    setattr(state, name, value)
    try:
        yield
    finally:
        setattr(state, name, before)


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Record nothing inside this block. For evaluation, which needs no gradients: it saves memory.

    Examples
    --------
    >>> import tinyres as tr
    >>> w = tr.Tensor([1.0, 2.0], requires_grad=True)
    >>> with tr.no_grad():
    ...     (w * 2).requires_grad
    False
    """
    return setting("grad_enabled", False)


def enable_grad() -> contextlib.AbstractContextManager[None]:
    """Record inside this block, even within a `no_grad` block.

    Examples
    --------
    >>> import tinyres as tr
    >>> w = tr.Tensor([1.0, 2.0], requires_grad=True)
    >>> with tr.no_grad(), tr.enable_grad():
    ...     (w * 2).requires_grad
    True
    """
    return setting("grad_enabled", True)


def detect_anomaly() -> contextlib.AbstractContextManager[None]:
    """Raise `FloatingPointError` at the first operation, forward or backward, that gives a NaN or an infinity.

    The message names the operation, the module it ran in, the first such element, and the range of its inputs' finite
    values. Results of hooks, sums of gradients and the gradient given to `backward` are checked too. Each result is
    read once more, so a step is slower. After such an error, batch norm's running statistics are unchanged.

    Examples
    --------
    >>> import tinyres as tr
    >>> with tr.detect_anomaly():
    ...     tr.Tensor([1.0, 0.0]).log()
    Traceback (most recent call last):
    FloatingPointError: forward of 'log' gave -inf at index (1,) of an output of shape (2,); its inputs: [0, 1]
    """
    return setting("anomaly", True)


def watching(watch: Watch) -> contextlib.AbstractContextManager[None]:
    """Report each recorded operation and each sum of gradients inside this block to `watch`.

    The report comes as soon as the operation is done, so a clock can measure each one: see `tinyres.profile`.

    Examples
    --------
    >>> import tinyres as tr
    >>> class Printer:
    ...     def recorded(self, node, inputs):
    ...         print(node, "of", *(array.shape for array in inputs))
    ...     def summed(self, node):
    ...         print("sum of gradients of", node)
    >>> w = tr.Tensor([1.0, 2.0], requires_grad=True)
    >>> with tr.tape.watching(Printer()):
    ...     y = w.exp()
    ...     (y * y).sum().backward()
    <exp(2,)> of (2,)
    <mul(2,)> of (2,) (2,)
    <sum()> of (2,)
    sum of gradients of <exp(2,)>
    """
    return setting("watch", watch)


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Nodes recorded in this block belong to the module `name`, inside the modules of the enclosing blocks."""
    state.scope.append(name)
    try:
        yield
    finally:
        state.scope.pop()


def check_finite(what: str, array: Array, kind: str, inputs: Sequence[Array]) -> None:
    """Raise the FloatingPointError of `detect_anomaly` if the array has an element that is not finite."""
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum()):  # takes no memory; what is not finite stays so in any sum
            return
    bad = ~np.isfinite(array)
    if not bad.any():
        return  # only the sum has overflowed
    index = tuple(int(i) for i in np.unravel_index(bad.argmax(), array.shape))
    ranges = ", ".join(_range(a) for a in inputs if a.size) or "none"
    raise FloatingPointError(
        f"{what} gave {array[index]} at index {index} of {kind} of shape {array.shape}; its inputs: {ranges}"
    )


def _range(array: Array) -> str:
    """Smallest and largest of the finite values, and how many others there are."""
    finite = array[np.isfinite(array)]
    others = f"{array.size - finite.size} of {array.size} not finite"
    if not finite.size:
        return others
    return f"[{finite.min():.4g}, {finite.max():.4g}]" + (f" and {others}" if finite.size < array.size else "")


def place(name: str, module: str) -> str:
    """An operation and where it ran, for messages."""
    return f"'{name}'" + (f" in {module}" if module else "")


# ---------------------------------------------------------------- nodes
def _closed_over(pullback: Pullback) -> list[Array]:
    cells = (cell.cell_contents for cell in getattr(pullback, "__closure__", None) or ())
    return [known(value) for value in cells if isinstance(value, np.ndarray | Pending)]


class Node:
    """One recorded operation: its parents, and how a gradient passes from it to them.

    Attributes
    ----------
    name : str
        The operation, e.g. ``"conv2d"``.
    module : str
        Path of the module that called it, e.g. ``"layer1.0.conv1"``; empty outside any module.
    shape, dtype
        Shape and dtype of the operation's result.
    parents : tuple of Node, Leaf or None
        For each input: the node that computed it, or the leaf itself, or None if it needs no gradient.
    pullback : callable or None
        None after the graph has been freed.
    attributes : dict
        Further settings that define the operation, e.g. ``{"stride": (1, 1), ...}``.
    takes_totals : bool
        Whether the pullback can add to the gradients that its parents already have.
    """

    __slots__ = (
        "__weakref__", "attributes", "dtype", "hooks", "module", "name", "parents", "pullback", "saved", "shape",
        "takes_totals",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        y: Array | Pending,
        parents: Sequence["Node | Leaf | None"],
        pullback: Pullback,
        attributes: dict[str, Any] | None = None,
        takes_totals: bool = False,
    ) -> None:
        self.name, self.module = name, ".".join(state.scope)
        self.shape, self.dtype, self.attributes = y.shape, y.dtype, attributes or {}
        self.parents, self.takes_totals = tuple(parents), takes_totals
        self.pullback: Pullback | None = pullback
        self.hooks: list[Hook] = []
        self.saved = _closed_over(pullback)

    def lock(self, arrays: Sequence[Array | Pending]) -> None:
        """Make read-only: arrays that the pullback saved, their bases, and those of `arrays` that share memory."""
        for array in map(known, arrays):
            if any(array is not other and np.may_share_memory(array, other) for other in self.saved):
                self.saved.append(array)
        # bases come first, since no view can become writable again before its base does
        self.saved = [b for a in self.saved if isinstance(b := a.base, np.ndarray) and b.flags.owndata] + self.saved
        lock(self.saved)

    def hold(self, pullback: Pullback, arrays: Sequence[Array | Pending]) -> None:
        """Replace the pullback by another one, which needs these arrays."""
        before, self.pullback, self.saved = self.saved, pullback, list(map(known, arrays))
        self.lock(())
        unlock(before)

    def free(self) -> None:
        """Drop the pullback and its arrays. A later backward through this node raises RuntimeError."""
        self.pullback, self.parents = None, ()
        unlock(self.saved)
        self.saved = []

    def __del__(self) -> None:
        unlock(self.saved)

    def __repr__(self) -> str:
        return f"<{self.name}{self.shape}{' in ' + self.module if self.module else ''}>"


# ---------------------------------------------------------------- backward
_accumulating = survive_forks(threading.Lock())  # two threads may add to one leaf


def run_backward(root: Node | Leaf, gradient: Array, *, retain_graph: bool) -> None:
    """Compute the gradients of all leaves below `root` and add them to their `grad`; free each node after use."""
    order = topological_order(root)
    _check("the caller of backward", gradient, root, [])
    gradients = {id(root): _Sum(gradient, owned=True)}
    while order:
        node = order.pop()
        total = gradients.pop(id(node), None)
        if total is None:
            continue  # every pullback above it gave None
        total = _run_hooks(node, total)
        if not isinstance(node, Node):
            _accumulate(node, total)
            continue
        totals = _to_add_to(node, gradients)
        parts = _pull(node, total.array, totals)
        for parent, part, before in zip(node.parents, parts, totals, strict=True):
            if parent is None or part is None or part is before:
                continue
            if id(parent) in gradients:
                gradients[id(parent)].add(part)
                _check("the sum of gradients", gradients[id(parent)].array, parent, [part])
                if state.watch is not None:
                    state.watch.summed(parent)
            else:
                gradients[id(parent)] = _Sum(part, owned=_is_fresh(part, [total.array, *parts]))
        if not retain_graph:
            node.free()


def _accumulate(leaf: Leaf, total: "_Sum") -> None:
    with _accumulating:
        before = leaf.grad
        leaf.grad = total.copied() if before is None else before + total.array
    if before is not None:
        _check("the sum of gradients over several calls of backward", leaf.grad, leaf, [before, total.array])
    for hook in tuple(leaf.grad_hooks):  # this gradient is final: nothing in the graph will add to it any more
        hook(leaf)


def _check(what: str, gradient: Array, node: Node | Leaf, inputs: Sequence[Array]) -> None:
    if state.anomaly:
        of = f", that of {place(node.name, node.module)}," if isinstance(node, Node) else ", that of a leaf,"
        check_finite(what, gradient, f"a gradient{of}", inputs)


def _to_add_to(node: Node, gradients: "dict[int, _Sum]") -> list[Array | None]:
    """For each parent, the sum of its gradients so far, or None if the pullback may not add to it in place."""
    totals: list[Array | None] = [None] * len(node.parents)
    if node.takes_totals:
        ids = [id(parent) for parent in node.parents]
        for i, key in enumerate(ids):
            if key in gradients and gradients[key].owned and ids.count(key) == 1:
                totals[i] = gradients[key].array
    return totals


def _is_fresh(part: Array, others: Sequence[Array | None]) -> bool:
    """Whether no other code uses this array: it is in `others` once and shares no memory with the rest of them."""
    return part.flags.writeable and sum(o is not None and np.may_share_memory(part, o) for o in others) == 1


class _Sum:
    """A sum of gradients. `owned`: no other code uses the array, so gradients can be added to it in place."""

    __slots__ = ("array", "owned")

    def __init__(self, array: Array, owned: bool) -> None:
        self.array, self.owned = array, owned

    def add(self, part: Array) -> None:
        if self.owned:
            backend.active.add_to(self.array, part)
        else:
            self.array, self.owned = compute(np.add, self.array, part), True

    def copied(self) -> Array:
        return self.array if self.owned else compute(np.positive, self.array)


def topological_order(root: Node | Leaf) -> list[Node | Leaf]:
    """All nodes and leaves that `root` was computed from, each after its parents. Iterative, since graphs are deep.

    Among a node's parents, leaves come last: so backward completes a weight's gradient together with its layer's.
    """
    order: list[Node | Leaf] = []
    seen: set[int] = set()
    stack: list[tuple[Node | Leaf, bool]] = [(root, False)]
    while stack:
        node, parents_done = stack.pop()
        if parents_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            if isinstance(node, Node):
                if node.pullback is None:
                    raise RuntimeError(
                        f"backward: the graph below {node!r} was freed by an earlier backward; run the forward "
                        "pass again, or call the first backward with retain_graph=True"
                    )
                parents = [(p, False) for p in node.parents if p is not None and id(p) not in seen]
                stack.extend(sorted(parents, key=lambda entry: isinstance(entry[0], Node)))  # leaves come last
    return order


def _run_hooks(node: Node | Leaf, total: _Sum) -> _Sum:
    for hook in list(node.hooks):
        changed = hook(total.array)
        if changed is not None:
            before, total = total, _Sum(conform(changed, node, "gradient hook", node), owned=False)
            _check(f"gradient hook {getattr(hook, '__name__', hook)!r}", total.array, node, [before.array])
    return total


def _pull(node: Node, dy: Array, totals: Sequence[Array | None]) -> list[Array | None]:
    """The gradients that a node gives its parents: checked, and with the parent's shape and dtype."""
    assert node.pullback is not None
    parts = list(node.pullback(dy, totals) if node.takes_totals else node.pullback(dy))
    if len(parts) != len(node.parents):
        raise RuntimeError(f"pullback of {node!r} gave {len(parts)} gradients for {len(node.parents)} parents")
    for i, parent in enumerate(node.parents):
        part = parts[i]
        if parent is None or part is None:
            parts[i] = None
            continue
        parts[i] = part = conform(part, parent, "pullback of {!r}", node)
        if state.anomaly:
            what = f"backward of {place(node.name, node.module)}"
            check_finite(what, part, "a gradient", [dy, *_closed_over(node.pullback)])
        if state.trace is not None:
            state.trace(f"backward of {place(node.name, node.module)}", part, [dy])
    return parts


def conform(gradient: Array, target: Node | Leaf, source: str, node: Node | Leaf) -> Array:
    """Undo broadcasting: sum over axes that were added or had length 1. `source` is for messages."""
    gradient = np.asarray(gradient)
    if gradient.dtype != target.dtype:
        raise TypeError(f"{source.format(node)} gave a gradient of dtype {gradient.dtype}, expected {target.dtype}")
    if gradient.shape == target.shape:
        return gradient
    added = gradient.ndim - len(target.shape)
    if added < 0 or any(n not in (1, m) for n, m in zip(target.shape, gradient.shape[added:], strict=True)):
        raise ValueError(f"{source.format(node)} gave a gradient of shape {gradient.shape}, expected {target.shape}")
    stretched = [i + added for i, n in enumerate(target.shape) if n == 1]
    return compute(add_up, gradient, axis=(*range(added), *stretched)).reshape(target.shape)
