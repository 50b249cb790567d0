"""The command line. Each command has a file, which parses arguments, calls the package, and prints.

Typer takes a command's options from the signature of its function, so these functions have a parameter for each option,
however many there are. The same is true of `tinyres.study.commands`.
"""

import contextlib
import inspect
import io
import itertools
import re
import sys
import warnings
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from PIL import Image
from typer.core import TyperGroup

import tinyres as tr
from tinyres.cli import compare, evaluate, export, lr_find, predict, profile, recipes, summary, train, verify, warmup
from tinyres.console import out
from tinyres.parallel.launch import launch
from tinyres.study.commands import app as study

__all__ = ["app", "main"]


class Commands(TyperGroup):
    """The group of all commands. ``--json`` without a file means ``--json -``, since Typer has no optional values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # for completion, a shell asks for files here
            following = itertools.pairwise([*args, "--"])
            args = ["--json=-" if a == "--json" and b != "-" and b.startswith("-") else a for a, b in following]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    help="Residual networks from scratch, trained on a CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in (
    ("train", train.train),
    ("lr-find", lr_find.lr_find),
    ("recipes", recipes.recipes),
    ("verify", verify.verify),
    ("eval", evaluate.evaluate),
    ("compare", compare.compare),
    ("predict", predict.predict),
    ("export", export.export),
    ("summary", summary.summary),
    ("profile", profile.profile),
    ("warmup", warmup.warmup),
):
    app.command(name)(command)
app.add_typer(study, name="study")
for info in (*app.registered_commands, *study.registered_commands):  # line breaks come from the terminal
    info.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(info.callback.__doc__ or ""))


SHARED = ("train", "eval", "predict", "profile")
"""Commands whose work several processes share. All others run only in the first process."""

UsageError: Any = typer.BadParameter.__base__  # Click's, or that of Typer's own copy of it


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if (launched := launch()) and launched.rank and context.invoked_subcommand not in SHARED:
        raise typer.Exit
    if version:
        out.print(f"tinyres {tr.__version__}, kernels for {tr.machine.simd()}")
        raise typer.Exit


def main() -> None:
    """Entry point of the `tinyres` command."""
    try:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the user chose the picture
        np.seterr(all="ignore")  # a run that diverges has its own message
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, io.UnsupportedOperation):  # a stream without this method
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names can be in any script
        if (launched := launch()) and launched.local_rank:
            _run_quietly()
        app(prog_name="tinyres")  # also of `python -m tinyres`, whose completion has that name
    except KeyboardInterrupt:
        sys.exit(130)


def _run_quietly() -> NoReturn:
    """Run a command in a process that is not the first of its machine: only the first one prints error messages."""
    try:
        sys.exit(app(standalone_mode=False))
    except typer.Abort:
        sys.exit(1)
    except typer.Exit as ended:  # after Ctrl-C
        sys.exit(ended.exit_code)
    except UsageError as error:
        sys.exit(error.exit_code)
