"""``python -m tinyres.cli``: the command line."""

from tinyres.cli import main

main()
