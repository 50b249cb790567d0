"""Record one forward and one backward pass: the values, gradients and source lines of every operation.

The numbers are those that the engine computes in every training step. The tape reports each operation, and this file
records it. `tinyres.study.page` makes a page from the records. The engine computes the end of a residual block in one
pass; it is recorded as three steps, see `apart`.
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
    """A gradient that an operation gave to one of its inputs."""

    by: int  # number of the step that gave it
    gradient: Array


@dataclass
class Input:
    """An input of an operation.

    Attributes
    ----------
    name : str
        The path of a parameter, else empty.
    step : int or None
        The step that computed it; None for a parameter or a constant.
    value : ndarray
    gradient : ndarray or None
        The gradient that this operation gave it in backward. It is the whole gradient of the input if no other
        operation used the input. None for constants.
    """

    name: str
    step: int | None
    value: Array
    gradient: Array | None = None


@dataclass
class Step:
    """An operation of the forward pass.

    Attributes
    ----------
    number : int
        Its place in the forward pass. Step 0 is the image itself.
    op, module : str
        The names on the tape.
    attributes : dict
        Further settings of the operation, such as the stride.
    value : ndarray
        The result.
    gradient : ndarray
        dL/dvalue, complete. None until backward has reached the step.
    inputs : list of Input
    received : list of Given
        The gradients that `gradient` is the sum of, in the order in which they came.
    model, layer, computing, pullback : Source
        The source lines that called it in the model and in its layer, the lines that computed it, and the lines of its
        gradient. None for the image.
    fused : bool
        Whether the engine computes it in one pass together with neighbouring steps, see `apart`.
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
        """Numbers of the steps whose results are its inputs."""
        return [given.step for given in self.inputs if given.step is not None]


@dataclass
class Passes:
    """A recorded forward and backward pass.

    Attributes
    ----------
    steps : list of Step
        In the order of the forward pass; backward goes through them from the last to the first.
    blocks : list of Block
        The place of each step in the picture.
    loss : float
    probabilities : ndarray of shape (K,)
        Of the classes, for this image.
    label : int
    training : bool
        Whether batch norm used the statistics of this image.
    """

    steps: list[Step]
    blocks: list[Block]
    loss: float
    probabilities: Array
    label: int
    training: bool


def explain(model: Module, image: Array, label: int | None = None) -> Passes:
    """Run an image through a model, forward and backward, and record every operation.

    The model is not changed, and keeps its mode: training or evaluation.

    Parameters
    ----------
    model : Module
        From images (N, 3, H, W) to logits (N, K).
    image : float array of shape (3, H, W)
        Normalised in the way that the model expects. dL/dimage is computed as well.
    label : int, optional
        The class for the cross entropy. By default it is the class with the highest probability.

    Returns
    -------
    Passes

    Raises
    ------
    ValueError
        If the model does not accept such an image, it does not return logits, or the label is not one of its classes.

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
            notes.steps[-1].value = loss.data  # no operation uses it as an input, so it is not recorded otherwise
            loss.backward()
        if notes.steps[0].gradient is None:
            raise ValueError("model: its logits do not depend on the image, so there is no gradient of the image")
        steps = apart(notes.used())
        blocks = arrange(steps, model)
    probabilities = ops.softmax(logits.detach()).data[0]
    return Passes(steps, blocks, loss.item(), probabilities, label, model.training)


def apart(steps: Sequence[Step]) -> list[Step]:
    """Replace each batch norm that adds a shortcut by its three steps: the batch norm, the sum, and the ReLU.

    The engine computes the three in one pass, number by number, in the same order for each number. If its own kernels
    compute them one after the other, the results have the same bits, forward and backward.

    Parameters
    ----------
    steps : sequence of Step
        In the order of the forward pass, complete. Do not use them afterwards: they are changed.

    Returns
    -------
    list of Step
        With new numbers.
    """
    parts = [_parts(step) if step.op == "batch_norm" and len(step.inputs) == 4 else [step] for step in steps]
    found = [step for those in parts for step in those]
    result = {those[0].number: those[-1] for those in parts}  # by the number before
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
    """The three steps. Each is the first input of the next; `apart` sets their numbers."""
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
    return Given(0, link.gradient)  # `apart` sets the number of the step


class _Notes:
    """Records what the tape reports.

    A result is recorded when an operation uses it as an input, so the tape does not need to report results.
    """

    def __init__(self, names: dict[int, str], image: Tensor) -> None:
        self.names = names  # names of parameters, by id
        self.steps = [Step(0, "input", "", {}, image.data, [])]
        self.numbers: dict[int, int] = {id(image): 0}  # number of each step, by the id of the tape's object
        self.alive: list[Any] = []  # keeps objects alive, so that no id is used again
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
        """Does nothing: the parts of the sum are recorded already."""

    def used(self) -> list[Step]:
        """The steps that the loss depends on, with new numbers: a model may have computed others that are not used."""
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
        return Input(self.names.get(id(parent), ""), None, array.copy())  # a copy: parameters may be trained later

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
                # the pullback adds to a sum in place: compute its own part once more, for the record
                own = pullback(dy, [None] * len(parents))
            for given, part, parent in zip(step.inputs, own, parents, strict=True):
                if part is None or parent is None:
                    continue
                given.gradient = conform(part, parent, "pullback of {!r}", node).copy()
                if given.step is not None:
                    self.steps[given.step].received.append(Given(step.number, given.gradient))
            return parts

        node.pullback = watched
