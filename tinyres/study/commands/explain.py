"""`tinyres study explain`."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tinyres import checkpoints, data, models
from tinyres.console import (
    DATA,
    MODEL,
    RESULTS,
    Json,
    ModelName,
    Threads,
    UserError,
    errors,
    numbers_to,
    out,
    use_threads,
)
from tinyres.files import write_whole
from tinyres.nn import Module
from tinyres.nn.init import manual_seed
from tinyres.study import explain as study
from tinyres.study import page
from tinyres.study.commands.shared import app
from tinyres.tape import Array

MEAN, STD = 0.5, 0.25  # about those of the built-in shapes: used for a network with random weights
LARGEST = 20_000_000  # bytes; browsers on phones open pages up to about this size


@app.command("explain")
def explain(
    model: ModelName,
    image: Annotated[
        Path | None, typer.Argument(help="A PNG or JPEG file; by default one of the built-in shapes.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Use weights, image size and classes of this checkpoint.", rich_help_panel=MODEL),
    ] = None,
    label: Annotated[
        int | None,
        typer.Option(
            help="Number of the image's class; by default that of the shape, or the most likely one.",
            rich_help_panel=DATA,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of random weights and of the built-in shape.", min=0, rich_help_panel=MODEL)
    ] = 0,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="File of the page; study/explain/MODEL.html by default.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    json_file: Json = None,
    threads: Threads = None,
) -> None:
    """Explain backpropagation: write a page that shows a forward and a backward pass, node by node.

    The page is one file and works offline. With a checkpoint, batch norm uses the running statistics, as in evaluation.
    Without one, it uses the statistics of the image, as in training.
    """
    with errors(), numbers_to(json_file) as take:
        use_threads(threads)
        page.find_jinja()  # if it is missing, say so before the work
        path = Path("study", "explain", f"{model}.html") if out_file is None else out_file
        if path.is_dir():
            raise UserError(f"--out: got {path}, a folder; expected a file, e.g. {path / 'page.html'}")
        network, info = _network(model, checkpoint, seed)
        size, own_label = info["image_size"], None
        if image is None:
            pixels, labels = data.shapes(1, "test", seed=seed, size=size)
            # a network with random weights, or with other classes, cannot know shapes
            own_label = int(labels[0]) if info["classes"] in (None, list(data.SHAPES_CLASSES)) else None
            picture, what = pixels[0], f"a {data.SHAPES_CLASSES[int(labels[0])]} of the built-in shapes"
        else:
            picture, what = data.read_picture(image, size, resize=info.get("resize")), image.name
        passes = study.explain(network, _normalised(picture, info), own_label if label is None else label)
        classes = info["classes"]
        if classes is None and image is None and len(passes.probabilities) == len(data.SHAPES_CLASSES):
            classes = list(data.SHAPES_CLASSES)
        weights = "random weights" if checkpoint is None else f"weights of {checkpoint.name}"
        mode = "the image's own statistics, as in training" if passes.training else "running statistics, as in use"
        about = f"{weights}; {what}; batch norm with {mode}"
        html = page.render(passes, title=model, about=about, picture=picture, classes=classes).encode()
        if len(html) > LARGEST:
            raise UserError(
                f"{model}: its page would have {len(html) / 1e6:.0f} MB, more than the {LARGEST / 1e6:.0f} MB that "
                "browsers show easily; choose a model with fewer layers"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, html)
        found = _numbers(passes, model)
        take(found)
        out.print(_table(found))
        for sentence in _verdict(passes):
            out.print(sentence, soft_wrap=True)
        out.print(f"Written: {path} ({len(html) / 1e6:.1f} MB). Open it in a browser.", soft_wrap=True)


def _network(name: str, checkpoint: Path | None, seed: int) -> tuple[Module, dict[str, Any]]:
    """The model, and the description of images and classes: from the checkpoint, or a default."""
    if checkpoint is None:
        manual_seed(seed)
        rgb = {"mean": [MEAN] * 3, "std": [STD] * 3}
        return models.create(name), {"image_size": models.image_size(name), "classes": None, **rgb}
    models.check_name(name)
    network, info = checkpoints.load_model(checkpoint)
    if (found := info["model"]["name"]) != name:
        raise UserError(f"--checkpoint: {checkpoint} has {found}, expected {name}: write 'explain {found}' for it")
    return network, info


def _normalised(picture: Array, info: dict[str, Any]) -> Array:
    mean, std = (np.array(info[key], np.float32)[:, None, None] for key in ("mean", "std"))
    return (picture.astype(np.float32) / 255 - mean) / std


def _numbers(passes: study.Passes, model: str) -> dict[str, Any]:
    """The prediction, and for each block the norms of its output and of the gradient there."""
    blocks = []
    for block in passes.blocks:
        step = passes.steps[block.cells[-1].step]
        value, gradient = (_norm(array) for array in (step.value, step.gradient))
        shape = list(step.value.shape[1:])
        blocks.append(
            {
                "block": block.title,
                "operations": len(block.cells),
                "shape": shape,
                "norm_of_value": value,
                "norm_of_gradient": gradient,
            }
        )
    answer = {"loss": passes.loss, "label": passes.label, "probabilities": passes.probabilities.tolist()}
    return {"model": model, "steps": len(passes.steps), **answer, "blocks": blocks}


def _norm(array: Array | None) -> float | None:
    return None if array is None else float(page.statistics(array)["norm"])


def _table(found: dict[str, Any]) -> Table:
    table = Table("block", title=f"{found['model']}: output of each block, and gradient that comes back")
    for heading in ("operations", "shape", "norm of value", "norm of gradient"):
        table.add_column(heading, justify="right")
    for block in found["blocks"]:
        norms = (block["norm_of_value"], block["norm_of_gradient"])
        cells = ("" if norm is None else f"{norm:.4g}" for norm in norms)
        shape = " × ".join(map(str, block["shape"])) or "1"
        table.add_row(block["block"], f"{block['operations']}", shape, *cells)
    return table


def _verdict(passes: study.Passes) -> list[str]:
    """Sentences: how many steps there are, and where gradients were added."""
    sums = sum(len(step.received) > 1 for step in passes.steps)
    image = passes.steps[0].gradient
    assert image is not None
    return [
        f"{len(passes.steps)} steps forward and as many backward; loss {passes.loss:.4f} for class {passes.label}, "
        f"whose probability is {passes.probabilities[passes.label]:.1%}.",
        f"Gradients of {sums} results are sums, since more than one operation used them. "
        f"The norm of dL/dimage is {float(page.statistics(image)['norm']):.4g}.",
    ]
