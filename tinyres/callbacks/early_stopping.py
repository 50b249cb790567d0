"""Early stopping: end a training that does not improve any more."""

import numpy as np

from tinyres.callback import Callback, Logs, Training
from tinyres.callbacks.monitor import Monitor
from tinyres.tape import Array


class EarlyStopping(Callback):
    """Stop when a number has not improved for some epochs, and restore the weights of the best epoch.

    Parameters
    ----------
    monitor : str
        Name of a number in the records of epochs.
    patience : int
        Number of epochs without improvement after which the training stops, 1 or more.
    min_delta : float
        Smallest change that counts as an improvement, 0 or more.
    mode : "auto", "max" or "min"
        Whether a larger ("max") or a smaller number ("min") is better. "auto" is "max" for an accuracy.
    restore_best : bool
        Whether to put the weights of the best epoch into the model at the end, even if the training was not stopped.

    Raises
    ------
    ValueError
        If a parameter is not valid, or the records have no such number.

    Notes
    -----
    If the schedule ends at a learning rate of 0, the last epochs are usually the best. So use it with
    ``schedule="constant"``, or to stop runs that fail.

    Prechelt, "Early stopping - but when?", 1998.

    Examples
    --------
    >>> import tinyres as tr
    >>> stopping = tr.callbacks.EarlyStopping("validation_loss", patience=5)
    >>> trainer = tr.Trainer("resnet20", schedule="constant", callbacks=[stopping])
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        *,
        patience: int = 3,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience: got {patience}, expected 1 or more")
        self.monitor, self.patience = Monitor(monitor, mode, min_delta), patience
        self.restore_best, self.weights = restore_best, dict[str, Array]()

    def on_train_begin(self, training: Training) -> None:
        self.monitor.expect(training)
        if not training.history:
            self.weights = {}
        self._look(training)

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        if self.monitor.best(training.history) == len(training.history) - 1 and self.restore_best:
            arrays, _ = training.state()  # whose weights are the average, where there is one
            self.weights = {n.removeprefix("model."): a.copy() for n, a in arrays.items() if n.startswith("model.")}
        self._look(training)

    def _look(self, training: Training) -> None:
        best = self.monitor.best(training.history)
        if (since := len(training.history) - 1 - best) >= self.patience:
            value = self.monitor.value(training.history[best])
            training.stop(f"{self.monitor.name} was best in epoch {best + 1}, {value:.4g}, {since} epochs ago")

    def on_train_end(self, training: Training) -> None:
        if self.weights:
            training.use(self.weights)

    def state_dict(self) -> dict[str, Array]:
        return self.weights

    def load_state_dict(self, state: dict[str, Array]) -> None:
        self.weights = {name: np.array(array) for name, array in state.items()}
