"""Several processes that train one network, by MPI.

A program needs only the names of this module, which are those of torch.distributed. Other modules are `launch` (which
launcher started this process), `world` (the processes), `tree` (the order of sums) and `exchange` (sums over shards).
"""

from tinyres.parallel.gradients import Gradients
from tinyres.parallel.messages import all_reduce, barrier, broadcast, rank, world_size
from tinyres.parallel.world import init

__all__ = ["Gradients", "all_reduce", "barrier", "broadcast", "init", "rank", "world_size"]
