"""The gym: gradients that are broken on purpose, one in each level, for a learner to find and to repair.

A level is a copy of one file of the package, with one of the faults of `tinyres.testing.mutants` in it. The learner
edits the copy. `check` loads the copy in place of the original, in a process of its own, and examines the operation,
see `tinyres.study.exam`. The package itself is never changed.
"""

import contextlib
import difflib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tinyres.files import write_whole
from tinyres.study import substitute
from tinyres.testing.mutants import MUTANTS, PACKAGE
from tinyres.testing.mutation import Mutant

LIMIT = 60.0  # seconds that a check may take


class Level(NamedTuple):
    """A fault to find."""

    number: int
    mutant: Mutant
    hint: str

    @property
    def op(self) -> str:
        """The operation whose gradient is wrong because of the fault."""
        return self.mutant.op

    @property
    def name(self) -> str:
        """The name of the level's folder."""
        return f"{self.number:02}-{self.op}"

    @property
    def file(self) -> str:
        """The name of the file to repair."""
        return Path(self.mutant.file).name


_HINTS = {  # from easy to hard
    "square root: half of the factor 2": "y^2 = x. Differentiate both sides by x, and solve for dy/dx.",
    "tanh: 1 - y for 1 - y^2": "tanh = sinh / cosh, and cosh^2 - sinh^2 = 1. Is the slope even in x, as it must be?",
    "sigmoid: y for y (1 - y)": "Write y = 1 / (1 + exp(-x)), use the chain rule, and express exp(-x) by y. "
    "For a large x the curve is flat: is the gradient 0 there?",
    "where: the branches' gradients exchanged": "An input gets dL/dy exactly where it was chosen.",
    "permute: the same axes back": "What undoes a permutation? For two axes it is the permutation itself; try three.",
    "concat: cut at lengths, not at their sums": "np.split takes the places to cut at, not how long the pieces are. "
    "With two tensors nobody sees the difference.",
    "pad: cut by what was put behind, not before": "How many elements stand before the first one of x?",
    "matmul: a product of the wrong side": "y_ij = sum_k a_ik b_kj. Write down dL/db_kj with its sum, and read off "
    "which matrix stands on the left.",
    "linear: the weight's gradient upside down": "dW = dy^T x: row o of it belongs to output o.",
    "convolution: the bias's gradient is a mean": "The bias is added to every pixel of every image. What does the "
    "chain rule do with something that is used many times?",
    "cross entropy: 1/N missing": "The loss is a mean over the samples.",
    "cross entropy: smoothing forgotten in the gradient": "The target q is a distribution: with label smoothing s, "
    "every class has s / K of it. Do its elements sum to 1?",
    "cross entropy: the target is added, not taken away": "Where the prediction is the target, the loss is at its "
    "lowest: what is the gradient there?",
    "log-softmax: the sum of dy forgotten": "Each x_j is in the normaliser of all y_i, so each dL/dy_i comes back to "
    "each x_j: dL/dx_j = sum_i dy_i ([i = j] - p_j).",
    "log-softmax: the sum of dy always over the last axis": "Look at `axis` in the failing case. Where is it in the "
    "pullback?",
    "softmax: without the coupling of classes": "dy_i/dx_j is not 0 for i != j: where one probability rises, the "
    "others must fall.",
    "convolution: ReLU's gate forgotten": "Does the failing case have relu=True? Where the ReLU is shut, no gradient "
    "passes to what is before it.",
    "un-broadcast dropped: stretched axes are not summed": "where is right; what it gives is stretched. An input of "
    "length 1 that was used along a whole axis gets the sum of the gradients of all its uses. Look for who undoes "
    "broadcasting.",
    "un-broadcast: mean for sum": "As in the level before: used n times, so how much does y change for a change in x?",
    "batch norm: the residual's gradient is dropped": "y = relu(z + residual): which of the gradients is it that "
    "reaches the shortcut? Compare with what the docstring says of g.",
    "batch norm (reference): the mean of the gradient forgotten": "Shift all of x by the same amount: y does not "
    "change. So what must the elements of dL/dx sum to in each channel?",
    "batch norm (reference): N for N H W": "How many values was the mean of a channel taken over?",
    "batch norm: eps beside the root": "The pullback is right, but for another function: it is derived for "
    "z = (x - mean) / sqrt(var + eps). Compare with the forward.",
}
_BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
LEVELS = tuple(Level(i, _BY_NAME[name], hint) for i, (name, hint) in enumerate(_HINTS.items(), 1))


