"""Runs: training with all that is kept of it in a folder, see `tinyres.runs`, and how it goes on.

Everything a run does is a function of its configuration: the order of images and their variation come from
(seed, epoch, batch), the learning rate from the step, and sums do not depend on the number of threads. So a run that
was stopped goes on from ``last.safetensors`` as if it had not been, and what it has computed can be computed again: see
`tinyres.verify`.
"""

import dataclasses
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres import checkpoints, data, html, machine, models
from tinyres.callback import Callback, Callbacks, Logs, Training
from tinyres.curves import curves
from tinyres.evaluation import BATCH, evaluate
from tinyres.files import remove_leftovers
from tinyres.loop import Diverged, Interrupted, Loop, Loss, parameter_groups, weights_beside
from tinyres.nn import Module
from tinyres.nn.init import manual_seed, whitening
from tinyres.parallel.exchange import Shards
from tinyres.parallel.world import check_same, world
from tinyres.recipe import DATASETS, SCHEDULES, Config, Data, Progress, load_data, read_split
from tinyres.runs import ALREADY, Times, has_begun, holds_run, read_progress, read_times
from tinyres.stopping import stop_signals
from tinyres.tape import Array
from tinyres.version import __version__

__all__ = [
    "DATASETS",
    "SCHEDULES",
    "Callback",
    "Config",
    "Diverged",
    "Every",
    "Given",
    "Interrupted",
    "Run",
    "evaluate",
    "load_data",
    "parameter_groups",
    "read_split",
    "stop_signals",
    "weights_beside",
]

WHITENED = 5000 * 32 * 32  # patches that are looked at
IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""Mean and standard deviation that weights trained on ImageNet elsewhere expect of their images."""
FEW_STEPS = 300  # ResNet-20 on the shapes: 10 % after 118 steps at a rate of 0.5, 39 % at 0.1; 98 % after 423 at 0.5
FEW = "A run of {} steps, at a learning rate up to {:g}, may end near chance. More epochs, a smaller batch{} may help."
OTHER = (
    "Computed with the instruction set {!r} so far, and with {!r} from here on, which rounds differently: to the last "
    "bit, the result is not that of a run on one of them."
)


class Every(NamedTuple):
    """How often a run is saved, besides the end of each epoch: after so many steps, or so many seconds."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Every":
        """Of a number of steps, or of minutes with an m.

        Raises
        ------
        ValueError
            Where it is neither, or not positive.

        Examples
        --------
        >>> Every.parse("500"), Every.parse("2.5m")
        (Every(steps=500, seconds=None), Every(steps=None, seconds=150.0))
        """
        steps, minutes = re.fullmatch("[0-9]{1,12}", text), re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?)m", text)
        if steps and int(text):
            return cls(steps=int(text))
        if minutes and float(minutes[1]):
            return cls(seconds=60 * float(minutes[1]))
        raise ValueError(f"got {text!r}, expected a number of steps such as 500, or of minutes such as 10m")


class Given(NamedTuple):
    """What a run works on where its caller has it in hand, see `tinyres.Trainer`, and nothing is to be read.

    Attributes
    ----------
    model : Module
    model_info : dict
        How it can be made again: ``name`` and ``options`` of the family; or the name "given", for any other.
    train, validation : Loader or Batches
    info : dict
        What a checkpoint says of images and classes: ``classes``, ``image_size``, ``resize``, ``mean``, ``std``; and
        perhaps ``digest``, of what a run that goes on must have again.
    loss : callable, optional
        See `tinyres.loop.Loop`.
    """

    model: Module
    model_info: dict[str, Any]
    train: data.Loader | data.Batches
    validation: data.Loader | data.Batches | None
    info: dict[str, Any]
    loss: Loss | None = None


