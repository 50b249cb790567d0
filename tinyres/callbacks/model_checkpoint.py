"""Checkpoints of single epochs."""

from pathlib import Path

from tinyres import checkpoints
from tinyres.callback import Callback, Logs, Training
from tinyres.callbacks.monitor import Monitor
from tinyres.parallel.world import world


class ModelCheckpoint(Callback):
    """Save a checkpoint after each epoch, or after those that were better than all before.

    Parameters
    ----------
    path : str or Path
        Where the numbers of the epoch's record stand by their names, e.g.
        ``"epoch-{epoch:03.0f}-{validation_accuracy:.4f}.safetensors"``: then there is a file for each. Without them,
        the one file is the newest. Folders are made if they are not there.
    monitor : str, optional
        Save only where this number of the record has become better.
    mode : "auto", "max" or "min"
        Whether more of it is better; of an accuracy it is.

    Raises
    ------
    ValueError
        Where the records have no number of such a name.

    Notes
    -----
    What is saved is what a run's own ``last.safetensors`` holds, for `tinyres.Trainer.load`, ``tinyres predict`` and
    ``tinyres export``.

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
