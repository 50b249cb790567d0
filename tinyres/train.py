"""Runs: trainings that are saved in a folder (see `tinyres.runs`), and can be resumed.

All that a run computes depends only on its configuration: the order and augmentation of images on (seed, epoch, batch),
the learning rate on the step. Sums do not depend on the number of threads. So a run that was stopped continues from
``last.safetensors`` with the same result as without the stop, and its results can be computed again: see
`tinyres.verify`.
"""

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

from tinyres import checkpoints, data, html, machine
from tinyres.callback import Callback, Callbacks, Logs, Training
from tinyres.curves import curves
from tinyres.data.named import DATASETS
from tinyres.evaluation import BATCH, evaluate
from tinyres.files import remove_leftovers
from tinyres.loop import Diverged, Interrupted, Loop, Loss, parameter_groups, weights_beside
from tinyres.nn import Module
from tinyres.parallel.exchange import Shards
from tinyres.parallel.world import check_same, world
from tinyres.recipe import SCHEDULES, Config
from tinyres.runs import ALREADY, Times, has_begun, holds_run, read_progress, read_times
from tinyres.splits import Data, Progress, load_data, read_split
from tinyres.start import create, freeze, load_weights, normalisation_for, whiten
from tinyres.stopping import stop_signals
from tinyres.tape import Array
from tinyres.version import __version__