class Run(Loop):
    """A training run in its folder.

    Parameters
    ----------
    config : Config
    folder : str or Path, optional
        Made if it is not there; without one nothing is written.
    resume : bool
        Go on from the folder's ``last.safetensors``; or begin, where a run was stopped before it saved anything. The
        configuration may have more epochs than the run had: then the learning rate of each step that is left is that
        of a run of so many.
    anomaly : bool
        Train under `detect_anomaly`.
    recompute : int
        Blocks that are computed again in backward at a time, to save memory, see `ResNet.recompute`. Results do not
        depend on it.
    progress : callable, optional
        Called with (done, total) while pictures of a folder are read.
    given : Given, optional
        Network and images to take in place of those that the configuration names.

    Raises
    ------
    FileExistsError
        Where the folder holds a run already and `resume` is not set.
    CheckpointError
        Where there is nothing to resume, or it does not fit.

    Examples
    --------
    >>> import tempfile, tinyres as tr
    >>> config = tr.train.Config(dataset="shapes", epochs=3)
    >>> run = tr.train.Run(config, tempfile.mkdtemp() + "/run")  # doctest: +SKIP
    >>> run.fit()["test_accuracy"]  # doctest: +SKIP
    0.9825
    """

    def __init__(
        self,
        config: Config,
        folder: str | Path | None,
        *,
        resume: bool = False,
        anomaly: bool = False,
        recompute: int = 0,
        progress: Progress | None = None,
        given: Given | None = None,
    ) -> None:
        self.config, self.folder = config, None if folder is None else Path(folder)
        self.world = world()
        Shards.of_run(config.shards, self.world)  # before anything is read
        self.world.first(self._open, resume)
        last = self.folder / "last.safetensors" if self.folder and resume and has_begun(self.folder) else None
        saved = checkpoints.load(last) if last else None
        self.notes: list[str] = []
        if given is None:
            given = self._read(progress, (last, saved[1]) if last and saved else None, recompute)
        elif saved:
            for name in ("classes", "image_size", "mean", "std", "digest"):
                if saved[1].get(name) != given.info.get(name):
                    what = "other images, labels or weights of them"
                    raise ValueError(f"resume: the run in {folder} has {what}, whose {name} differs")
        self.model_info, self.info = given.model_info, given.info
        super().__init__(
            given.model, given.train, config, validation=given.validation, loss=given.loss, anomaly=anomaly
        )
        if self.total_steps < FEW_STEPS and not config.weights and not saved:
            lower = " or a rate of 0.1" if config.peak_lr > 0.1 else ""
            self.notes.append(FEW.format(self.total_steps, config.peak_lr, lower))
        self.saved = 0  # steps done that are saved
        self._clock = time.monotonic()
        self.times = Times([], 0.0)
        self._of_callbacks: dict[str, Array] = {}  # what a checkpoint has of them, until they are there
        if last and saved:
            self._restore(last, *saved)
            self.times = read_times(last.parent) or self.times
            if (before := saved[1].get("simd", machine.simd())) != machine.simd():
                self.notes.append(OTHER.format(before, machine.simd()))
        self.connect()
        self._write_config()

    def fit(self, *callbacks: Callback, every: Every | None = None) -> dict[str, float]:
        """Train to the end, and test the chosen checkpoint.

        Parameters
        ----------
        *callbacks : Callback
        every : Every, optional
            Save within epochs too. What a run computes does not depend on when it is saved.

        Returns
        -------
        dict
            ``test_accuracy`` and ``test_loss``, of the best checkpoint by validation accuracy, or of the last where
            there are no validation images.

        Raises
        ------
        Interrupted
            On SIGINT or SIGTERM: the step was finished and saved.
        Diverged
            Where the loss becomes NaN or infinite, or that of the validation or test images. The last checkpoint is
            kept, and what came after it is not saved.
        ValueError
            Where there is no folder, and so no checkpoint, or the images were given, and none to test on: `train_to`
            is for these.
        """
        if self.folder is None or self.config.dataset == "given":
            lacks = (
                "no folder for its checkpoints" if self.folder is None else "no test images, since its own were given"
            )
            raise ValueError(f"fit: got a run that has {lacks}; expected one with both: train_to(run.total_steps)")
        self.train_to(self.total_steps, *callbacks, every=every)
        return self._test()

    def train_to(self, step: int, *callbacks: Callback, every: Every | None = None) -> None:
        """Train until `step` steps of the run are done. Parameters and errors as in `fit`."""
        heard = Callbacks(callbacks)
        heard.load_state_dict(self._of_callbacks)
        self._of_callbacks = {}  # from here on they know themselves
        self._clock = time.monotonic()
        self.advance(step, Callbacks([*heard.callbacks, _Files(self, every or Every())]))  # what is saved, all know

    def _test(self) -> dict[str, float]:
        chosen = "best" if self.config.validation else "last"
        self.world.barrier()  # until it is written
        assert self.folder is not None
        model, _ = checkpoints.load_model(self.folder / f"{chosen}.safetensors")
        with self.replay.memory():
            loss, accuracy = evaluate(model, self._loader(self.data.test, BATCH))
        self._check_finite("the test loss", loss, self.config.epochs, self.lr(self.step - 1))
        result = {"test_loss": loss, "test_accuracy": accuracy}
        self._write_metrics([*self.history, result])
        return result

    # -- parts
    def _open(self, resume: bool) -> None:
        """Whether the folder is free, or to be gone on with."""
        if self.folder is None:
            return
        if holds_run(self.folder) and not resume:
            raise FileExistsError(ALREADY.format(self.folder))
        remove_leftovers(self.folder)

    def _read(self, progress: Progress | None, last: tuple[Path, dict[str, Any]] | None, recompute: int) -> Given:
        """The network and the images that the configuration names."""
        config = self.config
        self.data = Data.together(*self.world.shared(lambda: load_data(config, progress).apart()))
        self._check_same()
        self.notes += self.data.notes
        options = {"num_classes": len(self.data.classes), **config.model_options}
        manual_seed(config.seed)
        model = models.create(config.model, zero_init_residual=config.zero_init_residual, **options)
        model.recompute(recompute)
        if last:
            mean, std = checkpoints.normalisation(*last)
            self.data = self.data._replace(mean=mean, std=std)
        elif config.weights:
            self._start_from(model, config.weights)
        if config.whiten and last:
            model.conv1.freeze()
        elif config.whiten:
            whiten(model, self.data.train[0], self.data.std)
        freeze(model, config.freeze)
        how = {"shuffle": True, "augment": config.augment, "mix": config.mix(len(self.data.classes))}
        train = self._loader(
            self.data.train, config.batch_size, **how, seed=config.seed, part=(self.world.rank, self.world.size)
        )
        validation = self._loader(self.data.validation, BATCH) if config.validation else None
        info = described(self.data.classes, self.data.train[0].shape[2], self.data.mean, self.data.std)
        return Given(model, {"name": config.model, "options": options}, train, validation, info)

    def _check_same(self) -> None:
        """All processes compute the same thing, in the same way."""
        if self.world.size > 1:
            recipe = {f"{name} of the recipe": repr(value) for name, value in dataclasses.asdict(self.config).items()}
            parts = dict(zip("xy", self.data.train, strict=True)) | {"mean": self.data.mean, "std": self.data.std}
            facts = {"version of tinyres": __version__, "instruction set (TINYRES_SIMD)": machine.simd(), **recipe}
            facts |= {f"version of {name}": version for name, version in machine.describe()["versions"].items()}
            check_same(facts | {"SHA-256 of the training images": checkpoints.state_digest(parts, {})[:16]})

    def _start_from(self, model: Module, path: str) -> None:
        """Weights of a file, and the normalisation of images that they expect."""
        note = models.load_weights(model, path, replace_head=True)
        self.notes.append(f"Starting from {path}" + (f"; {note}" if note else ""))
        if expected := normalisation_for(path, self.config):
            self.data = self.data._replace(mean=expected[0], std=expected[1])

    def _loader(self, split: tuple[Array, Array], batch_size: int, **options: Any) -> data.Loader:
        options = {"shuffle": False, **options}
        return data.Loader(*split, batch_size, mean=self.data.mean, std=self.data.std, **options)

    # -- files
    def save(self, name: str) -> None:
        """Write the whole state of the run to ``<name>.safetensors`` in its folder. What was last becomes previous."""
        if self._writes and self.folder:
            keep = self.folder / "previous.safetensors" if name == "last" else None
            checkpoints.save(self.folder / f"{name}.safetensors", *self.state(), keep=keep)
        if name == "last":
            self.saved = self.step
            self._keep_time()
            self._write("times.json", (json.dumps(self.times._asdict()) + "\n").encode())

    def _end_of_epoch(self) -> None:
        *before, record = self.history
        best = max((r["validation_accuracy"] for r in before if "validation_accuracy" in r), default=-1.0)
        if record.get("validation_accuracy", -1.0) > best:
            self.save("best")
        self._keep_time()
        self.times = Times([*self.times.epochs, self.times.since], 0.0)
        self.save("last")
        self._write_metrics(self.history)

    def _keep_time(self) -> None:
        """Add what has passed since the last look at the clock to the epoch's."""
        now = time.monotonic()
        self.times, self._clock = self.times._replace(since=self.times.since + now - self._clock), now

    def _write(self, name: str, content: bytes) -> None:
        if self._writes and self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoints.write_whole(self.folder / name, content)

    @property
    def _writes(self) -> bool:
        """Whether this process is the one that writes: all have the same to write."""
        return self.world.rank == 0

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """All that the rest of the run depends on, and what is known of it so far: arrays, and what JSON can hold.

        Weights and batch norm's statistics, or their average, and then those that are trained as well; those that
        lookahead goes back to; momentum; what callbacks keep; configuration, step, sums of the epoch, and its results
        so far, with the best. All else is a function of these: the order and variation of images, and with them the
        position in the data, of (seed, epoch, batch), the learning rate of the step. No generator of random numbers
        lives on.
        """
        with self.averaged():
            arrays = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.average:
            arrays |= {f"trained.{k}": v for k, v in self.model.state_dict().items()}
        if self.lookahead:
            with self.lookahead.in_place():
                arrays |= {f"slow.{k}": v for k, v in self.model.state_dict().items()}
        arrays |= {f"optimizer.{k}": v for k, v in self.optimizer.state_dict().items()}
        arrays |= {f"callback.{k}": v for k, v in self.callbacks.state_dict().items()}
        return arrays, self.description()

    def description(self) -> dict[str, Any]:
        """What a checkpoint says besides arrays, as JSON holds it."""
        return {
            "model": self.model_info,
            **self.info,
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "simd": machine.simd(),
        }

    def _restore(self, path: Path, arrays: dict[str, Array], info: dict[str, Any]) -> None:
        if not self.config.extends(info.get("config")):
            raise checkpoints.CheckpointError(f"{path}: belongs to a run with another configuration than config.json")
        if self.lookahead:
            checkpoints.load_arrays(path, self.model, arrays, "slow")
            self.lookahead.start()
        checkpoints.load_arrays(path, self.model, arrays)
        if self.average:
            self.average.start()
            checkpoints.load_arrays(path, self.model, arrays, "trained")
        self._of_callbacks = checkpoints.part(arrays, "callback")
        try:
            self.optimizer.load_state_dict(checkpoints.part(arrays, "optimizer"))
            self.step, self.history, self.sums = read_progress(info, self.total_steps)
            self.saved = self.step
            for beside in filter(None, (self.average, self.lookahead)):
                beside.steps = self.step
        except (ValueError, KeyError) as error:
            raise checkpoints.CheckpointError(f"{path}: not the state of a run ({error})") from error

    def use_lr(self, lr: float) -> None:
        super().use_lr(lr)
        self._write_config()

    def _repr_html_(self) -> str:
        """What notebooks show."""
        path = self.folder / "curves.png" if self.folder else None
        picture = path.read_bytes() if path and path.exists() else curves(self.history, self.config.model)
        name = str(self.folder or self.config.model)
        return html.of_run(
            name, dataclasses.asdict(self.config), dataclasses.asdict(Config()), self.history, curves=picture
        )

    def _write_config(self) -> None:
        """What was asked for, perhaps with more epochs than before."""
        self._write("config.json", (json.dumps(dataclasses.asdict(self.config), indent=2) + "\n").encode())

    def _write_metrics(self, records: list[Logs]) -> None:
        self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
        title = f"{self.config.model} on {self.config.dataset}"
        if self._writes and self.folder and (picture := curves(self.history, title)):
            self._write("curves.png", picture)


