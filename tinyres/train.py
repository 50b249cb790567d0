"""Training: the loop, what it writes, see `tinyres.runs`, and how it stops and goes on.

Everything a run does is a function of its configuration: the order of images and their variation come from
(seed, epoch, batch), the learning rate from the step, and sums do not depend on the number of threads. So a run that
was stopped goes on from ``last.safetensors`` as if it had not been, and what it has computed can be computed again: see
`tinyres.verify`.
"""

import contextlib
import dataclasses
import json
import math
import re
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyres import chance, checkpoints, data, machine, models, ops, optim, parallel
from tinyres.average import EMA, Lookahead
from tinyres.curves import curves
from tinyres.evaluation import evaluate
from tinyres.files import remove_leftovers
from tinyres.nn import BatchNorm2d
from tinyres.nn.init import manual_seed, whitening
from tinyres.parallel.exchange import Shards
from tinyres.parallel.meeting import Meeting
from tinyres.parallel.world import check_same, world
from tinyres.recipe import DATASETS, SCHEDULES, Config, Data, Progress, load_data, read_split
from tinyres.replay import Replay
from tinyres.runs import ALREADY, Times, has_begun, holds_run, read_progress, read_times
from tinyres.stopping import stop_signals
from tinyres.tape import Array, detect_anomaly
from tinyres.tensor import Tensor
from tinyres.version import __version__

__all__ = [
    "DATASETS",
    "SCHEDULES",
    "Config",
    "Diverged",
    "Every",
    "Interrupted",
    "Reporter",
    "Run",
    "evaluate",
    "load_data",
    "read_split",
    "stop_signals",
]

EVAL_BATCH = 250
AVERAGE_EVERY = 5  # steps
WHITENED = 5000 * 32 * 32  # patches that are looked at
IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
"""Mean and standard deviation that weights trained on ImageNet elsewhere expect of their images."""
FEW_STEPS = 300  # ResNet-20 on the shapes: 10 % after 118 steps at a rate of 0.5, 39 % at 0.1; 98 % after 423 at 0.5
FEW = (
    "A run of {} steps, at a learning rate up to {:g}, may end near chance. More --epochs, a smaller --batch-size{} "
    "may help."
)
OTHER = (
    "Computed with the instruction set {!r} so far, and with {!r} from here on, which rounds differently: to the last "
    "bit, the result is not that of a run on one of them."
)


# ---------------------------------------------------------------- what a caller hears
class Reporter(Protocol):
    """What a run tells while it goes on."""

    def start(self, run: "Run") -> None:
        """Before the first step."""

    def step(self, run: "Run", loss: float, lr: float, images: int) -> None:
        """After each step, with the number of images it took."""

    def epoch(self, run: "Run", record: dict[str, float]) -> None:
        """After each epoch, with its line of metrics."""

    def stopping(self, run: "Run") -> None:
        """When a first signal asked to stop: the step goes on to its end, while a second would break it off."""


class Interrupted(Exception):
    """The run was asked to stop; it has finished its step and is saved."""


class Diverged(ArithmeticError):
    """The loss is not a number any more."""


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


# ---------------------------------------------------------------- the run
class _Told(NamedTuple):
    """What the shards of a step tell besides gradients; over all of them, the sums."""

    loss: float  # times images
    correct: int | float
    asked: bool | float  # whether a signal came to stop


