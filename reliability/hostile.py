"""Load files that were made or damaged to do harm, and check that the worst result is a documented exception.

    python reliability/hostile.py                        # all nasties, 100,000 random damages: a few minutes
    python reliability/hostile.py --mutations 1000 --seed 1
    python reliability/hostile.py --only "cifar10 archive" png

It covers every kind of file that tinyres reads: checkpoints, weights, configurations, CIFAR's archives and folders,
MNIST's arrays, tables (.npz and CSV), pictures. First come files made by hand, the nasties: bombs, absurd shapes, paths
that lead out of the folder. Then come small good files after some random changes; half of these are made so that they
pass the outermost check, such as a checksum or a compression. Last, each bit of a checkpoint's arrays is flipped.
Loading must end with a usable result, or with an exception that the function's docstring names. It may take at most
five seconds of processor time and 1,200 MiB of memory. (A picture that claims the largest allowed number of pixels, 179
million, takes three seconds and 1,000 MiB.) Each flipped bit must be noticed.
"""

import argparse
import os
import random
import re
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import report
from PIL import Image

import tinyres as tr

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the folder of `support`
from support.damage import MEMORY_DISK, Kind, Nasty, kinds, nasties, small_world, taken_apart

MEMORY = 1200  # MiB beyond the memory of the process before it loads anything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000, help="random damages, divided among the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pixels", type=int, help="pixels of the largest picture; Pillow's limit by default")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="flip every N-th bit")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="only these kinds of files")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds of processor time allowed for one file")
    parser.add_argument("--json", type=Path, help="write the results to this file as well")
    options = parser.parse_args()
    tr.set_num_threads(1)
    if options.pixels:
        Image.MAX_IMAGE_PIXELS = options.pixels // 2  # twice as many are refused
    warnings.simplefilter("ignore")  # warnings of Pillow about damage
    with small_world(), tempfile.TemporaryDirectory(dir=MEMORY_DISK) as folder, np.errstate(all="ignore"):
        every = kinds()
        if unknown := {*(options.only or ())} - every.keys():
            parser.error(f"--only: there is no kind {', '.join(sorted(unknown))}; there are {', '.join(every)}")
        chosen = {name: kind for name, kind in every.items() if name in (options.only or every)}
        places = {name: Path(folder, str(i)) for i, name in enumerate(chosen)}
        for name, kind in chosen.items():
            places[name].mkdir()
            assert kind.outcome(kind.good, places[name]) == "loaded", name
        before = peak()
        found = {
            "nasties": by_hand(chosen, places, options.seconds),
            "mutations": at_random(chosen, places, options),
            "bits": every_bit(every["checkpoint"], every["run"].good, Path(folder), options.every),
        }
    found["peak MiB"] = peak() - before
    wrong = [f"{row['kind']}: {row['name']}: {row['wrong']}" for row in found["nasties"] if row["wrong"]]
    wrong += [text for row in found["mutations"].values() for text in row["wrong"]]
    if found["bits"]["noticed"] < found["bits"]["turned"]:
        wrong.append(f"bits: {found['bits']}")
    if found["peak MiB"] > MEMORY:
        wrong.append(f"memory: {found['peak MiB']} MiB, expected at most {MEMORY}")
    bits = f"{found['bits']['noticed']} of {found['bits']['turned']} bits of a checkpoint's arrays noticed"
    print(f"{bits}; peak memory {found['peak MiB']} MiB more than before; {len(wrong)} wrong", flush=True)
    print("\n".join(wrong[:50]))
    report.write(options.json, found)
    sys.exit(bool(wrong))


def peak() -> int:
    """The most memory that the process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10)


def by_hand(chosen: dict[str, Kind], places: dict[str, Path], most: float) -> list[dict]:
    """Load every nasty, and compare the message with the expected one."""
    rows = []
    for nasty in nasties():
        for name in (name for name in nasty.kinds if name in chosen):
            kind, path = chosen[name], places[name] / chosen[name].filename
            path.write_bytes(nasty.make())
            message, wrong = None, None
            began = time.process_time()
            try:
                kind.load(path)
            except kind.documented as error:
                message = str(error).replace(f"{path.parent}{os.sep}", "")
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # safetensors can panic
                wrong = f"raised {error!r:.200}"
            seconds = time.process_time() - began
            if wrong is None and not expected(nasty, message, path):
                wrong = f"said {message!r:.200}, expected {nasty.message!r}"
            elif seconds > most:
                wrong = f"took {seconds:.2f} s"
            rows.append({"kind": name, "name": nasty.name, "wrong": wrong, "message": message, "seconds": seconds})
    slowest = max(rows, key=lambda row: row["seconds"], default={"seconds": 0, "name": "none"})
    good = sum(row["wrong"] is None for row in rows)
    print(
        f"nasties: {good} of {len(rows)} as expected; slowest {slowest['seconds']:.2f} s ({slowest['name']})",
        flush=True,
    )
    return rows


def expected(nasty: Nasty, message: str | None, path: Path) -> bool:
    """Whether this is an expected outcome for a file: no error, or a message that names the file."""
    if message is None or nasty.message is None:
        return message == nasty.message
    return path.name in message and re.search(nasty.message, message, re.DOTALL) is not None


def at_random(chosen: dict[str, Kind], places: dict[str, Path], options: argparse.Namespace) -> dict[str, dict]:
    """Load each kind after random damage, and count what happens."""
    found = {}
    for i, (name, kind) in enumerate(chosen.items()):
        counts: Counter[str] = Counter()
        wrong: list[str] = []
        slowest = 0.0
        share = options.mutations // len(chosen) + (i < options.mutations % len(chosen))
        for number in range(share):
            label = f"{name} {options.seed} {number}"
            content = kind.damaged(random.Random(label))
            began = time.process_time()
            try:
                counts[kind.outcome(content, places[name])] += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                counts[type(error).__name__] += 1
                wrong.append(f"{label}: raised {error!r:.200}")
            seconds = time.process_time() - began
            slowest = max(slowest, seconds)
            if seconds > options.seconds:
                wrong.append(f"{label}: took {seconds:.2f} s")
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "none"
        print(f"{name}: {told}; slowest {slowest:.3f} s", flush=True)
        found[name] = {"counts": counts, "slowest": slowest, "wrong": wrong}
    return found


def every_bit(kind: Kind, content: bytes, folder: Path, step: int) -> dict[str, int]:
    """Flip each bit of a checkpoint's arrays, or each `step`-th, one at a time."""
    size = 8 * len(taken_apart(content)[1])
    damaged = bytearray(content)
    noticed = 0
    bits = range(0, size, step)
    for bit in bits:
        place, mask = bit // 8 - size // 8, 1 << bit % 8
        damaged[place] ^= mask
        noticed += kind.outcome(bytes(damaged), folder) != "loaded"
        damaged[place] ^= mask
    return {"turned": len(bits), "noticed": noticed}


if __name__ == "__main__":
    main()
