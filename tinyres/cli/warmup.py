"""`tinyres warmup`."""

import time

from tinyres.console import compile_kernels, errors, out
from tinyres.kernels.compile import cache_folder


def warmup() -> None:
    """Compile all kernels now, so that the first training step is not slow. Needed once per version and machine."""
    start = time.perf_counter()
    with errors():
        number = compile_kernels()
    out.print(f"{number} kernels ready in {time.perf_counter() - start:.1f} s ({cache_folder()})", soft_wrap=True)
