"""Let each system call of a save fail, and check that nothing is lost and the error is clear.

    python reliability/faults.py                # needs strace, and the right to trace; a minute
    python reliability/faults.py --call fsync   # the calls of this name only

A child process saves a checkpoint over an older one, which is kept as the previous one. First, its system calls are
counted. Then, for each call and each of the errors ENOSPC (disk full), EACCES (not allowed) and EIO (disk broken),
strace lets this one call fail. Either the save succeeds nevertheless, or it raises an OSError that names the file and
says what the folder contains now. In both cases all files must be whole, and one of them must contain what was saved
before.

Finally, it saves to a file system that is really full, if one can be mounted: a tmpfs of 256 KiB.
"""

import argparse
import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import report

from tinyres import checkpoints

ERRORS = ("ENOSPC", "EACCES", "EIO")
MEMORY = ("brk", "futex", "madvise", "mmap", "mprotect", "mremap", "munmap", "rt_sig", "exit", "getpid", "clock")
"""Beginnings of names of system calls that are not about files."""
BEGIN, END = "/tinyres-begin", "/tinyres-end"  # the program looks for these files, to mark the trace
LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


def save(folder: Path, step: int) -> None:
    arrays = {"model.weight": np.full(5000, step, np.float32)}
    checkpoints.save(folder / LAST, arrays, {"step": step}, keep=folder / PREVIOUS)


def traced(folder: Path, *options: str) -> tuple[str, str]:
    """Save step 3 in a child under strace. Returns the child's output, and the trace."""
    (told, tell), (wait, go) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.read(wait, 1)
        with contextlib.suppress(OSError):
            os.stat(BEGIN)
        try:
            save(folder, 3)
            answer = "saved"
        except OSError as error:
            answer = f"{error.errno} {error}"
        except BaseException as error:
            answer = f"!{error!r}"
        with contextlib.suppress(OSError):
            os.stat(END)
        os.write(tell, answer.encode())
        os._exit(0)
    os.close(tell), os.close(wait)
    log = folder.with_suffix(".log")
    command = ["strace", "-p", str(child), "-o", str(log), *options]
    strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    line = strace.stderr.readline()
    os.write(go, b"\n")
    answer = b"".join(iter(lambda: os.read(told, 1000), b"")).decode()
    os.waitpid(child, 0)
    errors = line + strace.communicate()[1]
    os.close(told), os.close(go)
    if "attached" not in line:
        sys.exit(f"strace cannot trace: {errors}")
    return answer, log.read_text()


def calls(trace: str) -> list[tuple[str, int]]:
    """The system calls of the save: a name, and its count among the calls of this name since strace began."""
    seen: Counter[str] = Counter()
    found, inside = [], False
    for line in trace.splitlines():
        name = re.match(r"\w+", line)
        if name is None:
            continue
        seen[name[0]] += 1
        if END in line:
            return found
        if inside and not name[0].startswith(MEMORY):
            found.append((name[0], seen[name[0]]))
        inside = inside or BEGIN in line
    sys.exit(f"the trace does not end:\n{trace}")


def prepared(base: Path, name: str) -> Path:
    folder = base / name
    folder.mkdir()
    save(folder, 1)
    save(folder, 2)
    return folder


def judge(folder: Path, answer: str, error: int, what: str) -> str:
    """The outcome of the save. The program ends if something is lost or unclear."""
    steps = {path.name: checkpoints.load(path)[1]["step"] for path in folder.glob("*.safetensors")}
    if answer == "saved":
        outcome, expected = "saved all the same", ({LAST: 3, PREVIOUS: 2},)
    elif "it is written, but may not survive a power failure" in answer:
        outcome, expected = "written, said to be perhaps not durable", ({LAST: 3, PREVIOUS: 2},)
    else:
        outcome, expected = "refused, nothing changed", ({LAST: 2, PREVIOUS: 1}, {LAST: 2, PREVIOUS: 2})
        if not answer.startswith(f"{error} ") or LAST not in answer or "is unchanged" not in answer:
            sys.exit(f"{what}: unclear: {answer}")
    if steps not in expected:
        sys.exit(f"{what}: {answer}: the files hold steps {steps}, expected {expected}")
    if any(folder.glob(".*")):
        if not what.startswith("unlink"):
            sys.exit(f"{what}: left {list(folder.glob('.*'))}")
        outcome += ", a leftover"
    save(folder, 4)  # the next save must succeed
    return outcome


def full_disk(base: Path) -> int:
    """Save larger and larger checkpoints to 256 KiB, until they do not fit. Returns how many were refused."""
    folder = base / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        return 0
    try:
        refused, kept = 0, None
        for size in range(1000, 100_000, 1000):
            try:
                checkpoints.save(folder / LAST, {"model.weight": np.zeros(size, np.float32)}, {"step": size})
                kept = size
            except OSError as error:
                if error.errno != errno.ENOSPC or "is unchanged" not in str(error):
                    sys.exit(f"full disk: unclear: {error}")
                refused += 1
            if checkpoints.load(folder / LAST)[1]["step"] != kept or len(list(folder.iterdir())) != 1:
                sys.exit(f"full disk: {list(folder.iterdir())}, expected step {kept} alone")
        return refused
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", default="", metavar="NAME", help="system calls with this in their names")
    parser.add_argument("--json", type=Path, help="write the counts to this file as well")
    options = parser.parse_args()
    if shutil.which("strace") is None:
        parser.error("strace is not installed")
    with tempfile.TemporaryDirectory() as base:
        answer, trace = traced(prepared(Path(base), "whole"))
        found = [call for call in calls(trace) if options.call in call[0]]
        outcomes: Counter[str] = Counter()
        for name, count in found:
            for error in ERRORS:
                what = f"{name} {count} {error}"
                folder = prepared(Path(base), what.replace(" ", "-"))
                answer, _ = traced(folder, "-e", f"inject={name}:error={error}:when={count}")
                outcome = judge(folder, answer, getattr(errno, error), what)
                outcomes[outcome] += 1
                print(f"{what}: {outcome}", flush=True)
        refused = full_disk(Path(base))
    print(f"{len(found)} system calls, {outcomes.total()} faults: {dict(outcomes)}")
    print(f"full tmpfs: {refused} saves refused, the old file whole each time" if refused else "no tmpfs to be mounted")
    report.write(options.json, {"calls": len(found), "outcomes": outcomes, "full": refused})


if __name__ == "__main__":
    main()
