"""The effect of each part of a recipe, from sixteen trainings: eight parts, each in half of the trainings.

Every training gives information on all parts.

    python benchmarks/ablation.py --results ablation.jsonl
    python benchmarks/ablation.py --results ablation.jsonl --runs 0 1 2 3

Trainings with and without each part, with three seeds each, would be 48 trainings. Here an effect is the mean of the
eight runs with the part minus the mean of the eight runs without it. In both halves, every other part is present in
four of the eight runs. The effect is as precise as with sixteen trainings for each part alone, and no sum of the own
effects of two parts can be confused with it. This is a 2^(8-4) design of resolution IV (Box, Hunter and Hunter,
"Statistics for Experimenters", 1978, chapter 12). Groups of four runs have the same seed, and so the same initial
weights and validation images, with each part in two of them.

Accuracies are those of the validation images after the last epoch, since they are for choosing a recipe. The format of
the results is that of accuracy.py; runs in the file are not trained again. The table needs all runs; --runs trains some
of them.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accuracy
import numpy as np
from measuring import OURS, parse

PARTS: dict[str, dict[str, Any]] = {
    "lookahead": {"lookahead": 0.95},
    "whitened first convolution": {"whiten": True},
    "label smoothing": {"label_smoothing": 0.1},
    "faster biases of batch norm": {"bias_lr": 16.0},
    "crops of 2 pixels, not 4": {"pad": 2},
    "flips in turns": {"alternate_flip": True},
    "moving average of weights": {"ema": 0.99},
    "cutout": {"cutout": 8},
}
BASE = {
    "model": "slim_resnet9", "epochs": 10, "batch_size": 128, "lr": 0.4, "schedule": "one-cycle", "warmup": 0.2,
    "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "pad": 4, "flip": True,
}  # fmt: skip


def design() -> tuple[np.ndarray, np.ndarray]:
    """The parts of each of the sixteen runs, bool (16, 8), and the seed of each, int (16,).

    The first four parts occur in all combinations. Each of the other four is present if an odd number of three of the
    first four are, with a different three for each. Seeds depend on products of two parts, so no part is correlated
    with them.
    """
    full = (np.arange(16)[:, None] >> np.arange(4)) & 1
    a, b, c, d = full.T
    others = [b ^ c ^ d, a ^ c ^ d, a ^ b ^ d, a ^ b ^ c]
    seeds = 2 * (a ^ b) + (a ^ c)
    order = np.argsort(seeds, kind="stable")
    return np.stack([a, b, c, d, *others], 1)[order].astype(bool), seeds[order]


def settings_of(parts: np.ndarray) -> dict[str, Any]:
    """The settings of a run that differ from the base."""
    return {k: v for part, on in zip(PARTS.values(), parts, strict=True) if on for k, v in part.items()}


def name_of(parts: np.ndarray) -> str:
    """The name of a run in the results."""
    return " ".join(["ablation", *(f"{k}={json.dumps(v)}" for k, v in settings_of(parts).items())])


def effects(parts: np.ndarray, seeds: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, float]:
    """The effect of each part on the score, and the standard error of an effect.

    Least squares of scores = level of the seed plus or minus half of each effect. The rest is noise and interactions:
    16 - 4 - 8 = 4 degrees of freedom.
    """
    levels = seeds[:, None] == np.unique(seeds)
    columns = np.concatenate([levels, parts - 0.5], 1)
    found, *_ = np.linalg.lstsq(columns, scores, rcond=None)
    rest = scores - columns @ found
    variance = rest @ rest / (len(scores) - columns.shape[1])
    return found[levels.shape[1] :], float(np.sqrt(4 * variance / len(scores)))


def report(runs: list[dict[str, Any]]) -> Iterator[str]:
    """The table of effects, the largest first."""
    parts, seeds = design()
    scores = 100 * np.array([run["epochs"][-1]["accuracy"] for run in runs])
    found, error = effects(parts, seeds, scores)
    yield f"{len(scores)} runs, {scores.mean():.2f} % on average; each effect +- {error:.2f} (one standard error)\n"
    yield "| part | without, % | with, % | effect, % |\n|---|---|---|---|"
    for i in np.argsort(-found):
        without, with_ = (scores[parts[:, i] == on].mean() for on in (False, True))
        yield f"| {list(PARTS)[i]} | {without:.2f} | {with_:.2f} | {found[i]:+.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of CIFAR-10")
    parser.add_argument(
        "--results", type=Path, required=True, help="file with a line of JSON for each run; created or extended"
    )
    parser.add_argument(
        "--runs", type=int, nargs="*", choices=range(16), default=range(16), metavar="N", help="0 to 15"
    )
    args = parse(parser)
    parts, seeds = design()
    runs: dict[int, dict[str, Any]] = {}
    for i in args.runs:
        changed = settings_of(parts[i])
        settings = BASE | changed | {"data": args.data, "seed": int(seeds[i])}
        runs[i] = accuracy.train(OURS, name_of(parts[i]), settings, "validation", args.results)
    if len(runs) == len(seeds):
        print("\n".join(report([runs[i] for i in sorted(runs)])))


if __name__ == "__main__":
    main()
