"""The command line: parses, calls, prints."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

import tinyres as tr
from tinyres import checkpoints, ops
from tinyres import train as training
from tinyres import verify as verification
from tinyres.console import (
    HARDWARE,
    Bar,
    DataOption,
    Threads,
    UserError,
    compile_kernels,
    configuration,
    console,
    errors,
    out,
    prepare_kernels,
    reading,
    shell,
    use_threads,
    wide_enough,
)
from tinyres.export import to_onnx
from tinyres.files import write_whole
from tinyres.kernels.compile import cache_folder
from tinyres.models import BLOCKS
from tinyres.study.commands import app as study

app = typer.Typer(
    help="Residual networks from scratch, trained on a CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(study, name="study")

DEFAULTS = training.Config()
RECIPE, VARIATION = "Recipe", "Variation of images"


ImageSize = Annotated[
    int | None,
    typer.Option(help="Height and width of the images: 32, or 224 for ImageNet's stem.", show_default=False),
]
NumClasses = Annotated[int | None, typer.Option(help="The model's own by default.", show_default=False)]
Stem = Annotated[
    str | None, typer.Option(help="cifar (3x3) or imagenet (7x7 and max-pool); the model's own by default.")
]
Shortcut = Annotated[
    str | None, typer.Option(help="Shortcuts where shapes change: A, A-after, B or C; the model's own by default.")
]
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
        str,
        typer.Option(
            help="cifar10, cifar100, shapes, folder (pictures of your own in --data, train/CLASS/*.jpg and "
            "val/CLASS/*.jpg, or CLASS/*.jpg), or auto: CIFAR-10 where it is to be had, else shapes."
        ),
    ] = "auto",
    data: DataOption = DEFAULTS.data,
    image_size: Annotated[
        int | None, typer.Option(help="Side that a folder's pictures are cut to; the model's own by default.")
    ] = DEFAULTS.image_size,
    model: Annotated[
        str, typer.Option(help="resnet20 to resnet1202, resnet18 to resnet152, plain20, ...; any of the family.")
    ] = DEFAULTS.model,
    stem: Stem = DEFAULTS.stem,
    weights: Annotated[
        str | None,
        typer.Option(help="Start from these weights, safetensors of torchvision's or timm's names, or a checkpoint."),
    ] = DEFAULTS.weights,
    num_classes: Annotated[
        int | None, typer.Option(help="Classes to tell apart; must be those of the data, and is by default.")
    ] = DEFAULTS.num_classes,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder; by default a new one in runs/.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the folder --out.")] = False,
    shortcut: Shortcut = DEFAULTS.shortcut,
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
        int,
        typer.Option(help="Training images held out to choose the best checkpoint (a folder has its val); 0 for none."),
    ] = DEFAULTS.validation,
    subset: Annotated[
        int | None, typer.Option(help="Train on so many images only, chosen at random; not of a folder.")
    ] = DEFAULTS.subset,
    seed: Annotated[int, typer.Option(help="One seed, one result.")] = DEFAULTS.seed,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(
            metavar="N|Nm",
            help="Save after so many steps, or minutes (10m), besides the end of each epoch.",
            rich_help_panel=HARDWARE,
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    detect_anomaly: Annotated[
        bool,
        typer.Option(
            "--detect-anomaly", help="Stop at the first operation that gives NaN or infinity.", rich_help_panel=HARDWARE
        ),
    ] = False,
    recompute: Annotated[
        int,
        typer.Option(
            metavar="BLOCKS",
            help="Save memory: keep only what goes into so many blocks, and run them again in backward. 0 keeps all.",
            min=0,
            rich_help_panel=HARDWARE,
        ),
    ] = 0,
) -> None:
    """Train a network, and test the checkpoint that did best on held-out images.

    The run folder gets config.json, metrics.jsonl, last.safetensors, best.safetensors and curves.png. Ctrl-C finishes
    the step and saves; --resume goes on from there. previous.safetensors is the checkpoint before the last.
    """
    with errors():
        use_threads(threads)
        every = _every(checkpoint_every)
        fields = {f.name: context.params[f.name] for f in dataclasses.fields(training.Config)}
        if resume:
            config = _config_to_resume(context, out_folder, fields)
        else:
            if out_folder and training.holds_run(out_folder):
                raise UserError(training.ALREADY.format(out_folder))
            config = configuration(fields)
        folder = out_folder or Path("runs") / f"{config.model}-{config.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
        with reading() as progress:
            run = training.Run(
                config, folder, resume=resume, anomaly=detect_anomaly, recompute=recompute, progress=progress
            )
        for note in run.notes:
            out.print(note, soft_wrap=True)
        parameters = sum(p.size for p in run.model.parameters())
        images = len(run.data.train[1])
        network = f"{config.model} ({parameters:,} parameters)"
        out.print(f"{network} on {config.dataset} ({images:,} images), {tr.num_threads()} threads", soft_wrap=True)
        where = f"Run folder: {folder}" + (f", from step {run.step} of {run.total_steps}" if resume else "")
        out.print(where, soft_wrap=True)
        prepare_kernels()
        try:
            with Bar() as bar:
                result = run.fit(bar, every=every)
        except training.Interrupted:
            out.print(f"Stopped and saved at step {run.step} of {run.total_steps}. To go on:")
            out.print(f"  {shell('tinyres', 'train', '--out', folder, '--resume')}", soft_wrap=True)
            raise typer.Exit(130) from None
        chosen = "best" if config.validation else "last"
        scores = f"Test accuracy {result['test_accuracy']:.2%}, loss {result['test_loss']:.4f}"
        out.print(f"{scores} ({folder / chosen}.safetensors)", soft_wrap=True)


def _every(text: str | None) -> training.Every | None:
    try:
        return None if text is None else training.Every.parse(text)
    except ValueError as error:
        raise UserError(f"--checkpoint-every: {error}") from None


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


# ---------------------------------------------------------------- verify
@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/NAME.", show_default=False)],
    threads: Threads = None,
) -> None:
    """Run the steps between a run's last two checkpoints again, and compare every bit of the result.

    Nothing in the folder is changed. The number of threads does not matter; another processor, or another version of
    tinyres or its libraries, may round differently.
    """
    with errors():
        use_threads(threads)
        with reading() as progress, Bar() as bar:
            try:
                found = verification.verify(folder, bar, progress=progress)
            except training.Interrupted:
                raise typer.Exit(130) from None
        out.print(
            f"Certified: steps {found.start} to {found.stop}, run again on {tr.num_threads()} threads, give the state "
            f"of {folder / 'last.safetensors'} to the last bit",
            soft_wrap=True,
        )
        out.print(f"SHA-256 {found.sha256}", soft_wrap=True)


# ---------------------------------------------------------------- eval, predict
@app.command("eval")
def evaluate(
    checkpoint_file: Checkpoint,
    data: DataOption = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    threads: Threads = None,
) -> None:
    """Loss and accuracy of a checkpoint on the data set it was trained on."""
    with errors():
        use_threads(threads)
        if split not in ("train", "test"):
            raise UserError(f"--split: got {split!r}, expected train or test")
        model, info = checkpoints.load_model(checkpoint_file)
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

    A picture is scaled so that its shorter side fits, and cut to a square around its middle, as in training.
    """
    with errors():
        use_threads(threads)
        if top < 1:
            raise UserError(f"--top: got {top}, expected 1 or more")
        model, info = checkpoints.load_model(checkpoint_file)
        size, resize = info["image_size"], info.get("resize")
        pixels = np.stack([tr.data.read_picture(path, size, resize=resize) for path in images])
        model = tr.nn.fuse(model, image_size=size)
        labels = np.zeros(len(pixels), np.int64)  # unknown; the loader wants some
        loader = tr.data.Loader(pixels, labels, training.EVAL_BATCH, mean=info["mean"], std=info["std"], shuffle=False)
        with tr.no_grad():
            found = np.concatenate([ops.softmax(model(tr.Tensor(x))).data for x, _ in loader.epoch(0)])
        table = Table("image", *(f"{i + 1}" for i in range(min(top, len(info["classes"])))))
        for path, probabilities in zip(images, found, strict=True):
            best = np.argsort(-probabilities, kind="stable")[:top]
            table.add_row(str(path), *(f"{info['classes'][k]} {probabilities[k]:.1%}" for k in best))
        wide_enough(table).print(table)


