"""Time the convolutions of five networks, and batch norm, here and in PyTorch, one by one, in the same run, in turns.

    python benchmarks/kernels.py --json kernels.json                    # all, a few minutes
    python benchmarks/kernels.py --only "64->64" --algorithm direct     # some of them, by one of our algorithms

A convolution's rate is in GFLOP/s. It counts the operations of a direct convolution, 2 N O OH OW C KH KW, even if the
algorithm needs fewer. PyTorch's rate is the better one of its two memory orders; its gradients are those of
`aten.convolution_backward`. Batch norm is measured in training, with its statistics and a ReLU, in GB/s: forward it
reads x and writes y once; backward it reads x and dy and writes dx. Short calls are repeated for 10 ms, so arrays are
in cache as far as they fit. Errors are root mean squares relative to the result in float64. After a ReLU, an error of
1e-3 is a single gradient that passed where the exact one does not. The ceilings are a matrix product, and copying
arrays.
"""

import argparse
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contenders import channels_last, use_threads
from measuring import OURS, Call, best_of, compared, in_turns, introduce, machine, parse, rates, ratio, save

import tinyres as tr
from tinyres import backend

ORDERS = ("contiguous", "channels-last")
AT_LEAST = 0.01  # seconds; shorter calls are repeated for as long


class Conv(NamedTuple):
    """A square convolution that keeps the size of the image, apart from its stride."""

    n: int
    c: int
    o: int
    size: int
    kernel: int = 3
    stride: int = 1

    def __str__(self) -> str:
        stride = f" stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.c}->{self.o} {self.size} px{stride}, batch {self.n}"

    @property
    def out_size(self) -> int:
        return -(-self.size // self.stride)


class Norm(NamedTuple):
    """Batch norm and ReLU."""

    n: int
    c: int
    size: int

    def __str__(self) -> str:
        return f"norm+ReLU {self.c} {self.size} px, batch {self.n}"


# fmt: off
CONVS = [
    # ResNet-20 and -56
    Conv(128, 3, 16, 32), Conv(128, 16, 16, 32), Conv(128, 16, 32, 32, stride=2), Conv(128, 32, 32, 16),
    Conv(128, 32, 64, 16, stride=2), Conv(128, 64, 64, 8),
    # ResNet-18 with the CIFAR stem
    Conv(64, 3, 64, 32), Conv(64, 64, 64, 32), Conv(64, 64, 128, 32, stride=2), Conv(64, 64, 128, 32, 1, 2),
    Conv(64, 128, 128, 16), Conv(64, 128, 256, 16, stride=2), Conv(64, 256, 256, 8),
    Conv(64, 256, 512, 8, stride=2), Conv(64, 512, 512, 4),
    # ResNet-18
    Conv(16, 3, 64, 224, 7, 2), Conv(16, 64, 64, 56), Conv(16, 64, 128, 56, stride=2), Conv(16, 128, 128, 28),
    Conv(16, 256, 256, 14), Conv(16, 512, 512, 7),
    # ResNet-50
    Conv(8, 64, 256, 56, 1), Conv(8, 256, 64, 56, 1), Conv(8, 256, 512, 56, 1, 2), Conv(8, 512, 128, 28, 1),
    Conv(8, 1024, 256, 14, 1), Conv(8, 256, 1024, 14, 1), Conv(8, 2048, 512, 7, 1),
]
NORMS = [Norm(128, 16, 32), Norm(128, 64, 8), Norm(64, 64, 32), Norm(64, 512, 4), Norm(16, 64, 56), Norm(8, 256, 56)]
# fmt: on


class Case(NamedTuple):
    """A kernel to be timed."""

    name: str
    operation: str
    unit: str
    amount: float  # floating-point operations, or bytes for a batch norm
    moved: int  # least number of bytes that must be moved: both operands in, the result out
    calls: dict[str, Call]
    exact: Callable[[], np.ndarray]  # its result in float64


# ---------------------------------------------------------------- convolutions
def convolutions(conv: Conv) -> Iterator[Case]:
    import torch

    rng = np.random.default_rng(0)
    n, c, o, size, kernel, stride = conv
    x = rng.standard_normal((n, c, size, size), np.float32)
    w = rng.standard_normal((o, c, kernel, kernel), np.float32) / np.float32(kernel * c**0.5)
    dy = rng.standard_normal((n, o, conv.out_size, conv.out_size), np.float32)
    amount, moved = 2 * dy.size * c * kernel**2, x.nbytes + w.nbytes + dy.nbytes
    padding, ours = kernel // 2, backend.active
    options = {"stride": (stride, stride), "padding": (padding, padding)}
    our_x, our_dy = channels_last(x), channels_last(dy)

    def forward(x: Any, w: Any, dy: Any) -> Any:
        return torch.nn.functional.conv2d(x, w, stride=stride, padding=padding)

    def gradient(which: int) -> Callable[..., Any]:
        def call(x: Any, w: Any, dy: Any) -> Any:
            twice, mask = [stride] * 2, [which == 0, which == 1, False]
            given = dy, x, w, None, twice, [padding] * 2, [1, 1], False, [0, 0], 1, mask
            return torch.ops.aten.convolution_backward(*given)[which]

        return call

    operations = {
        "forward": (lambda: ours.conv2d(our_x, w, **options), forward),
        "input gradient": (lambda: ours.conv2d_input_grad(our_dy, w, x.shape, **options), gradient(0)),
        "weight gradient": (lambda: ours.conv2d_weight_grad(our_dy, our_x, w.shape, **options), gradient(1)),
    }
    if c == 3:  # the gradient of an image is not needed
        del operations["input gradient"]
    for operation, (our_call, torch_call) in operations.items():
        calls, exact = torch_calls(torch_call, x, w, dy)
        yield Case(str(conv), operation, "GFLOP/s", amount, moved, {OURS: our_call, **calls}, exact)


def torch_calls(call: Callable[..., Any], *arrays: np.ndarray) -> tuple[dict[str, Call], Callable[[], np.ndarray]]:
    """PyTorch's contenders, one for each memory order, and the result in float64."""
    import torch

    tensors = [torch.from_numpy(a) for a in arrays]
    last = [t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for t in tensors]
    return (
        {"contiguous": lambda: call(*tensors), "channels-last": lambda: call(*last)},
        lambda: call(*(t.double() for t in tensors)).numpy(),
    )


# ---------------------------------------------------------------- batch norm
def norms(norm: Norm) -> Iterator[Case]:
    import torch

    rng = np.random.default_rng(0)
    shape = norm.n, norm.c, norm.size, norm.size
    x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
    weight, bias = (rng.uniform(0.5, 1.5, norm.c).astype("f4") for _ in range(2))
    our_x, our_dy, ours = channels_last(x), channels_last(dy), backend.active

    def statistics() -> tuple[np.ndarray, np.ndarray]:
        mean, var = ours.batch_norm_statistics(our_x)
        return mean.astype("f4"), (1 / np.sqrt(var + 1e-5)).astype("f4")

    def forward() -> np.ndarray:
        mean, inv_std = statistics()
        return ours.batch_norm_apply(our_x, mean, weight * inv_std, bias, relu=True)

    saved = our_x, forward(), *statistics(), weight, bias

    def backward() -> np.ndarray:
        return ours.batch_norm_grad(our_dy, *saved, training=True, relu=True, residual=False)[0]

    def torch_forward(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
        y = torch.nn.functional.batch_norm(x, None, None, weight, bias, training=True)
        return torch.nn.functional.relu(y, inplace=True)

    graphs: dict[int, Any] = {}  # graphs of the forward pass, by input, since only backward is timed

    def torch_backward(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
        if id(x) not in graphs:
            leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
            with torch.enable_grad():
                graphs[id(x)] = torch_forward(*leaves, dy), leaves, x
        y, leaves, _ = graphs[id(x)]
        return torch.autograd.grad(y, leaves, dy, retain_graph=True)[0]

    operations = {"forward": (forward, torch_forward, 2), "backward": (backward, torch_backward, 3)}
    for operation, (our_call, torch_call, arrays) in operations.items():
        calls, exact = torch_calls(torch_call, x, weight, bias, dy)
        moved = arrays * x.nbytes
        yield Case(str(norm), operation, "GB/s", moved, moved, {OURS: our_call, **calls}, exact)


# ---------------------------------------------------------------- ceilings
def ceilings(turns: int) -> dict[str, float]:
    """GFLOP/s of a float32 matrix product, the better one of two libraries, and GB/s of reading and writing arrays.

    The arrays are some that fit the last cache, and some that do not.
    """
    import torch

    a = torch.randn(2048, 2048)
    small, large = torch.ones(2, 2**19), torch.ones(2, 2**26)  # two arrays each, of 2 MiB and of 256 MiB
    array = a.numpy()
    calls = {
        "NumPy": lambda: array @ array,
        "PyTorch": lambda: a @ a,
        "small": lambda: small[0].copy_(small[1]),
        "large": lambda: large[0].copy_(large[1]),
    }
    seconds = in_turns(calls, turns, AT_LEAST)
    fastest = {who: min(times) for who, times in seconds.items()}
    return {
        "product_gflops": 2 * 2048**3 / min(fastest["NumPy"], fastest["PyTorch"]) / 1e9,
        "cache_gbytes": small.nbytes / fastest["small"] / 1e9,
        "memory_gbytes": large.nbytes / fastest["large"] / 1e9,
    }


# ---------------------------------------------------------------- one case
def measure(case: Case, turns: int) -> dict[str, Any]:
    """Time one kernel, print its line, and return its figures for JSON."""
    exact = case.exact()
    errors = {who: error(call(), exact) for who, call in case.calls.items()}
    seconds = in_turns(case.calls, turns, AT_LEAST)
    best = best_of(seconds)
    rate = {who: rates(case.amount / 1e9, times) for who, times in seconds.items()}
    print(
        f"{case.name:37}{case.operation:16}{rate[OURS]!s:>21}{rate[best]!s:>21}{ratio(seconds, best, OURS)!s:>23}"
        f"  {errors[OURS]:.0e} {errors[best]:.0e}",
        flush=True,
    )
    found = compared(case.amount / 1e9, seconds)
    what = {name: getattr(case, name) for name in ("name", "operation", "unit", "amount", "moved")}
    return {**what, **found, "errors": errors}


def error(result: Any, exact: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.asarray(result) - exact) ** 2) / np.mean(exact**2)))