class _Files(Callback):
    """Saves a run: after each epoch, when it is left within one, and as often as asked for besides."""

    def __init__(self, run: Run, every: Every) -> None:
        self.run, self.every = run, every

    def on_train_begin(self, training: Training) -> None:
        self.since = time.monotonic()

    def on_batch_end(self, training: Training, logs: Logs) -> None:
        if self.run.step % len(self.run.loader) == 0:
            return  # the epoch is over, and ends with a checkpoint
        steps, seconds = self.every
        if (steps and self.run.step % steps == 0) or (seconds and time.monotonic() - self.since >= seconds):
            self._save()

    def on_interrupt(self, training: Training) -> None:
        if self.run.saved != self.run.step:
            self._save()

    def on_epoch_end(self, training: Training, logs: Logs) -> None:
        self.run._end_of_epoch()
        self.since = self.run._clock

    def _save(self) -> None:
        self.run.save("last")
        self.since = time.monotonic()


def described(classes: Sequence[str], size: int, mean: Array, std: Array) -> dict[str, Any]:
    """What a checkpoint says of the images that its network is for.

    Examples
    --------
    >>> described(["cat", "dog"], 32, np.zeros(1), np.ones(1))["resize"]
    32
    """
    return {
        "classes": classes,
        "image_size": size,
        "resize": data.short_side(size),
        "mean": mean.tolist(),
        "std": std.tolist(),
    }


