"""A moving average of the weights, as a callback."""

import dataclasses

from tinyres.callback import Callback, Training
from tinyres.recipe import Config


class EMA(Callback):
    """Keep an exponential moving average of the weights. The average is validated, saved, and is the final result.

    See `tinyres.average.EMA`.

    Parameters
    ----------
    decay : float
        Factor on the old average in each step, more than 0 and less than 1.

    Notes
    -----
    It does the same as the setting ``ema`` of a `Trainer` or a `Config`. A resumed run continues the average.

    Examples
    --------
    >>> import tinyres as tr
    >>> trainer = tr.Trainer("resnet20", callbacks=[tr.callbacks.EMA(0.99)])
    """

    sets = ("ema",)

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay: got {decay}, expected more than 0 and less than 1")
        self.decay = decay

    def configure(self, config: Config) -> Config:
        if config.ema not in (0, self.decay):
            raise ValueError(f"ema: got {config.ema}, expected no value with this callback, or {self.decay}, the same")
        return dataclasses.replace(config, ema=self.decay)

    def on_train_begin(self, training: Training) -> None:
        if training.config.ema != self.decay:
            raise ValueError(
                f"EMA: the run was made with ema={training.config.ema}, expected {self.decay}: give this callback to a "
                "tr.Trainer, or the setting ema to the run's Config"
            )
