"""Tables of docs/recipes.md: accuracies and minutes of recipes, and what their parts are worth."""

import re
from typing import Any

import ablation
import accuracy
import finetune
import numpy as np
import studies
from matplotlib.figure import Figure
from measuring import with_deviation
from pages.stored import read
from pages.writing import Table, head, row

from tinyres import plots

CONTENDERS = (("tinyres", "tinyres"), ("channels-last", "PyTorch 2.13.0"))
PARTS = {
    "crops of 2 pixels, not 4": "crops from a border of 2 pixels, not 4 (`--pad 2`)",
    "label smoothing": "label smoothing (`--label-smoothing 0.1`)",
    "whitened first convolution": "a first convolution that whitens (`--whiten`)",
    "lookahead": "slow weights to go back to (`--lookahead 0.95`)",
    "flips in turns": "flips in turns (`--alternate-flip`)",
    "moving average of weights": "a moving average of weights (`--ema 0.99`)",
    "faster biases of batch norm": "a rate of 16 times for biases of batch norm (`--bias-lr 16`)",
    "cutout": "cutout (`--cutout 8`)",
}


def seeds_of(results: str, who: str) -> list[dict[str, Any]]:
    runs = accuracy.read(studies.RESULTS / results)
    return sorted((run for run in runs if run["who"] == who), key=lambda run: run["seed"])


def tuned() -> Table:
    """Fine-tuning, and training from scratch."""
    yield from finetune.report(read("finetune")["runs"])


def accuracies(runs: list[dict[str, Any]]) -> tuple[str, str]:
    """Mean and standard deviation after the last epoch, and each accuracy."""
    found = [100 * run["epochs"][-1]["accuracy"] for run in runs]
    return with_deviation(found), ", ".join(f"{a:.2f}" for a in found)


def minutes() -> Table:
    """The recipe `fast`, here and in PyTorch."""
    yield from head(
        "`fast`", "seeds", "test accuracy, %", "each", "with mirror images", "minutes", "to 80 %", "to 85 %"
    )
    for who, name in CONTENDERS:
        runs = seeds_of("accuracy.jsonl", who)
        mean, each = accuracies(runs)
        both = 100 * np.mean([run["flipped"] for run in runs])
        took = [np.median([run["epochs"][-1]["minutes"] for run in runs])]
        took += [np.median([accuracy.minutes_to(a, run["epochs"]) for run in runs]) for a in (0.8, 0.85)]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        yield row(name, seeds, mean, each, f"{both:.2f}", *(f"{m:.1f}" for m in took))


def draw_minutes() -> Figure:
    """Test accuracy by minutes, here and in PyTorch."""
    return accuracy.draw(accuracy.read(studies.RESULTS / "accuracy.jsonl"))


def draw_curves() -> Figure:
    """The recipe `default`, epoch by epoch: all seeds, here and in PyTorch."""
    figure, axes = plots.subplots(1, 2, width=8, height=3.4)
    for (who, name), colour in zip(CONTENDERS, (plots.RESIDUAL, plots.PLAIN), strict=True):
        for run in seeds_of("equality.jsonl", who):
            after = range(1, len(run["epochs"]) + 1)
            label = name if run["seed"] == 0 else None
            axes[0].plot(after, [e["train_loss"] for e in run["epochs"]], color=colour, linewidth=1, label=label)
            axes[1].plot(after, [100 - 100 * e["accuracy"] for e in run["epochs"]], color=colour, linewidth=1)
    axes[0].set(title="training loss", xlabel="epoch")
    axes[1].set(title="test error, %", xlabel="epoch")
    axes[0].legend(frameon=False)
    return figure


def equality() -> Table:
    """The recipe `default`, here and in PyTorch."""
    yield from head("`default`", "test accuracy, %", "each")
    for who, name in CONTENDERS:
        yield row(name, *accuracies(seeds_of("equality.jsonl", who)))


