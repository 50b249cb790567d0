"""Make the tables of the documentation from the stored results.

    python benchmarks/tables.py               # all of them, each under the page that has it
    python benchmarks/tables.py --pictures docs    # and the pictures of the studies

Each function returns the lines of one table, or their part with figures. A test compares them with the page.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ablation
import accuracy
import numpy as np
import studies

from tinyres import plots
from tinyres.study import batch_norm, gradient_flow, identity_path, skip_path
from tinyres.study.probe import Moment


def power(value: float) -> str:
    """Two digits, or a power of ten if that is shorter."""
    if 0.01 <= value < 100_000:
        return f"{float(f'{value:.2g}'):,.10g}"
    digits, exponent = f"{value:.1e}".split("e")
    return rf"${digits} \cdot 10^{{{int(exponent)}}}$"


# ---------------------------------------------------------------- docs/recipes.md
def seeds_of(results: str, who: str) -> list[dict[str, Any]]:
    runs = accuracy.read(studies.RESULTS / results)
    return sorted((run for run in runs if run["who"] == who), key=lambda run: run["seed"])


def accuracies(runs: list[dict[str, Any]]) -> tuple[str, str]:
    """Mean and standard deviation after the last epoch, and each accuracy."""
    found = [100 * run["epochs"][-1]["accuracy"] for run in runs]
    return f"{np.mean(found):.2f} +- {np.std(found, ddof=1):.2f}", ", ".join(f"{a:.2f}" for a in found)


def minutes() -> Iterator[str]:
    """Lines for the recipe `fast`, here and in PyTorch."""
    for who, name in (("tinyres", "tinyres"), ("channels-last", "PyTorch 2.13.0")):
        runs = seeds_of("accuracy.jsonl", who)
        mean, each = accuracies(runs)
        both = 100 * np.mean([run["flipped"] for run in runs])
        took = [np.median([run["epochs"][-1]["minutes"] for run in runs])]
        took += [np.median([accuracy.minutes_to(a, run["epochs"]) for run in runs]) for a in (0.8, 0.85)]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        yield f"| {name} | {seeds} | {mean} | {each} | {both:.2f} | {' | '.join(f'{m:.1f}' for m in took)} |"


def equality() -> Iterator[str]:
    """Lines for the recipe `default`, here and in PyTorch."""
    for who, name in (("tinyres", "tinyres"), ("channels-last", "PyTorch 2.13.0")):
        yield f"| {name} | {' | '.join(accuracies(seeds_of('equality.jsonl', who)))} |"


def parts() -> Iterator[str]:
    """Figures on the effect of each part of a recipe."""
    parts, seeds = ablation.design()
    runs = {(run["recipe"], run["seed"]): run for run in accuracy.read(studies.RESULTS / "ablation.jsonl")}
    chosen = [runs[ablation.name_of(row), seed] for row, seed in zip(parts, seeds, strict=True)]
    scores = np.array([100 * run["epochs"][-1]["accuracy"] for run in chosen])
    found, _ = ablation.effects(parts, seeds, scores)
    for i, effect in enumerate(found):
        yield f"| {scores[~parts[:, i]].mean():.2f} | {scores[parts[:, i]].mean():.2f} | {effect:+.2f} |"


# ---------------------------------------------------------------- docs/studies.md
def between(values: Iterable[float], write: Callable[[float], str] = power) -> str:
    """The smallest and the largest number, or only one if both are written in the same way."""
    values = list(values)
    return " to ".join(dict.fromkeys(map(write, (min(values), max(values)))))


def flows() -> Iterator[str]:
    """The part of the gradient's norm that one layer keeps, and that all layers keep, at initialisation."""
    found = defaultdict(list)
    for line in studies.read("gradient-flow"):
        for net in line["numbers"]["networks"]:
            layers = [gradient_flow.Layer(**layer) for layer in net["moments"][0]["measured"]]
            found[net["model"], net["variant"]].append(gradient_flow.whole(layers))
    for (model, variant), pairs in found.items():
        products, means = zip(*pairs, strict=True)
        yield f"| `{model}`, {variant} | {between(means, '{:.2f}'.format)} | {between(products)} |"


