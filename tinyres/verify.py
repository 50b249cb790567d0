"""Verify a run: repeat the steps from one of its checkpoints to the next, and compare the results bit by bit.

This works because a run depends only on its configuration (see `tinyres.train`): with the same version of tinyres and
its libraries, and the same kind of processor, the weights must be equal to the last bit.
"""

import dataclasses
import json
import reprlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyres import checkpoints, machine, train
from tinyres.callback import Callback
from tinyres.checkpoints import CheckpointError
from tinyres.recipe import ADDED, fits
from tinyres.runs import read_config
from tinyres.splits import Progress
from tinyres.tape import Array


class Verified(NamedTuple):
    """The result of `verify`: the steps that were repeated with the same result, to the last bit."""

    start: int  # step of the earlier checkpoint
    stop: int  # step of the later one
    sha256: str  # checksum of the state there


def verify(folder: str | Path, callback: Callback | None = None, *, progress: Progress | None = None) -> Verified:
    """Repeat a run from its previous checkpoint to its last one, and compare every bit of the states.

    If there is no previous checkpoint, repeat it from its start. The folder is not changed.

    Parameters
    ----------
    folder : str or Path
    callback : Callback, optional
    progress : callable, optional
        Called with (done, total) while pictures of a folder are read.

    Returns
    -------
    Verified
        The first and the last step, and the SHA-256 of the state at the end.

    Raises
    ------
    CheckpointError
        If a checkpoint is missing or damaged, or the states differ. The message names the first difference.
    Interrupted
        After SIGINT or SIGTERM.

    Examples
    --------
    >>> verify("runs/first")  # doctest: +SKIP
    Verified(start=3168, stop=3520, sha256='...')
    """
    folder = Path(folder)
    config = read_config(folder)
    last, previous, best = (folder / f"{name}.safetensors" for name in ("last", "previous", "best"))
    arrays, info = checkpoints.load(last)
    if (simd := info.get("simd", machine.simd())) != machine.simd():
        raise CheckpointError(
            f"{last}: computed with the instruction set {reprlib.repr(simd)}, and this process uses {machine.simd()}, "
            f"which rounds differently: set TINYRES_SIMD to that of the run, on a processor that has it"
        )
    others = {path: checkpoints.load(path)[1] for path in (best, previous) if path.exists()}  # damaged ones are refused
    stop = _step(last, info)
    if config.extends(info.get("config")):
        config = dataclasses.replace(config, epochs=info["config"]["epochs"])  # it may have been given more since
    earlier = previous in others and _step(previous, others[previous]) < stop
    with tempfile.TemporaryDirectory(prefix="tinyres-verify-") as elsewhere:
        again = Path(elsewhere) / "run"
        if earlier:
            again.mkdir()
            shutil.copyfile(previous, again / last.name)
        run = train.Run(config, again, resume=earlier, progress=progress)
        start = run.step
        if stop > run.total_steps:
            raise CheckpointError(f"{last}: step: got {stop}, expected at most {run.total_steps}, the run's")
        run.train_to(stop, *filter(None, [callback]))
        found = run.state()
        if "simd" not in info:  # an older file
            del found[1]["simd"]
        if isinstance(asked := info.get("config"), dict):
            for name in {*ADDED} - asked.keys():
                del found[1]["config"][name]
    if checkpoints.state_digest(*found) != (expected := checkpoints.state_digest(arrays, info)):
        raise CheckpointError(
            f"{last}: steps {start} to {run.step}, run again, give another state: "
            f"{_difference(found, (arrays, info))}. Either it was computed by another version of tinyres or its "
            "libraries, or on another kind of processor, or it has an error"
        )
    return Verified(start, run.step, expected)


def _step(path: Path, info: dict[str, Any]) -> int:
    step: Any = info.get("step")
    if not fits(step, int) or step < 0:
        raise CheckpointError(f"{path}: step: got {reprlib.repr(step)}, expected a whole number")
    return step


def _difference(
    found: tuple[dict[str, Array], dict[str, Any]], expected: tuple[dict[str, Array], dict[str, Any]]
) -> str:
    """The first thing in which two states differ."""
    for name, array in expected[0].items():
        other = found[0].get(name)
        if other is None or other.shape != array.shape:
            return f"{name} is {'missing' if other is None else f'of shape {other.shape}'}"
        if other.tobytes() != array.tobytes():
            gap = np.abs(np.asarray(other, np.float64) - array).max()
            return f"{name} is up to {gap:.3g} off in {np.count_nonzero(other != array)} of {array.size} numbers"
    names = [key for key, value in json.loads(json.dumps(found[1])).items() if expected[1].get(key) != value]
    return f"{', '.join(names) or 'something'} differs"
