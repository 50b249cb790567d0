"""Several processes that train one network, by MPI.

What a program needs is here, by the names of torch.distributed. Beneath: `launch` (who started us), `world` (the
processes), `tree` (the order of sums), `exchange` (sums over the shards of all processes).
"""

from tinyres.parallel.gradients import Gradients
from tinyres.parallel.messages import all_reduce, barrier, broadcast, rank, world_size
from tinyres.parallel.world import init

__all__ = ["Gradients", "all_reduce", "barrier", "broadcast", "init", "rank", "world_size"]
