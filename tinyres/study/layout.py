"""The places of steps in a drawing: in blocks, each a column of operations with its shortcut beside it."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tinyres.nn import Module, Sequential


class Placed(Protocol):
    """A step to be placed: a result that a module computed from other results."""

    @property
    def number(self) -> int: ...
    @property
    def module(self) -> str: ...
    @property
    def parents(self) -> list[int]: ...


class Cell(NamedTuple):
    """The place of a step in its block. Lane 0 is the longest path through the block, lane 1 is beside it."""

    step: int
    lane: int
    row: int


class Block(NamedTuple):
    """Steps that belong together.

    Attributes
    ----------
    path : str
        Path of the block's module, e.g. ``"layer1.0"``; empty for operations that the network itself calls.
    title : str
    kind : str
        The module's class.
    cells : list of Cell
    """

    path: str
    title: str
    kind: str
    cells: list[Cell]


def arrange(steps: Sequence[Placed], model: Module) -> list[Block]:
    """Divide a pass into blocks, in the order of the forward pass.

    A block is a module of the network that contains modules and is not only a sequence of them; of nested ones it is
    the outermost. Other steps belong to the stem, before the first block, or to the head, after the last.

    Parameters
    ----------
    steps : sequence
        In the order of the forward pass; a step's number is its index.
    model : Module
        The model that computed them.

    Returns
    -------
    list of Block
    """
    modules = dict(model.named_modules())
    groups: list[tuple[str, list[int]]] = []
    for step in steps:
        path = _block_of(step.module, modules)
        if not groups or groups[-1][0] != path:
            groups.append((path, []))
        groups[-1][1].append(step.number)
    blocks = []
    for i, (path, members) in enumerate(groups):
        title = path or ("stem" if i == 0 and len(groups) > 1 else "head" if i == len(groups) - 1 > 0 else "network")
        kind = type(modules[path] if path else model).__name__
        blocks.append(Block(path, title, kind, _cells(members, steps)))
    return blocks


def _block_of(path: str, modules: dict[str, Module]) -> str:
    parts = path.split(".")
    for count in range(1, len(parts) + 1):
        module = modules.get(prefix := ".".join(parts[:count]))
        if module is not None and not isinstance(module, Sequential) and any(module.children()):
            return prefix
    return ""


def _cells(members: list[int], steps: Sequence[Placed]) -> list[Cell]:
    inside = {number: [p for p in steps[number].parents if p in members] for number in members}
    length: dict[int, int] = {}
    for number in members:  # parents come before
        length[number] = 1 + max((length[p] for p in inside[number]), default=0)
    longest = {at := members[-1]}
    while inside[at]:
        longest.add(at := max(inside[at], key=lambda p: length[p]))
    cells: dict[int, Cell] = {}
    taken: set[tuple[int, int]] = set()
    for number in members:
        lane = 0 if number in longest else 1
        row = 1 + max((cells[p].row for p in inside[number]), default=-1)
        while (lane, row) in taken:
            row += 1
        taken.add((lane, row))
        cells[number] = Cell(number, lane, row)
    return list(cells.values())
