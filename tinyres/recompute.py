"""Save memory, but take more time: drop activations of a part of the network, and compute them again in backward.

A pullback needs activations, so a training step keeps nearly everything that its forward pass computed. `checkpoint`
runs a function, and its nodes are recorded on the tape as usual. Then it removes their pullbacks, which frees the
arrays. When backward reaches the first of these nodes, the function runs again, and the old nodes get the pullbacks of
the new ones. So backward goes through the same graph in the same order, and gradients are equal to the last bit.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import numpy as np

from tinyres import chance
from tinyres.kernels.pending import Pending
from tinyres.tape import Array, Leaf, Node, Watch, enable_grad, place, setting, state, watching
from tinyres.tensor import Tensor

T = TypeVar("T")


def checkpoint(fn: Callable[..., T], *args: Any) -> T:
    """Compute ``fn(*args)``, but keep only the arguments, and compute it again in backward.

    Parameters
    ----------
    fn : callable
        A function of tensors, such as a module. It must do the same in both calls: the parameters and other values
        that it uses, and the backend, must not be replaced between them.
    *args
        Arguments of `fn`. Tensors are read-only until backward has run. A `numpy.random.Generator` gives the same
        numbers in the second call, and so does `ops.dropout`.

    Returns
    -------
    object
        The result of `fn`: a tensor, several, or something else.

    Raises
    ------
    RuntimeError
        In backward, if the second run of `fn` does not carry out the same operations on the same arrays as the first.
        Values are compared only if this is cheap: arrays from outside `fn` that need a gradient must be the same
        arrays, and a batch norm must find the same mean and variance. Also if `fn` itself calls backward.

    Notes
    -----
    Take a chain of n equal layers in segments of k layers. The memory holds the inputs of n / k segments and, in
    backward, the k activations of one segment. The sum is smallest for k = sqrt(n): it is 2 sqrt(n) then. The price is
    one more forward pass (Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016,
    section 4.1, equation 1).

    Running statistics are updated in the first run only, and forward hooks are called in the first run only, unless
    they change an output. Hooks on gradients run once. A checkpoint inside another one drops nothing until the outer
    one runs again. Under `no_grad` it only calls `fn`. With ``retain_graph=True`` each backward runs `fn` again.

    Examples
    --------
    >>> import tinyres as tr
    >>> w = tr.Tensor([1.0, 2.0], requires_grad=True)
    >>> def fn(x):
    ...     print("computing")
    ...     return (x * w).exp() * w
    >>> loss = tr.checkpoint(fn, tr.Tensor([0.5, 0.25])).sum()
    computing
    >>> loss.backward()
    computing
    >>> w.grad
    array([2.4730818, 2.4730818], dtype=float32)
    """
    if not state.grad_enabled or isinstance(state.watch, _First):
        return fn(*args)
    segment = _Segment(fn, args)
    with watching(_First(segment, state.watch)):
        out = fn(*args)
    segment.complete = True
    return out


class _Segment:
    """A function that will run again, and the operations of its first run."""

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any]) -> None:
        self.fn = fn
        # tensors without their graph, which the second run does not need
        self.args = [_leaf(a) if isinstance(a, Tensor) else _snapshot(a) for a in args]
        self.scope, self.drawn = list(state.scope), chance.now()
        self.operations: list[_Operation] = []
        self.made: dict[int, Node] = {}  # by the second run, and not taken yet
        self.complete = False

    def take(self, index: int) -> Node:
        """The node with this number in the second run."""
        node = self.made.pop(index, None)
        if node is None:
            made = self.run_again()
            node = made.pop(index)
            self.made = made
        return node

    def run_again(self) -> dict[int, Node]:
        if not self.complete:
            raise RuntimeError("checkpoint: fn called backward on its own result; call it after checkpoint")
        again = _Again(self, state.watch)
        with ExitStack() as settings:
            for setting_ in (
                enable_grad(), watching(again), setting("scope", list(self.scope)), setting("recomputing", True),
                chance.again(self.drawn),
            ):  # fmt: skip
                settings.enter_context(setting_)
            self.fn(*map(_snapshot, self.args))
        if len(again.nodes) < len(self.operations):
            raise _differs(len(again.nodes), self.operations[len(again.nodes)], None)
        return dict(enumerate(again.nodes))


class _Operation:
    """The facts that must be equal in both runs: operation, module, settings, and input arrays from outside."""

    def __init__(self, node: Node, outside: list[Array | Pending | None]) -> None:
        self.name, self.module, self.shape, self.dtype = node.name, node.module, node.shape, node.dtype
        self.attributes, self.outside = node.attributes, outside

    def __str__(self) -> str:
        return f"{place(self.name, self.module)} of shape {self.shape} {self.dtype}"


class _Later:
    """Replaces a pullback that was dropped: it runs the function again."""

    def __init__(self, segment: _Segment, index: int) -> None:
        self.segment, self.index = segment, index

    def __call__(self, *gradients: Any) -> Sequence[Array | None]:
        pullback = self.segment.take(self.index).pullback
        assert pullback is not None
        return pullback(*gradients)


class _First:
    """Watches the first run, and removes each node's pullback. `outer` watched before, and is told everything, too."""

    def __init__(self, segment: _Segment, outer: Watch | None) -> None:
        self.segment, self.outer = segment, outer

    def recorded(self, node: Node, inputs: Sequence[Array | Pending]) -> None:
        if self.outer is not None:
            self.outer.recorded(node, inputs)
        segment = self.segment
        outside = [
            array if parent is not None and not self._is_inside(parent) else None
            for array, parent in zip(inputs, node.parents, strict=True)
        ]
        held = [array for array in outside if array is not None]
        if not segment.operations:  # backward reaches this node last, so it keeps the arguments read-only to the end
            held += [arg.data for arg in segment.args if isinstance(arg, Tensor)]
        node.hold(_Later(segment, len(segment.operations)), held)
        segment.operations.append(_Operation(node, outside))

    def _is_inside(self, parent: Node | Leaf) -> bool:
        later = parent.pullback if isinstance(parent, Node) else None
        return isinstance(later, _Later) and later.segment is self.segment

    def summed(self, node: Node | Leaf) -> None:
        if self.outer is not None:
            self.outer.summed(node)


