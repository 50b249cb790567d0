"""The records of epochs as a table for spreadsheets."""

import csv
import io
from pathlib import Path

from tinyres.callback import Callback, Logs, Training
from tinyres.files import write_whole
from tinyres.parallel.world import world


class CSVLogger(Callback):
    """Write a CSV file with a line for each epoch. After each epoch the file is complete, also for a resumed run.

    Parameters
    ----------
    path : str or Path
        Its folder is created if it does not exist.

    Examples
    --------
    >>> import tinyres as tr
    >>> trainer = tr.Trainer("resnet20", callbacks=[tr.callbacks.CSVLogger("history.csv")])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        if world().rank:
            return
        text = io.StringIO()
        names = list(dict.fromkeys(name for record in training.history for name in record))
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows(training.history)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, text.getvalue().encode())
