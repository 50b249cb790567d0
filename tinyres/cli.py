"""The command line: parses, calls, prints."""

import contextlib
import dataclasses
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import tinyres as tr
from tinyres import checkpoint, ops
from tinyres import train as training
from tinyres.kernels import warmup as kernels
from tinyres.kernels.compile import cache_folder

app = typer.Typer(
    help="Residual networks from scratch, trained on a CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False)

DEFAULTS = training.Config()
RECIPE, VARIATION, HARDWARE = "Recipe", "Variation of images", "Run"


class UserError(Exception):
    """Something the user can mend; printed without a traceback."""


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn the errors a user can cause into one message and exit code 1."""
    try:
        yield
    except (UserError, ValueError, OSError, ArithmeticError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]Error:[/] {_plain(error)}", soft_wrap=True)
        raise typer.Exit(1) from None


def _plain(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error) or type(error).__name__)


def _threads(n: int | None) -> None:
    if n is not None:
        tr.set_num_threads(n)


Threads = Annotated[int | None, typer.Option(help="Threads to use; all cores by default.", rich_help_panel=HARDWARE)]
DataOption = Annotated[str | None, typer.Option(help="Folder that holds the data set.", show_default=False)]
Checkpoint = Annotated[
    Path, typer.Argument(help="A checkpoint file, e.g. runs/NAME/best.safetensors.", show_default=False)
]


@app.callback(invoke_without_command=True)
def _main(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        out.print(f"tinyres {tr.__version__}")
        raise typer.Exit


# ---------------------------------------------------------------- train
@app.command()
def train(
    context: typer.Context,
    dataset: Annotated[
        str, typer.Option(help="cifar10, cifar100, shapes, or auto: CIFAR-10 where it is to be had, else shapes.")
    ] = "auto",
    data: DataOption = DEFAULTS.data,
    model: Annotated[str, typer.Option(help="resnet20 to resnet1202, plain20 to plain56.")] = DEFAULTS.model,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder; by default a new one in runs/.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder --out.")] = False,
    shortcut: Annotated[
        str | None, typer.Option(help="Shortcuts where shapes change: A, B or C. The model's own by default.")
    ] = DEFAULTS.shortcut,
    epochs: Annotated[int, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.batch_size,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.", rich_help_panel=RECIPE)] = DEFAULTS.optimizer,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=RECIPE)] = DEFAULTS.lr,
    schedule: Annotated[
        str, typer.Option(help=f"{', '.join(training.SCHEDULES)}.", rich_help_panel=RECIPE)
    ] = DEFAULTS.schedule,
    warmup: Annotated[
        float, typer.Option(help="Part of all steps in which the rate rises.", rich_help_panel=RECIPE)
    ] = DEFAULTS.warmup,
    momentum: Annotated[float, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.momentum,
    nesterov: Annotated[bool, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.nesterov,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.weight_decay,
    decay_bias: Annotated[
        bool, typer.Option(help="Whether biases and batch norm decay as well.", rich_help_panel=RECIPE)
    ] = DEFAULTS.decay_bias,
    label_smoothing: Annotated[float, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.label_smoothing,
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient.", rich_help_panel=RECIPE)
    ] = DEFAULTS.clip_norm,
    pad: Annotated[
        int, typer.Option(help="Pixels around an image before a crop.", rich_help_panel=VARIATION)
    ] = DEFAULTS.pad,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.", rich_help_panel=VARIATION)] = DEFAULTS.flip,
    cutout: Annotated[int, typer.Option(help="Side of a blanked square.", rich_help_panel=VARIATION)] = DEFAULTS.cutout,
    validation: Annotated[
        int, typer.Option(help="Training images held out to choose the best checkpoint; 0 for none.")
    ] = DEFAULTS.validation,
    seed: Annotated[int, typer.Option(help="One seed, one result.")] = DEFAULTS.seed,
    threads: Threads = None,
    detect_anomaly: Annotated[
        bool,
        typer.Option(
            "--detect-anomaly", help="Stop at the first operation that gives NaN or infinity.", rich_help_panel=HARDWARE
        ),
    ] = False,
) -> None:
    """Train a network, and test the checkpoint that did best on held-out images.

    The run folder gets config.json, metrics.jsonl, last.safetensors, best.safetensors and curves.png. Ctrl-C finishes
    the step and saves; --resume goes on from there.
    """
    with _errors():
        _threads(threads)
        fields = {f.name: context.params[f.name] for f in dataclasses.fields(training.Config)}
        if resume:
            config = _config_to_resume(context, out_folder, fields)
        else:
            if out_folder and training.holds_run(out_folder):
                raise UserError(training.ALREADY.format(out_folder))
            config = _config(fields)
        folder = out_folder or Path("runs") / f"{config.model}-{config.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
        run = training.Run(config, folder, resume=resume, anomaly=detect_anomaly)
        parameters = sum(p.size for p in run.model.parameters())
        images = len(run.data.train[1])
        network = f"{config.model} ({parameters:,} parameters)"
        out.print(f"{network} on {config.dataset} ({images:,} images), {tr.num_threads()} threads")
        out.print(f"Run folder: {folder}" + (f", from step {run.step} of {run.total_steps}" if resume else ""))
        try:
            with Bar() as bar:
                result = run.fit(bar)
        except training.Interrupted:
            out.print(f"Stopped and saved at step {run.step} of {run.total_steps}. To go on:")
            out.print(f"  tinyres train --out {folder} --resume", soft_wrap=True)
            raise typer.Exit(130) from None
        chosen = "best" if config.validation else "last"
        scores = f"Test accuracy {result['test_accuracy']:.2%}, loss {result['test_loss']:.4f}"
        out.print(f"{scores} ({folder / chosen}.safetensors)", soft_wrap=True)


def _config(fields: dict[str, Any]) -> training.Config:
    """The configuration that the options ask for; `auto` is resolved to the data set that is there."""
    if fields["dataset"] != "auto":
        return training.Config(**fields)
    config = training.Config(**{**fields, "dataset": "cifar10"})
    try:
        tr.data.cifar10(config.data, "test")
    except tr.data.DatasetNotFound:
        if config.data is not None:
            raise
        out.print(
            "CIFAR-10 is neither on this machine nor to be downloaded: training on the built-in shapes. "
            "To supply it: --data DIR with cifar-10-binary.tar.gz in DIR.",
            soft_wrap=True,
        )
        validation = min(config.validation, 2000)
        return dataclasses.replace(config, dataset="shapes", validation=validation)
    return config


def _config_to_resume(context: typer.Context, folder: Path | None, fields: dict[str, Any]) -> training.Config:
    """The run's own configuration; options that were given must agree with it."""
    if folder is None:
        raise UserError("--resume needs the run's folder: --out DIR")
    config = training.read_config(folder)
    given = [n for n in fields if (s := context.get_parameter_source(n)) and s.name == "COMMANDLINE"]
    for name in given:
        if (own := getattr(config, name)) != fields[name]:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option}: got {fields[name]}, but the run in {folder} has {own}; leave it out to resume")
    return config


