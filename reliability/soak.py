"""Train and evaluate for hours in one process, with a fault in each round: memory and handles stay the same.

    python reliability/soak.py                                 # two hours
    python reliability/soak.py --minutes 5 --json soak.json

A round trains ResNet-20 for some epochs, evaluates it, and then lets something go wrong, in turns: another process
continues the run and is killed; the disk is full while a checkpoint is saved; files are damaged; a batch does not fit
into the memory; Ctrl-C. After each fault, the run must be whole, and `tinyres.verify` must repeat its last epoch to the
last bit. Then the run continues. The numbers of the second quarter of the time are compared with those of the last: if
the process has grown by more than 2 %, or keeps more files or threads, the exit code is 1.
"""

import argparse
import contextlib
import errno
import gc
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import report

import tinyres as tr
from tinyres import checkpoints, train
from tinyres.runs import holds_run
from tinyres.verify import verify

EPOCHS = 3  # in each round
IMAGES = 1280
GROWTH = 0.02
CONFIG = train.Config(
    dataset="shapes",
    model="resnet20",
    epochs=1_000_000,
    batch_size=64,
    validation=0,
    lr=0.05,
    schedule="steps",
    warmup=0,
)  # the rate is the same all the time


def install_pictures() -> None:
    pictures = {split: tr.data.shapes(n, split) for split, n in (("train", IMAGES), ("test", 256))}
    train.DATASETS["shapes"] = lambda split: pictures[split], tr.data.SHAPES_CLASSES


def opened(folder: Path) -> train.Run:
    return train.Run(CONFIG, folder, resume=holds_run(folder))


def go_on(run: train.Run, epochs: int = EPOCHS) -> None:
    run.train_to(run.step + epochs * len(run.loader))


# ---------------------------------------------------------------- faults
def killed(run: train.Run, chance: random.Random) -> None:
    """Another process continues the run, and is killed at any moment of its work."""
    child = subprocess.Popen([sys.executable, __file__, "--child", run.folder], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    if child.stdout.readline() != "training\n":
        sys.exit("the other process did not train")
    time.sleep(chance.uniform(0, 5))
    child.kill()
    child.communicate()


def full_disk(run: train.Run, chance: random.Random) -> None:
    """No file may grow beyond 20 KB, so that the next checkpoint does not fit."""
    before = checkpoints.load(run.folder / "last.safetensors")[1]["step"]
    with limited(resource.RLIMIT_FSIZE, 20_000):
        try:
            go_on(run, 1)
        except OSError as error:
            if error.errno != errno.EFBIG or "is unchanged" not in str(error):
                sys.exit(f"full disk: unclear: {error}")
        else:
            sys.exit("full disk: the checkpoint was written all the same")
    if checkpoints.load(run.folder / "last.safetensors")[1]["step"] != before:
        sys.exit("full disk: the checkpoint has changed")


def damaged(run: train.Run, chance: random.Random) -> None:
    """A copy of the checkpoint with one wrong bit, and one that ends too early, are refused."""
    content = bytearray((run.folder / "last.safetensors").read_bytes())
    place = chance.randrange(len(content) // 2, len(content))
    copy = run.folder / "damaged.safetensors"
    for bad in (content[:place], content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]):
        copy.write_bytes(bad)
        try:
            checkpoints.load(copy)
        except checkpoints.CheckpointError:
            copy.unlink()
        else:
            sys.exit("a damaged checkpoint was loaded")


def little_memory(run: train.Run, chance: random.Random) -> None:
    """A batch that needs more memory than there is."""
    with limited(resource.RLIMIT_AS, int(status("VmSize") * 2**20) + 2**28), tr.no_grad():
        try:
            run.model(tr.Tensor(np.zeros((20_000, 3, 32, 32), np.float32)))
        except MemoryError:
            return
    sys.exit("20,000 images fitted into 256 MiB")


def interrupted(run: train.Run, chance: random.Random) -> None:
    """Ctrl-C during an epoch: the step is finished and saved."""
    timer = threading.Timer(chance.uniform(0.1, 1), os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        go_on(run, 1000)
    except train.Interrupted:
        timer.join()


FAULTS: dict[str, Callable[[train.Run, random.Random], None]] = {
    "kill": killed, "full disk": full_disk, "bad file": damaged, "memory limit": little_memory, "Ctrl-C": interrupted,
}  # fmt: skip


@contextlib.contextmanager
def limited(what: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(what)
    resource.setrlimit(what, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


# ---------------------------------------------------------------- what must stay the same
def status(field: str) -> float:
    """A line of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def soak(folder: Path, minutes: float, chance: random.Random) -> list[dict[str, Any]]:
    """Rounds until the time is over, each with its measurements."""
    rounds: list[dict[str, Any]] = []
    run, began = opened(folder), time.monotonic()
    while (now := (time.monotonic() - began) / 60) < minutes:
        start = time.perf_counter()
        go_on(run)
        speed = EPOCHS * IMAGES / (time.perf_counter() - start)
        accuracy = tr.evaluation.evaluate(run.model, run._loader(run.data.test, 128))[1]
        name = list(FAULTS)[len(rounds) % len(FAULTS)]
        FAULTS[name](run, chance)
        run = opened(folder)
        verified = verify(folder)
        gc.collect()  # the run before this one: its cycles are not a leak
        found = {
            "minutes": now, "fault": name, "step": run.step, "accuracy": accuracy, "images_per_second": speed,
            "memory_mib": status("VmRSS"), "files": len(os.listdir("/proc/self/fd")),
            "threads": len(os.listdir("/proc/self/task")),
        }  # fmt: skip
        rounds.append(found)
        print(
            f"{now:6.1f} min, step {run.step}: {speed:.0f} images/s, {found['memory_mib']:.0f} MiB, {found['files']} "
            f"files, {found['threads']} threads, {accuracy:.1%}; {name}; steps {verified.start} to {verified.stop} "
            "again: the same bits",
            flush=True,
        )
    return rounds


def medians(rounds: list[dict[str, Any]]) -> dict[str, tuple[float, ...]]:
    """What each measurement is in the second quarter of the rounds, and in the last."""
    n = len(rounds)
    parts = rounds[n // 4 : n // 2], rounds[3 * n // 4 :]
    names = ("memory_mib", "files", "threads", "images_per_second")
    return {name: tuple(float(np.median([r[name] for r in some])) for some in parts) for name in names}


def flat(found: dict[str, tuple[float, ...]]) -> bool:
    small, large = found["memory_mib"]
    return large < (1 + GROWTH) * small and all(found[name][1] <= found[name][0] for name in ("files", "threads"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=tr.num_threads())
    parser.add_argument("--json", type=Path, help="write all measurements to this file as well")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tr.set_num_threads(options.threads)
    install_pictures()
    if options.child:
        run = opened(options.child)
        print("training", flush=True)
        go_on(run, 1000)
        return
    with tempfile.TemporaryDirectory() as base:
        rounds = soak(Path(base) / "run", options.minutes, random.Random(options.seed))
    found = medians(rounds)
    text = ", ".join(f"{name.replace('_', ' ')} {a:.4g} to {b:.4g}" for name, (a, b) in found.items())
    print(f"{len(rounds)} rounds, medians of the second and the last quarter: {text}")
    report.write(options.json, {"medians": found, "rounds": rounds})
    sys.exit(0 if flat(found) else "it is not flat")


if __name__ == "__main__":
    main()
