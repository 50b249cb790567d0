"""Where the programs of this folder write what they found: a file that says on which machine it was."""

import json
from pathlib import Path
from typing import Any

import tinyres as tr


def write(path: Path | None, found: dict[str, Any]) -> None:
    """Write results as JSON, if there is a path."""
    if path:
        path.write_text(json.dumps({"machine": tr.machine.describe(), **found}, indent=1) + "\n")
