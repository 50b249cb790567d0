"""Train a recipe here and in PyTorch: how accurate both get, and in how many minutes.

    python benchmarks/accuracy.py --recipe default --seeds 0 1 2 3 4 --results accuracy.jsonl
    python benchmarks/accuracy.py --results accuracy.jsonl --plot accuracy.png

Both train on the same images in the same order and variation, made by the same loader, at the same learning rates, from
weights of their own. Each epoch is timed with all that belongs to it (images, steps, the validation of the recipe and,
here, the checkpoint); then the test images are looked at, with the clock stopped. They choose nothing: the accuracy
that counts is that after the last epoch. Each run is a line of the results; what is there is not trained again, so that
many sessions can add to it.
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
from measuring import OURS, machine, parse

import tinyres as tr
from tinyres import train as training

Epoch = Callable[[], float]  # trains an epoch and validates, and returns the training loss
Test = Callable[[], float]  # accuracy on the test images
ACCURACIES = (0.8, 0.85, 0.9)
LEFT_OUT = ("shortcut", "optimizer", "clip_norm", "zero_init_residual", "weights", "freeze", "shards", "lr_batch_size")
"""Settings that the loop for PyTorch takes at their defaults alone."""


# ---------------------------------------------------------------- who trains
def as_they_are(split: tuple[np.ndarray, np.ndarray], data: training.Data) -> tr.data.Loader:
    return tr.data.Loader(*split, training.EVAL_BATCH, mean=data.mean, std=data.std, shuffle=False)


def ours(config: training.Config, folder: str, data: training.Data) -> tuple[Epoch, Test, int]:
    run = training.Run(config, folder)
    loader = as_they_are(data.test, data)

    def epoch() -> float:
        run.train_to(run.step + len(run.loader))
        return run.history[-1]["train_loss"]

    def test() -> float:
        with run.replay.memory(), run.averaged():
            return training.evaluate(run.model, loader)[1]

    return epoch, test, len(run.loader)


def torch_in(mode: str) -> Callable[..., tuple[Epoch, Test, int]]:
    def theirs(config: training.Config, folder: str, data: training.Data) -> tuple[Epoch, Test, int]:
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
        average = tr.average.EMA(same, config.ema, every=training.AVERAGE_EVERY) if config.ema else None
        momentum = {"momentum": config.momentum, "nesterov": config.nesterov, "fused": True}
        optimizer = torch.optim.SGD(groups_of(net, same, config), config.lr, **momentum)
        how = {"mean": data.mean, "std": data.std, "augment": config.augment, "mix": config.mix(len(data.classes))}
        loader = tr.data.Loader(*data.train, config.batch_size, seed=config.seed, **how)
        lr, step = training.SCHEDULES[config.schedule](config, config.epochs * len(loader)), 0

        def epoch() -> float:
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
                if average:
                    average.update()
                total, step = total + loss.item() * len(y), step + 1
            accuracy(data.validation)
            return total / len(loader.labels)

        def accuracy(split: tuple[np.ndarray, np.ndarray]) -> float:
            net.eval()
            with torch.no_grad(), average.in_place() if average else nullcontext():
                batches = as_they_are(split, data).epoch(0)
                correct = sum(int((net(torch.from_numpy(x)).argmax(1).numpy() == y).sum()) for x, y in batches)
            return correct / max(1, len(split[1]))

        return epoch, lambda: accuracy(data.test), len(loader)

    return theirs


def ours_in_its_memory(net: Any, config: training.Config, classes: int) -> tr.models.ResNet:
    """Our network of the same names whose arrays are those of one of PyTorch's: what changes one changes both."""
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
    """The groups that our optimizer would have, of PyTorch's parameters."""
    theirs = dict(net.named_parameters())
    names = {parameter: name for name, parameter in same.named_parameters()}
    groups = training.parameter_groups(same, config)
    return [{**group, "params": [theirs[names[p]] for p in group["params"]]} for group in groups]


def run(who: str, config: training.Config, data: training.Data) -> dict[str, Any]:
    """Train, and note minutes, training loss and test accuracy after each epoch."""
    use_threads(who, tr.num_threads())
    maker = ours if who == OURS else torch_in(who)
    with tempfile.TemporaryDirectory() as folder:
        epoch, test, steps = maker(config, folder + "/run", data)
        seconds, epochs = 0.0, []
        for number in range(config.epochs):
            start = time.perf_counter()
            loss = epoch()
            seconds += time.perf_counter() - start
            epochs.append({"minutes": seconds / 60, "train_loss": loss, "test_accuracy": test()})
            print(f"{who}, seed {config.seed}, epoch {number + 1}: {epochs[-1]}", file=sys.stderr, flush=True)
    return {"who": who, "seed": config.seed, "steps": steps * config.epochs, "epochs": epochs}


