"""Time inference here, in PyTorch and in onnxruntime, in the same run, in turns.

    python benchmarks/inference.py                        # ResNet-20 at 32 px; ResNet-18 and -50 at 224 px
    python benchmarks/inference.py --model resnet56       # one work: see --help

All contenders have the same weights, and batch norms are folded into the convolutions: ours by `tr.nn.fuse`, PyTorch's
by `torch.fx`, onnxruntime's by exporting the fused network. PyTorch runs in inference mode, and its compiler may treat
the weights as constants ("freezing", which is faster). Before the measurement, all logits are compared with those of
the twin in float64, without folding. The results are images per second, median and middle half.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contenders import (
    MODES,
    WORKS,
    Work,
    add_modes,
    add_options,
    batch,
    channels_last,
    in_mode,
    our_net,
    torch_net,
    use_threads,
    works_of,
)
from measuring import (
    OURS,
    Call,
    Seconds,
    best_of,
    compared,
    in_turns,
    introduce,
    machine,
    parse,
    prepare,
    rates,
    ratio,
    save,
)
from support.nets import randomised  # from the tests

ONNX = "onnxruntime"
LISTED = [work for work in WORKS if work.model == "resnet20" or work.image_size == 224]
LISTED.append(Work("resnet18", "imagenet", 224, 1))  # one picture: the time until its answer
AT_LEAST = 0.1  # seconds of a turn: shorter calls are repeated
TOLERANCE = 1e-4  # for the Euclidean norm of differences of logits


# ---------------------------------------------------------------- contenders
def inference(who: str, net: Any, work: Work, threads: int) -> Call:
    """A function that returns the logits of a batch, computed by a network with the weights of `net`."""
    use_threads(who, threads)
    if who == OURS:
        return _ours(net, work, threads)
    return _onnx(net, work, threads) if who == ONNX else _torch(who, net, work, threads)


def _ours(net: Any, work: Work, threads: int) -> Call:
    import tinyres as tr

    fused = tr.nn.fuse(net, image_size=work.image_size)
    x, predict = channels_last(batch(work)[0]), tr.Replay(fused, fused)

    def logits() -> np.ndarray:
        use_threads(OURS, threads)
        with tr.no_grad():
            return predict(x).data

    return logits


def _torch(mode: str, net: Any, work: Work, threads: int) -> Call:
    import torch
    from torch.fx.experimental.optimization import fuse

    other = fuse(twin_of(net, work))
    _, x, forward = in_mode(mode, other, torch.from_numpy(batch(work)[0]), freezing=True)

    def logits() -> np.ndarray:
        use_threads(mode, threads)
        with torch.inference_mode():
            return forward(x).numpy()

    return logits


def _onnx(net: Any, work: Work, threads: int) -> Call:
    import onnxruntime

    import tinyres as tr

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        fused = tr.nn.fuse(net, image_size=work.image_size)
        tr.export.to_onnx(fused, path, image_size=work.image_size)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = {"images": batch(work)[0]}
    return lambda: session.run(None, images)[0]


def twin_of(net: Any, work: Work) -> Any:
    """The same network in PyTorch, for evaluation."""
    from support import twin

    return twin.load(torch_net(work), net.state_dict()).eval()


# ---------------------------------------------------------------- one work
def check(contenders: dict[str, Call], net: Any, work: Work) -> dict[str, float]:
    """Relative distance of each contender's logits from those in float64, for the first images of the batch."""
    import torch

    some = batch(work)[0][:2]
    with torch.inference_mode():
        exact = twin_of(net, work).double()(torch.from_numpy(some).double()).numpy()
    distances = {}
    for who, call in contenders.items():
        distances[who] = float(np.linalg.norm(call()[: len(some)] - exact) / np.linalg.norm(exact))
        if not distances[who] < TOLERANCE:
            raise RuntimeError(
                f"{who}: logits of {work} are {distances[who]:.1e} off, expected {TOLERANCE:.0e} or less"
            )
    return distances


def measure(work: Work, rivals: list[str], turns: int, threads: int) -> tuple[Seconds, dict[str, float]]:
    net = randomised(our_net(work)).eval()
    contenders = prepare({who: partial(inference, who, net, work, threads) for who in (OURS, *rivals)})
    distances = check(contenders, net, work)
    return in_turns(contenders, turns, AT_LEAST), distances


def report(work: Work, seconds: Seconds, distances: dict[str, float]) -> dict[str, Any]:
    """Print one work's figures, and return them for JSON."""
    print(f"\n{work}\n{'':32}{'images/s':>22}  {'off by':>8}")
    for who, times in seconds.items():
        name = f"PyTorch, {who}" if who in MODES else who
        print(f"{name:32}{rates(work.batch_size, times)!s:>22}  {distances[who]:8.1e}")
    if best := best_of(seconds):
        print(f"ratio to the best of the others ({best}): {ratio(seconds, best, OURS)}")
    return {**work._asdict(), "work": str(work), **compared(work.batch_size, seconds), "distances": distances}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_modes(parser)
    parser.add_argument("--no-onnx", action="store_true", help="leave onnxruntime out")
    parser.add_argument("--turns", type=int, default=20, help="timed batches of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parse(parser)
    rivals = [*args.modes, *([] if args.no_onnx else [ONNX])]

    figures: dict[str, Any] = {"machine": machine(args.threads), "turns": args.turns, "works": []}
    introduce(figures["machine"])
    print(f"{args.turns} batches each, in turns; median (middle half); logits relative to those in float64")
    for work in works_of(args, LISTED):
        figures["works"].append(report(work, *measure(work, rivals, args.turns, args.threads)))
        save(args.json, figures)


if __name__ == "__main__":
    main()
