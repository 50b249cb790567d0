"""Finding a learning rate before the training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyres import plots
from tinyres.callback import Callback, Training
from tinyres.loop import Loop
from tinyres.lr_range import Found, lr_find


class LearningRateFinder(Callback):
    """Before the first step, try learning rates with `tinyres.lr_find`, and train with the suggested one.

    Parameters
    ----------
    plot : str or Path, optional
        File for a plot of the result.
    share : float
        Factor on the suggestion, more than 0. Use 1 for a schedule that rises to this rate and falls again.
    **options
        ``lowest``, ``highest`` and ``steps`` of `lr_find`.

    Attributes
    ----------
    found : Found or None
        The result. None if the run was resumed, since its learning rate is known.

    Raises
    ------
    ImportError
        If a plot is wanted and matplotlib is not installed; the message names the command that installs it.

    Examples
    --------
    >>> import tinyres as tr
    >>> trainer = tr.Trainer("resnet20", callbacks=[tr.callbacks.LearningRateFinder(steps=50)])
    """

    sets = ("lr", "lr_batch_size")

    def __init__(self, plot: str | Path | None = None, *, share: float = 1.0, **options: Any) -> None:
        if not share > 0:
            raise ValueError(f"share: got {share}, expected more than 0")
        if plot is not None:
            plots.kind_of(plot)
        self.plot, self.share, self.options = plot, share, _known(options)
        self.found: Found | None = None

    def on_train_begin(self, training: Training) -> None:
        if training.step:
            return
        if not isinstance(training, Loop):
            raise TypeError(f"LearningRateFinder: got a {type(training).__name__}, expected a run of tinyres")
        self.found = lr_find(training, **self.options)
        training.use_lr(self.found.suggestion * self.share)
        if self.plot is not None:
            plots.save(self.found.plot(), self.plot)


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    if unknown := options.keys() - {"lowest", "highest", "steps"}:
        raise TypeError(f"{sorted(unknown)[0]}: not an option of lr_find, expected lowest, highest or steps")
    return dict(options)