# ---------------------------------------------------------------- what came out
def minutes_to(accuracy: float, epochs: list[dict[str, float]]) -> float | None:
    """Until the test accuracy is so high, and stays so at the end of each epoch after that."""
    below = [i for i, epoch in enumerate(epochs) if epoch["test_accuracy"] < accuracy]
    first = below[-1] + 1 if below else 0
    return epochs[first]["minutes"] if first < len(epochs) else None


def report(runs: list[dict[str, Any]]) -> Iterator[str]:
    """For each recipe and contender the mean, the standard deviation, all seeds, and minutes."""
    yield "| recipe | who | seeds | test accuracy, % | each | minutes | to 80, 85, 90 % |\n" + "|---" * 7 + "|"
    for recipe, who in dict.fromkeys((r["recipe"], r["who"]) for r in runs):
        some = sorted((r for r in runs if (r["recipe"], r["who"]) == (recipe, who)), key=lambda r: r["seed"])
        accuracies = [100 * r["epochs"][-1]["test_accuracy"] for r in some]
        spread = f" +- {np.std(accuracies, ddof=1):.2f}" if len(some) > 1 else ""
        each, ended = ", ".join(f"{a:.2f}" for a in accuracies), [r["epochs"][-1]["minutes"] for r in some]
        reached = []
        for accuracy in ACCURACIES:
            minutes = [m for r in some if (m := minutes_to(accuracy, r["epochs"])) is not None]
            reached.append(f"{np.median(minutes):.1f}" if len(minutes) == len(some) else "-")
        seeds, mean, time_ = ", ".join(str(r["seed"]) for r in some), np.mean(accuracies), np.median(ended)
        yield f"| {recipe} | {who} | {seeds} | {mean:.2f}{spread} | {each} | {time_:.1f} | {', '.join(reached)} |"


def plot(runs: list[dict[str, Any]], path: str) -> None:
    """Accuracy against minutes, a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys((r["recipe"], r["who"]) for r in runs))
    for run_ in runs:
        k = kinds.index((run_["recipe"], run_["who"]))
        first = run_ is next(r for r in runs if (r["recipe"], r["who"]) == kinds[k])
        axes.plot(
            [e["minutes"] for e in run_["epochs"]],
            [100 * e["test_accuracy"] for e in run_["epochs"]],
            color=f"C{k}", linewidth=1.2, label=f"{run_['recipe']}, {run_['who']}" if first else None,
        )  # fmt: skip
    axes.set(xlabel="minutes of training", ylabel="test accuracy (%)", ylim=(40, None), xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", help="of `tinyres recipes`, or a file as `tinyres train --config` takes it")
    parser.add_argument("--data", help="folder of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--who", nargs="*", choices=(OURS, *MODES), default=[OURS, "channels-last"])
    parser.add_argument("--results", type=Path, required=True, help="a line of JSON for each run; made, or added to")
    parser.add_argument("--plot", help="draw accuracy against minutes")
    args = parse(parser)
    runs = [json.loads(line) for line in args.results.read_text().splitlines()] if args.results.exists() else []
    settings = {}
    if args.recipe:
        known = args.recipe in tr.recipes.names()
        settings = (tr.recipes.find if known else tr.recipes.read)(args.recipe).settings()
        name = args.recipe if known else Path(args.recipe).stem
    for seed in args.seeds if args.recipe else []:
        for who in args.who:
            if any((r["recipe"], r["who"], r["seed"]) == (name, who, seed) for r in runs):
                continue
            config = training.Config(**settings | {"data": args.data, "seed": seed})
            data = training.load_data(config)  # a seed holds out validation images of its own
            found = {"recipe": name, **run(who, config, data), "config": dataclasses.asdict(config)}
            runs.append(found | {"machine": machine(tr.num_threads())})
            with args.results.open("a") as file:
                file.write(json.dumps(runs[-1]) + "\n")
    print("\n".join(report(runs)))
    if args.plot:
        plot(runs, args.plot)


if __name__ == "__main__":
    main()