class Run:
    """A training run in its folder.

    Parameters
    ----------
    config : Config
    folder : str or Path
        Made if it is not there.
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
        folder: str | Path,
        *,
        resume: bool = False,
        anomaly: bool = False,
        recompute: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.folder, self.anomaly = config, Path(folder), anomaly
        self.world = world()
        self.shards = Shards.of_run(config.shards, self.world)
        self.world.first(self._open, resume)
        saved = checkpoints.load(self.folder / "last.safetensors") if resume and has_begun(self.folder) else None
        self.data = Data.together(*self.world.shared(lambda: load_data(config, progress).apart()))
        self._check_same()
        self.notes = list(self.data.notes)
        options = {"num_classes": len(self.data.classes), **config.model_options}
        self.model_info = {"name": config.model, "options": options}
        manual_seed(config.seed)
        network = models.create(config.model, zero_init_residual=config.zero_init_residual, **options)
        network.recompute(recompute)
        self.model = network
        if saved:
            self._normalise(self.folder / "last.safetensors", saved[1])
        elif config.weights:
            self._start_from(config.weights)
        if config.whiten and saved:
            self.model.conv1.freeze()
        elif config.whiten:
            whiten(self.model, self.data)
        self._freeze()
        self.replay = Replay(self.model, self._loss)
        self.optimizer = self._optimizer()
        how = {"shuffle": True, "augment": config.augment, "mix": config.mix(len(self.data.classes))}
        part = self.world.rank, self.world.size
        self.loader = self._loader(self.data.train, config.batch_size, **how, seed=config.seed, part=part)
        self._check_batches()
        self.total_steps = config.epochs * len(self.loader)
        self.lr = SCHEDULES[config.schedule](config, self.total_steps)
        self.average, self.lookahead = weights_beside(self.model, config, len(self.loader))
        if self.total_steps < FEW_STEPS and not config.weights and not saved:
            lower = " or --lr 0.1" if config.peak_lr > 0.1 else ""
            self.notes.append(FEW.format(self.total_steps, config.peak_lr, lower))

        self.step = self.saved = 0  # steps done, and of these saved
        self._clock = time.monotonic()
        self.history: list[dict[str, float]] = []
        self.sums = {"loss": 0.0, "correct": 0, "images": 0}  # of the epoch that is under way
        self.times = Times([], 0.0)
        if saved:
            self._restore(*saved)
            self.times = read_times(self.folder) or self.times
            if (before := saved[1].get("simd", machine.simd())) != machine.simd():
                self.notes.append(OTHER.format(before, machine.simd()))
        self.meeting = Meeting(self.shards) if config.sync_batch_norm else None
        buffers = list(self.model.buffers())
        if self.meeting is not None:  # which leaves them the same in all processes: there is no mean to take
            parallel.broadcast(buffers)
            buffers = []
        self.gradients = parallel.Gradients(
            self.model.parameters(), buffers, shards=self.shards, numbers=len(_Told._fields)
        )
        for module in self.model.modules():
            if isinstance(module, BatchNorm2d):
                module.gather = self.meeting
        self._write_config()

    def fit(self, reporter: Reporter | None = None, *, every: Every | None = None) -> dict[str, float]:
        """Train to the end, and test the chosen checkpoint.

        Parameters
        ----------
        reporter : Reporter, optional
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
        """
        self.train_to(self.total_steps, reporter, every=every)
        return self._test()

    def train_to(self, step: int, reporter: Reporter | None = None, *, every: Every | None = None) -> None:
        """Train until `step` steps of the run are done. Parameters and errors as in `fit`."""
        if reporter:
            reporter.start(self)
        steps, seconds = every or Every()
        saved = self._clock = time.monotonic()
        told = (lambda: reporter.stopping(self)) if reporter else None
        agreed = False

        def stopped() -> bool:
            """Several processes stop together, where the sums of a step have said so to all of them."""
            return agreed if self.world.size > 1 else asked()

        with stop_signals(told) as asked:
            while self.step < step:
                epoch, batch = divmod(self.step, len(self.loader))
                for x, y in self.loader.epoch(epoch, batch):
                    loss, lr, agreed = self._train_step(x, y, asked)
                    if reporter:
                        reporter.step(self, loss, lr, self.loader.images_of((self.step - 1) % len(self.loader)))
                    if self.step % len(self.loader) == 0:
                        continue  # the epoch is over, and ends with a checkpoint
                    due = (steps and self.step % steps == 0) or (seconds and time.monotonic() - saved >= seconds)
                    if due or stopped():
                        self.save("last")
                        saved = time.monotonic()
                    if stopped():
                        raise Interrupted
                    if self.step == step:
                        return
                self._end_epoch()
                saved = self._clock
                if reporter:
                    reporter.epoch(self, self.history[-1])
                if stopped() and self.step < self.total_steps:
                    raise Interrupted

    def _train_step(self, x: Array, y: Array, asked: Callable[[], bool]) -> tuple[float, float, bool]:
        """One step on this process's part of a batch; the loss of all of it, the learning rate, and whether to stop.

        The loss of a batch is the mean over its images: that of a shard counts by how many of them it has.
        """
        config, lr = self.config, self.lr(self.step)
        images = self.loader.images_of(self.step % len(self.loader))
        self.model.train()
        self.optimizer.zero_grad()
        first, _ = self.shards.bounds(self.shards.own[0], images)

        def work(shard: int) -> None:
            start, stop = self.shards.bounds(shard, images)
            some = slice(start - first, stop - first)
            self.gradients.begin(shard)
            chance.start(config.seed, self.step, shard)
            with detect_anomaly() if self.anomaly else nullcontext():
                if self.shards.count == 1:
                    loss, logits = self.replay(x, y)
                else:
                    loss, logits = self._loss(Tensor(x[some]), y[some])
                    loss.backward(np.full((), (stop - start) / images, loss.dtype))
            classes = y[some] if y.ndim == 1 else y[some].argmax(1)  # of a mixture, the one with the largest share
            correct = int((logits.data.argmax(1) == classes).sum())
            self.gradients.end(_Told(loss.item() * (stop - start), correct, asked()))

        if self.meeting is None:
            for shard in self.shards.own:
                work(shard)
        else:
            self.meeting.run(work)
        told = _Told(*self.gradients.sum().tolist())
        self._check_finite("the loss", told.loss / images, self.step // len(self.loader) + 1, lr)
        if config.clip_norm:
            optim.clip_grad_norm(self.model.parameters(), config.clip_norm)
        self.optimizer.set_lr(lr)
        self.optimizer.step()
        if self.lookahead:
            self.lookahead.update()
        if self.average:
            self.average.update()
        self.step += 1
        self.sums["loss"] += told.loss
        self.sums["correct"] += int(told.correct)
        self.sums["images"] += images
        return told.loss / images, lr, bool(told.asked)

    def _loss(self, x: Tensor, y: Array) -> tuple[Tensor, Tensor]:
        logits = self.model(x)
        return ops.cross_entropy(logits, y, label_smoothing=self.config.label_smoothing), logits

    def _check_finite(self, what: str, value: float, epoch: float, lr: float) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"{what} became {value} at step {self.step} (epoch {epoch}), at learning rate {lr:.4g}. Try a lower "
                "--lr, --clip-norm or more --warmup; to find the first operation that gives such a value, run again "
                "with --detect-anomaly (tr.detect_anomaly() in Python)"
            )

    def _end_epoch(self) -> None:
        images = self.sums["images"]
        record: dict[str, float] = {
            "epoch": self.step // len(self.loader),
            "step": self.step,
            "lr": self.lr(self.step - 1),
            "train_loss": self.sums["loss"] / images,
            "train_accuracy": self.sums["correct"] / images,
        }
        if self.config.validation:
            with self.replay.memory(), self.averaged():
                loss, accuracy = evaluate(self.model, self._loader(self.data.validation, EVAL_BATCH))
            self._check_finite("the validation loss", loss, record["epoch"], record["lr"])  # before anything is saved
            record |= {"validation_loss": loss, "validation_accuracy": accuracy}
        best = max((r["validation_accuracy"] for r in self.history if "validation_accuracy" in r), default=-1.0)
        self.history.append(record)
        self.sums = {"loss": 0.0, "correct": 0, "images": 0}
        if record.get("validation_accuracy", -1.0) > best:
            self.save("best")
        self._keep_time()
        self.times = Times([*self.times.epochs, self.times.since], 0.0)
        self.save("last")
        self._write_metrics(self.history)

    def _test(self) -> dict[str, float]:
        chosen = "best" if self.config.validation else "last"
        self.world.barrier()  # until it is written
        model, _ = checkpoints.load_model(self.folder / f"{chosen}.safetensors")
        with self.replay.memory():
            loss, accuracy = evaluate(model, self._loader(self.data.test, EVAL_BATCH))
        self._check_finite("the test loss", loss, self.config.epochs, self.lr(self.step - 1))
        result = {"test_loss": loss, "test_accuracy": accuracy}
        self._write_metrics([*self.history, result])
        return result

    # -- parts
    def _open(self, resume: bool) -> None:
        """Whether the folder is free, or to be gone on with."""
        if holds_run(self.folder) and not resume:
            raise FileExistsError(ALREADY.format(self.folder))
        remove_leftovers(self.folder)

    def _check_same(self) -> None:
        """All processes compute the same thing, in the same way."""
        if self.world.size > 1:
            recipe = {f"{name} of the recipe": repr(value) for name, value in dataclasses.asdict(self.config).items()}
            parts = dict(zip("xy", self.data.train, strict=True)) | {"mean": self.data.mean, "std": self.data.std}
            facts = {"version of tinyres": __version__, "instruction set (TINYRES_SIMD)": machine.simd(), **recipe}
            facts |= {f"version of {name}": version for name, version in machine.describe()["versions"].items()}
            check_same(facts | {"SHA-256 of the training images": checkpoints.state_digest(parts, {})[:16]})

    def _check_batches(self) -> None:
        """Every shard of every batch has an image."""
        least = self.loader.images_of(len(self.loader) - 1)
        if least < self.config.shards:
            raise ValueError(
                f"shards: got {self.config.shards}, expected at most {least}, the images of the smallest batch: the "
                f"{len(self.loader.images)} training images are cut into batches of {self.config.batch_size}"
            )

    def _start_from(self, path: str) -> None:
        """Weights of a file, and the normalisation of images that they expect."""
        note = models.load_weights(self.model, path, replace_head=True)
        self.notes.append(f"Starting from {path}" + (f"; {note}" if note else ""))
        info = checkpoints.load_info(path)
        if info is not None:
            self._normalise(path, info)
        elif models.image_size(self.config.model, self.config.stem) == 224:
            self.data = self.data._replace(mean=IMAGENET[0], std=IMAGENET[1])

    def _freeze(self) -> None:
        """The parts of the network that stay as they are."""
        if self.config.freeze is None:
            return
        parts = self.model.parts()
        *names, _ = parts  # without a head that learns, nothing would
        if self.config.freeze not in names:
            raise ValueError(f"freeze: got {self.config.freeze!r}, expected one of {', '.join(names)}")
        for name in names[: names.index(self.config.freeze) + 1]:
            for module in parts[name]:
                module.freeze()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Inside this block, the model has the weights that count: their average, where the run has one."""
        return self.average.in_place() if self.average else nullcontext()

    def _normalise(self, path: str | Path, info: dict[str, Any]) -> None:
        """As a checkpoint says."""
        if not {"mean", "std"} <= info.keys():
            return
        mean, std = checkpoints.normalisation(path, info)
        self.data = self.data._replace(mean=mean, std=std)

    def _optimizer(self) -> optim.Optimizer:
        config, groups = self.config, parameter_groups(self.model, self.config)
        if config.optimizer == "adamw":
            return optim.AdamW(groups, config.lr)
        return optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=config.nesterov and config.momentum > 0)

    def _loader(self, split: tuple[Array, Array], batch_size: int, **options: Any) -> data.Loader:
        options = {"shuffle": False, **options}
        return data.Loader(*split, batch_size, mean=self.data.mean, std=self.data.std, **options)

    # -- files
    def save(self, name: str) -> None:
        """Write the whole state of the run to ``<name>.safetensors`` in its folder. What was last becomes previous."""
        keep = self.folder / "previous.safetensors" if name == "last" else None
        if self._writes:
            checkpoints.save(self.folder / f"{name}.safetensors", *self.state(), keep=keep)
        if name == "last":
            self.saved = self.step
            self._keep_time()
            self._write("times.json", (json.dumps(self.times._asdict()) + "\n").encode())

    def _keep_time(self) -> None:
        """Add what has passed since the last look at the clock to the epoch's."""
        now = time.monotonic()
        self.times, self._clock = self.times._replace(since=self.times.since + now - self._clock), now

    def _write(self, name: str, content: bytes) -> None:
        if self._writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoints.write_whole(self.folder / name, content)

    @property
    def _writes(self) -> bool:
        """Whether this process is the one that writes: all have the same to write."""
        return self.world.rank == 0

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """All that the rest of the run depends on, and what is known of it so far: arrays, and what JSON can hold.

        Weights and batch norm's statistics, or their average, and then those that are trained as well; those that
        lookahead goes back to; momentum; configuration, step, sums of the epoch, and its results so far, with the best.
        All else is a function of these: the order and variation of images, and with them the position in the data, of
        (seed, epoch, batch), the learning rate of the step. No generator of random numbers lives on.
        """
        with self.averaged():
            arrays = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.average:
            arrays |= {f"trained.{k}": v for k, v in self.model.state_dict().items()}
        if self.lookahead:
            with self.lookahead.in_place():
                arrays |= {f"slow.{k}": v for k, v in self.model.state_dict().items()}
        arrays |= {f"optimizer.{k}": v for k, v in self.optimizer.state_dict().items()}
        size = self.data.train[0].shape[2]
        info = {
            "model": self.model_info,
            "classes": self.data.classes,
            "image_size": size,
            "resize": data.short_side(size),
            "mean": self.data.mean.tolist(),
            "std": self.data.std.tolist(),
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "sums": self.sums,
            "history": self.history,
            "simd": machine.simd(),
        }
        return arrays, info

    def _restore(self, arrays: dict[str, Array], info: dict[str, Any]) -> None:
        path = self.folder / "last.safetensors"
        if not self.config.extends(info.get("config")):
            raise checkpoints.CheckpointError(f"{path}: belongs to a run with another configuration than config.json")
        if self.lookahead:
            checkpoints.load_arrays(path, self.model, arrays, "slow")
            self.lookahead.start()
        checkpoints.load_arrays(path, self.model, arrays)
        if self.average:
            self.average.start()
            checkpoints.load_arrays(path, self.model, arrays, "trained")
        try:
            self.optimizer.load_state_dict(checkpoints.part(arrays, "optimizer"))
            self.step, self.history, self.sums = read_progress(info, self.total_steps)
            self.saved = self.step
            for beside in filter(None, (self.average, self.lookahead)):
                beside.steps = self.step
        except (ValueError, KeyError) as error:
            raise checkpoints.CheckpointError(f"{path}: not the state of a run ({error})") from error

    def _write_config(self) -> None:
        """What was asked for, perhaps with more epochs than before."""
        self._write("config.json", (json.dumps(dataclasses.asdict(self.config), indent=2) + "\n").encode())

    def _write_metrics(self, records: list[dict[str, float]]) -> None:
        self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records).encode())
        if self._writes and (picture := curves(self.history, f"{self.config.model} on {self.config.dataset}")):
            self._write("curves.png", picture)


