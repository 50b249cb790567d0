"""Make the tables and pictures of the documentation from the stored results.

    python benchmarks/tables.py                    # print all tables, each under its page
    python benchmarks/tables.py --write            # put them on their pages
    python benchmarks/tables.py --pictures docs    # draw the pictures of stored results

The functions in `benchmarks/pages` return the lines of one table each. On its page, a table stands below a comment with
the function's name, which readers do not see:

    <!-- table: equality -->

`--write` replaces the table below the comment. A test compares all tables with their pages.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pages import parallel, performance, readme, recipes, reliability, studies
from pages.writing import Table
from PIL import Image

from tinyres import plots

ROOT = Path(__file__).parents[1]

TABLES: dict[str, list[Callable[[], Table]]] = {
    "README.md": [readme.compared],
    "docs/recipes.md": [
        recipes.minutes,
        recipes.equality,
        recipes.parts,
        recipes.mixed,
        recipes.thirty,
        recipes.record,
        recipes.fed,
        recipes.tuned,
    ],
    "docs/performance.md": [
        performance.training_avx2,
        performance.training_avx512,
        performance.memory,
        performance.start,
        performance.inference_avx2,
        performance.inference_avx512,
        performance.batches,
        performance.depths,
        performance.threads,
        performance.repeated,
        performance.ceilings,
        performance.kernels,
        performance.fusion,
    ],
    "docs/parallel.md": [parallel.processes, parallel.larger],
    "docs/scaling.md": [parallel.terms, parallel.steps, parallel.reached],
    "docs/studies.md": [
        studies.machines,
        studies.deeper,
        studies.flows,
        studies.norms,
        studies.identity,
        studies.splits,
        studies.quotients,
        studies.held,
        studies.starts,
        studies.around,
        studies.strengths,
    ],
    "docs/reliability.md": [reliability.tried, reliability.soak],
}
PICTURES: dict[str, Callable[[], Any]] = {
    "speed.png": performance.draw_speed,
    "cluster.png": parallel.draw_cluster,
    "minutes.png": recipes.draw_minutes,
    "training-curve.png": recipes.draw_curves,
    "degradation.png": studies.draw_deeper,
    "gradient-flow.png": studies.draw_flows,
    "batch-norm.png": studies.draw_norms,
    "identity-path.png": studies.draw_identity,
    "skip-path.png": studies.draw_splits,
    "gradcheck.png": studies.draw_quotients,
    "memory.png": studies.draw_held,
    "warm-up.png": studies.draw_starts,
    "landscape.png": studies.draw_around,
    "responses.png": studies.draw_strengths,
    "bottleneck.png": studies.draw_blocks,
    "timeline.png": parallel.draw_timeline,
    "soak.png": reliability.draw_soak,
}


def comment(name: str) -> str:
    return f"<!-- table: {name} -->\n\n"


def on_page(name: str, text: str) -> str:
    """The table of this name on a page, all lines up to the next blank one.

    Raises
    ------
    LookupError
        If the page does not have exactly one comment with this name.
    """
    found: list[str] = re.findall(re.escape(comment(name)) + r"((?:.+\n)*)", text)
    if len(found) != 1:
        raise LookupError(f"got {len(found)} comments {comment(name)!r}, expected one")
    return found[0]


def made(table: Callable[[], Table]) -> str:
    return "".join(f"{line}\n" for line in table())


def write(page: Path, tables: list[Callable[[], Table]]) -> None:
    """Put tables on a page."""
    text = page.read_text()
    for table in tables:
        above, before = comment(table.__name__), on_page(table.__name__, text)
        after = "" if before.startswith("|") else f"\n{before}"  # there is no table yet, but a paragraph
        text = text.replace(above + before, above + made(table) + after)
    page.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the tables on their pages")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the pictures into this folder")
    args = parser.parse_args()
    for page, tables in TABLES.items():
        for table in tables:
            print(f"{page}: {table.__doc__}\n\n{made(table)}")
        if args.write:
            write(ROOT / page, tables)
    for name, draw in PICTURES.items() if args.pictures else ():
        plots.save(draw(), args.pictures / name)
        with Image.open(args.pictures / name) as picture:  # git keeps each version of it: 256 colours are enough
            picture.convert("RGB").quantize().save(args.pictures / name, optimize=True)


if __name__ == "__main__":
    main()