class Bar:
    """A progress bar for each epoch, then a line with its results."""

    def __init__(self) -> None:
        columns = (
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:4.0f} images/s  loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            TextColumn("left of the run"),
        )
        self.progress = Progress(*columns, console=out, transient=True, speed_estimate_period=60)
        self.recent: deque[tuple[float, int]] = deque()  # (time, images so far), over the last ten seconds

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def start(self, run: training.Run) -> None:
        fields: dict[str, Any] = {"epoch": self._epoch(run), "rate": 0.0, "loss": float("nan")}
        self.task = self.progress.add_task("", total=run.total_steps, completed=run.step, **fields)
        self.images, self.since = 0, time.perf_counter()
        self.recent.append((self.since, 0))

    def step(self, run: training.Run, loss: float, lr: float, images: int) -> None:
        now = time.perf_counter()
        self.images += images
        self.recent.append((now, self.images))
        while len(self.recent) > 2 and now - self.recent[0][0] > 10:
            self.recent.popleft()
        start, before = self.recent[0]
        rate = (self.images - before) / max(now - start, 1e-9)
        self.progress.update(self.task, completed=run.step, epoch=self._epoch(run), rate=rate, loss=loss)

    def epoch(self, run: training.Run, record: dict[str, float]) -> None:
        seconds = self.recent[-1][0] - self.since  # to the last step: without the validation
        text = f"epoch {record['epoch']:3.0f}"
        for split in ("train", "validation"):
            if f"{split}_loss" in record:
                text += f"  {split} loss {record[f'{split}_loss']:.4f} accuracy {record[f'{split}_accuracy']:.2%}"
        self.progress.print(f"{text}  {seconds:.0f} s, {self.images / seconds:.0f} images/s", soft_wrap=True)
        self.images, self.since = 0, time.perf_counter()
        self.recent.clear()
        self.recent.append((self.since, 0))

    @staticmethod
    def _epoch(run: training.Run) -> str:
        return f"{min(run.step // len(run.loader) + 1, run.config.epochs)}/{run.config.epochs}"