def find(text: str) -> Level:
    """Find a level by its number or name.

    Raises
    ------
    ValueError
        If there is no such level, or more than one.

    Examples
    --------
    >>> find("3").name, find("03-sigmoid").number, find("sigmoid").number
    ('03-sigmoid', 3, 3)
    """
    levels = [level for level in LEVELS if text in (str(level.number), level.name, level.op)]
    if len(levels) != 1:
        some = ", ".join(level.name for level in levels) or f"1 to {len(LEVELS)}, or a name such as {LEVELS[0].name}"
        raise ValueError(f"level: got {text!r}, expected {'one of ' if levels else ''}{some}")
    return levels[0]


# ---------------------------------------------------------------- what was done
class Progress(NamedTuple):
    """The solved levels, and the current one."""

    solved: tuple[str, ...] = ()  # names of levels, in order
    current: str | None = None  # name of the level that was started last
    damaged: bool = False  # whether the file could not be read


def progress(folder: str | Path) -> Progress:
    """Read ``progress.json`` in the gym's folder. If it is damaged, no level counts as solved."""
    names = [level.name for level in LEVELS]
    try:
        found = json.loads((Path(folder) / "progress.json").read_bytes())
        solved, current = set(found["solved"]), found["current"]
        return Progress(tuple(n for n in names if n in solved), current if current in names else None)
    except FileNotFoundError:
        return Progress()
    except (ValueError, TypeError, KeyError):
        return Progress(damaged=True)


def _keep(folder: Path, done: Progress) -> None:
    """Write progress. A damaged file is kept under another name."""
    content = json.dumps({"solved": done.solved, "current": done.current}, indent=2) + "\n"
    keep = folder / "progress.damaged.json" if done.damaged else None
    write_whole(folder / "progress.json", content.encode(), keep=keep)


def next_level(done: Progress) -> Level | None:
    """The first level that is not solved, or None if all are."""
    return next((level for level in LEVELS if level.name not in done.solved), None)


def current_level(done: Progress) -> Level:
    """The level that was started last.

    Raises
    ------
    ValueError
        If no level was started.
    """
    if done.current is None:
        why = "progress.json is damaged: say which level" if done.damaged else "no level was begun: `start` one"
        raise ValueError(f"level: got none, and {why}")
    return find(done.current)


# ---------------------------------------------------------------- a level
_TEXT = """# Level {level.number}: {level.op}

`{level.file}` is a copy of `tinyres/{level.mutant.file}` in which one thing is broken, so that the gradient of
`{level.op}` is wrong. Find it, and mend it here; the package itself stays as it is.

    tinyres study gym check      # the smallest case that fails, or that it is right
    tinyres study gym hint
    tinyres study gym solution

In gradcheck's message, *analytic* is what the pullback says and *numeric* what the function's own values say, by
(y(x + h) - y(x - h)) / 2h. Index and output index tell which dx and which dy. You may print: what the file prints on
the failing case is shown.
"""


def start(folder: str | Path, level: Level, *, again: bool = False) -> tuple[Path, bool]:
    """Write a level's broken file, and a text with instructions, to the gym's folder.

    Parameters
    ----------
    folder : str or Path
        The gym's folder; it is created if it does not exist.
    level : Level
    again : bool
        Start again if the file exists. The old file is kept, under a name that ends in ``.before``.

    Returns
    -------
    path : Path
        The file to repair.
    new : bool
        Whether the file was written. Without `again`, an existing file is not changed.
    """
    folder = Path(folder)
    path = folder / level.name / level.file
    path.parent.mkdir(parents=True, exist_ok=True)
    new = again or not path.exists()
    if new:
        source = (PACKAGE / level.mutant.file).read_text(encoding="utf-8")
        write_whole(path.parent / "README.md", _TEXT.format(level=level).encode())
        write_whole(path, level.mutant.edit(source).encode(), keep=path.with_name(f"{path.name}.before"))
    _keep(folder, progress(folder)._replace(current=level.name))
    return path, new


