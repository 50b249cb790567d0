"""The tape: what remembers a computation and runs it backward.

A node is one operation that was carried out. It knows its parents, and a pullback: a function that takes dL/dy,
the gradient of the loss with respect to the operation's result, and returns one gradient for each parent. Everything
else about differentiation is in this file, once: the order of nodes, the sum where a result is used twice, the sums
that undo broadcasting, and the errors. Reverse-mode differentiation is nothing more than this; see Baydin et al.,
"Automatic differentiation in machine learning: a survey", JMLR 18 (2018), section 3.2.

Leaves, where gradients end up, are tensors; all the tape knows of one is a shape, a dtype, `grad` and `hooks`.
"""

import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from tinyres import backend
from tinyres.kernels.launch import compute
from tinyres.kernels.pending import Pending, known
from tinyres.kernels.threads import survive_forks

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
    """A hook that was registered. `remove` takes it away again, as do a call, and the end of a `with` block."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook
        hooks.append(hook)

    def remove(self) -> None:
        """Do not call the hook any more. What is removed already stays so."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)
            self._hooks = []

    __call__ = remove

    def __enter__(self) -> "HookHandle":
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


class Watch(Protocol):
    """Who is told what the tape does, see `watching`."""

    def recorded(self, node: "Node", inputs: Sequence[Array | Pending]) -> None:
        """An operation on these arrays was carried out and is on the tape. One that is pending has an array's shape and
        dtype, and ``array()`` gives its values."""

    def summed(self, node: "Node | Leaf") -> None:
        """A gradient of this node's result was added to those that came before."""


class Trace(Protocol):
    """Who is told of each array that an operation has computed, forward or backward: where it is, and from which."""

    def __call__(self, where: str, result: Array, sources: Sequence[Array]) -> None: ...


# ---------------------------------------------------------------- state of the thread
class _State(threading.local):
    grad_enabled = True
    anomaly = False
    recomputing = False  # a checkpoint runs again: what a first run changes besides its result is to stay as it is
    watch: Watch | None = None
    trace: Trace | None = None

    def __init__(self) -> None:
        self.scope: list[str] = []  # names of the modules being called, outermost first


state = _State()


@contextlib.contextmanager
def setting(name: str, value: Any) -> Iterator[None]:
    """Give this thread's state another value inside this block."""
    before = getattr(state, name)
    setattr(state, name, value)
    try:
        yield
    finally:
        setattr(state, name, before)


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Record nothing inside this block: for evaluation, where no gradient is wanted and memory matters.

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
    """Record inside this block, whatever `no_grad` is around it.

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

    The message names the operation, the module it ran in, the first such element, and the range of the finite
    values that went in. So are named a hook, a sum of gradients, and a gradient given to `backward`. Each result is
    read once more, so a step is slower. Batch norm's running statistics stay as they were before such a result.

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
    """Tell `watch`, inside this block, of each operation that was recorded and each sum of gradients that was made.

    It is told as soon as they are done, so a clock tells what each took: see `tinyres.profile`.

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
    """Nodes recorded in this block belong to the module `name` (inside those of the blocks around it)."""
    state.scope.append(name)
    try:
        yield
    finally:
        state.scope.pop()


def check_finite(what: str, array: Array, kind: str, inputs: Sequence[Array]) -> None:
    """Raise what `detect_anomaly` promises if the array has an element that is not finite."""
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


# ---------------------------------------------------------------- arrays a pullback holds
_locks: dict[int, tuple[Array, int]] = {}  # id -> the array and how many nodes hold it
_waiting: dict[int, list[weakref.ref[Array]]] = {}  # id of an array that is held -> views of it that are not any more
_released: deque[Array] = deque()  # what nodes have let go of, and the two above do not know yet
_guard = survive_forks(threading.Lock())  # of these: threads may share arrays


def _lock(arrays: list[Array]) -> None:
    with _guard:
        for array in arrays:
            held, count = _locks.get(id(array), (array, 0))
            if count or array.flags.writeable:
                array.flags.writeable = False
                _locks[id(array)] = held, count + 1
    _settle()


def _unlock(arrays: list[Array]) -> None:
    """Never waits, since nodes may die at any time, in any thread, even within `_lock`."""
    _released.extend(arrays)
    _settle()


def _settle() -> None:
    while _released and _guard.acquire(blocking=False):  # else who has the guard looks here next
        try:
            while _released:
                _release(_released.popleft())
        finally:
            _guard.release()


def _release(array: Array) -> None:
    if id(array) not in _locks:
        return  # was read-only before any node held it
    _, count = _locks.pop(id(array))
    if count > 1:
        _locks[id(array)] = array, count - 1
    else:
        _make_writable(array)


