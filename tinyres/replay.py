"""Repeat a training step without Python: its kernel calls are recorded once, and repeated for later batches.

Python takes about the same time for each step, for any batch size: each operation checks its arguments, computes
shapes, allocates memory and is recorded on the tape, and so does each pullback. With the same shapes, every step does
the same as the one before, even at the same addresses. So the calls of kernels are recorded with their arrays (see
`kernels.launch`). A later batch is copied to the place of the first one, and the recorded calls run again. CUDA graphs
use the same idea (Gray, "Getting started with CUDA graphs", 2019). There is no second engine.
"""

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from tinyres import backend, chance
from tinyres.kernels import memory
from tinyres.kernels.launch import Work, assign, noting
from tinyres.nn import Module
from tinyres.tape import Array, setting, state
from tinyres.tensor import Tensor

Outputs = tuple[Array, ...]
Gradients = list[tuple[Tensor, Array]]
_Places = dict[int, int]  # where arrays begin in memory, and where they end


class Replay:
    """Runs forward and backward (under `no_grad` only forward), and repeats it without Python if shapes are equal.

    Parameters
    ----------
    model : Module
        The model whose parameters get gradients.
    function : callable
        Takes the arguments of a call, with arrays of float as tensors. Returns a tensor or a tuple of them. The first
        one is the loss, unless `no_grad` is active. It must not depend on anything else that changes between calls.
    warn : bool
        Whether to warn (RuntimeWarning) if a step cannot be repeated. It is then computed each time.

    Notes
    -----
    A call computes the same as ``function(*inputs)`` and ``loss.backward()``, to the last bit. It returns copies
    without a graph. The first call with certain shapes is an ordinary one. The second is recorded. The third is both
    repeated and computed, and the results are compared. From then on, calls are only repeated. If an input that was
    constant so far changes, one more call is compared. Calls with other shapes, such as the last batch of an epoch, are
    computed in the ordinary way.

    Decisions that a step makes in Python are those of the recorded step. If an attribute of the model changes (its
    mode, a parameter, a stride), this is noticed, and a new step is recorded. Nothing is repeated with hooks or
    `detect_anomaly`, or if batch norm gathers from other shards.

    A step can be repeated if all its work is launched (see `tinyres.kernels.launch`): that of every network of the
    family without grouped convolutions is, and so are sums, differences and products of tensors, sigmoid, silu and
    dropout. Operations that compute by NumPy alone, such as softmax, launch nothing, and a step that has one is
    computed each time. So is a step that takes a number or an array from elsewhere, such as ``2 * x``, since the number
    may be another one next time.

    Each call uses the same arrays for gradients and for everything that `function` keeps: copy what you want to keep
    unchanged. A `Replay` must not be used by several threads at once.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> model = tr.nn.Linear(2, 3)
    >>> step = tr.Replay(model, lambda x, y: tr.ops.cross_entropy(model(x), y))
    >>> optimizer = tr.optim.SGD(model.parameters(), lr=0.5)
    >>> for _ in range(100):
    ...     model.zero_grad()
    ...     loss = step(np.eye(2, dtype=np.float32), np.array([2, 0]))
    ...     optimizer.step()
    >>> bool(loss.item() < 0.1), step.repeats
    (True, True)
    """

    def __init__(self, model: Module, function: Callable[..., Any], *, warn: bool = True) -> None:
        self.model, self.function, self.warn = model, function, warn
        self._pool = memory.Pool()  # of all that a step makes: so a noted step has its memory to itself
        self._last: _Key | None = None  # of the call before
        self._noted: _Noted | None = None
        self._refused = False

    @property
    def repeats(self) -> bool:
        """Whether a step has been recorded and compared, so that it is repeated."""
        return self._noted is not None and self._noted.trusted

    def __call__(self, *inputs: Any) -> Any:
        arrays = [x.data if isinstance(x, Tensor) else np.asarray(x) for x in inputs]
        key = None if self._refused else _key(self.model, arrays)
        if key is None:
            return _returned(self._run(arrays))
        for p, gradient in self._gradients():  # that are to be added to: what comes may write over them
            p.grad = gradient.copy()
        before, self._last = self._last, key
        if self._noted is not None and self._noted.key == key:
            trusted = self._noted.trusted and not self._noted.unseen(arrays)
            outputs = self._noted.repeat(arrays) if trusted else self._compare(self._noted, arrays)
        elif before == key and not self._gradients():
            outputs = self._note(key, arrays)
        else:
            outputs = self._compute(arrays)
        return _returned(outputs)

    def memory(self) -> AbstractContextManager[None]:
        """Inside this block, other work of this thread, such as evaluation, uses the memory of a step.

        Arrays that are made there must not be used after the next step, which overwrites them.
        """
        return memory.within(self._pool)

    def _run(self, arrays: list[Array]) -> Outputs:
        found = self.function(*(Tensor._wrap(a) if a.dtype.kind == "f" else a for a in arrays))
        tensors = found if isinstance(found, tuple) else (found,)
        if state.grad_enabled:
            tensors[0].backward()
        return tuple(t.data for t in tensors)

    def _gradients(self) -> Gradients:
        return [(p, p.grad) for p in self.model.parameters() if p.grad is not None]

    def _compute(self, arrays: list[Array]) -> Outputs:
        """As ever, in the pool's memory."""
        with memory.within(self._pool):
            outputs = tuple(a.copy() for a in self._run(arrays))
        self._let_go()
        if self._noted is not None and self._pool.held() > self._noted.held:
            self._noted = None  # `function` has kept something, which a repetition might write over
        return outputs

    def _let_go(self) -> None:
        """Leave gradients where they are, but free their memory: by the next call they have been used."""
        for p, gradient in self._gradients():
            p.grad = self._pool.unheld(gradient)

    def _note(self, key: "_Key", arrays: list[Array]) -> Outputs:
        self._noted = None  # its memory, before another's
        noted = _Noted(key, arrays, self._pool)
        noted.know((*noted.inputs, *(p.data for p in self.model.parameters()), *self.model.buffers()))
        with noting(noted.note), setting("trace", noted.trace), memory.within(self._pool):
            noted.outputs = self._run(noted.inputs)
        if noted.fault:
            self._refuse(f"{noted.fault} is not computed by recorded calls")
            return tuple(a.copy() for a in noted.outputs)
        self._let_go()
        noted.gradients, noted.held, self._noted = self._gradients(), self._pool.held(), noted
        return noted.outputs

    def _refuse(self, why: str) -> None:
        self._noted, self._refused = None, True
        if not self.warn:
            return
        outside = next(i for i, frame in enumerate(inspect.stack()) if frame.filename != __file__)
        warnings.warn(
            f"Replay: {why}: perhaps an operation that launches nothing, or numbers from elsewhere, such as random "
            "ones. The step is computed each time",
            RuntimeWarning,
            stacklevel=1 + outside,
        )

    def _compare(self, noted: "_Noted", arrays: list[Array]) -> Outputs:
        """Compute a step as ever, and repeat it for the first time: what differs does not follow from launches."""
        earlier = self._gradients()
        self.model.zero_grad()
        try:
            return self._compare_bits(noted, arrays)
        finally:  # a wrong label, too, leaves them as they were
            for p, gradient in earlier:
                p.grad = gradient if p.grad is None else gradient + p.grad

    def _compare_bits(self, noted: "_Noted", arrays: list[Array]) -> Outputs:
        buffers, unseen = list(self.model.buffers()), noted.unseen(arrays)
        unchanged, drawn = [buffer.copy() for buffer in buffers], chance.now()
        with chance.again(drawn), memory.within(self._pool):
            computed = self._digests([*self._run(arrays), *buffers])
        self.model.zero_grad()
        assign(buffers, *unchanged)
        outputs = noted.repeat(arrays)
        if computed == self._digests([*outputs, *buffers]):
            noted.trusted, noted.seen = True, noted.seen | unseen
            return outputs
        self._refuse("the repeated step gave other results than the computed one")
        assign(buffers, *unchanged)
        self.model.zero_grad()
        with chance.again(drawn):
            return self._run(arrays)

    def _digests(self, arrays: Sequence[Array]) -> list[Any]:
        """Of arrays and of all gradients: the same for the same bits."""
        gradients = [(p, _digest(gradient)) for p, gradient in self._gradients()]
        return [*map(_digest, arrays), *gradients]


