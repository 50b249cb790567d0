"""``python -m tinyres``: the command line."""

from tinyres.cli import main

main()
