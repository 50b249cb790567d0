"""``python -m tinyres``: the command line."""

from tinyres_command import main

main()
