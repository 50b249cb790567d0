"""How the time of a training step grows with batch, depth and threads, here and in PyTorch, in one run, in turns.

    python benchmarks/scaling.py --json scaling.json                        # all three; most of it is compiling
    python benchmarks/scaling.py --batches --depths --modes channels-last   # the threads only

Steps are those of train_step.py: ResNet-20 with batches of 8 to 256; networks of 20 to 110 layers with batch 128; and
ResNet-20 with batch 128 on one thread and on all cores. The results are images per second, and their ratio to the first
line; median and middle half. For the threads, all lines take turns. They are copies of a contender that differ only in
their threads, and they are compared turn by turn. Two cores should give a ratio of 1.85.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from contenders import WORKS, Work, add_modes, training
from measuring import OURS, Seconds, Spread, compared, in_turns, introduce, machine, parse, prepare, rates, save

RESNET20 = WORKS[0]

Points = dict[int, tuple[Work, Seconds]]  # by batch, depth or threads


def growing(works: dict[int, Work], who: list[str], steps: int, threads: int) -> Points:
    """Time one work after the other, on all threads."""
    points = {}
    for at, work in works.items():
        contenders = prepare({name: partial(training, name, work, threads) for name in who})
        points[at] = work, in_turns(contenders, steps)
    return points


def spreading(work: Work, who: list[str], steps: int, threads: list[int]) -> Points:
    """Time one work on each number of threads, in turns."""
    copies = {(name, n): f"{name}, threads: {n}" for n in threads for name in who}
    contenders = prepare({copy: partial(training, name, work, n) for (name, n), copy in copies.items()})
    seconds = in_turns(contenders, steps)
    return {n: (work, {name: seconds[c] for name in who if (c := copies[name, n]) in seconds}) for n in threads}


def report(along: str, points: Points) -> list[dict[str, Any]]:
    """Print a table, and return its figures for JSON."""
    work, first = next(iter(points.values()))
    print(f"\n{along:8}" + "".join(f"{who:>48}" for who in first))
    figures = []
    for at, (here, seconds) in points.items():
        times_first = {
            who: Spread.of(here.batch_size / work.batch_size * a / b for a, b in zip(first[who], times, strict=True))
            for who, times in seconds.items()
            if who in first
        }
        cells = (f"{rates(here.batch_size, seconds[who])}  x {times}" for who, times in times_first.items())
        print(f"{at:<8}" + "".join(f"{cell:>48}" for cell in cells))
        spreads = {who: times._asdict() for who, times in times_first.items()}
        figures.append({"at": at, "work": str(here), **compared(here.batch_size, seconds), "times_first": spreads})
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    several = partial(parser.add_argument, type=int, nargs="*", metavar="N")
    several("--batches", default=(8, 16, 32, 64, 128, 256), help="batch sizes; without numbers, this table is left out")
    several("--depths", default=(20, 32, 44, 56, 110))
    several("--threads", default=sorted({1, os.cpu_count() or 1}), help="the last of them for batches and depths")
    parser.add_argument("--batch-size", type=int, default=RESNET20.batch_size, help="for depths and threads")
    add_modes(parser, ("channels-last", "compile+channels-last"))
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each contender")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parse(parser)

    who, threads = [OURS, *args.modes], args.threads[-1] if args.threads else os.cpu_count() or 1
    figures: dict[str, Any] = {"machine": machine(threads), "steps": args.steps}
    introduce(figures["machine"])
    print(f"{args.steps} steps each, in turns; images/s, median (middle half), and times the first line's")
    batches = {n: RESNET20._replace(batch_size=n) for n in args.batches}
    depths = {n: RESNET20._replace(model=f"resnet{n}", batch_size=args.batch_size) for n in args.depths}
    for along, works in {"batch": batches, "depth": depths}.items():
        if works:
            figures[along] = report(along, growing(works, who, args.steps, threads))
            save(args.json, figures)
    if args.threads:
        work = RESNET20._replace(batch_size=args.batch_size)
        figures["threads"] = report("threads", spreading(work, who, args.steps, args.threads))
        save(args.json, figures)


if __name__ == "__main__":
    main()