def quotients() -> Iterator[str]:
    """The accuracy of a difference quotient of `exp`: the best step, its error, and slopes."""
    curves = [line["numbers"]["curves"]["exp"] for line in studies.read("gradcheck")]
    for dtype in ("float64", "float32"):
        some = [curve[dtype] for curve in curves]
        slopes = [
            between(found, "{:.2f}".format) if None not in (found := [c["slopes"][kind] for c in some]) else "-"
            for kind in ("central", "forward", "round-off")
        ]
        cells = [between(c[name] for c in some) for name in ("best_step", "best_error")]
        yield f"| {dtype} | {' | '.join(cells + slopes)} |"


def splits() -> Iterator[str]:
    """The gradient at the forks of `resnet56`: its part through the shortcut, divided by that through the branch."""
    for place, when in ((0, "at the start"), (-1, "after 100 steps")):
        moments = [line["numbers"]["moments"][place] for line in studies.read("skip-path")]
        blocks = [[skip_path.Split(**split) for split in moment["measured"]] for moment in moments]
        ratios, each = [skip_path.typical(splits) for splits in blocks], [s for splits in blocks for s in splits]
        cells = between(ratios, "{:.2f}".format), between((s.ratio for s in each if s.ratio), "{:.2f}".format)
        yield f"| {when} | {' | '.join(cells)} | {between((s.cosine for s in each), '{:.2f}'.format)} |"


def norms() -> Iterator[str]:
    """The factor of all layers for the gradient, with batch norm and without, over all seeds."""
    products = defaultdict(list)
    for line in studies.read("batch-norm"):
        for point in line["numbers"]["points"]:
            products[point["model"], point["batch_norm"], point["scale"]].append(point["product"])
    for name, norm in dict.fromkeys((name, norm) for name, norm, _ in products):
        cells = [between(products[name, norm, scale]) for scale in (0.5, 1.0, 2.0)]
        yield f"| `{name}` | {'yes' if norm else 'no'} | {' | '.join(cells)} |"


def identity() -> Iterator[str]:
    """The part of the norm that the identity path keeps in each stage, and its share of the whole, over all seeds."""
    stages = defaultdict(lambda: defaultdict(list))
    for line in studies.read("identity-path"):
        for net in line["numbers"]["networks"]:
            for stage in net["moments"][0]["measured"]:
                for name in ("kept", "share"):
                    stages[net["model"]][name].append(stage[name])
    for model, found in stages.items():
        yield f"| `{model}` | {' | '.join(between(found[name], '{:.2f}'.format) for name in ('kept', 'share'))} |"


def draw_norms() -> Any:
    """Draw the first seed."""
    line = studies.read("batch-norm")[0]
    return batch_norm.draw([batch_norm.Point(**point) for point in line["numbers"]["points"]])


def draw_identity() -> Any:
    """Draw the first seed."""
    nets = studies.read("identity-path")[0]["numbers"]["networks"]
    paths = []
    for net in nets:
        moments = [
            Moment(m["step"], m["loss"], [identity_path.Stage(**stage) for stage in m["measured"]])
            for m in net["moments"]
        ]
        paths.append(identity_path.Path(net["model"], net["depth"], moments))
    return identity_path.draw(paths)


TABLES: dict[str, list[Callable[[], Iterator[str]]]] = {
    "recipes.md": [minutes, equality, parts],
    "studies.md": [flows, norms, identity, splits, quotients],
}
PICTURES: dict[str, Callable[[], Any]] = {"batch-norm.png": draw_norms, "identity-path.png": draw_identity}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the pictures into this folder, too")
    args = parser.parse_args()
    for page, tables in TABLES.items():
        for table in tables:
            print(f"{page}: {table.__doc__}\n\n" + "\n".join(table()) + "\n")
    for name, draw in PICTURES.items() if args.pictures else ():
        plots.save(draw(), args.pictures / name)


if __name__ == "__main__":
    main()
