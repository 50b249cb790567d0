"""The stored figures: what a benchmark has written with --json, in benchmarks/results."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from studies import RESULTS

Figures = dict[str, Any]


def path(name: str) -> Path:
    """The file of a benchmark's figures."""
    return RESULTS / f"{name}.json"


@cache
def read(name: str) -> Figures:
    """The figures of a benchmark, by the name of its file."""
    figures: Figures = json.loads(path(name).read_text())
    return figures
