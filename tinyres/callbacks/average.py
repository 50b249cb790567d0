"""A moving average of the weights, as a callback."""

import dataclasses

from tinyres.callback import Callback, Training
from tinyres.recipe import Config


class EMA(Callback):
    """Keep an exponential moving average of the weights: that is what is validated, saved, and left at the end.

    See `tinyres.average.EMA`.

    Parameters
    ----------
    decay : float
        Share of the average that a step leaves, more than 0 and less than 1.

    Notes
    -----
    It is the setting ``ema`` of a `Trainer` or a `Config` by another name, and goes on after a stop as that does.

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
            raise ValueError(f"ema: got {config.ema}, expected none beside this callback, or its own {self.decay}")
        return dataclasses.replace(config, ema=self.decay)

    def on_train_begin(self, training: Training) -> None:
        if training.config.ema != self.decay:
            raise ValueError(
                f"EMA: the run was made with ema={training.config.ema}, expected {self.decay}: give this callback to a "
                "tr.Trainer, or the setting ema to the run's Config"
            )
