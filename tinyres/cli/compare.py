"""`tinyres compare`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from tinyres import plots
from tinyres.console import RESULTS, Json, UserError, errors, expect_folder, json_text, number, numbers_to, out, show
from tinyres.files import write_whole
from tinyres.study import comparison


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, two or more.", show_default=False)],
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Write comparison.html, comparison.json and comparison.png here.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Compare runs: differences in their configurations, accuracy, and minutes.

    With --out, it also writes a page with their curves in one figure. Minutes are those of training and validation.
    Choose between runs by the accuracy on validation images, and look at the test accuracy only at the end.
    """
    with errors(), numbers_to(json_file) as take:
        different = list(dict.fromkeys(runs))
        if len(different) < 2:
            raise UserError(f"RUNS: got {len(different)}, expected two or more to compare")
        if out_folder:
            expect_folder(out_folder)
        records = [comparison.read(run) for run in different]
        found = comparison.numbers(records)
        if out_folder:
            _write(out_folder, records, found)
        take(found)
        _tell(records, found)
        if out_folder:
            out.print(f"Written: comparison.html, comparison.json, comparison.png in {out_folder}", soft_wrap=True)


def _write(folder: Path, records: list[comparison.Record], found: dict[str, Any]) -> None:
    figure = comparison.draw(records)
    html = comparison.page(records, figure)  # before files are written: a package may be missing
    folder.mkdir(parents=True, exist_ok=True)
    plots.save(figure, folder / "comparison.png")
    write_whole(folder / "comparison.json", json_text(found).encode())
    write_whole(folder / "comparison.html", html.encode())


def _tell(records: list[comparison.Record], found: dict[str, Any]) -> None:
    if found["differences"]:
        table = Table("setting", *(r.name for r in records), title="What differs")
        for name, values in found["differences"].items():
            table.add_row(name, *("-" if value is None else str(value) for value in values))
        show(table)
    else:
        out.print("Their configurations are the same.")
    headings = ("run", "epochs", "minutes", "training loss", "best validation", "test", "test loss")
    table = Table(*headings, title="Results")
    for column in table.columns[1:]:
        column.justify = "right"
    for run in found["runs"]:
        table.add_row(
            run["run"],
            f"{run['epochs']} of {run['of']}",
            number(run["minutes"], ".1f"),
            number(run["train_loss"], ".4f"),
            number(run["best_validation_accuracy"], ".2%"),
            number(run["test_accuracy"], ".2%"),
            number(run["test_loss"], ".4f"),
        )
    show(table)
