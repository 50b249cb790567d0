"""Whether a launcher started this process as one of several, according to the environment variables."""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import NamedTuple


class Launch(NamedTuple):
    """The facts that a launcher gives."""

    launcher: str
    rank: int
    size: int
    local_rank: int  # number among the processes of this machine


LAUNCHERS = {
    "Open MPI's mpiexec": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH, Intel MPI, and srun --mpi=pmi2
    "MVAPICH's mpiexec": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}
"""For each launcher: the variables with the number of the process, the number of processes, and the number on its
machine. The first launcher whose variables exist is used."""


def launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """The launcher of this process, if the process is one of several; else None.

    A batch script of Slurm is one process in an allocation for many. It is not a step of its own, so it counts as
    alone. If a launcher does not say which processes share a machine, each counts as the first on its machine.

    Examples
    --------
    >>> launch({"PMI_RANK": "1", "PMI_SIZE": "4"})
    Launch(launcher='mpiexec', rank=1, size=4, local_rank=0)
    >>> launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    """
    for launcher, names in LAUNCHERS.items():
        rank, size, local = (environment.get(name, "") for name in names)
        if rank.isdecimal() and size.isdecimal() and int(size) > 1:
            return Launch(launcher, int(rank), int(size), int(local) if local.isdecimal() else 0)
    return None


def mpiexec() -> str | None:
    """The launcher in the environment of this Python, else the system's; None if there is none."""
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
