"""What each library takes on the disk with all that it needs, and how many lines of Python it has itself.

    python benchmarks/size.py --json size.json          # downloads them: some minutes

Each is installed by pip into an empty folder. Lines are those of its own Python files, without blank lines; PyTorch and
JAX have most of their code in C++, which is not counted. tinygrad needs a C compiler besides.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIBRARIES = {
    "tinyres": str(ROOT), "torch": "torch==2.13.0", "jax": "jax==0.10.2", "tinygrad": "tinygrad==0.14.0",
    "mygrad": "mygrad==2.5.0", "micrograd": "micrograd==0.1.0",
}  # fmt: skip


def measure(name: str, what: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", folder, what]
        subprocess.run(pip, check=True)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file() and not file.is_symlink())
        own = (file.read_text(errors="replace") for file in Path(folder, name).rglob("*.py"))
        lines = sum(bool(line.strip()) for text in own for line in text.splitlines())
        return {"megabytes": round(size / 1e6), "lines": lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    args = parser.parse_args()
    found = {}
    for name, what in LIBRARIES.items():
        found[name] = measure(name, what)
        print(f"{name:10} {found[name]['megabytes']:6} MB  {found[name]['lines']:8,} lines", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
