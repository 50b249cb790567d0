"""One forward and one backward pass, written down: every operation's values, gradients, and lines of source.

The numbers are those that the engine computes in every training step; the tape tells what happens, and this file takes
notes. `tinyres.study.page` makes a page of them. The end of a residual block, which the engine computes in one pass, is
written down in three steps: see `apart`.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from tinyres import backend, ops
from tinyres.kernels.pending import Pending
from tinyres.nn import Module
from tinyres.profile import left_as_it_was
from tinyres.study import source
from tinyres.study.layout import Block, arrange
from tinyres.study.source import Source
from tinyres.tape import Array, Hook, Leaf, Node, conform, watching
from tinyres.tensor import Tensor, record


class Given(NamedTuple):
    """A gradient that an operation handed to one of its inputs."""

    by: int  # step
    gradient: Array


@dataclass
class Input:
    """What went into an operation.

    Attributes
    ----------
    name : str
        A parameter's path, else empty.
    step : int or None
        The step whose result it is; None for a parameter or a constant.
    value : ndarray
    gradient : ndarray or None
        What this operation gave it on the way back: its share of the input's gradient, and all of it where nothing else
        used the input. None for constants.
    """

    name: str
    step: int | None
    value: Array
    gradient: Array | None = None


@dataclass
class Step:
    """An operation that was carried out.

    Attributes
    ----------
    number : int
        Its place in the forward pass, from 0, which is the image itself.
    op, module : str
        As the tape has them.
    attributes : dict
        What else defines the operation, such as a stride.
    value : ndarray
        The result.
    gradient : ndarray
        dL/dvalue, complete. None until backward has come by.
    inputs : list of Input
    received : list of Given
        What `gradient` is the sum of, in the order in which it came.
    model, layer, computing, pullback : Source
        The lines that called it, in the model and in its layer, that computed it, and those of its gradient. None for
        the image.
    fused : bool
        Whether the engine computes it in one pass with the steps beside it, see `apart`.
    """

    number: int
    op: str
    module: str
    attributes: dict[str, Any]
    value: Array
    inputs: list[Input]
    gradient: Array | None = None
    received: list[Given] = field(default_factory=list)
    model: Source | None = None
    layer: Source | None = None
    computing: Source | None = None
    pullback: Source | None = None
    fused: bool = False

    @property
    def parents(self) -> list[int]:
        """Steps whose results went in."""
        return [given.step for given in self.inputs if given.step is not None]


@dataclass
class Passes:
    """Both passes.

    Attributes
    ----------
    steps : list of Step
        In the order of the forward pass; backward goes through them from the last to the first.
    blocks : list of Block
        Where each is in the picture.
    loss : float
    probabilities : ndarray of shape (K,)
        Of the classes, for the image.
    label : int
    training : bool
        Whether batch norm used the image's own statistics.
    """

    steps: list[Step]
    blocks: list[Block]
    loss: float
    probabilities: Array
    label: int
    training: bool


def explain(model: Module, image: Array, label: int | None = None) -> Passes:
    """Run an image through a model, forward and backward, and write down all that happens.

    The model stays as it was, and runs in the mode it is in.

    Parameters
    ----------
    model : Module
        From images (N, 3, H, W) to logits (N, K).
    image : float array of shape (3, H, W)
        Normalised as the model expects it. dL/dimage is computed as well.
    label : int, optional
        The class that the cross entropy is taken with; the most probable one by default.

    Returns
    -------
    Passes

    Raises
    ------
    ValueError
        If the model does not take such an image or gives no logits for it, or there is no such class.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.nn.Sequential(tr.nn.Flatten(), tr.nn.Linear(12, 5), tr.nn.ReLU(), tr.nn.Linear(5, 2))
    >>> passes = explain(net, np.ones((3, 2, 2), np.float32), label=1)
    >>> [step.op for step in passes.steps]
    ['input', 'reshape', 'linear', 'relu', 'linear', 'cross_entropy']
    >>> passes.steps[3].model.text
    'return ops.relu(x)'
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"image: got shape {image.shape}, expected one image (3, H, W)")
    batch = image[None].transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)  # channels-last, as activations are
    x = Tensor(batch, requires_grad=True)
    with left_as_it_was(model):
        model.zero_grad()
        notes = _Notes({id(p): name for name, p in model.named_parameters()}, x)
        with watching(notes):
            logits = model(x)
            if not isinstance(logits, Tensor) or logits.ndim != 2 or 0 in logits.shape or not logits.requires_grad:
                what = f"shape {logits.shape}" if isinstance(logits, Tensor) else type(logits).__name__
                raise ValueError(f"model: it returned {what}, expected logits (1, K) with a gradient")
            classes = logits.shape[1]
            if label is not None and not 0 <= label < classes:
                raise ValueError(f"label: got {label}, expected 0 to {classes - 1}, one of the {classes} classes")
            label = int(logits.data[0].argmax()) if label is None else label
            loss = ops.cross_entropy(logits, np.array([label]))
            notes.steps[-1].value = loss.data  # no other operation has it as an input
            loss.backward()
        if notes.steps[0].gradient is None:
            raise ValueError("model: its logits do not depend on the image, so there is no way back to it")
        steps = apart(notes.used())
        blocks = arrange(steps, model)
    probabilities = ops.softmax(logits.detach()).data[0]
    return Passes(steps, blocks, loss.item(), probabilities, label, model.training)


