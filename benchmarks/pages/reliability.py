"""Tables and the picture of docs/reliability.md: what was tried, and two hours with a fault in each round."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure
from pages.stored import read
from pages.writing import Table, head, row

from tinyres import plots

MEASURED = {
    "memory_mib": "memory, MiB",
    "files": "open files",
    "threads": "threads",
    "images_per_second": "images/s",
}


def tried() -> Table:
    """What was tried in order to break it, what came of it, and where."""
    yield from head("`reliability/...`", "what was tried", "what came of it", "on")
    for rows in (_gradients, _threads, _kills, _faults, _interrupts, _files):
        for found, *cells in rows():
            machine = found["machine"]
            yield row(*cells, f"{machine['processor']}, {machine['simd']}")


Rows = Iterator[tuple[Any, ...]]  # what was found, and three cells


def _gradients() -> Rows:
    found = read("mutants")
    noticed = sum(mutant["test"] is not None for mutant in found["mutants"])
    yield found, "`mutants.py`", f"{len(found['mutants'])} broken gradients", f"{noticed} noticed by a test"


def _threads() -> Rows:
    found = read("invariance")
    for model, states in found["states"].items():
        count = len(set(states.values()))
        trained = f"{len(states)} trainings of {model}, each with other threads"
        yield found, "`invariance.py`", trained, "one state" if count == 1 else f"{count} states"


def _kills() -> Rows:
    for name, options in (("crash", ""), ("crash-processes", " --processes 4")):
        found = read(name)
        kills = f"{found['kills']} kills in {found['runs']} runs of {found['steps']} steps"
        if found["processes"] > 1:
            kills += f", {found['of several processes']} of them of one of several processes"
        whole = f"{found['resumed']} times the newest checkpoint was whole; "
        whole += f"{found['while saving']} left a half-written file"
        if found["before the first"]:
            whole += f"; {found['before the first']} came before the first checkpoint"
        yield found, f"`crash.py{options}`", kills, whole


def _faults() -> Rows:
    found = read("faults")
    outcomes, full = found["outcomes"], found["full"]
    made = f"{sum(outcomes.values())} faults in {found['calls']} system calls of a save"
    yield found, "`faults.py`", made, "; ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    yield found, "`faults.py`", f"{full} saves to a full disk", f"{full} refused, the old file whole"


def _interrupts() -> Rows:
    found = read("interrupt")
    times = f"{found['command']} times Ctrl-C in {found['runs']} runs of `tinyres train`"
    ended = f"all ended in the undisturbed run's state, {found['saved']} saved in the middle"
    yield found, "`interrupt.py`", times, ended
    ended = f"no thread was left; the slowest of all took {found['slowest']:.1f} s to end"
    yield found, "`interrupt.py`", f"{found['python']} times Ctrl-C in a loop in Python", ended


def _files() -> Rows:
    found = read("hostile")
    by_hand, mutations, bits = found["nasties"], found["mutations"], found["bits"]
    good = sum(file["wrong"] is None for file in by_hand)
    slowest = max(file["seconds"] for file in by_hand)
    said = f"{good} read or refused as documented, in {slowest:.1f} s and {found['peak MiB']:,} MiB at most"
    yield found, "`hostile.py`", f"{len(by_hand)} malicious files made by hand", said
    files = sum(sum(kind["counts"].values()) for kind in mutations.values())
    good = files - sum(len(kind["wrong"]) for kind in mutations.values())
    slowest = max(kind["slowest"] for kind in mutations.values())
    said = f"{good:,} read or refused as documented, in {slowest:.1f} s at most"
    yield found, "`hostile.py`", f"{files:,} random mutations of {len(mutations)} kinds of files", said
    yield found, "`hostile.py`", f"{bits['turned']:,} bits of a checkpoint turned", f"{bits['noticed']:,} noticed"


def soak() -> Table:
    """Medians of the second quarter of the rounds, and of the last."""
    yield from head("medians", "second quarter", "last quarter")
    for name, (early, late) in read("soak")["medians"].items():
        yield row(MEASURED[name], f"{early:.4g}", f"{late:.4g}")


def draw_soak() -> Figure:
    """Memory, handles and speed of one process."""
    rounds = read("soak")["rounds"]
    figure, axes = plots.subplots(3, 1, width=9, height=6, sharex=True)
    for axis, names in zip(axes, (["memory_mib"], ["files", "threads"], ["images_per_second"]), strict=True):
        for name in names:
            axis.plot([r["minutes"] for r in rounds], [r[name] for r in rounds], label=MEASURED[name])
        top = 1.2 * max(r[name] for r in rounds for name in names)
        axis.set(ylabel=", ".join(MEASURED[name] for name in names), ylim=(0, top))
    axes[1].legend(frameon=False, loc="center right")
    axes[-1].set(xlabel="minutes")
    axes[0].set_title(f"One process, {len(rounds)} rounds, each with a fault")
    return figure
