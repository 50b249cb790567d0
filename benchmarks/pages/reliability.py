"""The table and the picture of docs/reliability.md: two hours with a fault in each round."""

from matplotlib.figure import Figure
from pages.stored import read
from pages.writing import Table, head, row

from tinyres import plots

MEASURED = {
    "memory_mib": "memory, MiB",
    "files": "open files",
    "threads": "threads",
    "images_per_second": "images/s",
}


def soak() -> Table:
    """Medians of the second quarter of the rounds, and of the last."""
    yield from head("medians", "second quarter", "last quarter")
    for name, (early, late) in read("soak")["medians"].items():
        yield row(MEASURED[name], f"{early:.4g}", f"{late:.4g}")


def draw_soak() -> Figure:
    """Memory, handles and speed of one process."""
    rounds = read("soak")["rounds"]
    figure, axes = plots.subplots(3, 1, width=9, height=6, sharex=True)
    for axis, names in zip(axes, (["memory_mib"], ["files", "threads"], ["images_per_second"]), strict=True):
        for name in names:
            axis.plot([r["minutes"] for r in rounds], [r[name] for r in rounds], label=MEASURED[name])
        top = 1.2 * max(r[name] for r in rounds for name in names)
        axis.set(ylabel=", ".join(MEASURED[name] for name in names), ylim=(0, top))
    axes[1].legend(frameon=False, loc="center right")
    axes[-1].set(xlabel="minutes")
    axes[0].set_title(f"One process, {len(rounds)} rounds, each with a fault")
    return figure
