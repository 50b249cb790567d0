"""Time training steps here, in PyTorch, and (`--modes jax tinygrad mygrad`) in others, in the same run, in turns.

    python benchmarks/train_step.py                                   # ResNet-20, 32 px, batch 128
    python benchmarks/train_step.py --model resnet18 --stem cifar     # and so on: see --help
    python benchmarks/train_step.py --all --json train_step.json      # the five works of the list

A step is forward, loss, backward and the optimizer's update (SGD, Nesterov momentum 0.9, weight decay 5e-4), on a batch
in memory. The results are images per second, median and middle half, and the ratio to PyTorch's best mode.

Memory is measured in a process of its own for each contender: the most that it has held at any time (VmHWM). This
includes the libraries' code. "added" is the memory that the steps need beyond that of the process with model, optimizer
and batch: activations, gradients, momentum, and the compiler or compiled code that the first step loads. Start-up is
measured for the first work only: the time from importing the library to the end of the first step.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from contenders import OTHERS, WORKS, Work, add_modes, add_options, training, works_of
from measuring import OURS, Seconds, best_of, compared, in_turns, introduce, machine, parse, prepare, rates, ratio, save

Alone = dict[str, float]


# ---------------------------------------------------------------- memory and start-up, in a process of their own
def child(who: str, work: Work, threads: int) -> Alone:
    """Measure one contender alone, starting with its imports."""
    start = time.perf_counter()
    step = training(who, work, threads)
    made = memory("VmRSS")
    step()
    first = time.perf_counter() - start
    for _ in range(3):
        step()
    peak = memory("VmHWM")
    return {"first_step_seconds": first, "peak_memory_mib": peak, "added_memory_mib": peak - made}


def memory(field: str) -> float:
    """The memory that this process holds now (VmRSS), or its maximum so far (VmHWM), in MiB."""
    try:  # on Linux, the child inherits getrusage's maximum from its parent
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(who: str, work: Work, threads: int, cache: str | None = None) -> Alone:
    """Run `child` in a new process, with the usual cache of compiled code, or another one."""
    environment = dict(os.environ)
    if cache is not None:
        environment |= {"TINYRES_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
    command = [sys.executable, __file__, "--child", who, "--threads", str(threads)]
    for field, value in work._asdict().items():
        command += ["--" + field.replace("_", "-"), str(value)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{who}, alone on {work}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def start_up(modes: list[str], work: Work, threads: int) -> dict[str, Alone]:
    """Import and first step with an empty cache of compiled code and, for ours, with the cache that this filled."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        found["tinyres, empty cache"] = alone(OURS, work, threads, cache)
        found["tinyres, full cache"] = alone(OURS, work, threads, cache)
    if "compile" in modes:
        with tempfile.TemporaryDirectory() as cache:
            found["compile, empty cache"] = alone("compile", work, threads, cache)
    return found


# ---------------------------------------------------------------- one work
def measure(work: Work, modes: list[str], steps: int, threads: int) -> tuple[Seconds, dict[str, Alone]]:
    contenders = prepare({who: partial(training, who, work, threads) for who in (OURS, *modes)})
    seconds = in_turns(contenders, steps)
    del contenders  # free their memory before others are measured
    return seconds, {who: alone(who, work, threads) for who in seconds}


def report(work: Work, seconds: Seconds, memories: dict[str, Alone]) -> dict[str, Any]:
    """Print one work's figures, and return them for JSON."""
    print(f"\n{work}\n{'':32}{'images/s':>22}  {'peak MiB':>8}  {'added':>6}  {'step 1, s':>9}")
    for who, times in seconds.items():
        name, found = who if who in (OURS, *OTHERS) else f"PyTorch, {who}", memories[who]
        print(
            f"{name:32}{rates(work.batch_size, times)!s:>22}  {found['peak_memory_mib']:8.0f}  "
            f"{found['added_memory_mib']:6.0f}  {found['first_step_seconds']:9.1f}"
        )
    if best := best_of(seconds):
        print(f"ratio to the best rival ({best}): {ratio(seconds, best, OURS)}")
    return {**work._asdict(), "work": str(work), **compared(work.batch_size, seconds), "alone": memories}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_modes(parser, others=OTHERS)
    parser.add_argument("--all", action="store_true", help="; ".join(map(str, WORKS)))
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-start-up", action="store_true", help="leave the empty caches out")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parse(parser)
    if args.child:
        print(json.dumps(child(args.child, *works_of(args, ()), args.threads)))
        return
    if args.all and works_of(args, ()):
        parser.error("--all: got --model or another option of a work as well, expected one or the other")

    works = WORKS if args.all else works_of(args, WORKS[:1])
    figures: dict[str, Any] = {"machine": machine(args.threads), "steps": args.steps, "works": []}
    introduce(figures["machine"])
    print(f"{args.steps} steps each, in turns; median (middle half)")
    for work in works:
        figures["works"].append(report(work, *measure(work, args.modes, args.steps, args.threads)))
        save(args.json, figures)  # after each work, since the whole list takes long
    if not args.no_start_up:
        figures["start_up"] = start_up(args.modes, works[0], args.threads)
        print(f"\nimport and first step, {works[0]}:")
        for who, found in figures["start_up"].items():
            print(f"{who:32}{found['first_step_seconds']:8.1f} s")
        save(args.json, figures)


if __name__ == "__main__":
    main()
