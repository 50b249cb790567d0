"""Train a recipe here and in PyTorch, and compare the accuracy and the minutes of both.

    python benchmarks/accuracy.py --recipe default --seeds 0 1 2 3 4 --results accuracy.jsonl
    python benchmarks/accuracy.py --results accuracy.jsonl --plot accuracy.png
    python benchmarks/accuracy.py --recipe fast --set ema=0.99 --split validation --who tinyres --results tried.jsonl

Both train on the same images, in the same order and with the same augmentation, from the same loader, with the same
learning rates. Their initial weights differ. Each epoch is timed with everything that belongs to it: images, steps, the
validation of the recipe and, here, the checkpoint. Then the clock is stopped, and the test images are evaluated. They
choose nothing: the accuracy that counts is the one after the last epoch. To choose a recipe, use the validation images.
Each run is a line of the results. Runs in the file are not trained again, so the file can grow over many sessions.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from contenders import MODES, in_mode, use_threads
from measuring import OURS, machine, parse, with_deviation

import tinyres as tr
from tinyres import plots
from tinyres import train as training

Epoch = Callable[[], tuple[float, float | None]]  # trains an epoch; gives training loss and validation accuracy, if any
Test = Callable[[bool], float]  # accuracy on the images of the split; True: mean with mirror images
ACCURACIES = (0.8, 0.85, 0.9)
LEFT_OUT = ("shortcut", "optimizer", "clip_norm", "zero_init_residual", "weights", "freeze", "shards", "lr_batch_size")
"""Settings that the loop for PyTorch supports only with their default values."""


# ---------------------------------------------------------------- contenders
def as_they_are(split: tuple[np.ndarray, np.ndarray], data: training.Data) -> tr.data.Loader:
    return tr.data.Loader(*split, tr.evaluation.BATCH, mean=data.mean, std=data.std, shuffle=False)


def ours(config: training.Config, folder: str, data: training.Data, split: str) -> tuple[Epoch, Test, int]:
    run = training.Run(config, folder)
    loader = as_they_are(getattr(data, split), data)

    def epoch() -> tuple[float, float | None]:
        run.train_to(run.step + len(run.loader))
        return run.history[-1]["train_loss"], run.history[-1].get("validation_accuracy")

    def test(flip: bool) -> float:
        with run.replay.memory(), run.averaged():
            return training.evaluate(run.model, loader, flip=flip)[1]

    return epoch, test, len(run.loader)


def torch_in(mode: str) -> Callable[..., tuple[Epoch, Test, int]]:
    def theirs(config: training.Config, folder: str, data: training.Data, split: str) -> tuple[Epoch, Test, int]:
        import torch
        from support import twin
        from torch.nn.functional import cross_entropy

        for name in LEFT_OUT:
            if getattr(config, name) != getattr(training.Config, name):
                raise ValueError(f"{name}: got {getattr(config, name)!r}, which the loop for PyTorch here does not do")
        torch.manual_seed(config.seed)
        net = twin.create(config.model, len(data.classes), stem=config.stem or "cifar")
        net, _, forward = in_mode(mode, net, torch.zeros(1, 3, 32, 32))
        same = ours_in_its_memory(net, config, len(data.classes))
        if config.whiten:
            training.whiten(same, data.train[0], data.std)
            net.conv1.weight.requires_grad_(False)
        momentum = {"momentum": config.momentum, "nesterov": config.nesterov, "fused": True}
        optimizer = torch.optim.SGD(groups_of(net, same, config), config.lr, **momentum)
        how = {"mean": data.mean, "std": data.std, "augment": config.augment, "mix": config.mix(len(data.classes))}
        loader = tr.data.Loader(*data.train, config.batch_size, seed=config.seed, **how)
        lr, step = training.SCHEDULES[config.schedule](config, config.epochs * len(loader)), 0
        average, slow = training.weights_beside(same, config, len(loader))

        def epoch() -> tuple[float, float | None]:
            nonlocal step
            net.train()
            total = 0.0
            for x, y in loader.epoch(step // len(loader)):
                for group in optimizer.param_groups:
                    group["lr"] = lr(step) * group["lr_scale"]
                optimizer.zero_grad()
                logits = forward(torch.from_numpy(x))
                loss = cross_entropy(logits, torch.from_numpy(y), label_smoothing=config.label_smoothing)
                loss.backward()
                optimizer.step()
                for beside in filter(None, (slow, average)):
                    beside.update()
                total, step = total + loss.item() * len(y), step + 1
            validation = accuracy(data.validation, False) if len(data.validation[1]) else None
            return total / len(loader.labels), validation

        def accuracy(images: tuple[np.ndarray, np.ndarray], flip: bool) -> float:
            net.eval()
            correct = 0
            with torch.no_grad(), average.in_place() if average else nullcontext():
                for x, y in as_they_are(images, data).epoch(0):
                    logits = net(torch.from_numpy(x))
                    logits = logits + net(torch.from_numpy(x).flip(3)) if flip else logits
                    correct += int((logits.argmax(1).numpy() == y).sum())
            return correct / max(1, len(images[1]))

        return epoch, lambda flip: accuracy(getattr(data, split), flip), len(loader)

    return theirs


def ours_in_its_memory(net: Any, config: training.Config, classes: int) -> tr.models.ResNet:
    """Our network with the same names, whose arrays share PyTorch's memory: a change of one changes both."""
    with tr.nn.init.nothing_drawn():
        same = tr.models.create(config.model, num_classes=classes, **config.model_options)
    theirs = {name: tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    for path, module in same.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            parameter.data = theirs[prefix + name]
        for name in list(module._buffers):
            module.register_buffer(name, theirs[prefix + name])
    return same


def groups_of(net: Any, same: tr.models.ResNet, config: training.Config) -> list[dict[str, Any]]:
    """The groups that our optimizer would have, with PyTorch's parameters."""
    theirs = dict(net.named_parameters())
    names = {parameter: name for name, parameter in same.named_parameters()}
    groups = training.parameter_groups(same, config)
    return [{**group, "params": [theirs[names[p]] for p in group["params"]]} for group in groups]


def run(who: str, config: training.Config, data: training.Data, split: str) -> dict[str, Any]:
    """Train, and record minutes, training loss and accuracy after each epoch."""
    use_threads(who, tr.num_threads())
    maker = ours if who == OURS else torch_in(who)
    with tempfile.TemporaryDirectory() as folder:
        epoch, test, steps = maker(config, folder + "/run", data, split)
        seconds, epochs = 0.0, []
        for number in range(config.epochs):
            start = time.perf_counter()
            loss, validation = epoch()
            seconds += time.perf_counter() - start
            after = {"minutes": seconds / 60, "train_loss": loss, "validation": validation, "accuracy": test(False)}
            epochs.append(after)
            print(f"{who}, seed {config.seed}, epoch {number + 1}: {epochs[-1]}", file=sys.stderr, flush=True)
        flipped = test(True)
    return {"who": who, "seed": config.seed, "steps": steps * config.epochs, "epochs": epochs, "flipped": flipped}


def train(who: str, recipe: str, settings: dict[str, Any], split: str, results: Path) -> dict[str, Any]:
    """Train with these settings, and add the result to the file; if the file has it already, read it."""
    config = training.Config(**settings)
    asked = {"recipe": recipe, "split": split, "who": who, "config": dataclasses.asdict(config) | {"data": None}}
    if known := [r for r in read(results) if asked.items() <= r.items()]:
        return known[0]
    found = asked | run(who, config, training.load_data(config), split) | {"machine": machine(tr.num_threads())}
    with results.open("a") as file:
        file.write(json.dumps(found) + "\n")
    return found


def read(results: Path) -> list[dict[str, Any]]:
    """All runs in the file."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


# ---------------------------------------------------------------- results
def minutes_to(accuracy: float, epochs: list[dict[str, float]]) -> float | None:
    """Minutes until the accuracy is at least this high at the end of this epoch and of all later ones."""
    below = [i for i, epoch in enumerate(epochs) if epoch["accuracy"] < accuracy]
    first = below[-1] + 1 if below else 0
    return epochs[first]["minutes"] if first < len(epochs) else None


def kind_of(run: dict[str, Any]) -> tuple[str, str, str]:
    """The recipe, the contender, and the split."""
    return run["recipe"], run["who"], run["split"]


def report(runs: list[dict[str, Any]]) -> Iterator[str]:
    """A table: for each recipe and contender the mean, the standard deviation, all seeds, and minutes."""
    yield (
        "| recipe | who | of | seeds | accuracy, % | each | both sides | minutes | to 80, 85, 90 % |\n"
        + "|---" * 9
        + "|"
    )
    for kind in dict.fromkeys(map(kind_of, runs)):
        some = sorted((r for r in runs if kind_of(r) == kind), key=lambda r: r["seed"])
        accuracies = [100 * r["epochs"][-1]["accuracy"] for r in some]
        flipped = 100 * np.mean([r["flipped"] for r in some])
        each, ended = ", ".join(f"{a:.2f}" for a in accuracies), [r["epochs"][-1]["minutes"] for r in some]
        reached = []
        for accuracy in ACCURACIES:
            minutes = [m for r in some if (m := minutes_to(accuracy, r["epochs"])) is not None]
            reached.append(f"{np.median(minutes):.1f}" if len(minutes) == len(some) else "-")
        seeds, time_ = ", ".join(str(r["seed"]) for r in some), np.median(ended)
        about = f"| {' | '.join(kind)} | {seeds} | {with_deviation(accuracies)} | {each} | {flipped:.2f}"
        yield f"{about} | {time_:.1f} | {', '.join(reached)} |"


def name_of(who: str) -> str:
    return who if who == OURS else f"PyTorch, {who}"


def draw(runs: list[dict[str, Any]]) -> Any:
    """Accuracy against minutes, with a line for each run."""
    figure, axis = plots.subplots(width=7, height=4)
    kinds = list(dict.fromkeys(map(kind_of, runs)))
    for run_ in runs:
        k = kinds.index(kind_of(run_))
        first = run_ is next(r for r in runs if kind_of(r) == kinds[k])
        axis.plot(
            [e["minutes"] for e in run_["epochs"]],
            [100 * e["accuracy"] for e in run_["epochs"]],
            color=f"C{k}", linewidth=1.2, label=f"{run_['recipe']}, {name_of(run_['who'])}" if first else None,
        )  # fmt: skip
    of = " and ".join({k[2] for k in kinds})
    axis.set(xlabel="minutes of training", ylabel=f"{of} accuracy, %", ylim=(40, None), xlim=(0, None))
    axis.legend(frameon=False)
    return figure


def setting(text: str) -> Any:
    """A value in JSON; a word without quotes is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="name from `tinyres recipes`, or a file for `tinyres train --config`")
    parser.add_argument("--data", help="folder of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--who", nargs="*", choices=(OURS, *MODES), default=[OURS, "channels-last"])
    parser.add_argument(
        "--results", type=Path, required=True, help="file with a line of JSON for each run; created or extended"
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings other than the recipe's")
    parser.add_argument("--split", choices=("test", "validation"), default="test", help="images whose accuracy counts")
    parser.add_argument("--plot", help="draw accuracy against minutes")
    args = parse(parser)
    for seed in args.seeds if args.recipe else []:
        for who in args.who:
            known = args.recipe in tr.recipes.names()
            recipe = (tr.recipes.find if known else tr.recipes.read)(args.recipe)
            name = " ".join([recipe.name if known else Path(args.recipe).stem, *args.set])
            changes = {key: setting(value) for key, value in (text.split("=", 1) for text in args.set)}
            settings = recipe.settings() | {"data": args.data, "seed": seed} | changes
            train(who, name, settings, args.split, args.results)
    runs = read(args.results)
    for kind in dict.fromkeys(map(kind_of, runs)):
        configs = [r["config"] | {"seed": None} for r in runs if kind_of(r) == kind]
        if any(config != configs[0] for config in configs):
            raise SystemExit(f"{args.results}: {' '.join(kind)} is there by several recipes: keep the lines of one")
    print("\n".join(report(runs)))
    if args.plot:
        plots.save(draw(runs), args.plot)


if __name__ == "__main__":
    main()