def solution(level: Level) -> str:
    """The change that repairs the file, as a unified diff."""
    source = (PACKAGE / level.mutant.file).read_text(encoding="utf-8")
    broken = level.mutant.edit(source)
    names = f"{level.name}/{level.file}", f"tinyres/{level.mutant.file}"
    return "".join(difflib.unified_diff(broken.splitlines(True), source.splitlines(True), *names, n=2))


class Report(NamedTuple):
    """The result of a check."""

    solved: bool
    verdict: str
    case: str = ""  # the smallest problem that fails
    size: int = 0  # count of numbers in this problem
    message: str = ""  # the message of gradcheck or Python
    printed: str = ""  # output of the learner's file on this problem


def check(folder: str | Path, level: Level, *, limit: float = LIMIT) -> Report:
    """Examine a learner's file, and record the level as solved if it is right.

    Parameters
    ----------
    folder : str or Path
        The gym's folder.
    level : Level
    limit : float
        Seconds after which the check stops: the file probably has an endless loop.

    Returns
    -------
    Report
        Solved if gradcheck passes on all problems that were drawn, and results and gradients of all operations are
        those of the original. So changing the forward pass to fit a wrong pullback does not count.

    Raises
    ------
    ValueError
        If the level was not started.
    ImportError
        If Hypothesis is not installed.
    """
    folder = Path(folder)
    path = folder / level.name / level.file
    if not path.is_file():
        raise ValueError(f"{path}: no such file; `tinyres study gym start {level.number}` makes it")
    report = examine(path, level, limit)
    if report.solved:
        done = progress(folder)
        _keep(folder, done._replace(solved=tuple(sorted({*done.solved, level.name})), current=level.name))
    return report


def examine(path: Path, level: Level, limit: float = LIMIT) -> Report:
    """Do the work of `check` without a gym's folder: is this file right in place of the level's?"""
    import tinyres.testing.strategies  # noqa: F401  # says how to install Hypothesis
    from tinyres.study import exam

    module = "tinyres." + level.mutant.file.removesuffix(".py").replace("/", ".")
    with tempfile.TemporaryDirectory() as temporary, _storage(temporary):
        expected, report, trace = (Path(temporary) / name for name in ("expected.npz", "report.json", "trace.txt"))
        exam.save(expected, exam.originals(level.op))
        # -B: the bytecode of an edit in the same second would be used; -P: no imports from the current folder
        command = [sys.executable, "-B", "-P", substitute.__file__, PACKAGE.parent, module, path.resolve(), level.op]
        command += [expected, report, trace, limit]
        try:  # the process stops itself after the limit; this is for a process that cannot
            process = subprocess.run(
                list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=limit + 60
            )
        except subprocess.TimeoutExpired:
            return Report(False, _endless(limit))
        if trace.exists() and (stack := trace.read_text()):
            return Report(False, _endless(limit), message=_place(stack, path.resolve()))
        if not report.exists():
            errors = process.stderr.decode(errors="replace")[-2000:]
            return Report(False, f"Python ended with code {process.returncode}, without a result.", message=errors)
        fault = json.loads(report.read_bytes())
    if fault:
        return Report(False, **fault)
    return Report(True, f"Right: {level.op} passes gradcheck on {exam.EXAMPLES} cases, and nothing else has changed.")


@contextlib.contextmanager
def _storage(folder: str) -> Iterator[None]:
    """Hypothesis writes nothing to the current folder, in this process and in the one that it starts."""
    name = "HYPOTHESIS_STORAGE_DIRECTORY"
    before = os.environ.get(name)
    os.environ[name] = folder
    try:
        yield
    finally:
        os.environ.pop(name)
        os.environ.update({} if before is None else {name: before})


def _endless(limit: float) -> str:
    return f"Stopped after {limit:g} seconds: is there a loop without an end?"


def _place(stack: str, path: Path) -> str:
    """The innermost line of a traceback that is in the learner's file."""
    return next((f"It was here: {line.strip()}" for line in stack.splitlines() if str(path) in line), "")