def parts() -> Table:
    """The effect of each part of a recipe, the largest first. Bold: kept, since it helps by two standard errors."""
    chosen, seeds = ablation.design()
    runs = {(run["recipe"], run["seed"]): run for run in accuracy.read(studies.RESULTS / "ablation.jsonl")}
    ordered = [runs[ablation.name_of(on), seed] for on, seed in zip(chosen, seeds, strict=True)]
    scores = np.array([100 * run["epochs"][-1]["accuracy"] for run in ordered])
    effects, error = ablation.effects(chosen, seeds, scores)
    yield from head("part", "without, %", "with, %", f"effect, % (+- {error:.2f}, one standard error)", "kept")
    for i in np.argsort(-effects):
        name, kept, effect = PARTS[list(ablation.PARTS)[i]], effects[i] > 2 * error, f"{effects[i]:+.2f}"
        means = (f"{scores[chosen[:, i] == on].mean():.2f}" for on in (False, True))
        yield row(name, *means, f"**{effect}**" if kept else effect, "yes" if kept else "no")


THIRTY = {
    "fast epochs=30": "`fast`",
    "fast epochs=30 cutout=8": "with `--cutout 8`",
    "fast epochs=30 cutmix=1.0": "with `--cutmix 1.0`",
    "fast epochs=8 model=resnet9": "`resnet9`, eight epochs",
}
MIXED = {"fast": "`fast`", "fast mixup=0.2": "with `--mixup 0.2`"}


def validated(results: str, names: dict[str, str], what: str) -> Table:
    """Accuracy of the validation images after the last epoch, by the settings that differ."""
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    for run in accuracy.read(studies.RESULTS / results):
        last = run["epochs"][-1]
        found[run["recipe"]][run["seed"]] = 100 * last["validation" if run["split"] == "test" else "accuracy"]
    yield from head(what, "validation accuracy, %, of seeds 0, 1, ...", "mean")
    for name, by_seed in found.items():
        each = [by_seed[seed] for seed in sorted(by_seed)]
        yield row(names[name], ", ".join(f"{a:.2f}" for a in each), f"{np.mean(each):.2f}")


def mixed() -> Table:
    """Trainings of ten epochs on mixed images."""
    yield from validated("mixed.jsonl", MIXED, "ten epochs")


def thirty() -> Table:
    """Trainings of thirty epochs: `record` and what it was chosen from."""
    yield from validated("thirty.jsonl", THIRTY, "thirty epochs")


def record() -> Table:
    """The recipe `record` on the test images; minutes of the trainings that had two threads."""
    runs = [run for run in seeds_of("thirty.jsonl", "tinyres") if run["split"] == "test"]
    mean, each = accuracies(runs)
    seeds, both = ", ".join(str(run["seed"]) for run in runs), 100 * np.mean([run["flipped"] for run in runs])
    alone = [run["epochs"] for run in runs if run["machine"]["threads"] == 2]
    took = [np.median([epochs[-1]["minutes"] for epochs in alone])]
    took += [np.median([accuracy.minutes_to(a, epochs) for epochs in alone]) for a in (0.8, 0.85)]
    yield from head("", "seeds", "test accuracy, %", "each", "with mirror images", "minutes", "to 80 %", "to 85 %")
    yield row("`record`", seeds, mean, each, f"{both:.2f}", *(f"{m:.1f}" for m in took))


def fed() -> Table:
    """A step on a batch that is always the same, and one with batches from the loader."""
    figures = read("loader")
    models = list(next(iter(figures["kinds"].values()))["models"])
    names = (name.replace("slim_resnet", "slim ResNet-").replace("resnet", "ResNet-") for name in models)
    yield from head("batches", "alone, ms", *(f"{name}: still, fed, ms" for name in names), "part of a step that waits")
    for kind, found in figures["kinds"].items():
        steps = found["models"].values()
        cells = (f"{step['still_ms']:.1f}, {step['fed_ms']:.1f}" for step in steps)
        most = max(step["waited_ms"] / step["fed_ms"] for step in steps)
        yield row(re.sub("^and", "with", kind), f"{found['alone_ms']:.1f}", *cells, f"{100 * most:.1f} %")
