"""Whether a launcher started this process as one of several: what it left in the environment."""

import os
import shutil
import sys
from collections.abc import Mapping
from typing import NamedTuple


class Launch(NamedTuple):
    """What a launcher says."""

    launcher: str
    rank: int
    size: int
    local_rank: int  # among those of this machine


LAUNCHERS = {
    "Open MPI's mpiexec": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH, Intel MPI, and srun --mpi=pmi2
    "MVAPICH's mpiexec": ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
}
"""Who starts processes, and what tells them which of how many they are, and which on their machine; the first that is
there is believed."""


def launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What started this process, if it is one of several.

    A batch script of Slurm, which is one process in an allocation for many, has no step of its own and is alone. A
    launcher that does not say which processes share a machine leaves each the first of its own.

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
    """The launcher of the environment that this Python is of, else of the system; None where there is none."""
    return shutil.which("mpiexec", path=os.path.dirname(sys.executable)) or shutil.which("mpiexec")
