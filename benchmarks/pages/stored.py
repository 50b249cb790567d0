"""The stored figures: what a benchmark has written with --json, in benchmarks/results."""

import json
from functools import cache
from typing import Any

from studies import RESULTS

Figures = dict[str, Any]


@cache
def read(name: str) -> Figures:
    """The figures of a benchmark, by the name of its file."""
    figures: Figures = json.loads((RESULTS / f"{name}.json").read_text())
    return figures
