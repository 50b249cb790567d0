"""Tables of docs/parallel.md and docs/scaling.md: several processes, and the model of a step past one machine."""

from typing import Any

import accuracy
import cluster
import exchange
import numpy as np
import plot
from matplotlib.figure import Figure
from measuring import OURS, number, ratio
from pages.performance import WIDTHS
from pages.stored import Figures, read
from pages.writing import Table, bold, head, row
from studies import RESULTS

from tinyres import timeline
from tinyres.recipe import Config

ONE, TWO = f"{OURS}, 1 process, 1 thread", f"{OURS}, 2 processes"
DDP = "DistributedDataParallel"
MEASURED = (("resnet20", "avx512"), ("resnet20", "avx2"), ("resnet18", "avx512"))


def title(figures: Figures) -> str:
    """A network and its batch, from the description of a work."""
    model, stem, _, batch = figures["work"].split(", ")
    return f"{plot.network(model, stem.removesuffix(' stem'))}, {batch}"


def processes() -> Table:
    """Threads and processes beside one thread of one process, and PyTorch's processes."""
    others = {
        "2 threads": f"{OURS}, 1 process, 2 threads",
        "2 processes": TWO,
        "2 processes, a batch each": f"{TWO}, a batch each",
        f"{DDP}, 2 processes": f"{DDP}, 2 processes",
    }
    yield from head("", "1 process, 1 thread", *others, f"2 processes to {DDP}")
    for model, simd in MEASURED:
        figures = read(f"parallel-{model}-{simd}")
        seconds = figures["seconds_per_image"]
        cells = (str(ratio(seconds, ONE, who)) for who in others.values())
        last = bold(ratio(seconds, f"{DDP}, 2 processes", TWO)._asdict())
        name = f"{title(figures)}, {WIDTHS[simd]}, n = {figures['steps']}"
        yield row(name, number(1 / float(np.median(seconds[ONE]))), *cells, last)


def larger() -> Table:
    """Test accuracy by the batch, with a learning rate that grows with it; and with one that does not."""
    found: dict[tuple[bool, int], list[dict[str, Any]]] = {}
    for run in accuracy.read(RESULTS / "large-batch.jsonl"):
        config = run["config"]
        found.setdefault((config["lr_batch_size"] is None, config["batch_size"]), []).append(run)
    yield from head("batch", "steps", "learning rate", "test accuracy, %, of seeds 0, 1, ...", "mean")
    for (_, batch), runs in sorted(found.items()):
        each = [100 * run["epochs"][-1]["accuracy"] for run in sorted(runs, key=lambda run: run["seed"])]
        rate, accuracies = Config(**runs[0]["config"]).peak_lr, ", ".join(f"{a:.1f}" for a in each)
        yield row(f"{batch:,}", f"{runs[0]['steps']:,}", f"{rate:g}", accuracies, f"{np.mean(each):.1f}")


# ---------------------------------------------------------------- docs/scaling.md
def exchanges() -> list[Figures]:
    return [read(f"exchange-{model}") for model in ("resnet20", "resnet50")]


def terms() -> Table:
    """The terms of the model of a step."""
    found = exchanges()

    def line(term: dict[str, float]) -> str:
        return f"{number(1e3 * term['start'])} ms + {number(1e3 * term['image'])} ms an image"

    def between(processes: str, figures: Figures) -> str:
        term = figures["exchange"][processes]
        return f"{number(1e6 * term['latency'])} µs a message + {number(1e9 * term['byte'])} ns a byte"

    yield from head("medians", *map(title, found))
    yield row("computing, one thread while both cores are busy", *(line(f["compute"]) for f in found))
    yield row("computing, two threads of one process", *(line(f["node_compute"]) for f in found))
    sums = ((sum(f["buckets"]) / 1e6, len(f["buckets"])) for f in found)
    yield row("gradients", *(f"{number(size)} MB in {n} sums" for size, n in sums))
    yield row("part of computing after which the first sum is ready", *(f"{f['ready'][0]:.0%}" for f in found))
    for p in ("2", "4", "8"):
        where = "" if p == "2" else ", on two cores"
        yield row(f"exchange between {p} processes{where}", *(between(p, f) for f in found))


def steps() -> Table:
    """Measured steps of several processes on two cores, and the model."""
    yield from head("a step, ms (middle half)", "2 processes", "4", "8")
    for figures in exchanges():
        size, measured = figures["batch_size"], []
        for check in figures["check"]:
            parts = figures["jobs"][str(check["processes"])]["steps"]
            measured += [part for part in parts if part["batch_size"] * check["processes"] == size]
        yield row(title(figures), *(str(exchange.milliseconds(part["step"])) for part in measured))
        said = ((1e3 * c["model"], c["model"] / c["measured"] - 1) for c in figures["check"])
        yield row("the model", *(f"{number(ms)}, {off:+.0%}" for ms, off in said))
        yield row("computing alone, measured", *(number(1e3 * exchange.median(part["compute"])) for part in measured))


def curves() -> tuple[cluster.Curves, list[int]]:
    """The efficiencies that cluster.py has written, and the numbers of nodes."""
    figures = read("cluster")
    return {tuple(key): values for *key, values in figures["curves"]}, figures["nodes"]


def reached() -> Table:
    """The largest number of nodes with an efficiency of 0.8."""
    found, nodes = curves()
    places = [(model, network.name) for model in ("resnet20", "resnet50") for network in cluster.NETWORKS]
    columns = (f"{model.replace('resnet', 'ResNet-')}, {network.split(',')[0]}" for model, network in places)
    yield from head("", *columns)
    for kind, name in (("weak", "a batch each"), ("strong", "one batch")):
        for variant in cluster.VARIANTS:
            most = (cluster.reach(found[*place, kind, variant.name], nodes) for place in places)
            yield row(f"{name}, {variant.name}", *(f"{n:,}" for n in most))


def draw_cluster() -> Figure:
    """Efficiency by the number of nodes."""
    return cluster.draw(*curves())


def draw_timeline() -> Figure:
    """When two processes compute, and when they exchange."""
    found = read("timeline")
    spans = [[timeline.Span(**span) for span in process] for process in found["processes"]]
    return timeline.draw(spans, f"{found['model']}, batch {found['batch_size']}")