def apart(steps: Sequence[Step]) -> list[Step]:
    """Write each batch norm that adds a shortcut as the steps it is made of: the batch norm, the sum, and the ReLU.

    The engine computes the three in one pass, number by number, and so in the same order for each number. Computed one
    after the other by its own kernels they give the same bits, forward and backward.

    Parameters
    ----------
    steps : sequence of Step
        In the order of the forward pass, complete. They are not to be used afterwards.

    Returns
    -------
    list of Step
        Numbered anew.
    """
    parts = [_parts(step) if step.op == "batch_norm" and len(step.inputs) == 4 else [step] for step in steps]
    found = [step for those in parts for step in those]
    result = {those[0].number: those[-1] for those in parts}  # by the old number
    for number, step in enumerate(found):
        step.number = number
    for given in (given for step in found for given in step.inputs):
        given.step = None if given.step is None else result[given.step].number
    for those in parts:
        for before, after in itertools.pairwise(those):
            after.inputs[0].step = before.number
    giver = {id(given.gradient): step.number for step in found for given in step.inputs}
    for step in found:
        step.received = [given._replace(by=giver[id(given.gradient)]) for given in step.received]
    return found


def _parts(step: Step) -> list[Step]:
    """Each the first input of the next, which `apart` fills in; the number is still that of the whole."""
    *own, shortcut = step.inputs
    x, gamma, beta = (given.value for given in own)
    kernels, how, gradient = backend.active, step.attributes, step.gradient
    assert gradient is not None
    g = kernels.relu_grad(gradient, step.value) if how["relu"] else gradient
    normalised = kernels.batch_norm_apply(x, how["mean"], gamma * how["inv_std"], beta)
    block = step.module.rpartition(".")[0]
    to_norm, to_sum = Input("", None, normalised, g.view()), Input("", None, normalised + shortcut.value, g.view())
    norm = replace(step, value=normalised, inputs=own, gradient=g, attributes={**how, "relu": False}, fused=True)
    add = replace(norm, op="add", module=block, value=to_sum.value, inputs=[to_norm, shortcut], attributes={})
    norm.received = [_given(to_norm)]
    if not how["relu"]:
        return [norm, add]
    add.received = [_given(to_sum)]
    return [norm, add, replace(step, op="relu", module=block, inputs=[to_sum], attributes={}, fused=True)]


def _given(link: Input) -> Given:
    assert link.gradient is not None
    return Given(0, link.gradient)  # by whom, `apart` finds out


class _Notes:
    """What the tape tells, written down.

    A result is seen as the input of the operation that uses it: so the tape need not hand it out.
    """

    def __init__(self, names: dict[int, str], image: Tensor) -> None:
        self.names = names  # of parameters, by id
        self.steps = [Step(0, "input", "", {}, image.data, [])]
        self.numbers: dict[int, int] = {id(image): 0}  # of steps, by id of what the tape knows
        self.alive: list[Any] = []  # so that no id comes again
        image.hooks.append(self._note_gradient(self.steps[0]))

    def recorded(self, node: Node, inputs: Sequence[Array | Pending]) -> None:
        step = Step(len(self.steps), node.name, node.module, node.attributes, np.zeros(0), [])
        step.inputs = [self._input(p, array) for p, array in zip(node.parents, inputs, strict=True)]
        self.steps.append(step)
        self.numbers[id(node)] = step.number
        self.alive.append(node)
        node.hooks.append(self._note_gradient(step))
        step.model, step.layer, step.computing = source.calls(source.frame_of(record.__code__), __name__)
        assert node.pullback is not None
        step.pullback = source.pullback(node.pullback)
        self._watch_pullback(node, step)

    def summed(self, node: Node | Leaf) -> None:
        """Nothing: what was added up is known by what each has given."""

    def used(self) -> list[Step]:
        """The steps that the loss depends on, numbered anew: a model may have computed others, in vain."""
        kept = [step for step in self.steps if step.gradient is not None]
        numbers = {step.number: i for i, step in enumerate(kept)}
        for step in kept:
            step.number = numbers[step.number]
            step.received = [given._replace(by=numbers[given.by]) for given in step.received]
            for given in step.inputs:
                given.step = None if given.step is None else numbers.get(given.step)
        return kept

    def _input(self, parent: Node | Leaf | None, array: Array | Pending) -> Input:
        array = array.array() if isinstance(array, Pending) else array
        number = self.numbers.get(id(parent))
        if number is not None:
            self.steps[number].value = array
            return Input("", number, array)
        return Input(self.names.get(id(parent), ""), None, array.copy())  # parameters change when one trains on

    @staticmethod
    def _note_gradient(step: Step) -> Hook:
        def note(gradient: Array) -> None:
            step.gradient = gradient.copy()

        return note

    def _watch_pullback(self, node: Node, step: Step) -> None:
        pullback, parents = node.pullback, node.parents
        assert pullback is not None

        def watched(dy: Array, *totals: Sequence[Array | None]) -> Sequence[Array | None]:
            parts = pullback(dy, *totals)
            own = parts
            if any(total is not None for total in (totals[0] if totals else ())):
                # it has added to what others gave: what it gives itself is computed once more, for the notes
                own = pullback(dy, [None] * len(parents))
            for given, part, parent in zip(step.inputs, own, parents, strict=True):
                if part is None or parent is None:
                    continue
                given.gradient = conform(part, parent, "pullback of {!r}", node).copy()
                if given.step is not None:
                    self.steps[given.step].received.append(Given(step.number, given.gradient))
            return parts

        node.pullback = watched
