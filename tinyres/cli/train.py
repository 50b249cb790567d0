"""`tinyres train`."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from tinyres import extras, parallel, plots
from tinyres import train as training
from tinyres.backend import num_threads
from tinyres.cli.options import (
    DEFAULTS,
    BatchSize,
    ConfigFile,
    DatasetOption,
    ModelOption,
    RecipeOption,
    Seed,
    Shortcut,
    Stem,
    settings,
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

VARIATION = "Variation of images"
OPTIMIZERS = ("sgd", "adamw")


def train(
    context: typer.Context,
    dataset: DatasetOption = "auto",
    data: DataOption = DEFAULTS.data,
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels to which pictures of a folder are cut; by default that of the model.",
            rich_help_panel=DATA,
        ),
    ] = DEFAULTS.image_size,
    validation: Annotated[
        int,
        typer.Option(
            help="Number of training images held out to choose the best checkpoint (a folder has its val); 0 for none.",
            rich_help_panel=DATA,
        ),
    ] = DEFAULTS.validation,
    subset: Annotated[
        int | None,
        typer.Option(help="Train on only this many images, chosen at random; not for a folder.", rich_help_panel=DATA),
    ] = DEFAULTS.subset,
    model: ModelOption = DEFAULTS.model,
    stem: Stem = DEFAULTS.stem,
    shortcut: Shortcut = DEFAULTS.shortcut,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Start with these weights: a safetensors file as of torchvision or timm, or a checkpoint.",
            rich_help_panel=MODEL,
        ),
    ] = DEFAULTS.weights,
    freeze: Annotated[
        str | None,
        typer.Option(
            help="Do not train the network up to this part: stem, layer1, ...",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = DEFAULTS.freeze,
    num_classes: Annotated[
        int | None,
        typer.Option(help="Number of classes; must be that of the data, which is the default.", rich_help_panel=MODEL),
    ] = DEFAULTS.num_classes,
    recipe: RecipeOption = None,
    config_file: ConfigFile = None,
    epochs: Annotated[int, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.epochs,
    batch_size: BatchSize = DEFAULTS.batch_size,
    optimizer: Annotated[
        str, typer.Option(help="sgd or adamw.", rich_help_panel=RECIPE, autocompletion=one_of(OPTIMIZERS))
    ] = DEFAULTS.optimizer,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=RECIPE)] = DEFAULTS.lr,
    lr_batch_size: Annotated[
        int | None,
        typer.Option(
            help="Batch size that --lr is for. The rate is scaled in proportion to --batch-size (Goyal et al., 2017).",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.lr_batch_size,
    schedule: Annotated[
        str,
        typer.Option(
            help=f"Schedule of the learning rate: {', '.join(training.SCHEDULES)}.",
            rich_help_panel=RECIPE,
            autocompletion=one_of(training.SCHEDULES),
        ),
    ] = DEFAULTS.schedule,
    warmup: Annotated[
        float, typer.Option(help="Part of all steps in which the learning rate rises.", rich_help_panel=RECIPE)
    ] = DEFAULTS.warmup,
    momentum: Annotated[float, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.momentum,
    nesterov: Annotated[bool, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.nesterov,
    weight_decay: Annotated[float, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.weight_decay,
    decay_bias: Annotated[
        bool, typer.Option(help="Whether weight decay applies to biases and batch norm, too.", rich_help_panel=RECIPE)
    ] = DEFAULTS.decay_bias,
    bias_lr: Annotated[
        float, typer.Option(help="Factor on the learning rate of batch norm's biases.", rich_help_panel=RECIPE)
    ] = DEFAULTS.bias_lr,
    layer_decay: Annotated[
        float,
        typer.Option(
            help="Learning rate of each part of the network (stem, layer1, ...), divided by that of the next part; for "
            "fine-tuning.",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.layer_decay,
    ema: Annotated[
        float,
        typer.Option(
            help="Keep a moving average of the weights with this decay per step, and test it; 0 for none.",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.ema,
    lookahead: Annotated[
        float,
        typer.Option(
            help="Go back to slow weights every five steps, with this decay per step at the end; 0 for none.",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.lookahead,
    whiten: Annotated[
        bool,
        typer.Option(
            help="Make the first convolution whiten patches of the images, and do not train it.", rich_help_panel=RECIPE
        ),
    ] = DEFAULTS.whiten,
    zero_init_residual: Annotated[
        bool,
        typer.Option(
            help="Start each block's last batch norm at 0, so that the block is its shortcut at first.",
            rich_help_panel=RECIPE,
        ),
    ] = DEFAULTS.zero_init_residual,
    label_smoothing: Annotated[float, typer.Option(rich_help_panel=RECIPE)] = DEFAULTS.label_smoothing,
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale gradients to at most this norm.", rich_help_panel=RECIPE)
    ] = DEFAULTS.clip_norm,
    pad: Annotated[
        int, typer.Option(help="Pixels added around an image before a random crop.", rich_help_panel=VARIATION)
    ] = DEFAULTS.pad,
    flip: Annotated[
        bool, typer.Option(help="Mirror half of the images at random.", rich_help_panel=VARIATION)
    ] = DEFAULTS.flip,
    alternate_flip: Annotated[
        bool, typer.Option(help="Mirror each image in every second epoch, not at random.", rich_help_panel=VARIATION)
    ] = DEFAULTS.alternate_flip,
    cutout: Annotated[
        int, typer.Option(help="Side of a square set to 0.", rich_help_panel=VARIATION)
    ] = DEFAULTS.cutout,
    mixup: Annotated[
        float, typer.Option(help="alpha of mixup, which mixes images in pairs; 0 for none.", rich_help_panel=VARIATION)
    ] = DEFAULTS.mixup,
    cutmix: Annotated[
        float,
        typer.Option(
            help="alpha of CutMix, which puts a part of another image into each; 0 for none.", rich_help_panel=VARIATION
        ),
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
    seed: Seed = DEFAULTS.seed,
    shards: Annotated[
        int | None,
        typer.Option(
            help="Number of parts of a batch, which processes share. Each part has its own batch norm. The result is "
            "the same for any number of processes that divides this number. By default the number of processes.",
            show_default=False,
            rich_help_panel=MACHINE,
        ),
    ] = None,
    sync_batch_norm: Annotated[
        bool,
        typer.Option(
            help="Batch norm uses the statistics of the whole batch, not of each shard.", rich_help_panel=MACHINE
        ),
    ] = DEFAULTS.sync_batch_norm,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(
            metavar="N|Nm",
            help="Also save every N steps, or every N minutes (10m), not only after each epoch.",
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
            help="Save memory: keep only the input of every group of this many blocks, and run them again in backward. "
            "0 keeps everything.",
            min=0,
            rich_help_panel=MACHINE,
        ),
    ] = 0,
) -> None:
    """Train a network, and test the checkpoint that was best on validation images.

    The run folder gets config.json, metrics.jsonl, last.safetensors, previous.safetensors (the checkpoint before the
    last), best.safetensors and, with the extra plot, curves.png. Ctrl-C finishes the step and saves. --resume continues
    from there. With a larger --epochs it trains beyond the old end, with the learning rates of a run of that length.
    """
    with errors():
        work_together(threads)
        every = _every(checkpoint_every)
        fields, given = settings(context)
        if fields["shards"] is None:
            fields["shards"] = parallel.world_size()
        if resume:
            if recipe is not None or config_file is not None:
                option = "--recipe" if recipe is not None else "--config"
                raise UserError(f"{option}: a resumed run keeps its configuration; leave it out to resume")
            if out_folder is None:
                raise UserError("--resume needs the run's folder: --out DIR")
            wanted = {name: fields[name] for name in given}
            config = config_to_resume(out_folder, wanted, called=lambda name: "--" + name.replace("_", "-"))
        else:
            if out_folder and holds_run(out_folder):
                raise UserError(ALREADY.format(out_folder))
            config = configuration(fields)
        named = f"{config.model}-{config.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
        folder = out_folder or Path("runs") / world().texts(named)[0]  # all processes use the first one's time
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
            out.print(f"Stopped and saved at step {run.step} of {run.total_steps}. To continue:")
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
