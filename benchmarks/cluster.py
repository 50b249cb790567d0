"""Simulate the exchange of `tinyres.parallel` on 1 to 4,096 nodes, more than we have, with SimGrid.

    python benchmarks/exchange.py --json resnet20.json
    python benchmarks/exchange.py --model resnet50 --batch-size 16 --json resnet50.json
    python benchmarks/cluster.py resnet20.json resnet50.json --output docs/cluster.png

This needs SimGrid for Python (Debian's python3-simgrid; `pip install simgrid` compiles it if its library is installed).
A node is the machine of the measured files: one process on all its cores, whose computing times are those in the files.
Nodes are connected by a fat tree of two levels, in racks of 32. A rack has half as many uplinks as nodes.

A sum of n bytes over P nodes has P - 1 rounds in which each node sends n / P bytes to the node k places after it
(Alltoall), and P - 1 rounds in which each sends n / P bytes to its neighbour (Allgather). SimGrid gives the time of a
round, with the paths of all its messages through the tree. A few of the P - 1 rounds are simulated, and represent the
others. Each round also takes the software's time for a message, and for each byte the measured time of copying and
adding.
"""

import argparse
import itertools
import json
import multiprocessing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from exchange import compute_time, step_time
from matplotlib.figure import Figure
from measuring import number, save

from tinyres import plots

RACK = 32  # nodes in a rack
UP = 16  # uplinks of a rack
SAMPLE = 6  # simulated rounds, which represent all of their kind
FAR_APART = 1, 2**20  # bytes of a message in the two simulations of a round; the time between them is interpolated
NODES = [2**e for e in range(13)]
BATCH = {"resnet20": (128, 4096), "resnet50": (16, 8192)}  # batch of each node, and total batch if that is constant
AIM = 0.8  # the efficiency that counts as scaling


class Network(NamedTuple):
    """Links of a cluster, and the software that uses them, with typical figures."""

    name: str
    bandwidth: float  # bytes per second
    link: float  # latency of a link in seconds
    message: float  # software's seconds for a message


NETWORKS = Network("10 Gbit/s, TCP", 1.25e9, 1e-6, 20e-6), Network("100 Gbit/s, RDMA", 12.5e9, 0.5e-6, 3e-6)


class Variant(NamedTuple):
    """Another way to exchange."""

    name: str
    racks: bool = False  # first within racks, then between nodes with the same place in each rack
    bits: int = 32
    bucket: int = 0  # least number of bytes that are summed together; 0: as it is now


VARIANTS = (
    Variant("as it is"),
    Variant("sums of 4 MiB", bucket=2**22),
    Variant("16 bits", bits=16),
    Variant("by racks", racks=True),
    Variant("by racks, sums of 4 MiB", racks=True, bucket=2**22),
)


# ---------------------------------------------------------------- SimGrid
class Round(NamedTuple):
    """Seconds of a round: for a message, and for each of its bytes."""

    start: float
    byte: float


