"""Shared by all commands: printing, error messages, and common options."""

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from tinyres import data, models, parallel
from tinyres import train as training
from tinyres.backend import set_num_threads
from tinyres.files import write_whole
from tinyres.kernels import warmup
from tinyres.kernels.compile import cache_folder
from tinyres.parallel.launch import launch
from tinyres.parallel.world import Elsewhere, failing
from tinyres.progress import bars
from tinyres.progress import console as console
from tinyres.runs import is_part_of_run

# headings of options in a command's help
DATA, MODEL, RECIPE, MEASUREMENT, RESULTS = "Data", "Model", "Recipe", "Measurement", "Results"
RUN, MACHINE = "Run", "Machine"


out = console()


class UserError(Exception):
    """An error that the user can correct. It is printed without a traceback."""


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn the errors a user can cause into one message and exit code 1, and Ctrl-C into exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        _fail(Text("Stopped."), 130)
    except (UserError, ValueError, OSError, ArithmeticError, ImportError, MemoryError, Elsewhere) as error:
        _fail(Text.assemble(("Error:", "bold red"), f" {str(error) or type(error).__name__}"), 1)


def _fail(message: Text, code: int) -> NoReturn:
    """Print an error message and end this process, and also those that work with it, which might wait for it."""
    with failing(code) as where:
        console(stderr=True).print(where, message, sep="", soft_wrap=True)
    raise typer.Exit(code)


def number(value: float | None, form: str) -> str:
    """A number in a table; "-" if there is none."""
    return "-" if value is None else format(value, form)


def show(table: Table) -> None:
    """Print a table. On a terminal it has the terminal's width; elsewhere lines are not broken."""
    to = out if out.is_terminal or out.quiet else console(max(out.width, console(10**6).measure(table).maximum))
    to.print(table)


def json_text(found: Any) -> str:
    """Numbers as JSON text. JSON has no NaN and no infinity: they become null."""
    finite = json.loads(json.dumps(found), parse_constant=lambda name: None)
    return json.dumps(finite, indent=2, allow_nan=False) + "\n"


@contextlib.contextmanager
def numbers_to(file: Path | None) -> Iterator[Callable[[Any], None]]:
    """Yield a function that takes a command's numbers before they are printed, and writes them where --json says.

    If this is stdout, nothing else is written there: earlier output goes to stderr, and the usual output, which has the
    same numbers as text, is left out.
    """
    alone = file == Path("-")
    if file is not None and not alone:
        if file.is_dir() or not file.parent.is_dir():
            raise UserError(f"--json: got {file}, expected a file in a folder that exists")
        if file.is_file() and file.suffix != ".json":  # `predict ... --json a.png` may mean the picture
            raise UserError(
                f"--json: got {file}, which exists and is not a .json file; expected a new file, or a .json file"
            )
        if is_part_of_run(file):
            raise UserError(f"--json: got {file}, a file of a run; expected another file")

    def take(found: Any) -> None:
        if file is None or ((launched := launch()) and launched.rank):
            return
        if alone:
            out.quiet = True
            sys.stdout.write(json_text(found))
        else:
            write_whole(file, json_text(found).encode())

    before = out.stderr, out.quiet
    out.stderr = alone
    try:
        yield take
    finally:
        out.stderr, out.quiet = before


@contextlib.contextmanager
def busy(with_what: str) -> Iterator[None]:
    """Show a message during work that takes long: on a terminal while it lasts, elsewhere as a line."""
    if out.is_terminal:
        with out.status(with_what):
            yield
    else:
        out.print(with_what, soft_wrap=True)
        yield


def expect_folder(path: Path) -> None:
    """Check, before the work begins, that results can be written to this folder."""
    if path.exists() and not path.is_dir():
        raise UserError(f"--out: got {path}, a file; expected a folder")


def shell(*words: object) -> str:
    """A command line of these words, quoted for a shell."""
    return shlex.join(map(str, words))


def use_threads(n: int | None) -> None:
    """Set the number of threads from --threads."""
    if n is not None:
        try:
            set_num_threads(n)
        except ValueError as error:  # its message has the name of another argument
            raise UserError(f"--threads: {str(error).removeprefix('n: ')}") from None


def work_together(n: int | None) -> None:
    """Connect to the processes that a launcher started, if it did, each with as many threads as --threads says."""
    if launched := launch():
        try:
            parallel.init()
        except (ImportError, RuntimeError) as error:
            if launched.local_rank:  # the error is the same for all processes of a machine: the first one prints it
                raise typer.Exit(1) from None
            raise UserError(str(error)) from None
    use_threads(n)


def progress(*columns: ProgressColumn) -> Progress:
    """Progress bars, only on a terminal."""
    return bars(out, *columns)


def prepare_kernels() -> None:
    """Compile the kernels before the first step, if the cache is empty and the output is a terminal.

    A user would wonder why the first step is so slow. Elsewhere each kernel is compiled when it is first used, which is
    the same work.
    """
    if out.is_terminal and not any(cache_folder().rglob("*.nbi")):
        out.print("Compiling kernels, once per version and machine; later runs start at once.", soft_wrap=True)
        compile_kernels()


def compile_kernels() -> int:
    """Compile or load all kernels of a training step, with a progress bar. Returns their number."""
    steps = list(warmup.steps())
    columns = TextColumn("{task.description:<32}"), BarColumn(), MofNCompleteColumn()
    with progress(*columns) as bar:
        task = bar.add_task("", total=len(steps))
        for name, compile_kernel in steps:
            bar.update(task, description=name)
            compile_kernel()
            bar.advance(task)
    return len(steps)


def one_of(*known: Iterable[str], commas: bool = False) -> Callable[[str], list[str]]:
    """Completion for a shell: the names in these tables. With `commas`, it completes the last of several words."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if commas else ("", "", incomplete)
        return [before + comma + name for names in known for name in names if name.startswith(last)]

    return complete


ModelName = Annotated[
    str,
    typer.Argument(help="Name of a model, e.g. resnet20.", show_default=False, autocompletion=one_of(models.FAMILY)),
]
Threads = Annotated[int | None, typer.Option(help="Threads to use; all cores by default.", rich_help_panel=MACHINE)]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        help="Write all numbers to this file, as JSON. For - or without a name, print the JSON and nothing else.",
        show_default=False,
        rich_help_panel=RESULTS,
    ),
]
DataOption = Annotated[
    str | None, typer.Option(help="Folder with the data set.", show_default=False, rich_help_panel=DATA)
]


@contextlib.contextmanager
def reading() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar while pictures are read. Yields a function that updates it."""
    columns = TextColumn("reading pictures"), BarColumn(), MofNCompleteColumn()
    with progress(*columns) as bar:
        task = bar.add_task("", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)


def configuration(fields: dict[str, Any]) -> training.Config:
    """The configuration that the options describe. `auto` is replaced by the data set that is available."""
    if fields["dataset"] != "auto":
        return training.Config(**fields)
    config = training.Config(**{**fields, "dataset": "cifar10"})
    try:
        data.cifar10(config.data, "test")
    except data.DatasetNotFound:
        if config.data is not None:
            raise
        out.print(
            "CIFAR-10 was not found and cannot be downloaded: training on the built-in shapes. "
            "To use CIFAR-10: --data DIR with cifar-10-binary.tar.gz in DIR.",
            soft_wrap=True,
        )
        validation = min(config.validation, 2000)
        return dataclasses.replace(config, dataset="shapes", validation=validation)
    return config
