"""`tinyres eval`."""

from typing import Annotated

import typer

from tinyres import checkpoints
from tinyres import train as training
from tinyres.cli.options import Checkpoint
from tinyres.console import DataOption, Threads, UserError, errors, out, work_together
from tinyres.data import Loader


def evaluate(
    checkpoint_file: Checkpoint,
    data: DataOption = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    threads: Threads = None,
) -> None:
    """Loss and accuracy of a checkpoint on the data set it was trained on."""
    with errors():
        work_together(threads)
        if split not in ("train", "test"):
            raise UserError(f"--split: got {split!r}, expected train or test")
        model, info = checkpoints.load_model(checkpoint_file)
        try:
            config = training.Config(**{**info["config"], "data": data or info["config"].get("data")})
        except (TypeError, ValueError) as error:
            raise UserError(f"{checkpoint_file}: not a configuration that tinyres has ({error})") from error
        images, labels = training.read_split(config, split)
        loader = Loader(images, labels, training.EVAL_BATCH, mean=info["mean"], std=info["std"], shuffle=False)
        loss, accuracy = training.evaluate(model, loader)
        out.print(f"{config.dataset} {split}: accuracy {accuracy:.2%}, loss {loss:.4f} ({len(labels):,} images)")