def means(kernels: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[float, int]]:
    """The geometric mean of the ratios, and their number, for each kind of kernel and operation."""
    ratios = defaultdict(list)
    for kernel in kernels:
        kind = kernel["name"].split()[0] + " stride 2" * ("stride 2" in kernel["name"])
        ratios[kind, kernel["operation"]].append(kernel["ratio"]["median"])
    return {key: (float(np.exp(np.mean(np.log(values)))), len(values)) for key, values in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=backend.ALGORITHMS, default="auto", help="algorithm of our convolutions")
    parser.add_argument("--only", default="", metavar="TEXT", help="kernels whose name contains this")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parse(parser)
    chosen = [shape for shape in (*CONVS, *NORMS) if args.only in str(shape)]
    if not chosen:
        parser.error(f"--only: no kernel's name contains {args.only!r}; there are {'; '.join(map(str, CONVS + NORMS))}")

    import torch

    for who in (OURS, "PyTorch"):
        use_threads(who, args.threads)
    tr.use_algorithm(args.algorithm)
    figures: dict[str, Any] = {"machine": machine(args.threads), "algorithm": args.algorithm, "turns": args.turns}
    introduce(figures["machine"])
    figures["ceilings"] = found = ceilings(args.turns)
    print(
        f"matrix product {found['product_gflops']:.0f} GFLOP/s; copying {found['cache_gbytes']:.0f} GB/s in cache, "
        f"{found['memory_gbytes']:.0f} GB/s in memory"
    )
    print(f"{args.turns} turns; GFLOP/s of convolutions, GB/s of batch norms: median (middle half)\n")
    print(f"{'':53}{OURS:>21}{'PyTorch':>21}{'ratio':>23}  errors")
    figures["kernels"] = []
    with torch.no_grad():
        for shape in chosen:
            for case in (convolutions if isinstance(shape, Conv) else norms)(shape):
                figures["kernels"].append(measure(case, args.turns))
    print("\ngeometric mean of the ratios")
    for (kind, operation), (mean, n) in means(figures["kernels"]).items():
        print(f"{kind:14}{operation:16}{mean:.2f} of {n}")
    save(args.json, figures)


if __name__ == "__main__":
    main()