def normalisation_for(path: str, config: Config) -> tuple[Array, Array] | None:
    """Mean and standard deviation of images that the weights of a file expect, where that is known: a checkpoint says
    so, and others' weights for pictures of 224 pixels are of ImageNet's.

    Raises
    ------
    CheckpointError
        Where the file cannot be read, or says what makes no sense.

    Examples
    --------
    >>> import tempfile, tinyres as tr
    >>> path = tempfile.mkdtemp() + "/net.safetensors"
    >>> tr.checkpoints.save_weights(path, tr.models.resnet20())
    >>> normalisation_for(path, tr.train.Config(model="resnet20"))
    >>> mean, std = normalisation_for(path, tr.train.Config(model="resnet18"))
    >>> mean
    array([0.485, 0.456, 0.406], dtype=float32)
    """
    info = checkpoints.load_info(path)
    if info is not None:
        return checkpoints.normalisation(path, info) if {"mean", "std"} <= info.keys() else None
    return IMAGENET if models.image_size(config.model, config.stem) == 224 else None


def freeze(model: Module, last: str | None) -> None:
    """Let the parts of a network up to one, see `ResNet.parts`, stay as they are.

    Raises
    ------
    ValueError
        Where there is no such part, or nothing would be left to learn.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20()
    >>> freeze(net, "layer1")
    >>> net.layer1[0].conv1.weight.requires_grad, net.layer2[0].conv1.weight.requires_grad
    (False, True)
    """
    if last is None:
        return
    if not isinstance(model, models.ResNet):
        raise ValueError(f"freeze: got {last!r}, expected None with a network of your own, whose `freeze()` does it")
    parts = model.parts()
    *names, _ = parts  # without a head that learns, nothing would
    if last not in names:
        raise ValueError(f"freeze: got {last!r}, expected one of {', '.join(names)}")
    for name in names[: names.index(last) + 1]:
        for module in parts[name]:
            module.freeze()


def whiten(model: Module, images: Any, std: Array | Sequence[float]) -> None:
    """Let a network's first convolution whiten patches of the training images, see `tinyres.nn.init.whitening`, and
    stay so.

    At most `WHITENED` patches are looked at, of images all over the set: those of a folder are sorted by class.

    Raises
    ------
    ValueError
        Where it is not a network of the family, or the images are not uint8.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20()
    >>> images, _ = tr.data.shapes(100)
    >>> whiten(net, images, std=[0.25, 0.25, 0.25])
    >>> net.conv1.weight.requires_grad
    False
    """
    if not isinstance(model, models.ResNet):
        raise ValueError("whiten: got True, expected False with a network of your own")
    shape = model.conv1.weight.shape
    count = max(1, min(len(images), WHITENED // (images.shape[2] * images.shape[3])))
    some = images[np.linspace(0, len(images), count, endpoint=False).astype(np.int64)]
    covariance = data.patch_covariance(some, (shape[2], shape[3]), std=std)
    model.conv1.weight.data[...] = whitening(shape, covariance)
    model.conv1.freeze()
