"""Checkpoints of epochs."""

from pathlib import Path

from tinyres import checkpoints
from tinyres.callback import Callback, Logs, Training
from tinyres.callbacks.monitor import Monitor
from tinyres.parallel.world import world


class ModelCheckpoint(Callback):
    """Save a checkpoint after each epoch, or only after epochs that are better than all before.

    Parameters
    ----------
    path : str or Path
        It may have names of numbers in the epoch's record, e.g.
        ``"epoch-{epoch:03.0f}-{validation_accuracy:.4f}.safetensors"``. Then each checkpoint has its own file. Without
        such names, each checkpoint replaces the one before. Folders are created if they do not exist.
    monitor : str, optional
        Save only if this number of the record has improved.
    mode : "auto", "max" or "min"
        Whether a larger ("max") or a smaller number ("min") is better. "auto" is "max" for an accuracy.

    Raises
    ------
    ValueError
        If the records have no number with such a name.

    Notes
    -----
    The file has the same content as ``last.safetensors`` of a run. It can be used with `tinyres.Trainer.load`,
    ``tinyres predict`` and ``tinyres export``.

    Examples
    --------
    >>> import tinyres as tr
    >>> saving = tr.callbacks.ModelCheckpoint("best.safetensors", monitor="validation_accuracy")
    >>> trainer = tr.Trainer("resnet20", callbacks=[saving])
    """

    def __init__(self, path: str | Path, *, monitor: str | None = None, mode: str = "auto") -> None:
        self.path, self.monitor = str(path), Monitor(monitor, mode) if monitor is not None else None

    def on_train_begin(self, training: Training) -> None:
        if self.monitor:
            self.monitor.expect(training)

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        if self.monitor and self.monitor.best(training.history) != len(training.history) - 1:
            return
        try:
            path = Path(self.path.format(**logs))
        except (KeyError, ValueError, IndexError) as error:
            names = ", ".join(logs)
            raise ValueError(
                f"path: got {self.path!r}, expected numbers of the record by name: {names} ({error})"
            ) from error
        if world().rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            checkpoints.save(path, *training.state())
