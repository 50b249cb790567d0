"""The command `tinyres`: loads and runs it, so that Ctrl-C while it loads leaves without a traceback."""

import os
import signal
import sys


def main() -> None:
    """Entry point."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a background job ignores it, and goes on to
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))  # nothing is open yet that would be lost
    try:
        from tinyres.cli import main as run  # loads Numba, which takes a second
    except ImportError as error:
        if type(error).__name__ != "UnknownInstructionSet":  # which is the user's mistake
            raise
        sys.exit(f"Error: {error}")

    try:
        signal.signal(signal.SIGINT, before)
        run()
    finally:
        if before is signal.default_int_handler:  # what is done is done: Python's own end would show a traceback
            signal.signal(signal.SIGINT, signal.SIG_DFL)