class _Again:
    """Watches the second run: collects its nodes, and compares each with the first run's."""

    def __init__(self, segment: _Segment, outer: Watch | None) -> None:
        self.segment, self.outer = segment, outer
        self.nodes: list[Node] = []

    def recorded(self, node: Node, inputs: Sequence[Array | Pending]) -> None:
        if self.outer is not None:
            self.outer.recorded(node, inputs)
        count, operations = len(self.nodes), self.segment.operations
        before = operations[count] if count < len(operations) else None
        now = _Operation(node, list(inputs))
        if before is None or str(before) != str(now) or len(before.outside) != len(inputs):
            raise _differs(count, before, now)
        for i, (was, array) in enumerate(zip(before.outside, inputs, strict=True)):
            if was is not None and was is not array:
                raise RuntimeError(
                    f"checkpoint: input {i} of {now} is not the array that it was in the first run; arrays that fn "
                    "uses must not be replaced before backward (an optimizer's step does this), nor be created in fn"
                )
        for key, value in before.attributes.items():
            if not _same(value, now.attributes[key]):
                raise RuntimeError(
                    f"checkpoint: {key!r} of {now} is not what it was in the first run; expected the same values, "
                    "backend and mode (training or evaluation) in both"
                )
        self.nodes.append(node)

    summed = _First.summed


def _differs(count: int, before: _Operation | None, now: _Operation | None) -> RuntimeError:
    return RuntimeError(
        f"checkpoint: the second run of fn differs from the first at operation {count}: got {now or 'nothing'}, "
        f"expected {before or 'nothing'}; fn must do the same each time it is called"
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return type(a) is type(b) and bool(a == b)


def _leaf(tensor: Tensor) -> Tensor:
    leaf = tensor.detach()
    leaf.requires_grad = tensor.requires_grad
    return leaf


def _snapshot(arg: Any) -> Any:
    """A copy of a random generator in its current state; anything else as it is."""
    return copy.deepcopy(arg) if isinstance(arg, np.random.Generator) else arg
