"""The parts of a step on several processes: computing, by batch size, and exchange, by bytes and processes.

    python benchmarks/exchange.py --json resnet20.json                       # needs tinyres[mpi]
    python benchmarks/exchange.py --model resnet50 --batch-size 16 --json resnet50.json

Two processes compute at the same time, each on a core of its own and on parts of several sizes; four and eight
processes share these two cores. A formula for computing is fitted to the figures of two processes, and one for exchange
to those of 2, 4 and 8 separately:

    compute(b) = start + b image,    exchange(n, P) = 2 (P - 1) latency + 2 (P - 1) / P n byte,

From these a step is predicted for 2, 4 and 8 processes, and compared with the measured step:

    step(P) = max(P / 2, 1) compute(B / P) + exchange of what is still under way when that ends.

`cluster.py` reads the terms from the file, and predicts larger networks of machines.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from contenders import SGD, WORKS, Work, add_options, batch, channels_last, need_mpiexec, our_net, our_step, works_of
from measuring import Spread, introduce, machine, parse, save

CORES = 2
PROCESSES = 2, 4, 8
BYTES = [2**e for e in range(12, 25, 2)]


# ---------------------------------------------------------------- the work of a process
def exchanges(turns: int) -> dict[int, list[float]]:
    """Seconds of sums over all processes without other work, by number of bytes."""
    import tinyres as tr
    from tinyres.parallel.exchange import Exchange, Shards
    from tinyres.parallel.world import world

    world, seconds = world(), {}
    for size in BYTES:
        exchange, part = Exchange(Shards(world.size, world), [(size // 4, np.float32)]), np.ones(size // 4, np.float32)
        seconds[size] = []
        for turn in range(turns + 1):
            tr.parallel.barrier()
            start = time.perf_counter()
            exchange.put(0, world.rank, [part])
            exchange.wait()
            if turn:
                seconds[size].append(time.perf_counter() - start)
    return seconds


def steps(work: Work, turns: int) -> dict[str, Any]:
    """Seconds of a step on a part of this batch size, with computing only and with the exchange, in turns."""
    import tinyres as tr
    from tinyres.parallel.world import world

    images, labels = batch(work)
    x, found = tr.Tensor(channels_last(images)), {}
    for kind in ("compute", "step"):
        net = our_net(work)
        gradients = tr.parallel.Gradients(net.parameters(), net.buffers()) if kind == "step" else None
        found[kind] = net, tr.optim.SGD(net.parameters(), **SGD), gradients
    seconds: dict[str, list[float]] = {kind: [] for kind in found}
    ready = []
    for turn in range(turns + 1):
        for kind, (net, optimizer, gradients) in found.items():
            tr.parallel.barrier()
            start = time.perf_counter()
            if gradients:
                gradients.exchange.log = []
            our_step(net, x, labels, optimizer, gradients)
            took = time.perf_counter() - start
            if turn:
                seconds[kind].append(took)
                if gradients and gradients.exchange.log:  # a single process exchanges nothing
                    ready.append([begun - start for begun, _ in gradients.exchange.log[: len(gradients.buckets)]])
    buckets = [sum(p.data.nbytes for p in bucket) for bucket in found["step"][-1].buckets]
    when = np.median(np.array(ready) / np.array(seconds["compute"])[:, None], 0).tolist() if ready else []
    return seconds | {"buckets": buckets, "ready": when, "processes": world().size, "batch_size": work.batch_size}


def serve(args: argparse.Namespace, work: Work) -> None:
    """All measurements with this number of processes; the first one prints them."""
    import tinyres as tr
    from tinyres.parallel.launch import launch

    if launch():
        tr.parallel.init()
    tr.set_num_threads(args.job)
    parts = [work._replace(batch_size=size) for size in args.parts]
    found = {"steps": [steps(part, args.steps) for part in parts]}
    if tr.parallel.world_size() > 1:
        found["exchange"] = exchanges(10 * args.steps)
    if tr.parallel.rank() == 0:
        print("found", json.dumps(found), flush=True)


# ---------------------------------------------------------------- the model
def fit_compute(sizes: list[int], seconds: list[float]) -> dict[str, float]:
    """Seconds of a step that do not depend on the images, and seconds for an image: least squares of ratios."""
    start, image = _fit(np.array([[1.0, b] for b in sizes]), np.array(seconds))
    return {"start": start, "image": image}


def fit_exchange(rows: list[tuple[int, int, float]]) -> dict[str, float]:
    """Seconds for a message, and for a byte, from (processes, bytes, seconds)."""
    terms = [[2 * (p - 1), 2 * (p - 1) / p * n] for p, n, _ in rows]
    latency, byte = _fit(np.array(terms), np.array([seconds for *_, seconds in rows]))
    return {"latency": latency, "byte": byte}


def _fit(terms: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Coefficients that are not negative, with the smallest relative errors."""
    scaled, ones = terms / seconds[:, None], np.ones(len(seconds))
    both = np.linalg.lstsq(scaled, ones, rcond=None)[0]
    for i in np.flatnonzero(both < 0):  # then use the other one only
        both[i], both[1 - i] = 0, np.linalg.lstsq(scaled[:, [1 - i]], ones, rcond=None)[0][0]
    return float(both[0]), float(both[1])


