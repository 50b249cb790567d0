"""A second process that compiles half of the kernels of a training step, while this one compiles the other half.

Numba compiles one kernel at a time in a process, and the first step waits for a dozen of them. So if the cache is empty
and a core is free, another Python process fills the same cache with the kernels that `warmup.meanwhile` lists. This
process does not wait for it: if it needs a kernel that is not finished, it compiles the kernel itself. The second
process starts once for each cache, and never with ``TINYRES_AHEAD=0``.
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
STARTED = "ahead"  # a file in the cache: a second process has started, or has finished


def start(folder: Path) -> None:
    """Start the process for the cache in this folder, unless one was started before, or no core or Python is free."""
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
    except OSError:  # it exists, or cannot be written, or no process starts: then this process compiles everything
        return
    atexit.register(_end, process, folder)


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    """Stop the other process when this one ends. If it has not finished, the next process may start one again."""
    if process.poll() != 0:
        process.kill()
        process.wait()
        (folder / STARTED).unlink(missing_ok=True)


def _cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
