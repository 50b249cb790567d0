"""Batches of 128 to 2,048 at equal epochs, by the recipe of Goyal et al. ("Accurate, Large Minibatch SGD", 2017).

    python examples/large_batches.py                          # on the shapes, a minute: how it is done
    python examples/large_batches.py --dataset cifar10 --epochs 4 --seeds 0 1 2     # an hour on two cores

The learning rate grows with the batch after a warm-up, batch norm and biases do not decay, and each block begins as its
shortcut. For comparison, the largest batch is also trained with the rate of the smallest. A run that exists already is
only read.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from tinyres import train
from tinyres.study.degradation import go_on

BATCHES = 128, 256, 512, 1024, 2048
RECIPE: dict[str, Any] = {
    "lr": 0.1,
    "lr_batch_size": BATCHES[0],
    "schedule": "cosine",
    "warmup": 0.25,
    "weight_decay": 1e-4,
    "decay_bias": False,
    "zero_init_residual": True,
    "validation": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="shapes")
    parser.add_argument("--data", help="folder that holds the data set")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default="large-batches")
    args = parser.parse_args()
    print(f"{'batch':>6} {'rate':>6}   test accuracy of each seed")
    for batch, scaled in [(batch, True) for batch in BATCHES] + [(BATCHES[-1], False)]:
        accuracies = []
        for seed in args.seeds:
            recipe = RECIPE | {"dataset": args.dataset, "data": args.data, "epochs": args.epochs}
            if not scaled:
                recipe["lr_batch_size"] = None
            config = train.Config(**recipe | {"batch_size": batch, "seed": seed})
            folder = args.out / f"{batch}-{config.peak_lr:g}-{seed}"
            go_on(config, folder)
            *_, tested = (folder / "metrics.jsonl").read_text().splitlines()
            accuracies.append(json.loads(tested)["test_accuracy"])
        each = ", ".join(f"{accuracy:.1%}" for accuracy in accuracies)
        print(f"{batch:>6} {config.peak_lr:>6g}   {each}: {np.mean(accuracies):.1%}", flush=True)


if __name__ == "__main__":
    main()
