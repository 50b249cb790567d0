"""Compare fine-tuning with training from scratch, on pictures of other classes, with the same number of epochs.

    python benchmarks/finetune.py --data DIR --seeds 0 1 2 --json finetune.json

First, a ResNet-18 is trained on six classes of CIFAR-10, enlarged, but to a smaller size to save time; its weights are
written with torchvision's names. The other four classes become a folder of pictures, with a few training pictures for
each class. `tinyres train --recipe finetune` starts from the weights; "from scratch" uses the default recipe on these
pictures, for as many epochs. The test pictures choose nothing: both use the weights of the last epoch.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import introduce, machine, parse, save, with_deviation
from PIL import Image

import tinyres as tr
from tinyres import train as training

FIRST = (0, 1, 2, 4, 7, 8)  # airplane, automobile, bird, deer, horse, ship: for the first training
VALIDATION = 20  # pictures of each class, since `tinyres train` needs some
THEN = (3, 5, 6, 9)  # cat, dog, frog, truck: the classes of the folder


def write(
    folder: Path, split: str, images: np.ndarray, labels: np.ndarray, classes: tuple[int, ...], side: int
) -> None:
    """Write PNG files of some classes, enlarged, in a folder for each class."""
    for k in classes:
        place = folder / split / tr.data.CLASSES[k]
        place.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images[labels == k]):
            Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling.BICUBIC).save(
                place / f"{i}.png"
            )


def some(images: np.ndarray, labels: np.ndarray, of_each: slice, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """This slice of each class's images, in a random order."""
    rng = np.random.default_rng(seed)
    index = np.concatenate([rng.permutation(np.flatnonzero(labels == k))[of_each] for k in range(10)])
    return images[index], labels[index]


def folder_of(root: Path, args: argparse.Namespace, n: int, classes: tuple[int, ...], side: int, seed: int) -> Path:
    """A data set folder with `n` training pictures of each class, and other pictures for the test."""
    train, test = (tr.data.cifar10(args.data, split) for split in ("train", "test"))
    write(root, "train", *some(*train, slice(n), seed), classes, side)
    write(root, "val", *some(*train, slice(n, n + VALIDATION), seed), classes, side)
    write(root, "test", *some(*test, slice(args.test), 0), classes, side)
    return root


def run(config: training.Config, folder: Path) -> tuple[float, float, training.Run]:
    """Train; return the accuracy on the test pictures, the minutes of training, and the run."""
    trained = training.Run(config, folder)
    start = time.perf_counter()
    trained.train_to(trained.total_steps)
    minutes = (time.perf_counter() - start) / 60
    with trained.averaged():
        loader = trained._loader(trained.data.test, tr.evaluation.BATCH)
        return tr.evaluation.evaluate(trained.model, loader)[1], minutes, trained


def report(runs: list[dict[str, Any]]) -> Iterator[str]:
    """A table: the test accuracies of both, with mean and standard deviation, and the median minutes."""
    yield "| | test accuracy, % | each | minutes |"
    yield "|---|---|---|---|"
    for who in dict.fromkeys(run["who"] for run in runs):
        some = [run for run in runs if run["who"] == who]
        accuracies = [100 * run["accuracy"] for run in some]
        each = ", ".join(f"{a:.1f}" for a in accuracies)
        yield f"| {who} | {with_deviation(accuracies)} | {each} | {np.median([r['minutes'] for r in some]):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--side", type=int, default=224, help="pixels that pictures are enlarged to")
    parser.add_argument("--first-side", type=int, default=112, help="the same, in the first training")
    parser.add_argument("--first", type=int, default=1500, help="pictures of each class in the first training")
    parser.add_argument("--first-epochs", type=int, default=8)
    parser.add_argument("--test", type=int, default=250, help="test pictures of each class")
    parser.add_argument("--then", type=int, default=200, help="training pictures of each class in the folder")
    parser.add_argument("--weights", type=Path, help="file for the first weights; used if it exists")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parse(parser)
    figures: dict[str, Any] = {"machine": machine(tr.num_threads()), "first": None, "runs": []}
    introduce(figures["machine"])
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        weights = args.weights or root / "first.safetensors"
        pictures = {"dataset": "folder", "model": "resnet18"}
        if not weights.exists():
            folder = folder_of(root / "first", args, args.first, FIRST, args.first_side, 0)
            own = {**pictures, "data": str(folder), "image_size": args.first_side}
            config = training.Config(**own, batch_size=64, lr=0.1, epochs=args.first_epochs)
            accuracy, minutes, first = run(config, root / "first-run")
            tr.checkpoints.save_weights(weights, first.model)
            figures["first"] = {"accuracy": accuracy, "minutes": minutes}
            print(f"first weights: {accuracy:.2%} of the classes that they have seen, in {minutes:.1f} minutes")
        recipe = tr.recipes.find("finetune").settings()
        for seed in args.seeds:
            folder = folder_of(root / f"then-{seed}", args, args.then, THEN, args.side, seed)
            own = {**pictures, "data": str(folder), "image_size": args.side, "seed": seed}
            tuned = training.Config(**recipe | own | {"weights": str(weights)})
            scratch = training.Config(**own, batch_size=tuned.batch_size, lr=0.1, epochs=tuned.epochs)
            for name, config in (("finetune", tuned), ("from scratch", scratch)):
                accuracy, minutes, _ = run(config, root / f"{name}-{seed}")
                figures["runs"].append({"who": name, "seed": seed, "accuracy": accuracy, "minutes": minutes})
                print(f"{name}, seed {seed}: {accuracy:.2%}, {minutes:.1f} minutes", flush=True)
                save(args.json, figures)  # after each training: an hour is not lost
    print("\n".join(report(figures["runs"])))


if __name__ == "__main__":
    main()
