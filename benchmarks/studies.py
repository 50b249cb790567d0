"""Run a study with several seeds, and store its numbers together with facts about the machine.

    python benchmarks/studies.py batch-norm --seeds 0 1 2 3 4 -- --dataset cifar10
    python benchmarks/studies.py degradation --seeds 0 1 2 --keep study -- --dataset cifar10 --epochs 4
    python benchmarks/studies.py landscape --seeds 0 1 2 --keep study --trained plain20 resnet20

The options after -- are those of `tinyres study NAME`. Each seed is a line of benchmarks/results/study-NAME.jsonl;
seeds in the file are not run again. `python benchmarks/tables.py` makes the tables of the documentation from these
lines.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import machine

import tinyres as tr

RESULTS = Path(__file__).parent / "results"
TRAINED = "degradation"  # the study whose networks the others can measure
WITHOUT_SEED = ("memory", "responses")  # counts and times; numbers that differ only because the networks do


def path_of(study: str, results: Path = RESULTS) -> Path:
    """The file with the numbers of a study."""
    return results / f"study-{study}.jsonl"


def read(study: str, results: Path = RESULTS) -> list[dict[str, Any]]:
    """The lines of a study, one for each seed; empty if it has not been run."""
    path = path_of(study, results)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(
    study: str, options: list[str], seed: int, keep: Path | None = None, trained: Sequence[str] = ()
) -> dict[str, Any]:
    """The numbers of one seed, as the command writes them.

    With `keep`, its other files are kept, so that a study that was stopped continues where it stopped; and there it
    finds the networks in `trained`, which the degradation study has trained with this seed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary if keep is None else str(keep / f"{study}-{seed}")
        numbers = Path(temporary) / "numbers.json"
        command = ["-m", "tinyres", "study", study, *(f"{keep}/{TRAINED}-{seed}/{name}" for name in trained), *options]
        command += [] if study in WITHOUT_SEED else ["--seed", str(seed)]
        subprocess.run([sys.executable, *command, "--out", folder, "--json", str(numbers)], check=True)
        return json.loads(numbers.read_text())


def what(options: list[str]) -> tuple[list[str], int]:
    """The options that say what is measured, without the data folder, a place on one machine; and the threads used."""
    elsewhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    elsewhere.add_argument("--data")
    elsewhere.add_argument("--threads", type=int, default=tr.num_threads())
    found, kept = elsewhere.parse_known_args(options)
    return kept, found.threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="name of a study; `tinyres study` lists them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder; benchmarks/results by default")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep what each seed writes, such as trained networks"
    )
    parser.add_argument(
        "--trained", nargs="+", default=[], metavar="NAME", help=f"measure networks that {TRAINED} has kept"
    )
    ours, options = sys.argv[1:], []
    if "--" in ours:
        place = ours.index("--")
        ours, options = ours[:place], ours[place + 1 :]
    args = parser.parse_args(ours)
    if args.trained and not args.keep:
        parser.error(f"--trained: needs --keep, the folder in which {TRAINED} has kept its networks")
    kept, threads = what(options)
    for seed in args.seeds:
        asked = {"study": args.study, "options": [*args.trained, *kept], "seed": seed}
        if any(asked.items() <= line.items() for line in read(args.study, args.results)):
            continue
        found = asked | {"machine": machine(threads)}  # its load is that before the study
        found["numbers"] = run(args.study, options, seed, args.keep, args.trained)
        with path_of(args.study, args.results).open("a") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
