"""`tinyres eval`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from tinyres import checkpoints, evaluation, plots
from tinyres import train as training
from tinyres.cli.options import Checkpoint
from tinyres.console import (
    DATA,
    RESULTS,
    DataOption,
    Json,
    Threads,
    UserError,
    errors,
    expect_folder,
    json_text,
    number,
    numbers_to,
    one_of,
    out,
    show,
    work_together,
)
from tinyres.data import Loader
from tinyres.files import write_whole
from tinyres.parallel.world import world
from tinyres.study import scores as pictures

SPLITS = ("test", "validation", "train")
CONFUSED = 5  # how many kinds of mistakes the text lists


def evaluate(
    checkpoint_file: Checkpoint,
    data: DataOption = None,
    split: Annotated[
        str,
        typer.Option(
            help="test; validation, the images that the run held out; or train, all training images.",
            autocompletion=one_of(SPLITS),
            rich_help_panel=DATA,
        ),
    ] = "test",
    flip: Annotated[
        bool,
        typer.Option(
            "--flip", help="Also evaluate each image mirrored, and use the mean of both logits.", rich_help_panel=DATA
        ),
    ] = False,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write evaluation.json, confusion.png, calibration.png, mistakes.png here.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    json_file: Json = None,
    threads: Threads = None,
) -> None:
    """Evaluate a checkpoint on its data set: loss, accuracy of each class, and calibration.

    A network is calibrated if 80 % of its answers with a confidence of 80 % are right, and so for every confidence. The
    expected calibration error is the mean distance from this. With --out, it also writes pictures: the confusion
    matrix, the reliability diagram and the worst mistakes.
    """
    with errors(), numbers_to(json_file) as take:
        work_together(threads)
        if split not in SPLITS:
            raise UserError(f"--split: got {split!r}, expected {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
        if out_folder:
            plots.subplots()  # if matplotlib is missing, say so now and not after minutes
            expect_folder(out_folder)
        model, info = checkpoints.load_model(checkpoint_file)
        try:
            config = training.Config(**{**info["config"], "data": data or info["config"].get("data")})
        except (TypeError, ValueError) as error:
            raise UserError(f"{checkpoint_file}: has a configuration that is not valid ({error})") from error
        if split == "validation" and not config.validation:
            raise UserError(f"--split: got {split}, but the run of {checkpoint_file} held out no images")
        seen = training.read_split(config, split)
        if list(seen.classes) != info["classes"]:
            there, known = (", ".join(map(str, names)) for names in (seen.classes, info["classes"]))
            raise UserError(f"--data: got pictures of {there}; expected the classes of {checkpoint_file}: {known}")
        for note in seen.notes:
            out.print(note, soft_wrap=True)
        options = {"mean": info["mean"], "std": info["std"], "shuffle": False}
        scores = evaluation.score(model, Loader(seen.images, seen.labels, evaluation.BATCH, **options), flip=flip)
        found = {
            "dataset": config.dataset,
            "split": split,
            "flip": flip,
            **numbers(scores, info["classes"], seen.files),
        }
        if out_folder and world().rank == 0:
            _write(out_folder, found, scores, seen.images, info["classes"])
        take(found)
        looked_at = f"{found['images']:,} images" + (", each mirrored as well" if flip else "")
        accuracy = f"accuracy {scores.accuracy:.2%}, loss {scores.loss:.4f}"
        out.print(f"{config.dataset} {split}: {accuracy} ({looked_at})", soft_wrap=True)
        _tell(found)
        if out_folder:
            out.print(f"Written: evaluation.json, {', '.join(PICTURES)} in {out_folder}", soft_wrap=True)


def numbers(scores: evaluation.Scores, classes: list[str], files: Sequence[Path]) -> dict[str, Any]:
    """The results as values for JSON. The worst mistakes have their files, if there are files."""
    calibration = scores.calibration()
    per_class = zip(
        classes, scores.confusion.sum(1).tolist(), _numbers(scores.recall), _numbers(scores.precision), strict=True
    )
    worst = scores.worst(pictures.SHEET)
    return {
        "images": len(scores.labels),
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "calibration_error": calibration.error,
        "calibration": {name: _numbers(array) for name, array in calibration._asdict().items()},
        "classes": [{"name": n, "images": i, "accuracy": r, "precision": p} for n, i, r, p in per_class],
        "confusion": scores.confusion.tolist(),
        "confused": [{"class": classes[a], "answer": classes[b], "images": i} for a, b, i in scores.confused(CONFUSED)],
        "worst": [
            {
                "image": int(i),
                **({"file": str(files[i])} if files else {}),
                "class": classes[scores.labels[i]],
                "answer": classes[scores.answers[i]],
                "probability": float(scores.probabilities[i, scores.labels[i]]),
            }
            for i in worst
        ],
    }


def _numbers(array: Any) -> list[float | None]:
    """The numbers of an array for JSON, which has no NaN: None instead."""
    return [None if np.isnan(value) else value for value in array.tolist()]


def _tell(found: dict[str, Any]) -> None:
    table = Table("class", "images", "accuracy", "precision")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in found["classes"]:
        shares = (number(row[key], ".1%") for key in ("accuracy", "precision"))
        table.add_row(row["name"], f"{row['images']:,}", *shares)
    show(table)
    for pair in found["confused"]:
        of = next(row["images"] for row in found["classes"] if row["name"] == pair["class"])
        out.print(f"{pair['class']} taken for {pair['answer']}: {pair['images']:,} of {of:,}", soft_wrap=True)
    out.print(f"Expected calibration error {found['calibration_error']:.2%} ({evaluation.BINS} bins)", soft_wrap=True)


PICTURES = ("confusion.png", "calibration.png", "mistakes.png")


def _write(folder: Path, found: dict[str, Any], scores: evaluation.Scores, images: Any, classes: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "evaluation.json", json_text(found).encode())
    drawn = (
        pictures.confusion(scores, classes),
        pictures.reliability(scores),
        pictures.mistakes(scores, images, classes),
    )
    for name, figure in zip(PICTURES, drawn, strict=True):
        plots.save(figure, folder / name)