def rounds(nodes: int, network: Network) -> dict[str, Round]:
    """The mean of each kind of round, simulated in a process of its own, as SimGrid requires."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_simulate, (nodes, network))


def _simulate(nodes: int, network: Network) -> dict[str, Round]:
    from simgrid import Actor, ClusterCallbacks, Comm, Engine, FatTreeParams, Link, NetZone

    engine = Engine(["cluster", "--cfg=network/model:CM02", "--log=root.thresh:warning"])
    hosts: list[Any] = []

    def host(zone: Any, _: Any, name: int) -> tuple[Any, None]:
        hosts.append(zone.create_host(f"node{name}", 1e9).seal())
        return hosts[-1].netpoint, None

    racks = -(-nodes // RACK)
    shape = FatTreeParams(2, [RACK, racks], [1, UP], [1, 1]) if racks > 1 else FatTreeParams(1, [nodes], [1], [1])
    NetZone.create_fatTree_zone(
        "cluster",
        None,
        shape,
        ClusterCallbacks(host, None, None),
        network.bandwidth,
        network.link,
        Link.SharingPolicy.SPLITDUPLEX,
    ).seal()

    rng = np.random.default_rng(0)
    places = np.arange(nodes)
    rack, place = places // RACK * RACK, places % RACK
    within, between = min(RACK, nodes), racks
    some = {
        "all": [(places + k) % nodes for k in sample(rng, nodes)],
        "all neighbour": [(places + 1) % nodes],
        "rack": [rack + (place + k) % within for k in sample(rng, within)],
        "rack neighbour": [rack + (place + 1) % within],
        "racks": [(places + k * RACK) % nodes for k in sample(rng, between)],
        "racks neighbour": [(places + RACK) % nodes],
    }
    found = {}

    def drive() -> None:
        for kind, patterns in some.items():
            times = []
            for size in FAR_APART:
                start = engine.clock
                for to in patterns:
                    Comm.wait_all([Comm.sendto_async(hosts[i], hosts[j], size) for i, j in enumerate(to)])
                times.append((engine.clock - start) / max(1, len(patterns)))
            byte = (times[1] - times[0]) / (FAR_APART[1] - FAR_APART[0])
            found[kind] = Round(times[0] - byte * FAR_APART[0], byte)

    Actor.create("driver", hosts[0], drive)
    engine.run()
    return found


def sample(rng: np.random.Generator, size: int) -> list[int]:
    """Some of the distances 1 to size - 1."""
    return sorted(rng.choice(np.arange(1, size), min(SAMPLE, size - 1), replace=False).tolist()) if size > 1 else []


# ---------------------------------------------------------------- a step
class Cluster(NamedTuple):
    """A number of nodes, the network between them, and its rounds."""

    nodes: int
    network: Network
    by: dict[str, Round]


def sum_time(size: float, at: Cluster, racks: bool, local: float) -> float:
    """Seconds of a sum of this many bytes; `local` is the time that a node needs for a byte."""
    if at.nodes == 1:
        return 0.0

    def both(kind: str, size: float, members: int) -> float:
        """Alltoall and Allgather with this many members."""
        scatter, gather = at.by[kind], at.by[f"{kind} neighbour"]
        start = 2 * at.network.message + scatter.start + gather.start
        return (members - 1) * (start + size / members * (scatter.byte + gather.byte + 2 * local))

    if racks and at.nodes > RACK:
        return both("rack", size, RACK) + both("racks", size / RACK, at.nodes // RACK)
    return both("all", size, at.nodes)


def merged(buckets: list[int], ready: list[float], least: int) -> tuple[list[int], list[float]]:
    """Merge neighbouring sums until each has at least `least` bytes. A merged sum is ready when its last part is."""
    sizes: list[int] = []
    when: list[float] = []
    for size, at in zip(buckets, ready, strict=True):
        if sizes and sizes[-1] < least:
            sizes[-1], when[-1] = sizes[-1] + size, at
        else:
            sizes.append(size)
            when.append(at)
    return sizes, when


def efficiency(figures: dict[str, Any], at: Cluster, variant: Variant, batch: float, alone: float) -> float:
    """Images per second of all nodes, divided by this many times those of a single node with a batch of `alone`."""
    terms = figures["node_compute"]
    compute, one = compute_time(terms, batch), compute_time(terms, alone)
    sizes, ready = merged(figures["buckets"], figures["ready"], variant.bucket)
    local = figures["exchange"]["2"]["byte"]
    took = step_time(compute, ready, [sum_time(n * variant.bits / 32, at, variant.racks, local) for n in sizes])
    return float(batch / took / (alone / one))


Curves = dict[tuple[str, str, str, str], list[float]]  # for (model, network, kind, variant): efficiency by nodes


def simulate(files: list[dict[str, Any]], nodes: list[int]) -> Curves:
    curves: Curves = {}
    for network, p in itertools.product(NETWORKS, nodes):
        print(f"{network.name}, {p} nodes", flush=True)
        at = Cluster(p, network, rounds(p, network) if p > 1 else {})
        for figures, variant in itertools.product(files, VARIANTS):
            model = figures["work"].split(",")[0]
            each, whole = BATCH[model]
            for kind, batch, alone in (("weak", each, each), ("strong", whole / p, whole)):
                if batch >= 1:
                    of = curves.setdefault((model, network.name, kind, variant.name), [])
                    of.append(efficiency(figures, at, variant, batch, alone))
    return curves


# ---------------------------------------------------------------- results
def reach(values: list[float], nodes: list[int]) -> int:
    """The largest number of nodes with an efficiency of at least AIM."""
    return max(p for p, value in zip(nodes, values, strict=False) if value >= AIM)


def draw(curves: Curves, nodes: list[int]) -> Figure:
    columns = sorted({key[:2] for key in curves})
    figure = Figure(figsize=(3.2 * len(columns), 6), layout="constrained")
    axes: Any = figure.subplots(2, len(columns), sharex=True, sharey=True, squeeze=False)
    for column, (model, network) in enumerate(columns):
        for row, kind in enumerate(("weak", "strong")):
            one = axes[row][column]
            for variant in VARIANTS:
                values = curves[model, network, kind, variant.name]
                one.plot(nodes[: len(values)], values, marker=".", label=variant.name, linewidth=1.4)
            each, whole = BATCH[model]
            one.set_title(
                f"{model}, {network}\n" + (f"batch {each} a node" if kind == "weak" else f"batch {whole} in all"),
                fontsize=9,
            )
            one.set_xscale("log", base=2)
            one.set_ylim(0, 1.05)
            one.axhline(AIM, color="#999999", linewidth=0.7, zorder=0)
            if row:
                one.set_xlabel("nodes")
            if not column:
                one.set_ylabel("efficiency")
    axes[0][0].legend(fontsize=7, loc="lower left")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="files from exchange.py, for resnet20 and resnet50")
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES, help="powers of 2")
    parser.add_argument("--output", type=Path, help="picture of efficiency by nodes")
    parser.add_argument("--json", type=Path, help="write all curves to this file")
    args = parser.parse_args()
    try:
        import simgrid  # noqa: F401
    except ImportError as error:
        parser.error(
            f"SimGrid is needed ({error}): apt install python3-simgrid, or pip install simgrid where its library is"
        )
    curves = simulate([json.loads(path.read_text()) for path in args.files], args.nodes)
    print(f"\nup to how many nodes the efficiency is {AIM} at least (and what it is at the end)")
    for (model, network, kind, variant), values in sorted(curves.items()):
        end = f"{number(values[-1])} on {args.nodes[len(values) - 1]}"
        print(f"{model:9} {network:17} {kind:7} {variant:24} {reach(values, args.nodes)} ({end})")
    if args.output:
        plots.save(draw(curves, args.nodes), args.output)
        print(f"Written: {args.output}")
    save(args.json, {"nodes": args.nodes, "curves": [[*key, values] for key, values in curves.items()]})


if __name__ == "__main__":
    main()
