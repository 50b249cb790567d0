"""A number that a callback watches, and whether it has improved."""

from tinyres.callback import Logs, Training


class Monitor:
    """A number in the records of epochs that should rise or fall.

    Parameters
    ----------
    name : str
        Its name, such as "validation_accuracy" or "train_loss".
    mode : "auto", "max" or "min"
        Whether a larger ("max") or a smaller number ("min") is better. "auto" is "max" if the name ends in "accuracy",
        else "min".
    min_delta : float
        Smallest change that counts as an improvement.

    Raises
    ------
    ValueError
        If `mode` or `min_delta` is not valid, or a record has no such number.

    Examples
    --------
    >>> monitor = Monitor("train_loss", min_delta=0.1)
    >>> monitor.best([{"train_loss": 1.0}, {"train_loss": 0.95}, {"train_loss": 0.5}])
    2
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if mode not in ("auto", "max", "min"):
            raise ValueError(f"mode: got {mode!r}, expected 'auto', 'max' or 'min'")
        if not min_delta >= 0:
            raise ValueError(f"min_delta: got {min_delta}, expected 0 or more")
        rises = name.endswith("accuracy") if mode == "auto" else mode == "max"
        self.name, self.sign, self.min_delta = name, 1 if rises else -1, min_delta

    def expect(self, training: Training) -> None:
        """Raise ValueError before the first step if the number needs validation images, and there are none."""
        if self.name in ("validation_loss", "validation_accuracy") and training.validation is None:
            raise ValueError(
                f"monitor: got {self.name!r}, expected train_loss or train_accuracy without validation images; or give "
                "fit such images"
            )

    def value(self, record: Logs) -> float:
        """The number in a record."""
        if self.name not in record:
            raise ValueError(f"monitor: got {self.name!r}, expected one of {', '.join(record)}")
        return record[self.name]

    def best(self, history: list[Logs]) -> int:
        """Index of the best record: the last one that improved on the best before it. -1 if there are no records."""
        best = -1
        for i, record in enumerate(history):
            if best < 0 or self.sign * (self.value(record) - self.value(history[best])) > self.min_delta:
                best = i
        return best
