"""Faults in gradients of tinyres, made on purpose by one small edit each: for tests to notice, and learners to find.

They are in ``mutants.txt``, which reads like a diff. A line that begins with ``@`` has a file of the package, and the
tests that must notice the faults below it. A fault has a name, in brackets the operation whose gradcheck shows it (if
there is one), and lines or parts of lines: those after ``-`` are in the file once, those after ``+`` replace them.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from tinyres.testing.mutation import Mutant

PACKAGE = Path(__file__).parents[1]

_FAULT = re.compile(r"^(?P<name>[^-+\n].*?)( \[(?P<op>\w+)\])?\n(?P<before>(-.*\n)+)(?P<after>(\+.*\n)*)", re.M)


def _read(text: str) -> Iterator[Mutant]:
    for part in re.split("^@ ", text, flags=re.M)[1:]:
        place, _, faults = part.partition("\n")
        file, _, tests = place.partition(": ")
        if rest := _FAULT.sub("", faults).strip():
            raise ValueError(f"mutants.txt, {file}: expected a name, lines after - and lines after +, got {rest!r}")
        for fault in _FAULT.finditer(faults):
            before, after = ("\n".join(s[1:] for s in fault[sign].splitlines()) for sign in ("before", "after"))
            yield Mutant(fault["name"], file, before, after, tests, fault["op"] or "")


MUTANTS = tuple(_read(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")))
