"""Train 20 steps with every threading layer of Numba and several numbers of threads: the state must be the same.

    python reliability/invariance.py            # two to four minutes

Each run is a process of its own, since a process can use only one threading layer. The runs are compared by the SHA-256
of everything in a checkpoint: weights, batch norm's statistics, momentum, losses. A layer that Numba cannot load is
named and left out. TBB comes with `pip install tbb`; its library must be in a folder where the system looks for
libraries.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numba
import report

import tinyres as tr
from tinyres import checkpoints, train

STEPS = 20
WORKS = {
    "resnet20": {"batch_size": 64},
    "resnet50": {"batch_size": 8, "stem": "cifar", "optimizer": "adamw", "lr": 1e-3},
    "resnet18": {"batch_size": 16, "stem": "imagenet", "cutout": 4},
}
LAYERS = ("omp", "tbb", "workqueue")
THREADS = (1, 2, 3, 4)


def child(model: str, threads: int) -> None:
    """Print the threading layer in use, and the digest of the state after some steps."""
    tr.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        run = train.Run(train.Config(dataset="shapes", model=model, **WORKS[model]), folder)
        run.train_to(STEPS)
        print(numba.threading_layer(), checkpoints.state_digest(*run.state()))


def digest(model: str, layer: str, threads: int) -> str | None:
    """The digest of a child's state, or None if the layer cannot be loaded."""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": str(max(THREADS))}
    command = [sys.executable, __file__, "--child", model, str(threads)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if "No threading layer could be loaded" in run.stderr:
        return None
    if run.returncode:
        sys.exit(run.stderr)
    used, found = run.stdout.split()
    if used != layer:
        sys.exit(f"asked for the threading layer {layer}, got {used}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the digests to this file as well")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], int(options.child[1]))
        return
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for layer in LAYERS:
        for model in WORKS:
            for threads in THREADS:
                result = digest(model, layer, threads)
                if result is None:
                    print(f"{layer}: cannot be loaded here", flush=True)
                    break
                found[model][f"{layer} {threads}"] = result
                print(f"{layer:9} {threads} threads, {model}: {result[:16]}", flush=True)
            else:
                continue
            break
    report.write(options.json, {"states": found})
    for model, states in found.items():
        count = len(set(states.values()))
        print(f"{model}: {len(states)} runs, " + ("one state" if count == 1 else f"{count} DIFFERENT STATES"))
    sys.exit(any(len(set(states.values())) > 1 for states in found.values()))


if __name__ == "__main__":
    main()
