"""Compare one process, several threads and several processes, here and in PyTorch, in the same run, in turns.

    python benchmarks/parallel.py --json parallel.json                      # needs tinyres[mpi] and PyTorch
    python benchmarks/parallel.py --model resnet18 --stem cifar --steps 5

Five contenders train a network, with the steps of train_step.py: (1) one process on one thread; (2) one process on as
many threads as there are processes (P); (3) P processes with one thread each that share the same batch (strong
scaling); (4) P processes with a batch each (weak scaling); (5) PyTorch's DistributedDataParallel with gloo, on the
batch of strong scaling, in channels-last memory. The results are images per second, and their ratio to those of one
process on one thread.

Each contender is a job of its own, which sleeps until its turn.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contenders import (
    SGD,
    WORKS,
    Work,
    add_options,
    batch,
    channels_last,
    need_mpiexec,
    our_net,
    our_step,
    torch_net,
    works_of,
)
from measuring import OURS, Call, Spread, introduce, machine, parse, rates, ratio, save

NAP = 0.001  # seconds of sleep between two checks whether it is this process's turn


# ---------------------------------------------------------------- the work of a job's process
def ours(work: Work, threads: int, weak: bool) -> tuple[Call, Callable[[], bool]]:
    """A step on this process's part of a batch, and a function that waits for the next turn."""
    import tinyres as tr
    from tinyres.parallel.launch import launch

    if launch():
        tr.parallel.init()
    tr.set_num_threads(threads)
    net, (images, labels) = our_net(work), batch(work)
    if not weak:
        own = slice(tr.parallel.rank(), None, tr.parallel.world_size())
        images, labels = images[own], labels[own]
    gradients = tr.parallel.Gradients(net.parameters(), net.buffers())
    optimizer = tr.optim.SGD(net.parameters(), **SGD)
    x = tr.Tensor(channels_last(images))

    def turn() -> bool:
        if tr.parallel.world_size() == 1:
            return bool(sys.stdin.readline())
        from mpi4py import MPI

        go = np.array([tr.parallel.rank() == 0 and bool(sys.stdin.readline())])
        request = MPI.COMM_WORLD.Ibcast(go)
        while not request.Test():  # MPI would wait without sleeping
            time.sleep(NAP)
        return bool(go[0])

    return partial(our_step, net, x, labels, optimizer, gradients), turn


def theirs(work: Work, threads: int) -> tuple[Call, Callable[[], bool]]:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(threads)
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    net = torch.nn.parallel.DistributedDataParallel(torch_net(work).to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD(net.parameters(), fused=True, **SGD)
    images, labels = (torch.from_numpy(a[rank::processes].copy()) for a in batch(work))
    x = images.to(memory_format=torch.channels_last)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        return float(loss)

    def turn() -> bool:
        go = torch.tensor([rank == 0 and bool(sys.stdin.readline())])
        dist.broadcast(go, 0)
        return bool(go)

    return step, turn


def serve(args: argparse.Namespace, work: Work) -> None:
    """Take one step for each line of the input, and print how long it took."""
    who, threads = args.job.split(":")
    step, turn = theirs(work, int(threads)) if who == "ddp" else ours(work, int(threads), who == "weak")
    step()
    first = os.environ.get("RANK", os.environ.get("PMI_RANK", "0")) == "0"
    while turn():
        start = time.perf_counter()
        step()
        if first:
            print(f"seconds {time.perf_counter() - start}", flush=True)


# ---------------------------------------------------------------- the jobs
class Job:
    """A contender: processes that take a step each time they get a line."""

    def __init__(self, job: str, processes: int, launcher: str | None) -> None:
        line = [sys.executable, *sys.argv, "--job", job]
        quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1"} if job.endswith(":1") else dict(os.environ)
        self.all: list[Any] = []
        if job.startswith("ddp"):
            for rank in reversed(range(processes)):  # the first one last: this program talks to it
                own = {
                    "RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": "29531",
                }
                self.all.append(subprocess.Popen(line, env=environment | own, **quiet))
        else:
            several = [launcher, "-n", str(processes)] if launcher and processes > 1 else []
            self.all.append(subprocess.Popen([*several, *line], env=environment, **quiet))

    def step(self) -> float:
        """Seconds of one step."""
        first = self.all[-1]
        first.stdin.write("go\n")
        first.stdin.flush()
        for text in first.stdout:
            if text.startswith("seconds "):
                return float(text.split()[1])
        raise SystemExit(f"a job ended: {' '.join(map(str, first.args))}")

    def end(self) -> None:
        for process in self.all:
            process.stdin.close()
        for process in self.all:
            process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each contender")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parse(parser)
    (work,) = works_of(args, WORKS[:1])
    if args.job:
        serve(args, work)
        return
    launcher, p = need_mpiexec(parser), args.processes
    one = f"{OURS}, 1 process, 1 thread"
    strong, ddp = f"{OURS}, {p} processes", f"DistributedDataParallel, {p} processes"
    jobs = {
        one: ("strong:1", 1),
        f"{OURS}, 1 process, {p} threads": (f"strong:{p}", 1),
        strong: ("strong:1", p),
        f"{OURS}, {p} processes, a batch each": ("weak:1", p),
        ddp: ("ddp:1", p),
    }
    images = {who: work.batch_size * (p if job.startswith("weak") else 1) for who, (job, _) in jobs.items()}
    figures: dict[str, Any] = {"machine": machine(p), "work": str(work), "steps": args.steps}
    introduce(figures["machine"])
    running = {who: Job(job, processes, launcher) for who, (job, processes) in jobs.items()}
    seconds: dict[str, list[float]] = {who: [] for who in jobs}
    for _ in range(args.steps):
        for who, job in running.items():
            job.step()  # brings its data back into the caches
            seconds[who].append(job.step() / images[who])  # seconds of one image
    for job in running.values():
        job.end()
    print(
        f"{work}; {args.steps} steps each, in turns; median (middle half)\n\n"
        f"{'':46}{'images/s':>21}   times one thread's"
    )
    for who, times in seconds.items():
        print(f"{who:46}{rates(1, times)!s:>21}   {ratio(seconds, one, who)}")
    print(f"ratio of the processes to DistributedDataParallel's: {ratio(seconds, ddp, strong)}")
    save(
        args.json,
        figures
        | {
            "seconds_per_image": seconds,
            "rates": {w: Spread.of(1 / t for t in s)._asdict() for w, s in seconds.items()},
        },
    )


if __name__ == "__main__":
    main()