# ---------------------------------------------------------------- export
@app.command("export")
def export_model(
    checkpoint_file: Checkpoint,
    onnx: Annotated[
        Path | None,
        typer.Option(help="Write an ONNX model, for other runtimes; needs the extra onnx.", show_default=False),
    ] = None,
    safetensors: Annotated[
        Path | None, typer.Option(help="Write the weights alone, as PyTorch's users load them.", show_default=False)
    ] = None,
) -> None:
    """Write the model of a checkpoint for other programs.

    The ONNX model takes normalised images (batch, 3, height, width), any number at a time; batch norm is folded into
    its convolutions. The weights have torchvision's names: safetensors.torch.load_file and load_state_dict read them.
    """
    with errors():
        if onnx is None and safetensors is None:
            raise UserError("export: expected --onnx FILE or --safetensors FILE, or both")
        model, info = checkpoints.load_model(checkpoint_file)
        if safetensors is not None:
            checkpoints.save_weights(safetensors, model)
            out.print(f"Wrote the weights to {safetensors}", soft_wrap=True)
        if onnx is not None:
            size = info["image_size"]
            to_onnx(tr.nn.fuse(model, image_size=size), onnx, image_size=size, classes=info["classes"])
            mean, std = (", ".join(f"{v:.4f}" for v in info[name]) for name in ("mean", "std"))
            out.print(
                f"Wrote the model to {onnx}: images of {size} x {size}, (pixel / 255 - mean) / std", soft_wrap=True
            )
            out.print(f"  with mean {mean} and std {std}", soft_wrap=True)