def _make_writable(array: Array) -> None:
    try:
        array.flags.writeable = True
    except ValueError:  # a view is read-only while its base is
        _waiting.setdefault(id(array.base), []).append(weakref.ref(array))
    for view in _waiting.pop(id(array), ()) if array.flags.writeable else ():
        if (alive := view()) is not None:
            _make_writable(alive)


def _closed_over(pullback: Pullback) -> list[Array]:
    cells = (cell.cell_contents for cell in getattr(pullback, "__closure__", None) or ())
    return [known(value) for value in cells if isinstance(value, np.ndarray | Pending)]


class Node:
    """One recorded operation: who its parents are, and how a gradient passes from it to them.

    Attributes
    ----------
    name : str
        The operation, e.g. ``"conv2d"``.
    module : str
        Path of the module that called it, e.g. ``"layer1.0.conv1"``; empty outside any module.
    shape, dtype
        Of the operation's result.
    parents : tuple of Node, Leaf or None
        For each input: the node that computed it, or the leaf itself, or None where no gradient is wanted.
    pullback : callable or None
        None once the graph has been freed.
    attributes : dict
        What else defines the operation, e.g. ``{"stride": (1, 1), ...}``.
    takes_totals : bool
        The pullback can add to the gradients that its parents already have.
    """

    __slots__ = (
        "__weakref__",
        "attributes",
        "dtype",
        "hooks",
        "module",
        "name",
        "parents",
        "pullback",
        "saved",
        "shape",
        "takes_totals",
    )

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
        """Make read-only what the pullback saved, what that is views of, and those of `arrays` that share memory."""
        for array in map(known, arrays):
            if any(array is not other and np.may_share_memory(array, other) for other in self.saved):
                self.saved.append(array)
        # bases come first, since no view can become writable again before its base does
        self.saved = [b for a in self.saved if isinstance(b := a.base, np.ndarray) and b.flags.owndata] + self.saved
        _lock(self.saved)

    def hold(self, pullback: Pullback, arrays: Sequence[Array | Pending]) -> None:
        """Use another pullback, which needs these arrays, instead of the one there is."""
        before, self.pullback, self.saved = self.saved, pullback, list(map(known, arrays))
        self.lock(())
        _unlock(before)

    def free(self) -> None:
        """Drop what the pullback holds. A later backward through this node says so."""
        self.pullback, self.parents = None, ()
        _unlock(self.saved)
        self.saved = []

    def __del__(self) -> None:
        _unlock(self.saved)

    def __repr__(self) -> str:
        return f"<{self.name}{self.shape}{' in ' + self.module if self.module else ''}>"


# ---------------------------------------------------------------- backward
_accumulating = survive_forks(threading.Lock())  # two threads may add to one leaf


def run_backward(root: Node | Leaf, gradient: Array, *, retain_graph: bool) -> None:
    """Carry dL/droot to all leaves below `root` and add it to their `grad`; free each node once it is done."""
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
    """For each parent, what has been added up for it, if the node's pullback may add to it in place."""
    totals: list[Array | None] = [None] * len(node.parents)
    if node.takes_totals:
        ids = [id(parent) for parent in node.parents]
        for i, key in enumerate(ids):
            if key in gradients and gradients[key].owned and ids.count(key) == 1:
                totals[i] = gradients[key].array
    return totals


def _is_fresh(part: Array, others: Sequence[Array | None]) -> bool:
    """Whether nobody else sees this array: it is in `others` once, and shares no memory with the rest of them."""
    return part.flags.writeable and sum(o is not None and np.may_share_memory(part, o) for o in others) == 1


class _Sum:
    """A gradient while it is being added up. `owned`: nobody else sees the array, so it can be added to in place."""

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
    """Everything `root` was computed from, each after all of its parents. Iterative, since graphs are deep.

    Of a node's parents leaves come last: so backward completes a weight's gradient with its layer's, not at the end.
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
    """The gradients that a node gives its parents, checked, each of its parent's shape and dtype."""
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
    """Undo broadcasting: sum over the axes that were added or stretched from length 1. `source` is for messages."""
    gradient = np.asarray(gradient)
    if gradient.dtype != target.dtype:
        raise TypeError(f"{source.format(node)} gave a gradient of dtype {gradient.dtype}, expected {target.dtype}")
    if gradient.shape == target.shape:
        return gradient
    added = gradient.ndim - len(target.shape)
    if added < 0 or any(n not in (1, m) for n, m in zip(target.shape, gradient.shape[added:], strict=True)):
        raise ValueError(f"{source.format(node)} gave a gradient of shape {gradient.shape}, expected {target.shape}")
    stretched = [i + added for i, n in enumerate(target.shape) if n == 1]
    return gradient.sum((*range(added), *stretched)).reshape(target.shape)
