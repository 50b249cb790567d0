"""The command `tinyres`: loads and runs it, so that Ctrl-C while it loads leaves without a traceback."""

import sys


def main() -> None:
    """Entry point."""
    try:
        from tinyres.cli import main as run  # loads Numba, which takes a second

        run()
    except KeyboardInterrupt:
        sys.exit(130)
