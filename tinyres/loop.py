"""The training loop: steps, epochs, learning rates, calls of callbacks, and stopping.

The command line and `tinyres.Trainer` both use this loop.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from tinyres import chance, data, ops, optim, parallel
from tinyres.average import EMA, Lookahead
from tinyres.callback import Callbacks, Logs
from tinyres.evaluation import evaluate
from tinyres.models import ResNet
from tinyres.nn import BatchNorm2d, Module
from tinyres.parallel.exchange import Shards
from tinyres.parallel.meeting import Meeting
from tinyres.parallel.world import world
from tinyres.recipe import SCHEDULES, Config
from tinyres.replay import Replay
from tinyres.stopping import stop_signals
from tinyres.tape import Array, detect_anomaly
from tinyres.tensor import Tensor

AVERAGE_EVERY = 5  # steps

Loss = Callable[[Tensor, Array], Tensor]  # logits (B, K) and targets -> a loss for each image, (B,)


class Interrupted(Exception):
    """The run was told to stop. It has finished its step and is saved."""


class Diverged(ArithmeticError):
    """The loss became NaN or infinite."""


class _Told(NamedTuple):
    """Numbers that the shards of a step report in addition to gradients, or their sums over all shards."""

    loss: float  # times images
    correct: int | float
    asked: bool | float  # whether a signal to stop came


class Loop:
    """Trains a model on the batches of a loader, with the settings of a configuration.

    Parameters
    ----------
    model : Module
        It maps images (B, C, H, W) to logits (B, K).
    loader : Loader or Batches
        It gives ``(x, y)`` or ``(x, y, weight)``. With weights, the loss of a batch is the mean of weight times loss.
    config : Config
        Only the fields about steps are used: optimizer, schedule, averages, shards, seed.
    validation : Loader or Batches, optional
        Images for validation after each epoch.
    loss : callable, optional
        ``loss(logits, targets)`` returns the loss of each image, a Tensor (B,). By default cross entropy, with the
        configuration's label smoothing.
    anomaly : bool
        Train under `detect_anomaly`.
    """

    def __init__(
        self,
        model: Module,
        loader: "data.Loader | data.Batches",
        config: Config,
        *,
        validation: "data.Loader | data.Batches | None" = None,
        loss: Loss | None = None,
        anomaly: bool = False,
    ) -> None:
        self.model, self.loader, self.config = model, loader, config
        self.validation, self.anomaly = validation, anomaly
        self._own_loss = loss
        self.shards = Shards.of_run(config.shards, world())
        self._check_batches()
        self.replay = Replay(model, self._loss, warn=False)
        self.optimizer = _optimizer(model, config)
        self.total_steps = config.epochs * len(loader)
        self.lr = SCHEDULES[config.schedule](config, self.total_steps)
        self.average, self.lookahead = weights_beside(model, config, len(loader))
        self.callbacks = Callbacks([])
        self.step = 0
        self.stopped: str | None = None
        self.history: list[Logs] = []
        self.sums = {"loss": 0.0, "correct": 0, "images": 0}  # over the current epoch

    def connect(self) -> None:
        """Connect to the other processes, when all have the same weights."""
        self.meeting = Meeting(self.shards) if self.config.sync_batch_norm else None
        buffers = list(self.model.buffers())
        if self.meeting is not None:  # keeps them equal in all processes, so no mean is needed
            parallel.broadcast(buffers)
            buffers = []
        self.gradients = parallel.Gradients(
            self.model.parameters(), buffers, shards=self.shards, numbers=len(_Told._fields)
        )
        for module in self.model.modules():
            if isinstance(module, BatchNorm2d):
                module.gather = self.meeting

    def disconnect(self) -> None:
        """Remove what `connect` added to the network, so that other code can train it."""
        for handle in self.gradients.handles:
            handle.remove()
        for module in self.model.modules():
            if isinstance(module, BatchNorm2d):
                module.gather = None

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self.loader)

    @property
    def epoch(self) -> int:
        """Number of finished epochs, 0 at first."""
        return self.step // len(self.loader)

    def stop(self, why: str) -> None:
        """End the training after this step; or after this epoch, if a callback calls it at the end of one."""
        self.stopped = why

    def use(self, weights: Mapping[str, Array]) -> None:
        """Load a state dict into the model."""
        self.model.load_state_dict(weights)

    def use_lr(self, lr: float) -> None:
        """Set the learning rate of the configuration."""
        self.config = dataclasses.replace(self.config, lr=lr, lr_batch_size=None)
        self.lr = SCHEDULES[self.config.schedule](self.config, self.total_steps)

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Inside this block, you can train with `one_step`. After it, the old state is restored."""
        weights, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        beside = [b for b in (self.average, self.lookahead) if b]
        averages = [(b.steps, {name: array.copy() for name, array in b.arrays.items()}) for b in beside]
        before = self.step, self.lr, self.sums.copy()
        try:
            yield
        finally:
            self.step, self.lr, self.sums = before
            self.optimizer.zero_grad()
            self.optimizer.load_state_dict(optimizer)
            self.use(weights)
            for b, (steps, arrays) in zip(beside, averages, strict=True):
                b.steps, b.arrays = steps, arrays

    def one_step(self, arrays: tuple[Array, ...]) -> Logs:
        """One training step on these arrays instead of the next batch. Returns ``loss``, ``lr`` and ``images``."""
        return self._train_step(arrays, lambda: False)[0]

    def advance(self, step: int, callbacks: Callbacks) -> None:
        """Train until `step` steps of the run are done. Errors are those of `tinyres.train.Run.fit`."""
        self.stopped, self.callbacks = None, callbacks
        agreed = False

        def interrupted() -> bool:
            """Whether to stop now. Several processes stop together, after a step whose sums told all of them."""
            return agreed if self.shards.world.size > 1 else asked()

        with stop_signals(lambda: callbacks.tell("on_stopping", self)) as asked:
            try:
                callbacks.tell("on_train_begin", self)
                while self.step < step and not self.stopped:
                    epoch, batch = divmod(self.step, len(self.loader))
                    if not batch:
                        callbacks.tell("on_epoch_begin", self)
                    for arrays in self.loader.epoch(epoch, batch):
                        callbacks.tell("on_batch_begin", self)
                        logs, agreed = self._train_step(arrays, asked)
                        callbacks.tell("on_batch_end", self, logs)
                        if self.step % len(self.loader) == 0:
                            break  # the epoch is over
                        if interrupted() or self.stopped:
                            callbacks.tell("on_interrupt", self)
                        if interrupted():
                            raise Interrupted
                        if self.step == step or self.stopped:
                            break
                    if self.step % len(self.loader) == 0:
                        callbacks.tell("on_epoch_end", self, self._end_epoch())
                        if interrupted() and self.step < self.total_steps:
                            raise Interrupted
                callbacks.tell("on_train_end", self)
            finally:
                callbacks.teardown()

    def _train_step(self, arrays: tuple[Array, ...], asked: Callable[[], bool]) -> tuple[Logs, bool]:
        """One step on this process's part of a batch. Returns its record, and whether to stop.

        The loss of a batch is the mean over its images: the weight of a shard is the number of its images.
        """
        config, lr = self.config, self.lr(self.step)
        x, y, *weight = arrays
        images = self.loader.images_of(self.step % len(self.loader))
        self.model.train()
        self.optimizer.zero_grad()
        first, _ = self.shards.bounds(self.shards.own[0], images)

        def work(shard: int) -> None:
            start, stop = self.shards.bounds(shard, images)
            some = slice(start - first, stop - first)
            self.gradients.begin(shard)
            chance.start(config.seed, self.step, shard)
            with detect_anomaly() if self.anomaly else nullcontext():
                if self.shards.count == 1:
                    loss, logits = self.replay(x, y, *weight)
                else:
                    loss, logits = self._loss(Tensor(x[some]), y[some], *(Tensor(w[some]) for w in weight))
                    loss.backward(np.full((), (stop - start) / images, loss.dtype))
            classes = y[some] if y.ndim == 1 else y[some].argmax(1)  # for a mixture, the class with the largest part
            correct = int((logits.data.argmax(1) == classes).sum())
            self.gradients.end(_Told(loss.item() * (stop - start), correct, asked()))

        if self.meeting is None:
            for shard in self.shards.own:
                work(shard)
        else:
            self.meeting.run(work)
        told = _Told(*self.gradients.sum().tolist())
        self._check_finite("the loss", told.loss / images, self.step // len(self.loader) + 1, lr)
        if config.clip_norm:
            optim.clip_grad_norm(self.model.parameters(), config.clip_norm)
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        if self.lookahead:
            self.lookahead.update()
        if self.average:
            self.average.update()
        self.step += 1
        self.sums["loss"] += told.loss
        self.sums["correct"] += int(told.correct)
        self.sums["images"] += images
        return {"loss": told.loss / images, "lr": lr, "images": images}, bool(told.asked)

    def _loss(self, x: Tensor, y: Array, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        logits = self.model(x)
        if weight is None and self._own_loss is None:
            return ops.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing), logits
        each = self._each(logits, y)
        return (each if weight is None else each * weight).mean(), logits

    def _each(self, logits: Tensor, y: Array) -> Tensor:
        """The loss of each image."""
        if self._own_loss is None:
            return ops.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing, reduction="none")
        each = self._own_loss(logits, y)
        if not isinstance(each, Tensor) or each.shape != logits.shape[:1]:
            got = f"shape {each.shape}" if isinstance(each, Tensor) else type(each).__name__
            raise ValueError(
                f"loss: got {got} of it, expected a Tensor of shape {logits.shape[:1]}, one for each image"
            )
        return each

    def _check_finite(self, what: str, value: float, epoch: float, lr: float) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"{what} became {value} at step {self.step} (epoch {epoch}), at learning rate {lr:.4g}. Try a lower "
                "rate, a clip norm or more warmup; to find the first operation that gives such a value, run again with "
                "--detect-anomaly, or in Python inside `with tr.detect_anomaly():`"
            )

    def _check_batches(self) -> None:
        """Check that the loader makes this process's part of each batch, and that no shard of a batch is empty."""
        here = self.shards.world.rank, self.shards.world.size
        if self.loader.part != here:
            raise ValueError(
                f"part: got a Loader of part {self.loader.part}, expected {here}, the part of this process: give "
                "arrays, or a Loader of this part"
            )
        least = self.loader.images_of(len(self.loader) - 1)
        if least < self.config.shards:
            raise ValueError(
                f"shards: got {self.config.shards}, expected at most {least}, the size of the smallest batch"
            )

    def _end_epoch(self) -> Logs:
        images = self.sums["images"]
        record: Logs = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.lr(self.step - 1),
            "train_loss": self.sums["loss"] / images,
            "train_accuracy": self.sums["correct"] / images,
        }
        if self.validation is not None:
            with self.replay.memory(), self.averaged():
                loss, accuracy = evaluate(self.model, self.validation)
            self._check_finite("the validation loss", loss, record["epoch"], record["lr"])  # before it is saved
            record |= {"validation_loss": loss, "validation_accuracy": accuracy}
        self.history.append(record)
        self.sums = {"loss": 0.0, "correct": 0, "images": 0}
        return record

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside this block, the model has the average of weights, if the run has one."""
        return self.average.in_place() if self.average else nullcontext()


def weights_beside(model: Module, config: Config, epoch: int) -> tuple[EMA | None, Lookahead | None]:
    """The average of weights and the slow weights of a run, or None each. `epoch` is the number of steps of an epoch.

    Examples
    --------
    >>> import tinyres as tr
    >>> average, lookahead = weights_beside(tr.models.resnet20(), tr.train.Config(ema=0.99), 352)
    >>> average.decay, lookahead
    (0.99, None)
    """
    average = EMA(model, config.ema, every=AVERAGE_EVERY, epoch=epoch) if config.ema else None
    return average, Lookahead(model, config.lookahead, config.epochs * epoch) if config.lookahead else None


def _optimizer(model: Module, config: Config) -> optim.Optimizer:
    groups = parameter_groups(model, config)
    if config.optimizer == "adamw":
        return optim.AdamW(groups, config.lr)
    return optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0)


def parameter_groups(model: Module, config: Config) -> list[dict[str, Any]]:
    """The parameters of a network for an optimizer, in groups by weight decay and learning rate.

    Examples
    --------
    >>> import tinyres as tr
    >>> [group["lr_scale"] for group in parameter_groups(tr.models.resnet20(), tr.train.Config(bias_lr=8.0))]
    [1.0, 8.0]
    """
    return optim.parameter_groups(
        model,
        config.weight_decay,
        decay_bias=config.decay_bias,
        bias_lr=config.bias_lr,
        layer_decay=config.layer_decay,
        parts=model.parts().values() if isinstance(model, ResNet) else None,
    )
