"""Callbacks: objects that are called during training, at the same moments as in Keras, and may stop it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tinyres.nn import Module
from tinyres.optim import Optimizer
from tinyres.recipe import Config
from tinyres.tape import Array

Logs = dict[str, float]


class Training(Protocol):
    """The argument of callbacks: a `tinyres.train.Run`, described by the parts that callbacks use.

    Attributes
    ----------
    step, total_steps : int
        Number of steps done, and of steps in the whole run.
    epoch : int
        Number of epochs done, 0 at first.
    steps_per_epoch : int
    history : list of dict
        The records of the epochs so far, as `Callback.on_epoch_end` gets them.
    validation : Loader, Batches or None
    stopped : str or None
        The reason if the training ends early, else None.
    """

    model: Module
    loader: Any
    validation: Any
    optimizer: Optimizer
    config: Config
    folder: Path | None
    step: int
    saved: int
    total_steps: int
    history: list[Logs]
    stopped: str | None

    @property
    def epoch(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def stop(self, why: str) -> None: ...

    def use(self, weights: Mapping[str, Array]) -> None: ...

    def use_lr(self, lr: float) -> None: ...

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]: ...


class Callback:
    """Base class of callbacks. Its methods do nothing: derive a class, and override the methods that you need.

    Examples
    --------
    >>> class UntilGood(Callback):
    ...     def on_epoch_end(self, training, logs):
    ...         if logs["train_accuracy"] > 0.99:
    ...             training.stop("99 % of the training images are right")
    """

    sets: tuple[str, ...] = ()
    """Fields of the configuration that this callback sets."""

    def configure(self, config: Config) -> Config:
        """Called when a `tinyres.Trainer` is created: returns the configuration, perhaps changed."""
        return config

    def on_train_begin(self, training: Training) -> None:
        """Called before the first step of a run, or of a resumed run."""

    def on_epoch_begin(self, training: Training) -> None:
        """Called before the first step of an epoch."""

    def on_batch_begin(self, training: Training) -> None:
        """Called before each step."""

    def on_batch_end(self, training: Training, logs: Logs) -> None:
        """Called after each step, with its ``loss``, its learning rate ``lr`` and the number of its ``images``."""

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        """Called after each epoch, with its record.

        It has ``epoch``, ``step``, ``lr``, ``train_loss``, ``train_accuracy`` and, with validation images,
        ``validation_loss`` and ``validation_accuracy``.
        """

    def on_stopping(self, training: Training) -> None:
        """Called after a first signal to stop (Ctrl-C). The step is still finished; a second signal aborts it."""

    def on_interrupt(self, training: Training) -> None:
        """Called if the training stops between two steps of an epoch, because of a signal or of `Training.stop`."""

    def on_train_end(self, training: Training) -> None:
        """Called after the last step, also if the training ended early, but not if it failed or was interrupted."""

    def teardown(self) -> None:
        """Called at the very end in all cases, also after an error: close files here."""

    def state_dict(self) -> dict[str, Array]:
        """The state of this callback, which is saved in checkpoints so that the run can be resumed."""
        return {}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Restore a `state_dict`; called before `on_train_begin`."""


class Callbacks:
    """Several callbacks, which are called one after the other.

    Examples
    --------
    >>> Callbacks([Callback(), Callback()]).names
    ['Callback', 'Callback2']
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: got {callback!r}, expected instances of classes that derive from Callback")
        self.callbacks = list(callbacks)

    @property
    def names(self) -> list[str]:
        """A name for each: that of its class, with a number if there are several of a class."""
        kinds = [type(callback).__name__ for callback in self.callbacks]
        counts = [kinds[: i + 1].count(kind) for i, kind in enumerate(kinds)]
        return [kind + (str(count) if count > 1 else "") for kind, count in zip(kinds, counts, strict=True)]

    def tell(self, moment: str, *arguments: Any) -> None:
        """Call the method with this name of each callback."""
        for callback in self.callbacks:
            getattr(callback, moment)(*arguments)

    def teardown(self) -> None:
        """Call `teardown` of all, and then raise the first error, if there was one."""
        errors: list[BaseException] = []
        for callback in self.callbacks:
            try:
                callback.teardown()
            except Exception as error:  # the others are closed all the same
                errors.append(error)
        if errors:
            raise errors[0]

    def state_dict(self) -> dict[str, Array]:
        """The states of all callbacks, with their names."""
        named = zip(self.names, self.callbacks, strict=True)
        return {f"{name}.{key}": value for name, callback in named for key, value in callback.state_dict().items()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Restore the states of all callbacks from `state_dict`."""
        for name, callback in zip(self.names, self.callbacks, strict=True):
            own = {key.removeprefix(name + "."): value for key, value in state.items() if key.startswith(name + ".")}
            if own:
                callback.load_state_dict(own)