class _Noted:
    """A step as it was noted: what it launched, where it reads its inputs, and where its results are."""

    def __init__(self, key: "_Key", inputs: list[Array], pool: memory.Pool) -> None:
        self.key, self.pool, self.trusted = key, pool, False
        self.held = 0  # bytes of the pool that are not free between repetitions
        self.inputs = [a.copy(order="K") for a in inputs]
        self.seen: set[int] = set()  # inputs that have been others in a comparison than when this was noted
        self.launches: list[tuple[Work, tuple[Any, ...]]] = []
        self.places: _Places = {}  # of arrays that are known, or were launched with,
        self.fresh: _Places = {}  # and of those that have been since the tape was told of an operation
        self.fault = ""  # the first operation whose result no launch has written, or that takes what none has
        self.outputs: Outputs = ()
        self.gradients: Gradients = []

    def note(self, work: Work, arguments: tuple[Any, ...]) -> None:
        self._find(arguments, self.fresh)
        self.launches.append((work, self._unheld(arguments)))

    def know(self, arrays: Iterable[Array]) -> None:
        """These are in a repetition what they should be: inputs, parameters and buffers."""
        self._find(tuple(arrays), self.places)

    def _find(self, value: Any, places: "_Places") -> None:
        if isinstance(value, np.ndarray):
            start, stop = byte_bounds(value)
            places[start] = max(stop, places.get(start, stop))
        elif isinstance(value, tuple):
            for part in value:
                self._find(part, places)

    def trace(self, where: str, result: Array, sources: Sequence[Array]) -> None:
        """Look at what the tape is told of. A result is where a launch may have written it, or a view of a source.
        Sources are where those of earlier results were, or are known; backward, the first is the constant 1."""
        backward = where.startswith("backward")
        right = backward or all(_is_in(source, self.places) for source in sources)
        self._find(tuple(sources), self.fresh)
        if not (right and (_is_in(result, self.fresh) or _is_in(result, self.places))) and not self.fault:
            self.fault = where
        self.places |= self.fresh
        self.fresh = {}

    def unseen(self, arrays: list[Array]) -> set[int]:
        """Inputs that differ from those of the noted step, and did in no comparison."""
        left = set(range(len(arrays))) - self.seen
        return {i for i in left if not np.array_equal(arrays[i], self.inputs[i])}

    def _unheld(self, value: Any) -> Any:
        """Arguments without a hold on the pool's memory, which comes and goes in the step as it did."""
        if isinstance(value, np.ndarray):
            return self.pool.unheld(value)
        if isinstance(value, tuple):
            parts = [self._unheld(v) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value

    def repeat(self, arrays: list[Array]) -> Outputs:
        before = [(p, p.grad) for p, _ in self.gradients if p.grad is not None]
        for own, array in zip(self.inputs, arrays, strict=True):
            np.copyto(own, array)
        for work, arguments in self.launches:
            work(*arguments)
        for p, gradient in self.gradients:
            p.grad = gradient
        for p, gradient in before:
            p.grad = gradient + p.grad
        return self.outputs


class _Key:
    """What a step is noted for. Two are equal where nothing that Python can see of a step has changed."""

    def __init__(self, values: list[Any], ids: list[int], kept: list[Any]) -> None:
        self.values, self.ids, self.kept = values, ids, kept  # kept: an id is another object's once its own is gone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.ids == other.ids and self.values == other.values

    __hash__ = None  # type: ignore[assignment]


def _key(model: Module, arrays: list[Array]) -> _Key | None:
    """None where a step is not to be repeated."""
    if state.anomaly or state.recomputing or state.watch is not None:
        return None
    if backend._chosen["backend"] == "reference" or backend._chosen["algorithm"] == "im2col":
        return None  # NumPy does their work, and notes nothing
    kept: list[Any] = []
    for module in model.modules():
        attributes = module.__dict__
        hooks = attributes["_forward_hooks"] or attributes["_forward_pre_hooks"]
        if hooks or attributes.get("gather") is not None:
            return None
        kept.extend(attributes.values())
        for p in attributes["_parameters"].values():
            if p.hooks or p.grad_hooks:
                return None
            kept += (p._data, p.requires_grad)
    values: list[Any] = [(a.shape, a.dtype) for a in arrays]
    values += [state.grad_enabled, backend.num_threads(), *backend._chosen.values()]
    values.append(threading.get_ident())  # kernels have memory of their own in each thread
    return _Key(values, list(map(id, kept)), kept)


def _is_in(array: Array, places: _Places) -> bool:
    """Whether an array, or the whole that it is a view of, is in one of these places."""
    start, stop = byte_bounds(array)
    if not array.size or places.get(start, 0) >= stop:
        return True
    return any(first <= start and stop <= last for first, last in places.items())


def _returned(outputs: Outputs) -> Any:
    tensors = tuple(Tensor(a) for a in outputs)
    return tensors if len(tensors) > 1 else tensors[0]


def _digest(array: Array) -> bytes:
    """The same for the same bits."""
    digest = blake2b(repr((array.shape, array.dtype)).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
