"""Draw the results of train_step.py and kernels.py: speed beside PyTorch's best mode, and the roofline of convolutions.

    python benchmarks/train_step.py --all --json train_step.json
    python benchmarks/kernels.py --json kernels.json
    python benchmarks/plot.py train_step.json kernels.json --output docs/speed.png

Left: images per second divided by those of PyTorch's best mode, with a group of bars for each work; whiskers show the
middle half. Right: each convolution's GFLOP/s against the floating-point operations per byte that must be moved, below
the ceilings of the same run (Williams, Waterman and Patterson, "Roofline", 2009). Operations are counted as direct
convolution: a point above the ceiling of a matrix product belongs to an algorithm that needs fewer.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from contenders import MODES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from measuring import OURS, number

from tinyres import plots

COLOURS = {OURS: "#1f6fb4", **dict(zip(MODES, ("#e3e3e3", "#cdcdcd", "#b5b5b5", "#9a9a9a"), strict=True))}
OPERATIONS = {  # colour, marker, and a shift, since a layer's three operations have the same operations per byte
    "forward": ("#1f6fb4", "o", 0.96),
    "input gradient": ("#d9822b", "s", 1.0),
    "weight gradient": ("#3d9a50", "^", 1.04),
}


def draw_speed(axes: Axes, figures: dict[str, Any]) -> None:
    """Bars of images per second, relative to PyTorch's best mode."""
    works = [work for work in figures["works"] if work["best"]]
    for row, work in enumerate(works):
        scale, height = work["rates"][work["best"]]["median"], 0.84 / len(work["rates"])
        for i, (who, rate) in enumerate(work["rates"].items()):
            spread = work["ratio"] if who == OURS else {name: rate[name] / scale for name in rate}
            y, median = row + (i - (len(work["rates"]) - 1) / 2) * height, spread["median"]
            axes.barh(y, median, 0.92 * height, color=COLOURS[who], label=None if row else label(who))
            axes.hlines(y, spread["quarter"], spread["three_quarters"], color="#333333", linewidth=1)
            if who == OURS:
                axes.text(
                    0.02,
                    y,
                    f"{median:.2f}",
                    color="white",
                    fontweight="bold",
                    va="center_baseline",
                    fontsize=8,
                    zorder=3,
                )
            x, paper = spread["three_quarters"] + 0.01, {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axes.text(x, y, number(rate["median"]), va="center_baseline", fontsize=7.5, bbox=paper)
    axes.axvline(1, color="#333333", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(works)), [describe(work) for work in works])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("training speed, PyTorch's best mode = 1 (at the bars: images/s)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=3, frameon=False, fontsize=8.5)


def label(who: str) -> str:
    return who if who == OURS else f"PyTorch, {who}"


def network(model: str, stem: str) -> str:
    """A network's name in words; of the stem only what is not usual for it."""
    unusual = ", CIFAR stem" if (model, stem) == ("resnet18", "cifar") else ""
    return model.replace("resnet", "ResNet-") + unusual


def describe(work: dict[str, Any]) -> str:
    return f"{network(work['model'], work['stem'])}\n{work['image_size']} px, batch {work['batch_size']}"


def draw_roofline(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw convolutions' GFLOP/s against operations per byte: ours filled, PyTorch's best hollow."""
    kernels = [kernel for kernel in figures["kernels"] if kernel["unit"] == "GFLOP/s"]
    intensities = [kernel["amount"] / kernel["moved"] for kernel in kernels]
    for kernel, intensity in zip(kernels, intensities, strict=True):
        colour, marker, shift = OPERATIONS[kernel["operation"]]
        x, ours, theirs = shift * intensity, *(kernel["rates"][who]["median"] for who in (OURS, kernel["best"]))
        axes.plot([x, x], [theirs, ours], color=colour, linewidth=0.7, alpha=0.5)
        axes.plot(x, theirs, marker, color=colour, markerfacecolor="white", markersize=4.5)
        axes.plot(x, ours, marker, color=colour, markersize=5)

    rates = [rate["median"] for kernel in kernels for rate in kernel["rates"].values()]
    bottom, top = min(rates) / 1.5, figures["ceilings"]["product_gflops"]
    for place in ("memory", "cache"):
        slope = figures["ceilings"][f"{place}_gbytes"]
        x = np.geomspace(bottom / slope, 2 * max(intensities), 500)
        axes.plot(x, np.minimum(slope * x, top), color="#777777", linewidth=1, zorder=0)
        axes.text(
            1.15 * bottom / slope, 1.15 * bottom, f"{place}, {slope:.0f} GB/s", rotation=np.degrees(np.arctan(slope)),
            transform_rotates_text=True, rotation_mode="anchor", va="bottom", fontsize=8, color="#444444",
        )  # fmt: skip
    x = top / figures["ceilings"]["cache_gbytes"]
    axes.text(x, 1.02 * top, f"matrix product, {top:.0f} GFLOP/s", va="bottom", fontsize=8, color="#444444")
    for operation, (colour, marker, _) in OPERATIONS.items():
        axes.plot([], [], marker, color=colour, label=operation)
    axes.plot([], [], "o", color="#666666", label=OURS)
    axes.plot([], [], "o", color="#666666", markerfacecolor="white", label="PyTorch's best")
    axes.set(xscale="log", yscale="log", ylim=(bottom, 1.3 * max(*rates, top)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("operations per byte that must be moved")
    axes.set_ylabel("GFLOP/s, counted as direct convolution")
    axes.legend(loc="lower right", frameon=False, fontsize=8.5)


def caption(figures: dict[str, Any]) -> str:
    what = figures["machine"]
    return f"{what['processor']}, {what['threads']} of {what['cores']} cores, PyTorch {what['versions']['torch']}"


def draw(speed: dict[str, Any], kernels: dict[str, Any]) -> Figure:
    """Both pictures, side by side."""
    figure = Figure(figsize=(12, 5.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
    draw_speed(left, speed)
    draw_roofline(right, kernels)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(caption(speed), fontsize=8, color="#666666")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_step", type=Path, help="JSON of train_step.py")
    parser.add_argument("kernels", type=Path, help="JSON of kernels.py")
    parser.add_argument("--output", type=Path, default=Path("speed.png"))
    args = parser.parse_args()
    speed, kernels = (json.loads(path.read_text()) for path in (args.train_step, args.kernels))
    if not any(work["best"] for work in speed["works"]):
        parser.error(f"{args.train_step}: has no work that PyTorch has done as well")
    if not any(kernel["unit"] == "GFLOP/s" for kernel in kernels["kernels"]):
        parser.error(f"{args.kernels}: has no convolution")
    plots.save(draw(speed, kernels), args.output)


if __name__ == "__main__":
    main()
