"""`tinyres study gradcheck`."""

from typing import Annotated

import typer
from rich.table import Table

from tinyres import ops as operations
from tinyres.console import Json, errors, number, numbers_to, one_of, show
from tinyres.study import gradcheck as study
from tinyres.study.commands.shared import Out, app, folder_for, write


@app.command("gradcheck")
def gradcheck(
    ops: Annotated[
        list[str],
        typer.Argument(
            metavar="OP...",
            help="Operations, such as exp, relu, batch_norm; each gets a panel.",
            autocompletion=one_of(operations.__all__),
        ),
    ],
    seed: Annotated[int, typer.Option(help="Seed of the numbers and the direction.", min=0)] = 0,
    out_folder: Out = None,
    json_file: Json = None,
) -> None:
    """Explain gradcheck: show how the error of a difference quotient depends on its step, in float64 and float32."""
    with errors(), numbers_to(json_file) as take:
        found = [study.errors(op, seed) for op in ops]
        figure = study.draw(found)
        folder = folder_for("gradcheck", out_folder)
        sentences = [sentence for one in found for sentence in study.verdict(one)]
        curves = {one.op: {k: c._asdict() for k, c in one.curves.items()} for one in found}
        about = {one.op: {"derivative": one.derivative, "kink": one.kink} for one in found}
        numbers = {"seed": seed, "steps": study.STEPS.tolist(), "operations": about, "curves": curves}
        numbers["verdict"] = sentences
        take(numbers)
        table = Table("operation", "dtype", title="Smallest relative error of the central difference")
        for heading in ("best step", "predicted", "error", "predicted", "kink from"):
            table.add_column(heading, justify="right")
        for one in found:
            for dtype, curve in one.curves.items():
                row = curve.best_step, curve.predicted_step, curve.best_error, curve.predicted_error, one.kink
                table.add_row(one.op, dtype, *(number(n, ".1e") for n in row))
        show(table)
        write(folder, "gradcheck", numbers, figure)
