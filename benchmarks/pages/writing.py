"""How the tables of the documentation are written: rows, numbers, and ranges over seeds."""

from collections.abc import Callable, Iterable, Iterator

from measuring import Spread, number

Table = Iterator[str]  # the lines of one table, with its head


def head(*cells: str) -> Table:
    """The first two lines of a table."""
    yield row(*cells)
    yield "|---" * len(cells) + "|"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def power(value: float) -> str:
    """Two digits, or a power of ten if that is shorter."""
    if 0.01 <= value < 100_000:
        return f"{float(f'{value:.2g}'):,.10g}"
    digits, exponent = f"{value:.1e}".split("e")
    return rf"${digits} \cdot 10^{{{int(exponent)}}}$"


def between(values: Iterable[float], write: Callable[[float], str] = power) -> str:
    """The smallest and the largest number, or only one if both are written in the same way."""
    values = list(values)
    return " to ".join(dict.fromkeys(map(write, (min(values), max(values)))))


def halves(spread: dict[str, float]) -> str:
    """Median and middle half."""
    return str(Spread(**spread))


def bold(spread: dict[str, float]) -> str:
    """The median in bold, with two digits after the point, and the middle half."""
    return f"**{spread['median']:.2f}** ({spread['quarter']:.2f} to {spread['three_quarters']:.2f})"


def median(spread: dict[str, float]) -> str:
    return number(spread["median"])