# ---------------------------------------------------------------- summary
@app.command()
def summary(
    model: Annotated[str | None, typer.Argument(help="Name of a model, e.g. resnet20.", show_default=False)] = None,
    image_size: ImageSize = None,
    num_classes: NumClasses = None,
    stem: Stem = None,
    shortcut: Shortcut = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help=f"Instead of a model, blocks beside each other at equal width, with commas: {', '.join(BLOCKS)}.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Layers of a model with output sizes, parameters, multiply-adds and activations of one image.

    tinyres summary resnet50

    tinyres summary --compare basic,bottleneck
    """
    with errors():
        if image_size is not None and image_size < 1:
            raise UserError(f"--image-size: got {image_size}, expected 1 or more")
        if (model is None) == (compare is None):
            raise UserError("summary: expected the name of a model, or --compare with the names of blocks")
        if compare is not None:
            _compare(compare.split(","), image_size or 224, as_json)
            return
        assert model is not None
        tr.models.check_name(model)
        size = image_size or tr.models.image_size(model, stem)
        options = _given(num_classes=num_classes, stem=stem, shortcut=shortcut)
        rows = tr.models.summarize(tr.models.create(model, **options), size)
        total = {name: sum(getattr(row, name) for row in rows) for name in COSTS}
        if as_json:
            layers = [row._asdict() for row in rows]
            print(json.dumps({"model": model, "image_size": size, **total, "layers": layers}, indent=2))
            return
        table = Table("layer", "kind", title=f"{model}, images of {size} x {size}", show_footer=True)
        table.columns[0].footer = "total"
        table.add_column("output", justify="right", overflow="fold")
        for kind, heading in COSTS.items():
            table.add_column(heading, _shown(kind, total[kind]), justify="right", overflow="fold")
        for row in rows:
            cells = [_shown(kind, value) if (value := getattr(row, kind)) else "" for kind in COSTS]
            table.add_row(row.name, row.kind, " x ".join(map(str, row.output)), *cells)
        wide_enough(table).print(table)


def _given(**options: Any) -> dict[str, Any]:
    """The options of a model that are not left to it."""
    return {name: value for name, value in options.items() if value is not None}


COSTS = {"parameters": "parameters", "multiply_adds": "multiply-adds", "activation_bytes": "activation"}
"""What is counted, and the headings of its columns."""


def _shown(kind: str, value: int) -> str:
    return f"{value / 2**20:,.2f} MiB" if kind == "activation_bytes" else f"{value:,}"


def _compare(names: list[str], image_size: int, as_json: bool) -> None:
    """What blocks cost in the stages of ResNet-50, each as a multiple of the last one named."""
    costs = tr.models.compare_blocks(names, image_size)
    if as_json:
        blocks = {name: [cost._asdict() for cost in stages] for name, stages in costs.items()}
        print(json.dumps({"image_size": image_size, "blocks": blocks}, indent=2))
        return
    last = names[-1]
    title = f"One block, from w channels to w, in the places of ResNet-50 at {image_size} x {image_size}"
    table = Table("w", "pixels", "block", title=title)
    for heading in COSTS.values():
        table.add_column(heading, justify="right", overflow="fold")  # no digit is lost where the terminal is narrow
    for i, stage in enumerate(costs[last]):
        for name in costs:
            cost = costs[name][i]
            cells = []
            for kind in COSTS:
                value, other = getattr(cost, kind), getattr(stage, kind)
                cells.append(_shown(kind, value) + ("" if name == last else f"\n{value / other:.1f} x"))
            first = name == names[0]
            table.add_row(f"{cost.width}" if first else "", f"{cost.size}^2" if first else "", name, *cells)
        table.add_section()
    for name, stages in costs.items():
        cells = [_shown(kind, sum(getattr(c, kind) * c.blocks for c in stages)) for kind in COSTS]
        table.add_row("all", "", f"{sum(c.blocks for c in stages)} {name}", *cells)
    out.print(table)


# ---------------------------------------------------------------- profile
SORTS: dict[str, Callable[[dict[str, Any]], float]] = {
    "run": lambda row: 0,  # as they come
    "time": lambda row: -row["forward"]["seconds"] - row["backward"]["seconds"],
    "forward": lambda row: -row["forward"]["seconds"],
    "backward": lambda row: -row["backward"]["seconds"],
}
EPOCHS = {32: 50_000, 224: 1_281_167}
"""Training images of the data set that a model was designed for: CIFAR-10 or ImageNet."""


@app.command("profile")
def profile_model(
    model: Annotated[str, typer.Argument(help="Name of a model, e.g. resnet20.", show_default=False)],
    batch_size: Annotated[
        int | None, typer.Option(help="Images in a step: 128, or 16 for ImageNet's stem.", show_default=False)
    ] = None,
    image_size: ImageSize = None,
    num_classes: NumClasses = None,
    stem: Stem = None,
    shortcut: Shortcut = None,
    steps: Annotated[int, typer.Option(help="How many to measure, after a few that warm up.")] = 10,
    images: Annotated[
        int | None,
        typer.Option(help="Images in an epoch: CIFAR-10's 50,000, or ImageNet's 1,281,167.", show_default=False),
    ] = None,
    sort: Annotated[str, typer.Option(help=f"Order of operations: {', '.join(SORTS)}.")] = "run",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures to this file as well.", show_default=False)
    ] = None,
    threads: Threads = None,
) -> None:
    """Where the time of a training step goes: each operation, forward and backward, beside what this machine can do.

    Work is counted, not measured: multiply-adds as two floating-point operations, convolutions as direct ones, an array
    once for each pass over it. "of ceiling" is of the nearer one: the GFLOP/s of a large matrix product, or the GB/s of
    a large copy, both measured in the same run. Caches can be faster than that copy.

    tinyres profile resnet20 --batch-size 128 --sort time
    """
    with errors():
        tr.models.check_name(model)
        own_size = tr.models.image_size(model, stem)
        size = own_size if image_size is None else image_size
        batch_size = (16 if own_size == 224 else 128) if batch_size is None else batch_size
        images = EPOCHS[own_size] if images is None else images
        for option, value in {"batch-size": batch_size, "image-size": size, "steps": steps, "images": images}.items():
            if value < 1:
                raise UserError(f"--{option}: got {value}, expected 1 or more")
        if sort not in SORTS:
            raise UserError(f"--sort: got {sort!r}, expected one of {', '.join(SORTS)}")
        if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
            raise UserError(f"--json: got {json_file}, expected a file in a folder that is there")
        use_threads(threads)
        options = _given(num_classes=num_classes, stem=stem, shortcut=shortcut)
        net = tr.models.create(model, **options)
        found = tr.profile.profile(net, batch_size=batch_size, image_size=size, steps=steps).as_dict(images)
        found = {"model": model, "options": options, **found}
        if json_file is not None:
            write_whole(json_file, (json.dumps(found, indent=2) + "\n").encode())
        _print_profile(found, sort)


def _print_profile(found: dict[str, Any], sort: str) -> None:
    to = out if out.is_terminal else console(WIDE)  # nothing breaks the lines of a file
    first = 0 if to.width >= WIDE else len(RATES) - 1  # of the rates that there is room for
    title = f"{found['model']}, {found['batch_size']} images of {found['image_size']} x {found['image_size']}"
    table = Table(title=title)
    for heading in ("module", "operation", "output"):
        table.add_column(heading, overflow="fold")
    for way in ("forward", "backward"):
        for heading in (f"{way}\nms", *RATES[first:]):
            table.add_column(heading, justify="right", overflow="fold")
    for row in sorted(found["rows"], key=SORTS[sort]):
        ways = [[_ms(row[way]["seconds"]), *_rates(row[way])[first:]] for way in ("forward", "backward")]
        table.add_row(row["module"], row["op"], " x ".join(map(str, row["output"])), *ways[0], *ways[1])
    to.print(table)

    table = Table(title="All of a kind", show_footer=True)
    table.add_column("", "step", overflow="fold")
    footers = {"forward\nms": "", "backward\nms": "", "both\nms": _ms(found["step_seconds"]), "of step": "100.0%"}
    for heading in (*footers, *RATES[first:]):
        table.add_column(heading, footers.get(heading, ""), justify="right", overflow="fold")
    for total in found["totals"]:
        times = [_ms(total[name]) for name in ("forward", "backward", "seconds")]
        kind = KINDS.get(total["kind"], total["kind"])
        table.add_row(kind, *times, f"{total['share']:.1%}", *_rates(total)[first:])
    to.print(table)

    steps, epoch, ceilings, hardware = (found[k] for k in ("all_step_seconds", "epoch", "ceilings", "hardware"))
    low, high = np.percentile(steps, (25, 75))
    lines = [
        f"Step {_ms(found['step_seconds'])} ms (middle half {_ms(low)} to {_ms(high)}, n = {len(steps)}): "
        f"{found['images_per_second']:,.1f} images/s, {epoch['images']:,} images in {_time(epoch['seconds'])}",
        f"Ceilings {ceilings['gflop_per_second']:.0f} GFLOP/s (sgemm) and {ceilings['gb_per_second']:.1f} GB/s (copy), "
        f"{hardware['threads']} threads, {hardware['processor']}",
    ]
    if found["peak_memory_bytes"] is not None:
        lines.append(f"Peak memory of this process {found['peak_memory_bytes'] / 2**20:,.0f} MiB")
    for line in lines:
        out.print(line, soft_wrap=True)


WIDE = 150  # columns that the tables need; in a narrower terminal they have the last of these only
RATES = ("GFLOP/s", "GB/s", "of\nceiling")
KINDS = {"rest": "rest: tape and Python", "uneven": "uneven: step less all medians above"}
"""What is printed of kinds that are no operations."""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.2f}" if seconds else ""


def _rates(cost: dict[str, Any]) -> list[str]:
    """RATES, and nothing where there is nothing to tell."""
    nearer = max(cost["of_sgemm"], cost["of_copy"])
    rates = (cost["gflop_per_second"], ".1f"), (cost["gb_per_second"], ".1f"), (nearer, ".0%")
    return [f"{rate:{form}}" if rate else "" for rate, form in rates]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


# ---------------------------------------------------------------- warmup
@app.command()
def warmup() -> None:
    """Compile all kernels now, so that no first training step waits for it. Needed once per version and machine."""
    start = time.perf_counter()
    with errors():
        number = compile_kernels()
    out.print(f"{number} kernels ready in {time.perf_counter() - start:.1f} s ({cache_folder()})", soft_wrap=True)


def main() -> None:
    """Entry point of the `tinyres` command."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
