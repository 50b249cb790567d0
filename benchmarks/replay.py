"""Time a step on the tape, and the same step repeated without Python, in turns.

    python benchmarks/replay.py --json replay.json                 # needs no PyTorch
    python benchmarks/replay.py --model resnet56 --batch-size 8

Both are steps of train_step.py: forward, loss, backward, update. "tape" computes each step through Python, "repeated"
goes through the list of launches that `tr.Replay` has recorded. The results are milliseconds, and how many times as
fast the second is; median and middle half.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from contenders import SGD, WORKS, Work, add_options, batch, channels_last, our_net, our_step, training, works_of
from measuring import OURS, Call, Spread, in_turns, introduce, machine, parse, ratio, save

import tinyres as tr

LISTED = [*(WORKS[0]._replace(batch_size=n) for n in (2, 8, 32)), *WORKS[:4]]
AT_LEAST = 0.1  # seconds of a turn: shorter steps are repeated


def on_the_tape(work: Work) -> Call:
    net, (images, labels) = our_net(work), batch(work)
    optimizer = tr.optim.SGD(net.parameters(), **SGD)
    return partial(our_step, net, tr.Tensor(channels_last(images)), labels, optimizer)


def measure(work: Work, turns: int, threads: int) -> dict[str, Any]:
    """Time one work, print its line, and return its figures for JSON."""
    calls = {"tape": on_the_tape(work), "repeated": training(OURS, work, threads)}
    for call in calls.values():
        for _ in range(3):  # compile, record, and settle
            call()
    seconds = in_turns(calls, turns, AT_LEAST)
    milliseconds = {who: Spread.of(1e3 * s for s in times) for who, times in seconds.items()}
    faster = ratio(seconds, "tape", "repeated")
    print(f"{work!s:45}{milliseconds['tape']!s:>24}{milliseconds['repeated']!s:>24}   {faster}", flush=True)
    spreads = {who: spread._asdict() for who, spread in milliseconds.items()}
    return {**work._asdict(), "milliseconds": spreads, "speed_up": faster._asdict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=tr.num_threads())
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parse(parser)
    tr.set_num_threads(args.threads)
    figures: dict[str, Any] = {"machine": machine(args.threads), "turns": args.turns}
    introduce(figures["machine"])
    print(f"{args.turns} turns\n{'':45}{'on the tape, ms':>24}{'repeated, ms':>24}   speed-up")
    figures["works"] = [measure(work, args.turns, args.threads) for work in works_of(args, LISTED)]
    save(args.json, figures)


if __name__ == "__main__":
    main()