def weights_beside(model: models.ResNet, config: Config, epoch: int) -> tuple[EMA | None, Lookahead | None]:
    """The average of a network's weights and the slow ones, where a run with epochs of so many steps has them.

    Examples
    --------
    >>> import tinyres as tr
    >>> average, lookahead = weights_beside(tr.models.resnet20(), tr.train.Config(ema=0.99), 352)
    >>> average.decay, lookahead
    (0.99, None)
    """
    average = EMA(model, config.ema, every=AVERAGE_EVERY, epoch=epoch) if config.ema else None
    return average, Lookahead(model, config.lookahead, config.epochs * epoch) if config.lookahead else None


def whiten(model: models.ResNet, found: Data) -> None:
    """Let a network's first convolution whiten patches of the training images, see `tinyres.nn.init.whitening`, and
    stay so.

    At most `WHITENED` patches are looked at, of images all over the set: those of a folder are sorted by class.

    Examples
    --------
    >>> import tinyres as tr
    >>> net = tr.models.resnet20()
    >>> whiten(net, load_data(tr.train.Config(dataset="shapes")))
    >>> net.conv1.weight.requires_grad
    False
    """
    images, shape = found.train[0], model.conv1.weight.shape
    count = max(1, min(len(images), WHITENED // (images.shape[2] * images.shape[3])))
    some = images[np.linspace(0, len(images), count, endpoint=False).astype(np.int64)]
    covariance = data.patch_covariance(some, (shape[2], shape[3]), std=found.std)
    model.conv1.weight.data[...] = whitening(shape, covariance)
    model.conv1.freeze()


def parameter_groups(model: models.ResNet, config: Config) -> list[dict[str, Any]]:
    """What an optimizer is given: the parameters of a network by weight decay and share of the rate.

    Examples
    --------
    >>> import tinyres as tr
    >>> [group["lr_scale"] for group in parameter_groups(tr.models.resnet20(), tr.train.Config(bias_lr=8.0))]
    [1.0, 8.0]
    """
    return optim.parameter_groups(
        model,
        config.weight_decay,
        decay_bias=config.decay_bias,
        bias_lr=config.bias_lr,
        layer_decay=config.layer_decay,
        parts=model.parts().values(),
    )
