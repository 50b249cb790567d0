"""`tinyres study gym`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tinyres.console import Json, errors, numbers_to, one_of, out, show
from tinyres.study import gym as study
from tinyres.study.commands.shared import app

gym = typer.Typer(help="Exercises: gradients with a fault, for you to repair.", no_args_is_help=False)
app.add_typer(gym, name="gym")

NAMES = [level.name for level in study.LEVELS]
Folder = Annotated[Path, typer.Option("--folder", help="Folder of the levels.")]
Which = Annotated[
    str | None,
    typer.Argument(
        metavar="[LEVEL]", help="Number or name; by default the one started last.", autocompletion=one_of(NAMES)
    ),
]
HERE = Path("gym")


def chosen(folder: Path, level: str | None) -> study.Level:
    """The level that the user named, or the one started last."""
    return study.find(level) if level else study.current_level(study.progress(folder))


@gym.callback(invoke_without_command=True)
def levels(context: typer.Context, folder: Folder = HERE, json_file: Json = None) -> None:
    """Exercises: gradients with a fault. For each level: start, read the smallest failing case, repair, check.

    Without a command, it lists the levels and which of them are solved.
    """
    if context.invoked_subcommand:
        context.default_map = {context.invoked_subcommand: {"folder": folder}}  # --folder may come before the command
        return
    with errors(), numbers_to(json_file) as take:
        done = study.progress(folder)
        states = [_state(level, done, folder) for level in study.LEVELS]
        found = [
            {"number": level.number, "name": level.name, "op": level.op, "file": level.mutant.file, "state": state}
            for level, state in zip(study.LEVELS, states, strict=True)
        ]
        take({"levels": found, "damaged": done.damaged})
        table = Table("", "level", "file", "", title="Each file has one fault; its gradient is wrong")
        for level, state in zip(study.LEVELS, states, strict=True):
            shown = Text(state or "", "green" if state == "solved" else "")
            table.add_row(f"{level.number}", level.op, level.mutant.file, shown)
        show(table)
        if done.damaged:
            out.print(
                f"{folder}/progress.json is damaged, so it is not known which levels are solved; check each again.",
                soft_wrap=True,
            )
        following = study.next_level(done)
        rest = f"Next: tinyres study gym start {following.number}" if following else "All levels are solved."
        out.print(f"{len(done.solved)} of {len(study.LEVELS)} solved. {rest}", soft_wrap=True)


def _state(level: study.Level, done: study.Progress, folder: Path) -> str | None:
    if level.name in done.solved:
        return "solved"
    return "begun" if (folder / level.name / level.file).exists() else None


@gym.command()
def start(
    level: Annotated[
        str | None,
        typer.Argument(
            metavar="[LEVEL]", help="Number or name; by default the first unsolved.", autocompletion=one_of(NAMES)
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Start again; your file is kept as FILE.before.")] = False,
    folder: Folder = HERE,
) -> None:
    """Write the file of a level, which has a fault, into the folder."""
    with errors():
        wanted = study.find(level) if level else study.next_level(study.progress(folder)) or study.LEVELS[-1]
        path, new = study.start(folder, wanted, again=again)
        state = "Broken" if new else "Exists already, and is not changed (--again starts again)"
        out.print(f"Level {wanted.number}, {wanted.op}. {state}: {path}", soft_wrap=True)
        out.print("Repair the gradient there, then: tinyres study gym check", soft_wrap=True)


@gym.command()
def check(level: Which = None, folder: Folder = HERE) -> None:
    """Run gradcheck with your file instead of the package's, and print the smallest case that fails, if any."""
    with errors():
        wanted = chosen(folder, level)
        report = study.check(folder, wanted)
        colour = "green" if report.solved else "red"
        out.print(f"Level {wanted.number}:", Text(report.verdict, f"bold {colour}"), soft_wrap=True)
        if report.case:
            out.print(f"The smallest failing case that was found:\n\n{report.case}\n", soft_wrap=True)
        if report.message:
            out.print(report.message, soft_wrap=True)
        if report.printed:
            out.print(f"\nPrinted on this case:\n{report.printed.rstrip()}", soft_wrap=True)
        if not report.solved:
            raise typer.Exit(1)
        out.print(f"The fault was: {wanted.mutant.name}.", soft_wrap=True)
        following = study.next_level(study.progress(folder))
        out.print(f"Next: tinyres study gym start {following.number}" if following else "All levels are solved.")


@gym.command()
def hint(level: Which = None, folder: Folder = HERE) -> None:
    """Print a hint: where the fault is."""
    with errors():
        out.print(chosen(folder, level).hint, soft_wrap=True)


@gym.command()
def solution(level: Which = None, folder: Folder = HERE) -> None:
    """Print the solution: a diff from the level's file to the package's."""
    with errors():
        wanted = chosen(folder, level)
        out.print(f"{wanted.mutant.name}:", soft_wrap=True)
        out.print(study.solution(wanted), soft_wrap=True, end="")
