"""A second process that compiles half of what a training step needs, while this one compiles the other half.

Numba compiles one kernel at a time in a process, and a first step waits for a dozen of them. So where a cache is empty
and a core is free, another Python fills the same cache with those that `warmup.meanwhile` lists. Nobody waits for it:
a kernel that it has not finished when it is asked for is compiled here as well. Once for each cache; never where
``TINYRES_AHEAD=0`` says so.
"""

import atexit
import os
import subprocess
import sys
from pathlib import Path

COMMAND = """
import sys
sys.path.insert(0, sys.argv[1])
from tinyres.kernels import compile, warmup
if str(compile._FOLDER) == sys.argv[2]:
    for _, compile_kernel in warmup.meanwhile():
        compile_kernel()
"""
STARTED = "ahead"  # a file in the cache: somebody has started, or has finished


def start(folder: Path) -> None:
    """Start the process for the cache in this folder, unless there was one, or there is neither core nor Python."""
    if os.environ.get("TINYRES_AHEAD") == "0" or _cores() < 2:
        return
    if not Path(sys.executable or "").name.startswith("python") or getattr(sys, "frozen", False):
        return
    try:
        (folder / STARTED).touch(exist_ok=False)
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(Path(__file__).parents[2]), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # it is there, or nothing can be written or started: then this process compiles all
        return
    atexit.register(_end, process, folder)


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """This process ends: so does the other, and where it had not finished, the next one may start again."""
    if process.poll() != 0:
        process.kill()
        process.wait()
        (folder / STARTED).unlink(missing_ok=True)


def _cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