__all__ = [
    "DATASETS",
    "SCHEDULES",
    "Callback",
    "Config",
    "Data",
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

FEW_STEPS = 300  # ResNet-20 on the shapes: 10 % after 118 steps at a rate of 0.5, 39 % at 0.1; 98 % after 423 at 0.5
FEW = "A run of {} steps with a learning rate up to {:g} may end near chance. More epochs, a smaller batch{} may help."
OTHER = (
    "Computed with the instruction set {!r} so far, and with {!r} from now on, which rounds differently: the last bits "
    "of the result will differ from those of a run with only one of them."
)


class Every(NamedTuple):
    """How often a run is saved within an epoch: every `steps` steps, or every `seconds` seconds."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Every":
        """Read a number of steps such as "500", or of minutes such as "10m".

        Raises
        ------
        ValueError
            If it is neither, or not positive.

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
    """Network and images of a run, if the caller has them (as `tinyres.Trainer` does), so that nothing is read.

    Attributes
    ----------
    model : Module
    model_info : dict
        ``name`` and ``options``, with which `models.create` makes it; the name is "given" for other networks.
    train, validation : Loader or Batches
    info : dict
        The description of images and classes in a checkpoint: ``classes``, ``image_size``, ``resize``, ``mean``,
        ``std``; and perhaps ``digest``, checksums of data that must be the same when the run is resumed.
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
        It is created if it does not exist. Without a folder, nothing is written.
    resume : bool
        Continue from the folder's ``last.safetensors``; or start, if the run was stopped before it saved anything. The
        configuration may have more epochs than before. The remaining steps then have the learning rates of a run with
        this number of epochs.
    anomaly : bool
        Train under `detect_anomaly`.
    recompute : int
        Number of blocks that are computed again together in backward, to save memory, see `ResNet.recompute`. Results
        do not depend on it.
    progress : callable, optional
        Called with (done, total) while pictures of a folder are read.
    given : Given, optional
        Network and images to use instead of those that the configuration names.

    Raises
    ------
    FileExistsError
        If the folder already has a run and `resume` is not set.
    CheckpointError
        If there is nothing to resume, or it does not fit.

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
        Shards.of_run(config.shards, self.world)  # raises errors before data is read
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
        self.saved = 0  # number of steps that are saved
        self._clock = time.monotonic()
        self.times = Times([], 0.0)
        self._of_callbacks: dict[str, Array] = {}  # their states from a checkpoint, until there are callbacks
        if last and saved:
            self._restore(last, *saved)
            self.times = read_times(last.parent) or self.times
            if (before := saved[1].get("simd", machine.simd())) != machine.simd():
                self.notes.append(OTHER.format(before, machine.simd()))
        self.connect()
        self.world.first(self._claim, resume)

    def fit(self, *callbacks: Callback, every: Every | None = None) -> dict[str, float]:
        """Train to the end, and test the chosen checkpoint.

        Parameters
        ----------
        *callbacks : Callback
        every : Every, optional
            How often to save within epochs; by default only at their end. Results do not depend on it.

        Returns
        -------
        dict
            ``test_accuracy`` and ``test_loss`` of the checkpoint with the best validation accuracy, or of the last one
            if there are no validation images.

        Raises
        ------
        Interrupted
            After SIGINT or SIGTERM. The current step has been finished and saved.
        Diverged
            If the training, validation or test loss becomes NaN or infinite. The last checkpoint is kept. Later steps
            are not saved.
        ValueError
            If there is no folder, and so no checkpoint, or there are no test images, since the images were given. For
            these, use `train_to`.
        """
        if self.folder is None or self.config.dataset == "given":
            lacks = (
                "no folder for its checkpoints" if self.folder is None else "no test images, since its own were given"
            )
            raise ValueError(f"fit: got a run that has {lacks}; expected one with both: call train_to(run.total_steps)")
        self.train_to(self.total_steps, *callbacks, every=every)
        return self._test()

    def train_to(self, step: int, *callbacks: Callback, every: Every | None = None) -> None:
        """Train until `step` steps of the run are done. Parameters and errors are those of `fit`."""
        heard = Callbacks(callbacks)
        heard.load_state_dict(self._of_callbacks)
        self._of_callbacks = {}  # from now on, callbacks have their own states
        self._clock = time.monotonic()
        self.advance(step, Callbacks([*heard.callbacks, _Files(self, every or Every())]))  # what is saved, all know

    def _test(self) -> dict[str, float]:
        chosen = "best" if self.config.validation else "last"
        self.world.barrier()  # wait until it is written
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
        """Check that the folder has no run, or that it can be resumed."""
        if self.folder and holds_run(self.folder) and not resume:
            raise FileExistsError(ALREADY.format(self.folder))

    def _claim(self, resume: bool) -> None:
        """Write the configuration, unless another run has begun here meanwhile."""
        try:
            self._write_config(new=not resume)
        except FileExistsError:
            raise FileExistsError(ALREADY.format(self.folder)) from None
        if self.folder:
            remove_leftovers(self.folder)

    def _read(self, progress: Progress | None, last: tuple[Path, dict[str, Any]] | None, recompute: int) -> Given:
        """The network and the images that the configuration names."""
        config = self.config
        self.data = Data.together(*self.world.shared(lambda: load_data(config, progress).apart()))
        self._check_same()
        self.notes += self.data.notes
        options = {"num_classes": len(self.data.classes), **config.model_options}
        model = create(config, **options)
        model.recompute(recompute)
        if last:
            mean, std = checkpoints.normalisation(*last)
            self.data = self.data._replace(mean=mean, std=std)
        elif config.weights:
            self.notes.append(load_weights(model, config.weights))
            if expected := normalisation_for(config.weights, config):
                self.data = self.data._replace(mean=expected[0], std=expected[1])
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
        info = checkpoints.described(self.data.classes, self.data.train[0].shape[2], self.data.mean, self.data.std)
        return Given(model, {"name": config.model, "options": options}, train, validation, info)

    def _check_same(self) -> None:
        """Check that all processes compute the same, in the same way."""
        if self.world.size > 1:
            recipe = {f"{name} of the recipe": repr(value) for name, value in dataclasses.asdict(self.config).items()}
            parts = dict(zip("xy", self.data.train, strict=True)) | {"mean": self.data.mean, "std": self.data.std}
            facts = {"version of tinyres": __version__, "instruction set (TINYRES_SIMD)": machine.simd(), **recipe}
            facts |= {f"version of {name}": version for name, version in machine.describe()["versions"].items()}
            check_same(facts | {"SHA-256 of the training images": checkpoints.state_digest(parts, {})[:16]})

    def _loader(self, split: tuple[Array, Array], batch_size: int, **options: Any) -> data.Loader:
        options = {"shuffle": False, **options}
        return data.Loader(*split, batch_size, mean=self.data.mean, std=self.data.std, **options)

    # -- files
    def save(self, name: str) -> None:
        """Write the state of the run to ``<name>.safetensors`` in its folder. The old "last" becomes "previous"."""
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
        """Add the time since the last call to the time of the epoch."""
        now = time.monotonic()
        self.times, self._clock = self.times._replace(since=self.times.since + now - self._clock), now

    def _write(self, name: str, content: bytes, *, new: bool = False) -> None:
        if self._writes and self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoints.write_whole(self.folder / name, content, new=new)

    @property
    def _writes(self) -> bool:
        """Whether this process writes files: only one does, since all would write the same."""
        return self.world.rank == 0

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """The state of the run: everything that the remaining steps depend on, as arrays and as values for JSON.

        The arrays are weights and running statistics; with an average, both the average and the trained ones; the slow
        weights of lookahead; momentum; states of callbacks. The values are the configuration, the step, sums of the
        epoch, the results so far, and the best. All else depends only on these: the order and augmentation of images
        on (seed, epoch, batch), the learning rate on the step. No random generator has a state.
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
        """The values that a checkpoint has in addition to arrays, for JSON."""
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
        """The HTML that notebooks show."""
        path = self.folder / "curves.png" if self.folder else None
        picture = path.read_bytes() if path and path.exists() else curves(self.history, self.config.model)
        name = str(self.folder or self.config.model)
        return html.of_run(
            name, dataclasses.asdict(self.config), dataclasses.asdict(Config()), self.history, curves=picture
        )

    def _write_config(self, *, new: bool = False) -> None:
        """Write the configuration, which may have more epochs than before; with `new`, the folder must have none."""
        self._write("config.json", (json.dumps(dataclasses.asdict(self.config), indent=2) + "\n").encode(), new=new)

    def _write_metrics(self, records: list[Logs]) -> None:
        self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
        title = f"{self.config.model} on {self.config.dataset}"
        if self._writes and self.folder and (picture := curves(self.history, title)):
            self._write("curves.png", picture)


class _Files(Callback):
    """Saves a run: after each epoch, when it is stopped, and within epochs as often as `every` says."""

    def __init__(self, run: Run, every: Every) -> None:
        self.run, self.every = run, every

    def on_train_begin(self, training: Training) -> None:
        self.since = time.monotonic()

    def on_batch_end(self, training: Training, logs: Logs) -> None:
        if self.run.step % len(self.run.loader) == 0:
            return  # the end of the epoch, which writes a checkpoint anyway
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
