"""What hears of a training while it goes on, at Keras's moments, and may end it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tinyres.nn import Module
from tinyres.optim import Optimizer
from tinyres.recipe import Config
from tinyres.tape import Array

Logs = dict[str, float]


class Training(Protocol):
    """What a callback is told of: a `tinyres.train.Run`, in as far as callbacks use it.

    Attributes
    ----------
    step, total_steps : int
        Steps done, and of the whole run.
    epoch : int
        Epochs done, 0 at first.
    steps_per_epoch : int
    history : list of dict
        The records of the epochs so far, as `Callback.on_epoch_end` gets them.
    validation : Loader, Batches or None
    stopped : str or None
        Why it ends early, where it does.
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
    """Does nothing, at each moment of a training: derive from it, and override what you need.

    Examples
    --------
    >>> class UntilGood(Callback):
    ...     def on_epoch_end(self, training, logs):
    ...         if logs["train_accuracy"] > 0.99:
    ...             training.stop("99 % of the training images are right")
    """

    sets: tuple[str, ...] = ()
    """Fields of the configuration that are this callback's to choose."""

    def configure(self, config: Config) -> Config:
        """Before a `tinyres.Trainer` makes anything: the configuration to train by."""
        return config

    def on_train_begin(self, training: Training) -> None:
        """Before the first step, or the first after a stop."""

    def on_epoch_begin(self, training: Training) -> None:
        """Before the first step of an epoch."""

    def on_batch_begin(self, training: Training) -> None:
        """Before each step."""

    def on_batch_end(self, training: Training, logs: Logs) -> None:
        """After each step, with its ``loss``, its learning rate ``lr``, and ``images``, how many it took."""

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        """After each epoch, with its record.

        It has ``epoch``, ``step``, ``lr``, ``train_loss``, ``train_accuracy`` and, with validation images,
        ``validation_loss`` and ``validation_accuracy``.
        """

    def on_stopping(self, training: Training) -> None:
        """When a first signal asks to stop: the step goes on to its end, while a second would break it off."""

    def on_interrupt(self, training: Training) -> None:
        """When the training is left between two steps of an epoch, for a signal or for `Training.stop`."""

    def on_train_end(self, training: Training) -> None:
        """After the last step, also when the training was ended early, but not when it failed or was interrupted."""

    def teardown(self) -> None:
        """At the very end, whatever happened: close what is open."""

    def state_dict(self) -> dict[str, Array]:
        """What of this callback goes into the run's checkpoint, for one that goes on."""
        return {}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Take up what `state_dict` gave, before `on_train_begin`."""


class Callbacks:
    """Several callbacks, each told in its turn.

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
        """A name for each, of its class, with a number where there are several."""
        kinds = [type(callback).__name__ for callback in self.callbacks]
        counts = [kinds[: i + 1].count(kind) for i, kind in enumerate(kinds)]
        return [kind + (str(count) if count > 1 else "") for kind, count in zip(kinds, counts, strict=True)]

    def tell(self, moment: str, *arguments: Any) -> None:
        """Call the method of this name of each."""
        for callback in self.callbacks:
            getattr(callback, moment)(*arguments)

    def teardown(self) -> None:
        """Close all of them, and raise the first error, if any, after that."""
        errors: list[BaseException] = []
        for callback in self.callbacks:
            try:
                callback.teardown()
            except Exception as error:  # the others are closed all the same
                errors.append(error)
        if errors:
            raise errors[0]

    def state_dict(self) -> dict[str, Array]:
        """What all of them keep, by their names."""
        named = zip(self.names, self.callbacks, strict=True)
        return {f"{name}.{key}": value for name, callback in named for key, value in callback.state_dict().items()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Hand out what `state_dict` gave."""
        for name, callback in zip(self.names, self.callbacks, strict=True):
            own = {key.removeprefix(name + "."): value for key, value in state.items() if key.startswith(name + ".")}
            if own:
                callback.load_state_dict(own)
