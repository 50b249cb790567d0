"""Interrupt training at random moments, and check that it ends at once, leaves no thread and loses nothing.

    python reliability/interrupt.py                 # 30 interrupts of each kind, about three minutes
    python reliability/interrupt.py --interrupts 5 --seed 1

Two kinds of programs get one SIGINT, as from Ctrl-C. `tinyres train` must say where it stopped and exit with code 130,
without a traceback. It is resumed and interrupted again until it is complete, and must then have the state of an
undisturbed run. A loop over a `Loader` in Python must get KeyboardInterrupt. When this has been handled, no other
thread may be left for longer than the second that a batch takes. Both must end within seconds, and leave no process of
their group.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import report
from crash import install_network

import tinyres as tr
from tinyres import checkpoints, cli, ops

PROMPTLY = 10  # seconds, for a busy machine: a step takes milliseconds
STOPPED = "Stopped and saved at step"


# ---------------------------------------------------------------- interrupted programs
def command_line(folder: Path) -> None:
    install_network()
    options = {"dataset": "shapes", "model": "tiny", "epochs": 6, "batch-size": 20, "validation": 20, "lr": 0.05}
    recipe = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    resume = ["--resume"] if (folder / "config.json").exists() else []
    sys.argv = ["tinyres", "train", *(resume or recipe), "--threads", "1", "--out", str(folder)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in a background job
    print("begun", flush=True)
    cli.main()


def python_loop(_: Path) -> None:
    """Epochs that are left early, an exception now and then, and at last the interrupt, at any moment."""
    tr.set_num_threads(1)
    net = tr.models.ResNet(tr.models.BasicBlock, [1], widths=(8,))
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (64, 3, 16, 16), np.uint8), rng.integers(0, 10, 64)
    loader = tr.data.Loader(images, labels, 8, mean=[0.5] * 3, std=[0.25] * 3, augment=tr.data.Augment())
    optimizer = tr.optim.SGD(net.parameters(), lr=0.01)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print("begun", flush=True)
    try:
        while True:
            try:
                for i, (x, y) in enumerate(loader.epoch(0)):
                    optimizer.zero_grad()
                    ops.cross_entropy(net(tr.Tensor(x)), y).backward()
                    optimizer.step()
                    if i == 5:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            for _ in loader.epoch(1):
                break
    except KeyboardInterrupt:
        pass
    until = time.monotonic() + 1
    while (left := started_threads()) and time.monotonic() < until:  # one that was told to end may still finish a batch
        time.sleep(0.01)
    print("left:", *left)


def started_threads() -> list[str]:
    """All threads except the main one and those that the interrupt kept from starting."""
    return [t.name for t in threading.enumerate() if t is not threading.main_thread() and t.ident is not None]


VICTIMS = {"command": command_line, "python": python_loop}


# ---------------------------------------------------------------- interrupts
def start(kind: str, folder: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", kind, folder],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    if process.stdout.readline() != "begun\n":
        sys.exit(f"the victim did not start: {process.communicate()[1]}")
    return process


def interrupt(process: subprocess.Popen, after: float, again: bool = False) -> tuple[str, str, float]:
    """Its output, its errors, and the time that it took to end after the last signal."""
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    try:
        output, errors = process.communicate(timeout=PROMPTLY / 2 if again else PROMPTLY)
    except subprocess.TimeoutExpired:
        if again:
            return interrupt(process, 0)
        process.kill()
        sys.exit(f"still there {PROMPTLY} s after SIGINT: {process.communicate()}")
    took = time.perf_counter() - began
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return output, errors, took
    sys.exit("a process of the run is left")


def check(good: bool, process: subprocess.Popen, output: str, errors: str) -> None:
    if not good:
        sys.exit(f"exit code {process.returncode}\n{output}\n{errors}")


def interrupt_command(base: Path, n: int, chance: random.Random, counts: Counter, longest: list[float]) -> None:
    whole, runs = base / "whole", 1
    began = time.perf_counter()
    process = start("command", whole)
    output, errors = process.communicate()
    check(process.returncode == 0, process, output, errors)
    duration = time.perf_counter() - began
    while counts["command"] < n:
        folder, done = base / f"run{runs}", False
        while not done and counts["command"] < n:
            process = start("command", folder)
            output, errors, took = interrupt(process, chance.uniform(0, duration / 2))
            # the interpreter, which only has to exit, lets the signal end it
            done = process.returncode == 0 or (process.returncode == -signal.SIGINT and "Test accuracy" in output)
            check((done or process.returncode == 130) and "Traceback" not in errors, process, output, errors)
            if not done:
                counts["command"] += 1
                counts["saved"] += STOPPED in output
                longest.append(took)
        if not done:
            process = start("command", folder)
            output, errors = process.communicate()
            check(process.returncode == 0, process, output, errors)
        if results(folder) != results(whole):
            sys.exit(f"{folder} differs from the undisturbed run")
        counts["runs"] = runs
        runs += 1


def results(folder: Path) -> tuple[str, ...]:
    """All results of a run. The files themselves are not compared, since the order of their metadata is not fixed."""
    states = (checkpoints.state_digest(*checkpoints.load(folder / f"{n}.safetensors")) for n in ("last", "best"))
    return *states, (folder / "metrics.jsonl").read_text()


def interrupt_python(base: Path, n: int, chance: random.Random, counts: Counter, longest: list[float]) -> None:
    for _ in range(n):
        process = start("python", base)
        output, errors, took = interrupt(process, chance.uniform(0, 1), again=True)
        # Python reports and ignores an exception that is raised while it closes a generator without references
        ignored = "Exception ignored in: <generator object Loader._prefetch" in errors
        check(
            process.returncode == 0 and output.strip() == "left:" and ignored == bool(errors), process, output, errors
        )
        counts["python"] += 1
        counts["ignored"] += ignored
        longest.append(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interrupts", type=int, default=30, help="interrupts of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the counts to this file as well")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        VICTIMS[options.child[0]](Path(options.child[1]))
        return
    chance, counts, took = random.Random(options.seed), Counter(), []
    with tempfile.TemporaryDirectory() as base:
        interrupt_command(Path(base), options.interrupts, chance, counts, took)
        interrupt_python(Path(base), options.interrupts, chance, counts, took)
    print(
        f"{counts['command']} interrupts of {counts['runs']} runs of `tinyres train`: {counts['saved']} were saved in "
        "the middle, the others came before the first step or after the last, and all ended in the undisturbed run's "
        f"state; {counts['python']} of a loop in Python: no thread was left, and {counts['ignored']} had to be "
        "repeated, since Python ignored the first while it closed the generator of an epoch left early. The slowest "
        f"took {max(took):.2f} s to end"
    )
    report.write(options.json, {**counts, "slowest": max(took)})


if __name__ == "__main__":
    main()
