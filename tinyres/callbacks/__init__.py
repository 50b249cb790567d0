"""Callbacks for `tinyres.Trainer` and `tinyres.train.Run.fit`. Your own callbacks derive from `Callback`."""

from tinyres.callback import Callback
from tinyres.callbacks.average import EMA
from tinyres.callbacks.csv_logger import CSVLogger
from tinyres.callbacks.early_stopping import EarlyStopping
from tinyres.callbacks.learning_rate import LearningRateFinder
from tinyres.callbacks.model_checkpoint import ModelCheckpoint
from tinyres.callbacks.tensorboard import TensorBoard
from tinyres.progress import ProgressBar

__all__ = [
    "EMA",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "LearningRateFinder",
    "ModelCheckpoint",
    "ProgressBar",
    "TensorBoard",
]
