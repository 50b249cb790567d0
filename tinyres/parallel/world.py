"""The processes that work together, and the little that is said among them besides sums.

`world()` is this process alone until `init` is called. Then it is all that a launcher such as ``mpiexec`` started, and
talks MPI, by way of mpi4py, which nothing but `init` imports. What goes from one to another is arrays and text: nothing
is pickled.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from tinyres import backend
from tinyres.kernels.memory import CACHE_LINE
from tinyres.parallel.launch import launch
from tinyres.tape import Array

PATIENCE = 0.5  # seconds that others leave the first process to say what is wrong, which may be the same for all


class World:
    """One process, alone.

    Attributes
    ----------
    rank, size : int
        Which of how many.
    """

    rank, size = 0, 1

    def channel(self) -> Any:
        """A communicator of its own, for messages of one kind. There can be some thousands in a process."""

    @cached_property
    def channels(self) -> tuple[Any, Any]:
        """Two for sums that are waited for at once, which all may use."""
        return self.channel(), self.channel()

    def barrier(self) -> None:
        """Wait until all are here."""

    def broadcast(self, array: Array, source: int = 0) -> None:
        """Fill the array with what it is in one of them."""

    def texts(self, text: str) -> list[str]:
        """What each of them says, in their order."""
        return [text]

    def first(self, action: Callable[..., None], *arguments: Any) -> None:
        """Have the first process do something before the others go on. Its error is one everywhere."""
        action(*arguments)

    def shared(self, make: Callable[[], tuple[list[Array], str]]) -> tuple[list[Array], str]:
        """Arrays and a text that one process of each machine makes, and all of it hold once."""
        return make()

    def abort(self, code: int) -> None:
        """End all processes, this one included."""


class Elsewhere(RuntimeError):
    """Another process has failed, and says how."""


class MPIWorld(World):
    """The processes of an MPI communicator."""

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator.Dup()
        self.rank, self.size = communicator.Get_rank(), communicator.Get_size()
        self.windows: list[Any] = []  # memory that processes of a machine share, as long as they live

    def channel(self) -> Any:
        return self.communicator.Dup()

    def barrier(self) -> None:
        self.communicator.Barrier()

    def broadcast(self, array: Array, source: int = 0) -> None:
        self.communicator.Bcast(array, source)

    def texts(self, text: str) -> list[str]:
        own = np.frombuffer(text.encode(), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self.communicator.Allgather(np.array([own.size]), sizes)
        received = np.empty(sizes.sum(), np.uint8)
        self.communicator.Allgatherv(own, [received, sizes.tolist()])
        return [part.tobytes().decode() for part in np.split(received, sizes.cumsum()[:-1])]

    def first(self, action: Callable[..., None], *arguments: Any) -> None:
        failed = np.zeros(1, np.int64)
        try:
            if self.rank == 0:
                action(*arguments)
        except BaseException:
            failed[0] = 1
            raise
        finally:
            self.broadcast(failed)
        if failed[0]:
            raise Elsewhere("process 0 has failed")

    def shared(self, make: Callable[[], tuple[list[Array], str]]) -> tuple[list[Array], str]:
        from mpi4py import MPI

        machine = MPIWorld(self.communicator.Split_type(MPI.COMM_TYPE_SHARED))
        made: list[tuple[list[Array], str]] = []
        machine.first(lambda: made.append(make()))
        arrays, text = made[0] if made else ([], "")
        kinds = json.dumps([(a.shape, a.dtype.str) for a in arrays])
        text, kinds = machine.texts(text)[0], machine.texts(kinds)[0]
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in json.loads(kinds)]
        starts = np.cumsum([0, *(-(-size // CACHE_LINE) * CACHE_LINE for size in sizes)]).tolist()
        window = MPI.Win.Allocate_shared(0 if machine.rank else starts[-1], 1, comm=machine.communicator)
        self.windows.append(window)
        memory = np.asarray(window.Shared_query(0)[0]).view(np.uint8)
        found = []
        for (shape, dtype), start, size in zip(json.loads(kinds), starts, sizes, strict=False):
            found.append(memory[start : start + size].view(dtype).reshape(shape))
        for array, place in zip(arrays, found, strict=False):
            place[...] = array
        machine.barrier()
        for place in found:
            place.flags.writeable = False
        return found, text

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.communicator.Abort(code)


_worlds = [World()]  # the last is the one in use


def world() -> World:
    """The processes that work together now."""
    return _worlds[-1]


def init() -> None:
    """Connect to the other processes that ``mpiexec`` or ``srun`` started.

    The cores of a machine are divided among its processes. An uncaught exception in one process ends all of them. A
    second call has no effect.

    Raises
    ------
    ImportError
        If mpi4py, or an MPI library, is missing.
    RuntimeError
        If the launcher started several processes, but the MPI library finds only one.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.parallel.init()  # doctest: +SKIP
    >>> tr.parallel.rank(), tr.parallel.world_size()
    (0, 1)
    """
    if len(_worlds) > 1:
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library
        raise ImportError(
            f"several processes need mpi4py and an MPI library ({error}): pip install 'tinyres[mpi]'"
        ) from error
    started, size = launch(), MPI.COMM_WORLD.Get_size()
    if started and size == 1:
        raise RuntimeError(
            f"{started.launcher} started {started.size} processes, and the MPI library of mpi4py, "
            f"{MPI.Get_library_version().splitlines()[0].strip()}, knows of 1: start them by its own mpiexec, or under "
            "Slurm by srun --mpi=pmi2 or --mpi=pmix (srun --mpi=list says what there is)"
        )
    _worlds.append(MPIWorld(MPI.COMM_WORLD))
    backend.set_num_threads(_fair_threads(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED)))
    before = sys.excepthook

    def together(*exception: Any) -> None:
        with failing(1) as where:
            print(where, file=sys.stderr)
            before(*exception)

    sys.excepthook = together


def _fair_threads(neighbours: Any) -> int:
    """As many threads as this process has cores, where those that it shares with others of this machine are divided."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    those = [json.loads(text) for text in MPIWorld(neighbours).texts(json.dumps(sorted(cores)))]
    share = sum(1 / sum(core in others for others in those) for core in cores)
    return max(1, min(int(share + 1e-6), backend.max_threads()))


@contextlib.contextmanager
def failing(code: int) -> Iterator[str]:
    """Say in this block what went wrong in this process; then all end. Alone, it goes on.

    Yields what process this is. What is wrong may be wrong everywhere: the first process speaks at once, and ends the
    others before they do.
    """
    here = world()
    if here.rank:
        time.sleep(PATIENCE)
    yield f"process {here.rank} of {here.size}: " if here.size > 1 else ""
    here.abort(code)


def check_same(facts: Mapping[str, str]) -> None:
    """Raise ValueError where these are not the same in all processes, naming the first that differs and who has it."""
    everywhere = [json.loads(text) for text in world().texts(json.dumps(facts))]
    for name, value in everywhere[0].items():
        for rank, others in enumerate(everywhere):
            if others.get(name) != value:
                got = f"{others.get(name)} in process {rank} and {value} in process 0"
                raise ValueError(f"{name}: got {got}, expected the same in all")