# ---------------------------------------------------------------- eval, predict
@app.command("eval")
def evaluate(
    checkpoint_file: Checkpoint,
    data: DataOption = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    threads: Threads = None,
) -> None:
    """Loss and accuracy of a checkpoint on the data set it was trained on."""
    with _errors():
        _threads(threads)
        if split not in ("train", "test"):
            raise UserError(f"--split: got {split!r}, expected train or test")
        model, info = checkpoint.load_model(checkpoint_file)
        try:
            config = training.Config(**{**info["config"], "data": data or info["config"].get("data")})
        except (TypeError, ValueError) as error:
            raise UserError(f"{checkpoint_file}: not a configuration that tinyres has ({error})") from error
        images, labels = training.read_split(config, split)
        loader = tr.data.Loader(images, labels, training.EVAL_BATCH, mean=info["mean"], std=info["std"], shuffle=False)
        loss, accuracy = training.evaluate(model, loader)
        out.print(f"{config.dataset} {split}: accuracy {accuracy:.2%}, loss {loss:.4f} ({len(labels):,} images)")


@app.command()
def predict(
    checkpoint_file: Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="PNG or JPEG files, of any size.", show_default=False)],
    top: Annotated[int, typer.Option(help="How many classes to show.")] = 3,
    threads: Threads = None,
) -> None:
    """The most likely classes of pictures, with their probabilities.

    A picture is scaled so that its shorter side fits, and cut to a square around its middle.
    """
    with _errors():
        _threads(threads)
        if top < 1:
            raise UserError(f"--top: got {top}, expected 1 or more")
        model, info = checkpoint.load_model(checkpoint_file)
        pixels = np.stack([_read_image(path, info["image_size"]) for path in images])
        labels = np.zeros(len(pixels), np.int64)  # unknown; the loader wants some
        loader = tr.data.Loader(pixels, labels, training.EVAL_BATCH, mean=info["mean"], std=info["std"], shuffle=False)
        with tr.no_grad():
            found = np.concatenate([ops.softmax(model(tr.Tensor(x))).data for x, _ in loader.epoch(0)])
        table = Table("image", *(f"{i + 1}" for i in range(min(top, len(info["classes"])))))
        for path, probabilities in zip(images, found, strict=True):
            best = np.argsort(-probabilities, kind="stable")[:top]
            table.add_row(str(path), *(f"{info['classes'][k]} {probabilities[k]:.1%}" for k in best))
        out.print(table)


def _read_image(path: Path, size: int) -> np.ndarray:
    """A picture as (3, size, size) uint8: shorter side scaled to `size`, then the middle."""
    try:
        with Image.open(path) as file:
            picture = file.convert("RGB")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: not an image that can be read ({error})") from error
    scale = size / min(picture.size)
    width, height = (max(size, round(scale * side)) for side in picture.size)
    left, top = (width - size) // 2, (height - size) // 2
    picture = picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))
    return np.asarray(picture).transpose(2, 0, 1)


# ---------------------------------------------------------------- summary, warmup
@app.command()
def summary(
    model: Annotated[str, typer.Argument(help="Name of a model, e.g. resnet20.", show_default=False)],
    image_size: Annotated[int, typer.Option(help="Height and width of the images.")] = 32,
    num_classes: Annotated[int | None, typer.Option(help="The model's own by default.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Layers of a model with output sizes, parameters and multiply-adds."""
    with _errors():
        if image_size < 1:
            raise UserError(f"--image-size: got {image_size}, expected 1 or more")
        options = {} if num_classes is None else {"num_classes": num_classes}
        rows = tr.models.summarize(tr.models.create(model, **options), image_size)
        parameters, multiply_adds = (sum(row[i] for row in rows) for i in (3, 4))  # type: ignore[misc]
        if as_json:
            layers = [row._asdict() for row in rows]
            total = {"model": model, "parameters": parameters, "multiply_adds": multiply_adds}
            print(json.dumps({**total, "layers": layers}, indent=2))
            return
        table = Table("layer", "kind", title=f"{model}, images of {image_size} x {image_size}", show_footer=True)
        table.columns[0].footer = "total"
        table.add_column("output", justify="right")
        table.add_column("parameters", f"{parameters:,}", justify="right")
        table.add_column("multiply-adds", f"{multiply_adds:,}", justify="right")
        for row in rows:
            size = " x ".join(map(str, row.output))
            table.add_row(
                row.name, row.kind, size, f"{row.parameters:,}", f"{row.multiply_adds:,}" if row.multiply_adds else ""
            )
        out.print(table)


@app.command()
def warmup() -> None:
    """Compile all kernels now, so that no first training step waits for it. Needed once per version and machine."""
    steps = list(kernels.steps())
    start = time.perf_counter()
    with Progress(
        TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn(), console=out, transient=True
    ) as bar:
        task = bar.add_task("", total=len(steps))
        for name, compile_kernel in steps:
            bar.update(task, description=name)
            compile_kernel()
            bar.advance(task)
    out.print(f"{len(steps)} kernels ready in {time.perf_counter() - start:.1f} s ({cache_folder()})", soft_wrap=True)


def main() -> None:
    """Entry point of the `tinyres` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
