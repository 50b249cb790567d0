"""Time a batch norm that the convolutions around it compute, compared with separate passes, in turns.

    python benchmarks/fusion.py --simd avx2

The timed work is the forward pass of a batch norm with ReLU and of the next convolution, whose result is measured for
the batch norm after it. "apart" uses three kernels, statistics last; "fused" uses one. "loading" and "storing" fuse one
half each. Arrays are in cache as far as they fit. Results are equal to the last bit, except the statistics.
"""

import argparse
from pathlib import Path

import numpy as np
from contenders import channels_last
from measuring import Call, Spread, in_turns, introduce, machine, parse, ratio, save

import tinyres as tr
from tinyres.kernels import batch_norm_apply, batch_norm_statistics, conv2d, conv2d_and_statistics
from tinyres.kernels.pending import Pending

SHAPES = ((128, 16, 32), (128, 32, 16), (128, 64, 8), (64, 64, 32), (64, 128, 16), (16, 64, 56), (16, 128, 28))
AT_LEAST = 0.02  # seconds; shorter calls are repeated for as long


def contenders(n: int, channels: int, size: int) -> dict[str, Call]:
    rng = np.random.default_rng(0)
    x = channels_last(rng.standard_normal((n, channels, size, size), np.float32))
    weight = rng.standard_normal((channels, channels, 3, 3), np.float32)
    mean, scale, bias = rng.standard_normal((3, channels), np.float32)
    window = {"stride": (1, 1), "padding": (1, 1)}

    def pending() -> Pending:
        return Pending(batch_norm_apply, x, mean, scale, bias)

    return {
        "apart": lambda: batch_norm_statistics(conv2d(pending().array(), weight, **window)),
        "loading": lambda: batch_norm_statistics(conv2d(pending(), weight, **window)),
        "storing": lambda: conv2d_and_statistics(pending().array(), weight, **window),
        "fused": lambda: conv2d_and_statistics(pending(), weight, **window),
        "convolution": lambda: conv2d(x, weight, **window),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="measurements of each, in turns")
    parser.add_argument("--threads", type=int, default=tr.num_threads())
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parse(parser)
    tr.set_num_threads(args.threads)
    what = machine(args.threads)
    introduce(what)
    print(f"{args.turns} turns; ms, median; how many times as fast as apart, median (middle half)")
    found = {}
    for n, channels, size in SHAPES:
        name, calls = f"{channels} channels, {size} px, batch {n}", contenders(n, channels, size)
        seconds = in_turns(calls, args.turns, AT_LEAST)
        median = {who: Spread.of(times).median * 1e3 for who, times in seconds.items()}
        ratios = {who: ratio(seconds, "apart", who) for who in ("loading", "storing", "fused")}
        found[name] = {"seconds": seconds, "ratios": {who: r._asdict() for who, r in ratios.items()}}
        print(f"\n{name}: " + ", ".join(f"{who} {ms:.2f}" for who, ms in median.items()))
        print("  " + ", ".join(f"{who} {r}" for who, r in ratios.items()), flush=True)
    save(args.json, {"machine": what, "cases": found})


if __name__ == "__main__":
    main()
