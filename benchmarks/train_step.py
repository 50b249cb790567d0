"""Time a training step here and in PyTorch, in the same run, step by step in turns.

    python benchmarks/train_step.py [--model resnet20] [--batch-size 128] [--steps 12] [--threads 2] [--json FILE]

A step is forward, loss, backward and the optimizer's update (SGD, Nesterov momentum 0.9, weight decay 5e-4), on a batch
that lies in memory. Every contender takes one step, then each takes another, so that what else the machine does hits
all of them alike. Reported are the median step and the middle half of all steps, and the ratio to PyTorch's best
mode with the same spread of ratios. Peak memory and start-up are measured in processes of their own.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

MODES = ("eager", "channels-last", "compile", "compile + channels-last")
SGD = {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}


def make_tinyres(model: str, batch_size: int) -> Callable[[], float]:
    """A function that takes one training step and returns the loss."""
    import tinyres as tr

    tr.manual_seed(0)
    net = tr.models.create(model)
    optimizer = tr.optim.SGD(net.parameters(), 0.1, **SGD)
    x, y = batch(batch_size)
    x = tr.Tensor(x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2))  # channels-last, as the loader gives it

    def step() -> float:
        optimizer.zero_grad()
        loss = tr.ops.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def make_torch(model: str, batch_size: int, mode: str) -> Callable[[], float]:
    """The same for PyTorch, in one of MODES."""
    import torch
    from torch_resnet import create

    torch.manual_seed(0)
    net = create(model)
    x, y = (torch.from_numpy(a) for a in batch(batch_size))
    if "channels-last" in mode:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, **SGD)
    forward = torch.compile(net) if "compile" in mode else net

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def batch(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((batch_size, 3, 32, 32), np.float32), rng.integers(0, 10, batch_size)


def make(who: str, args: argparse.Namespace) -> Callable[[], float]:
    return (
        make_tinyres(args.model, args.batch_size) if who == "tinyres" else make_torch(args.model, args.batch_size, who)
    )


def set_threads(n: int) -> None:
    import torch

    import tinyres as tr

    tr.set_num_threads(n)
    torch.set_num_threads(n)


# ---------------------------------------------------------------- speed
def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each step of each contender, taken in turns."""
    set_threads(args.threads)
    steps = {}
    for who in ("tinyres", *MODES):
        print(f"preparing {who} ...", file=sys.stderr)
        try:
            step = make(who, args)
            for _ in range(3):  # compile, and let memory settle
                step()
            steps[who] = step
        except Exception as error:  # e.g. no C++ compiler for torch.compile
            print(f"{who}: left out ({str(error).splitlines()[0]})", file=sys.stderr)
    seconds: dict[str, list[float]] = {who: [] for who in steps}
    for _ in range(args.steps):
        for who, step in steps.items():
            step()  # its data back into the caches that the others have filled
            start = time.perf_counter()
            step()
            seconds[who].append(time.perf_counter() - start)
    return seconds


# ---------------------------------------------------------------- memory and start-up, in a process of their own
def child(args: argparse.Namespace) -> None:
    """One contender alone: seconds from the start of Python's imports to the end of the first step; peak memory."""
    start = time.perf_counter()
    step = make(args.child, args)
    step()
    first = time.perf_counter() - start
    for _ in range(3):
        step()
    print(json.dumps({"first_step_seconds": first, "peak_memory_mib": peak_memory()}))


def peak_memory() -> float:
    """Most memory this process has held, in MiB."""
    try:  # getrusage's maximum is inherited from the parent process on Linux
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(who: str, args: argparse.Namespace, cache: str | None = None) -> dict[str, float]:
    """Run `child` in a new process, with an empty or a given cache of compiled code."""
    environment = dict(os.environ)
    if cache is not None:
        environment |= {"TINYRES_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--child", who, "--model", args.model, "--batch-size", str(args.batch_size)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"first_step_seconds": float("nan"), "peak_memory_mib": float("nan")}
    return json.loads(done.stdout.splitlines()[-1])


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args)
        return

    import numba
    import torch

    versions = {"python": platform.python_version(), "numpy": np.__version__, "numba": numba.__version__}
    versions["torch"] = torch.__version__
    print(f"{processor()}, {args.threads} threads; " + ", ".join(f"{k} {v}" for k, v in versions.items()))
    print(f"{args.model}, batch {args.batch_size}, {args.steps} steps each, in turns\n")

    seconds = measure(args)
    memory = {who: alone(who, args) for who in seconds}
    with tempfile.TemporaryDirectory() as empty:
        cold, warm = alone("tinyres", args, empty), alone("tinyres", args, empty)
    with tempfile.TemporaryDirectory() as empty:
        torch_cold = alone("compile", args, empty)

    best = min((who for who in seconds if who != "tinyres"), key=lambda who: np.median(seconds[who]))
    print(f"{'':28}{'images/s':>9}  {'middle half':>14}  {'peak MiB':>8}  {'step 1, s':>9}")
    for who, times in seconds.items():
        low, mid, high = (args.batch_size / np.percentile(times, p) for p in (75, 50, 25))
        name = who if who == "tinyres" else f"PyTorch, {who}"
        alone_ = memory[who]
        print(
            f"{name:28}{mid:9.0f}  {f'{low:.0f} to {high:.0f}':>14}  {alone_['peak_memory_mib']:8.0f}"
            f"  {alone_['first_step_seconds']:9.1f}"
        )
    ratios = np.array(seconds[best]) / np.array(seconds["tinyres"])
    low, mid, high = np.percentile(ratios, [25, 50, 75])
    print(f"\nratio to PyTorch's best mode ({best}): {mid:.2f}, middle half {low:.2f} to {high:.2f}, n = {len(ratios)}")
    print(
        f"import and first step, tinyres: {cold['first_step_seconds']:.1f} s with an empty JIT cache, "
        f"{warm['first_step_seconds']:.1f} s with a full one; torch.compile, empty cache: "
        f"{torch_cold['first_step_seconds']:.1f} s"
    )
    if args.json:
        figures = {
            "processor": processor(),
            "threads": args.threads,
            "versions": versions,
            "model": args.model,
            "batch_size": args.batch_size,
            "seconds": seconds,
            "alone": memory,
            "best": best,
            "ratio": {"quarter": low, "median": mid, "three_quarters": high},
            "cold_start_seconds": cold["first_step_seconds"],
            "warm_start_seconds": warm["first_step_seconds"],
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
