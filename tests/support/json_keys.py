"""The keys of `--json`, which docs/versions.md promises to keep: those that a test's example of each command has."""

from pathlib import Path

LABELS = "held"  # what is below has words as keys, for readers
KEYS = Path(__file__).parents[1] / "data" / "json_keys.txt"


def paths(found, at=""):
    """Each key's path, as in `worst[].label`."""
    if isinstance(found, dict):
        for key, value in found.items():
            path = f"{at}.{key}" if at else key
            yield path
            if key != LABELS:
                yield from paths(value, path)
    elif isinstance(found, list):
        for value in found:
            yield from paths(value, f"{at}[]")


def check_keys(command, numbers):
    """Compare what a command wrote with the list of keys."""
    found = {f"{command}: {path}" for path in paths(numbers)}
    known = {line for line in KEYS.read_text().splitlines() if line.startswith(f"{command}: ")}
    gone, new = ("\n".join(sorted(keys)) for keys in (known - found, found - known))
    assert not gone, f"gone from {KEYS.name}: put them back, unless this is a new major version\n{gone}\nnew:\n{new}"
    assert not new, f"new, which a minor version may have; add to {KEYS.name}:\n{new}"
