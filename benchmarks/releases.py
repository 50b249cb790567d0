"""Time a training step of this version and of an older one, in turns: the last release, or any commit.

    python benchmarks/releases.py              # against the last tag that looks like v1.2.3
    python benchmarks/releases.py HEAD~10      # against another commit

Two versions cannot be in one process. So each has one of its own, which trains when it is its turn, and both use the
same NumPy and Numba. The program fails if this version needs more than 1.1 times the time of the older one in at least
three quarters of the turns: less is within the noise of a shared machine.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
LIMIT = 1.1

CHILD = """
import sys, time
import numpy as np
import tinyres as tr
model, size, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
net = tr.models.create(model)
optimizer = tr.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
x = tr.Tensor(np.random.default_rng(0).standard_normal((batch, 3, size, size)).astype(np.float32))
y = np.arange(batch) % 10

def step():
    optimizer.zero_grad()
    tr.ops.cross_entropy(net(x), y).backward()
    optimizer.step()

for _ in range(3):
    step()
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    step()
    print(time.perf_counter() - start, flush=True)
"""


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


def start(tree: Path, work: list[str]) -> "subprocess.Popen[str]":
    """A process that trains with the package in a folder, a step for each line that it is given."""
    command = [sys.executable, "-c", CHILD, *work]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    child = subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    answer(child)  # compiled, and steady
    return child


def answer(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    if not (line := child.stdout.readline()):
        raise SystemExit(f"one of the two has ended with exit code {child.wait()}")
    return line


def turn(child: "subprocess.Popen[str]") -> float:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    return float(answer(child))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("against", nargs="?", help="a tag or a commit")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each version")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--size", type=int, default=32, help="side of the images")
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    tags = git("tag", "--list", "v*.*.*", "--sort=-version:refname").decode().split()
    against = args.against or next(iter(tags), None)
    if against is None:
        print("there is no release yet, so there is nothing to compare with")
        return
    work = [args.model, str(args.size), str(args.batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(git("archive", against, "tinyres"))) as archive:
            archive.extractall(folder, filter="data")
        children = [start(ROOT, work), start(Path(folder), work)]
        ours, theirs = np.array([[turn(child) for child in children] for _ in range(args.steps)]).T
        for child in children:
            child.communicate()  # ends its input, and so the child
    low, middle, high = np.quantile(ours / theirs, [0.25, 0.5, 0.75])
    print(f"{args.model}, {args.size} px, batch {args.batch_size}")
    print(f"seconds for a step, median: {np.median(ours):.3f} here, {np.median(theirs):.3f} in {against}")
    print(f"time of a step, as a multiple of that of {against}: {middle:.2f} ({low:.2f} to {high:.2f})")
    if low > LIMIT:
        raise SystemExit(f"slower than {against}")


if __name__ == "__main__":
    main()
