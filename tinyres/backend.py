"""Which kernels the operations run on, and on how many threads.

`active` holds the functions in use. Operations call ``backend.active.conv2d(...)`` and need no other name from here.
"""

from types import SimpleNamespace
from typing import Any

import numba
import threadpoolctl

from tinyres import kernels, reference
from tinyres.kernels import conv, im2col, threads, weight_grad

BACKENDS = {"numba": kernels, "reference": reference}
_DIRECT = SimpleNamespace(
    measures=reference.measures,
    takes_pending=reference.takes_pending,
    conv2d=conv.conv2d,
    conv2d_input_grad=conv.conv2d_input_grad,
    conv2d_weight_grad=weight_grad.conv2d_weight_grad,
)
_IM2COL = SimpleNamespace(
    measures=reference.measures,
    takes_pending=reference.takes_pending,
    conv2d=im2col.conv2d,
    conv2d_input_grad=im2col.conv2d_input_grad,
    conv2d_weight_grad=im2col.conv2d_weight_grad,
)
ALGORITHMS: dict[str, Any] = {"auto": kernels, "direct": _DIRECT, "im2col": _IM2COL}
_CONVOLUTIONS = ("measures", "takes_pending", "conv2d", "conv2d_input_grad", "conv2d_weight_grad")

active: Any = SimpleNamespace()
_chosen = {"backend": "numba", "algorithm": "auto"}


def _choose(**choice: str) -> None:
    _chosen.update(choice)
    source = BACKENDS[_chosen["backend"]]
    for name in kernels.__all__:
        setattr(active, name, getattr(source, name))
    if source is kernels:
        for name in _CONVOLUTIONS:
            setattr(active, name, getattr(ALGORITHMS[_chosen["algorithm"]], name))


class _Choice:
    """A choice that holds from the call on or, as a context manager, until the end of the block."""

    def __init__(self, what: str, options: dict[str, Any], name: str) -> None:
        if name not in options:
            raise ValueError(f"{what}: got {name!r}, expected one of {', '.join(map(repr, options))}")
        self.before = {what: _chosen[what]}
        _choose(**{what: name})

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: object) -> None:
        _choose(**self.before)


class use_backend(_Choice):
    """Run operations on ``"numba"`` (compiled kernels, the default) or ``"reference"`` (plain NumPy).

    The choice holds from the call on, for the whole process; as a context manager, until the end of the block.

    Examples
    --------
    >>> import tinyres as tr
    >>> with tr.use_backend("reference"):
    ...     tr.ops.relu(tr.Tensor([-1.0, 2.0])).data
    array([0., 2.], dtype=float32)
    """

    def __init__(self, name: str) -> None:
        super().__init__("backend", BACKENDS, name)


class use_algorithm(_Choice):
    """Choose how the Numba backend convolves: ``"direct"``, ``"im2col"``, or ``"auto"``, the default.

    ``"direct"`` is implicit im2col on the register tile. ``"im2col"`` is explicit im2col and a matrix product.
    ``"auto"`` uses Winograd's method if it is faster than ``"direct"``.

    The rounding errors of Winograd's sums are three to five times as large as those of direct sums. If an input is
    infinite or NaN, all outputs in its tile of 4 x 4 become NaN. In convolutions with narrow groups (up to 8 channels
    of float32), outputs of neighbouring groups may also become NaN, with all methods except ``"im2col"``.

    The choice holds from the call on, for the whole process; as a context manager, until the end of the block.

    Examples
    --------
    >>> import tinyres as tr
    >>> x, w = tr.Tensor([[[[1.0, 2.0, 3.0]]]]), tr.Tensor([[[[1.0, -1.0]]]])
    >>> with tr.use_algorithm("direct"):
    ...     tr.ops.conv2d(x, w).data
    array([[[[-1., -1.]]]], dtype=float32)
    """

    def __init__(self, name: str) -> None:
        super().__init__("algorithm", ALGORITHMS, name)


def set_num_threads(n: int) -> None:
    """Use `n` threads, from 1 to `max_threads()`. Results do not depend on the number.

    It holds for the whole process: operations run on `n` threads, whichever thread calls them. NumPy's BLAS gets the
    same number.

    Examples
    --------
    >>> import tinyres as tr
    >>> before = tr.num_threads()
    >>> tr.set_num_threads(1); tr.num_threads()
    1
    >>> tr.set_num_threads(before)
    """
    if not 1 <= n <= max_threads():
        raise ValueError(f"n: got {n} threads, expected 1 to {max_threads()}, the number of cores Numba sees")
    threads.set_num_threads(n)
    threadpoolctl.threadpool_limits(n, user_api="blas")


def num_threads() -> int:
    """The number of threads in use.

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.num_threads() >= 1
    True
    """
    return threads.num_threads()


def max_threads() -> int:
    """The largest number of threads that `set_num_threads` accepts."""
    return int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


_choose()