def compute_time(terms: dict[str, float], images: float) -> float:
    return terms["start"] + images * terms["image"]


def exchange_time(terms: dict[str, float], size: float, processes: int) -> float:
    return 2 * (processes - 1) * terms["latency"] + 2 * (processes - 1) / processes * size * terms["byte"]


def step_time(compute: float, ready: list[float], exchanges: list[float]) -> float:
    """The time when the last sum is complete.

    Each sum begins when its gradients are final and the sum before it has ended. `ready` has the times when gradients
    are final, divided by the time of computing alone. The last ones can be a little above 1, since the exchange itself
    delayed them.
    """
    end = 0.0
    for when, takes in zip(ready, exchanges, strict=True):
        end = max(end, min(1, when) * compute) + takes
    return max(compute, end)


# ---------------------------------------------------------------- results
def print_compute(figures: dict[str, Any]) -> None:
    """Fit computing, for one of two processes, and for one process on all cores."""
    for name, measured in (("compute", figures["jobs"][CORES]["steps"]), ("node_compute", figures["node"]["steps"])):
        terms = fit_compute([s["batch_size"] for s in measured], [median(s["compute"]) for s in measured])
        figures[name] = terms
        print(f"\n{name}: {1e3 * terms['start']:.2f} ms and {1e3 * terms['image']:.3f} ms for each image")
        for s in measured:
            fitted = 1e3 * compute_time(terms, s["batch_size"])
            print(f"  {s['batch_size']:>4} images: {milliseconds(s['compute'])} ms, the fit {fitted:.4g}")


def print_exchange(figures: dict[str, Any]) -> None:
    """Fit exchanges, for each number of processes."""
    figures["exchange"] = {}
    print("\nexchange, of the bytes of a sum: measured ms, and the fit")
    for p, found in figures["jobs"].items():
        rows = [(p, int(n), median(seconds)) for n, seconds in found["exchange"].items()]
        terms = figures["exchange"][p] = fit_exchange(rows)
        print(f"  {p} processes: {1e6 * terms['latency']:.1f} us a message, {1e9 * terms['byte']:.3f} ns a byte")
        for _, n, seconds in rows:
            print(f"    {n:>9}: {1e3 * seconds:8.3f}   {1e3 * exchange_time(terms, n, p):8.3f}")


def print_steps(figures: dict[str, Any], batch_size: int) -> None:
    """Print measured steps beside the predictions of the model."""
    parts = {p: {s["batch_size"]: s for s in found["steps"]} for p, found in figures["jobs"].items()}
    two = parts[CORES][batch_size // CORES]
    figures |= {"buckets": two["buckets"], "ready": two["ready"], "check": []}
    print("\na step: measured, and what the model says, which knows how parts of two processes compute")
    for p, by_size in parts.items():
        size = batch_size // p
        step, compute = by_size[size], max(1, p / CORES) * compute_time(figures["compute"], size)
        said = step_time(compute, two["ready"], [exchange_time(figures["exchange"][p], n, p) for n in two["buckets"]])
        figures["check"].append({"processes": p, "measured": median(step["step"]), "model": said})
        print(
            f"  {p} processes, {size:>3} images each: {milliseconds(step['step'])} ms, computing alone "
            f"{1e3 * median(step['compute']):.4g}; the model {1e3 * said:.4g}, {said / median(step['step']) - 1:+.0%}"
        )


def median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def milliseconds(seconds: list[float]) -> Spread:
    return Spread.of(1e3 * t for t in seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each kind")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--job", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--parts", type=int, nargs="+", help=argparse.SUPPRESS)
    args = parse(parser)
    (work,) = works_of(args, WORKS[:1])
    if args.job:
        serve(args, work)
        return
    launcher = need_mpiexec(parser)
    if work.batch_size % PROCESSES[-1]:
        parser.error(f"--batch-size: got {work.batch_size}, expected a multiple of {PROCESSES[-1]}")

    def job(processes: int, threads: int, parts: list[int]) -> dict[str, Any]:
        print(f"{processes} processes, {threads} threads, parts of {parts} ...", file=sys.stderr, flush=True)
        several = [launcher, "-n", str(processes)] if processes > 1 else []
        line = [*several, sys.executable, *sys.argv, "--job", str(threads), "--parts", *map(str, parts)]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
        (found,) = (text for text in done.stdout.splitlines() if text.startswith("found "))
        result: dict[str, Any] = json.loads(found.removeprefix("found "))
        return result

    figures: dict[str, Any] = {"machine": machine(CORES), "work": str(work), "batch_size": work.batch_size}
    introduce(figures["machine"])
    halves = [work.batch_size // p for p in (1, *PROCESSES)]
    figures["jobs"] = {p: job(p, 1, halves if p == CORES else [work.batch_size // p]) for p in PROCESSES}
    figures["node"] = job(1, CORES, halves)  # one process on all cores: a node of cluster.py

    print_compute(figures)
    print_exchange(figures)
    print_steps(figures, work.batch_size)
    save(args.json, figures)


if __name__ == "__main__":
    main()
