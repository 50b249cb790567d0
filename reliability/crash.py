"""Kill a training run at random moments, and check that nothing is lost.

    python reliability/crash.py                 # 200 kills, about ten minutes
    python reliability/crash.py --kills 20 --seed 1
    python reliability/crash.py --processes 4   # one of several processes under mpiexec; other numbers go on

A small network trains and saves itself after each step. Three of four kills (SIGKILL: no handler, no clean-up) wait
until a file is half written. After each kill, the newest checkpoint must load, and must contain, to the last bit, the
state of an undisturbed run at this step. Then the run is resumed, and killed again, until it is complete. Its final
checkpoint and metrics must be those of the undisturbed run.

With several processes, a random one is killed. All must end within ten seconds. The run then continues with a random
number of processes that divides the original number.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import report

import tinyres as tr
from tinyres import checkpoints, models, train
from tinyres.parallel.launch import launch, mpiexec
from tinyres.runs import holds_run

EPOCHS = 6
SHARDS = int(os.environ.get("SHARDS", "1"))  # in each batch
LONGEST = 10  # seconds until all processes must have ended after one was killed


def install_network() -> None:
    """Make a network of two blocks for pictures of 16 pixels: a step takes a few milliseconds."""
    models.FAMILY["tiny"] = {
        "block": models.BasicBlock, "layers": [1, 1], "widths": (8, 16), "shortcut": "A", "num_classes": 10,
    }  # fmt: skip
    pictures = {split: tr.data.shapes(n, split, size=16) for split, n in (("train", 200), ("test", 20))}
    train.DATASETS["shapes"] = lambda split: pictures[split], tr.data.SHAPES_CLASSES
    tr.set_num_threads(1)


def new_run(folder: Path | None) -> train.Run:
    config = train.Config(
        dataset="shapes", model="tiny", epochs=EPOCHS, batch_size=20, validation=20, lr=0.05, shards=SHARDS
    )
    return train.Run(config, folder, resume=folder is not None and holds_run(folder))


class Told(train.Callback):
    """A callback that reports when steps begin, and stores the state after each step."""

    def __init__(self, tell: bool) -> None:
        self.tell, self.states = tell, {}

    def on_train_begin(self, run: train.Run) -> None:
        if self.tell:
            sys.stdout.write(f"training {os.getpid()}\n")  # in one write, so that lines of several processes do not mix
            sys.stdout.flush()

    def on_batch_end(self, run: train.Run, logs: dict[str, float]) -> None:
        if not self.tell and run.step % len(run.loader):
            self.states[run.step] = checkpoints.state_digest(*run.state())

    def on_epoch_end(self, run: train.Run, logs: dict[str, float]) -> None:
        if not self.tell:
            self.states[run.step] = checkpoints.state_digest(*run.state())


def child(folder: Path) -> None:
    if launch():
        tr.parallel.init()
    install_network()
    new_run(None).train_to(1)  # loads the kernels, or most kills would come before the first step
    new_run(folder).fit(Told(tell=True), every=train.Every(steps=1))


def victims(folder: Path, processes: int) -> tuple[subprocess.Popen, list[int]]:
    """Start or resume a run; return the numbers of its processes when all of them train."""
    line = [sys.executable, __file__, "--child", folder]
    if processes > 1:
        line = [mpiexec(), "-n", str(processes), *line]
    job = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found = [job.stdout.readline().split() for _ in range(processes)]
    if any(words[:1] != ["training"] for words in found):
        sys.exit(f"the run did not start: {found} {job.stderr.read()}")
    return job, [int(words[1]) for words in found]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"
    except OSError:
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="processes, and shards of a batch; a power of two")
    parser.add_argument("--json", type=Path, help="write the counts to this file as well")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    if options.processes != SHARDS:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"SHARDS": str(options.processes)})
    install_network()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as base:
        whole = Path(base) / "whole"
        told = Told(tell=False)
        new_run(Path(base) / "first").train_to(1)  # compiles the kernels
        began = time.perf_counter()
        new_run(whole).fit(told, every=train.Every(steps=1))
        duration = time.perf_counter() - began
        expected = checkpoints.load(whole / "last.safetensors")[1]["step"], told.states
        counts = Counter({"before the first": 0, "while saving": 0, "resumed": 0})
        runs = 0
        while counts["kills"] < options.kills:
            runs += 1
            folder = Path(base) / f"run{runs}"
            disturb(folder, whole, *expected, duration / 4, chance, options.kills, counts)
    print(
        f"{counts['kills']} kills in {runs} runs of {expected[0]} steps: {counts['while saving']} left a half-written "
        f"file behind, {counts['before the first']} came before the first checkpoint; {counts['resumed']} times the "
        "newest checkpoint held the undisturbed run's state, and was resumed"
    )
    report.write(options.json, {**counts, "runs": runs, "steps": expected[0], "processes": SHARDS})


def disturb(folder, whole, steps, states, longest, chance, kills, counts) -> None:
    """Kill and resume one run until it is complete, or there were enough kills; then let it continue to its end."""
    while counts["kills"] < kills:
        fitting = [n for n in range(1, SHARDS + 1) if SHARDS % n == 0]
        process, pids = victims(folder, chance.choice(fitting) if folder.exists() else SHARDS)
        time.sleep(chance.uniform(0, longest))
        if chance.random() < 0.75:  # at the moment when it next writes
            while process.poll() is None and not any(folder.glob(".*.part")):
                pass
            time.sleep(chance.uniform(0, 0.001))
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)
        killed = time.monotonic()
        _, errors = process.communicate()
        if process.returncode == 0:  # it was complete before
            compare(folder, whole)
            return
        if process.returncode != -signal.SIGKILL and len(pids) == 1:
            sys.exit(f"the run failed: {errors}")
        while not all(map(gone, pids)):
            if time.monotonic() - killed > LONGEST:
                sys.exit(f"a process is still there {LONGEST} s after another was killed")
            time.sleep(0.01)
        counts["of several processes"] += len(pids) > 1
        counts["kills"] += 1
        counts["while saving"] += any(folder.glob(".*"))
        last = folder / "last.safetensors"
        if not last.exists():
            counts["before the first"] += 1
            continue
        arrays, info = checkpoints.load(last)
        if checkpoints.state_digest(arrays, info) != states[info["step"]]:
            sys.exit(f"{last}: step {info['step']} is not what it was in the undisturbed run")
        if (folder / "previous.safetensors").exists():
            checkpoints.load(folder / "previous.safetensors")
        counts["resumed"] += 1
    process, _ = victims(folder, SHARDS)  # the rest of the last run, undisturbed
    process.communicate()
    compare(folder, whole)


def compare(folder: Path, whole: Path) -> None:
    """Compare results. For checkpoints, only the contents: the order of names in safetensors' header is random."""
    for name in ("last.safetensors", "best.safetensors"):
        found, expected = (checkpoints.state_digest(*checkpoints.load(run / name)) for run in (folder, whole))
        if found != expected:
            sys.exit(f"{folder / name} differs from the undisturbed run's")
    if (folder / "metrics.jsonl").read_bytes() != (whole / "metrics.jsonl").read_bytes():
        sys.exit(f"{folder / 'metrics.jsonl'} differs from the undisturbed run's")


if __name__ == "__main__":
    main()
