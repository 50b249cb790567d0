"""`tinyres verify`."""

from pathlib import Path
from typing import Annotated

import typer

from tinyres import train as training
from tinyres import verify as verification
from tinyres.backend import num_threads
from tinyres.console import Threads, errors, out, reading, use_threads
from tinyres.progress import ProgressBar


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/NAME.", show_default=False)],
    threads: Threads = None,
) -> None:
    """Repeat the steps between the last two checkpoints of a run, and compare every bit of the result.

    The folder is not changed. The number of threads does not matter. But another processor, or another version of
    tinyres or its libraries, may round differently.
    """
    with errors():
        use_threads(threads)
        with reading() as progress:
            try:
                found = verification.verify(folder, ProgressBar(out), progress=progress)
            except training.Interrupted:
                raise typer.Exit(130) from None
        n = num_threads()
        on = f"{n} thread{'s' if n > 1 else ''}"
        out.print(
            f"Certified: steps {found.start} to {found.stop}, run again on {on}, give the state "
            f"of {folder / 'last.safetensors'} to the last bit",
            soft_wrap=True,
        )
        out.print(f"SHA-256 {found.sha256}", soft_wrap=True)
