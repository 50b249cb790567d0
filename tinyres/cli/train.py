"""`tinyres train`."""

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from tinyres import extras, parallel, plots
from tinyres import train as training
from tinyres.backend import num_threads
from tinyres.cli.options import (
    ConfigFile,
    DatasetOption,
    ModelOption,
    RecipeOption,
    Shortcut,
    Stem,
    starting_point,
)
from tinyres.console import (
    DATA,
    MACHINE,
    MODEL,
    RECIPE,
    RUN,
    DataOption,
    Threads,
    UserError,
    configuration,
    errors,
    one_of,
    out,
    prepare_kernels,
    reading,
    shell,
    work_together,
)
from tinyres.parallel.world import world
from tinyres.progress import ProgressBar
from tinyres.runs import ALREADY, config_to_resume, holds_run

DEFAULTS = training.Config()
VARIATION = "Variation of images"
OPTIMIZERS = ("sgd", "adamw")


def train(
    context: typer.Context,
    dataset: DatasetOption = "auto",
    data: DataOption = DEFAULTS.data,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side that a folder's pictures are cut to; the model's own by default.", rich_help_panel=DATA
        ),
    ] = DEFAULTS.image_size,
    validation: Annotated[
        int,
        typer.Option(
            help="Training images held out to choose the best checkpoint (a folder has its val); 0 for none.",
            rich_help_panel=DATA,
        ),
    ] = DEFAULTS.validation,
    subset: Annotated[
        int | None,
        typer.Option(help="Train on so many images only, chosen at random; not of a folder.", rich_help_panel=DATA),
    ] = DEFAULTS.subset,
    model: ModelOption = DEFAULTS.model,
    stem: Stem = DEFAULTS.stem,
    shortcut: Shortcut = DEFAULTS.shortcut,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Start from these weights, safetensors of torchvision's or timm's names, or a checkpoint.",
            rich_help_panel=MODEL,
        ),
    ] = DEFAULTS.weights,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="Leave the network as it is up to this part: stem, layer1, ...",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = DEFAULTS.freeze,
    num_classes: Annotated[
        int | None,
        typer.Option(
            help="Classes to tell apart; must be those of the data, and is by default.", rich_help_panel=MODEL
        ),
    ] = DEFAULTS.num_classes,
    recipe: RecipeOption = None,
    config_file: ConfigFile = None,
    epochs: Annotated[int, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.epochs,
    batch_size: Annotated[int, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.batch_size,
    optimizer: Annotated[
        str, typer.Option(help="sgd or adamw.", rich_help_panel=RECIPE, autocompletion=one_of(OPTIMIZERS))
    ] = DEFAULTS.optimizer,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=RECIPE)] = DEFAULTS.lr,
    lr_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Batch that --lr is for: with another --batch-size the rate is in proportion (Goyal et al., 2017).",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.lr_batch_size,
    schedule: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(training.SCHEDULES)}.",
            rich_help_panel=RECIPE,
            autocompletion=one_of(training.SCHEDULES),
        ),
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
    bias_lr: Annotated[
        float, typer.Option(help="Share of the rate for the biases of batch norm.", rich_help_panel=RECIPE)
    ] = DEFAULTS.bias_lr,
    layer_decay: Annotated[
        float,
        typer.Option(
            help="Share of the rate for each part of the network (stem, layer1, ...), of that of the next; for "
            "fine-tuning.",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.layer_decay,
    ema: Annotated[
        float,
        typer.Option(
            help="Keep a moving average of the weights, of which each step leaves this share, and test that.",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.ema,
    lookahead: Annotated[
        float,
        typer.Option(
            help="Go back to slow weights every five steps, of which each step at the end leaves this share.",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.lookahead,
    whiten: Annotated[
        bool,
        typer.Option(
            help="Let the first convolution whiten patches of the images, and stay so.", rich_help_panel=RECIPE
        ),
    ] = DEFAULTS.whiten,
    zero_init_residual: Annotated[
        bool,
        typer.Option(
            help="Start each block's last batch norm at 0, so that the block is its shortcut.", rich_help_panel=RECIPE
        ),
    ] = DEFAULTS.zero_init_residual,
    label_smoothing: Annotated[float, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.label_smoothing,
    clip_norm: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient.", rich_help_panel=RECIPE)
    ] = DEFAULTS.clip_norm,
    pad: Annotated[
        int, typer.Option(help="Pixels around an image before a crop.", rich_help_panel=VARIATION)
    ] = DEFAULTS.pad,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images.", rich_help_panel=VARIATION)] = DEFAULTS.flip,
    alternate_flip: Annotated[
        bool, typer.Option(help="Mirror each image in every other epoch, not at random.", rich_help_panel=VARIATION)
    ] = DEFAULTS.alternate_flip,
    cutout: Annotated[int, typer.Option(help="Side of a blanked square.", rich_help_panel=VARIATION)] = DEFAULTS.cutout,
    mixup: Annotated[
        float, typer.Option(help="Mix images and labels in pairs: alpha of their shares.", rich_help_panel=VARIATION)
    ] = DEFAULTS.mixup,
    cutmix: Annotated[
        float, typer.Option(help="Put a part of another image into each: alpha.", rich_help_panel=VARIATION)
    ] = DEFAULTS.cutmix,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Run folder; by default a new one in runs/.", show_default=False, rich_help_panel=RUN
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in the folder --out.", rich_help_panel=RUN)
    ] = False,
    seed: Annotated[int, typer.Option(help="One seed, one result.", rich_help_panel=RUN)] = DEFAULTS.seed,
    shards: Annotated[
        int | None,
        typer.Option(
            help="Parts of a batch for processes to share out, each with its own batch norm: the same result on any "
            "number of processes that divides it. As many as there are processes by default.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    sync_batch_norm: Annotated[
        bool,
        typer.Option(
            help="Normalise by the statistics of all of a batch, not of each shard alone.", rich_help_panel=MACHINE
        ),
    ] = DEFAULTS.sync_batch_norm,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(
            metavar="N|Nm",
            help="Save after so many steps, or minutes (10m), besides the end of each epoch.",
            rich_help_panel=RUN,
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    detect_anomaly: Annotated[
        bool,
        typer.Option(
            "--detect-anomaly", help="Stop at the first operation that gives NaN or infinity.", rich_help_panel=RUN
        ),
    ] = False,
    recompute: Annotated[
        int,
        typer.Option(
            metavar="BLOCKS",
            help="Save memory: keep only what goes into so many blocks, and run them again in backward. 0 keeps all.",
            min=0,
            rich_help_panel=MACHINE,
        ),
    ] = 0,
) -> None:
    """Train a network, and test the checkpoint that did best on held-out images.

    The run folder gets config.json, metrics.jsonl, last.safetensors, best.safetensors and, with the extra plot,
    curves.png. Ctrl-C finishes the step and saves; --resume goes on from there, and with a larger --epochs beyond the
    end, at the learning rates of a run of so many. previous.safetensors is the checkpoint before the last.
    """
    with errors():
        work_together(threads)
        every = _every(checkpoint_every)
        fields = {f.name: context.params[f.name] for f in dataclasses.fields(training.Config)}
        fields["shards"] = parallel.world_size() if shards is None else shards
        given = [name for name in fields if (s := context.get_parameter_source(name)) and s.name == "COMMANDLINE"]
        start = starting_point(recipe, config_file, model if "model" in given else None)
        fields |= {name: value for name, value in start.items() if name not in given}
        if resume:
            if recipe is not None or config_file is not None:
                option = "--recipe" if recipe is not None else "--config"
                raise UserError(f"{option}: a run that goes on has its configuration; leave it out to resume")
            if out_folder is None:
                raise UserError("--resume needs the run's folder: --out DIR")
            wanted = {name: fields[name] for name in given}
            config = config_to_resume(out_folder, wanted, called=lambda name: "--" + name.replace("_", "-"))
        else:
            if out_folder and holds_run(out_folder):
                raise UserError(ALREADY.format(out_folder))
            config = configuration(fields)
        named = f"{config.model}-{config.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
        folder = out_folder or Path("runs") / world().texts(named)[0]  # of one moment, whichever came first
        with reading() as progress:
            run = training.Run(
                config, folder, resume=resume, anomaly=detect_anomaly, recompute=recompute, progress=progress
            )
        for note in run.notes:
            out.print(note, soft_wrap=True)
        parameters = sum(p.size for p in run.model.parameters())
        images = len(run.data.train[1])
        network = f"{config.model} ({parameters:,} parameters)"
        how = f"{parallel.world_size()} processes of " if parallel.world_size() > 1 else ""
        how += f"{num_threads()} thread{'s' if num_threads() > 1 else ''}"
        out.print(f"{network} on {config.dataset} ({images:,} images), {how}", soft_wrap=True)
        where = f"Run folder: {folder}" + (f", from step {run.step} of {run.total_steps}" if resume else "")
        out.print(where, soft_wrap=True)
        prepare_kernels()
        try:
            result = run.fit(ProgressBar(out), every=every)
        except training.Interrupted:
            out.print(f"Stopped and saved at step {run.step} of {run.total_steps}. To go on:")
            out.print(f"  {shell('tinyres', 'train', '--out', folder, '--resume')}", soft_wrap=True)
            raise typer.Exit(130) from None
        chosen = "best" if config.validation else "last"
        scores = f"Test accuracy {result['test_accuracy']:.2%}, loss {result['test_loss']:.4f}"
        out.print(f"{scores} ({folder / chosen}.safetensors)", soft_wrap=True)
        if not (folder / "curves.png").exists():
            out.print(f"No curves.png: {extras.missing(plots.NEEDS, 'plot')}")


def _every(text: str | None) -> training.Every | None:
    try:
        return None if text is None else training.Every.parse(text)
    except ValueError as error:
        raise UserError(f"--checkpoint-every: {error}") from None
