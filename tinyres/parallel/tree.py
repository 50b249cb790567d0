"""Sums in a fixed order, for any distribution of the parts.

Floating-point addition is not associative. Unless the order is fixed, a sum over processes differs in its last bits
from the same sum in one process. The order here is a tree: the sum over shards `start` to `stop` is the sum of its
first half plus the sum of its second half. A process that has all shards of a subtree can add them alone, and send one
array in place of several. If P is a power of two that divides the number of shards, the shards of each of P processes
are a subtree, so each process sends one array.
"""

from collections.abc import MutableMapping

from tinyres.tape import Array

Span = tuple[int, int]
"""Shards from the first number up to the second, which is not included."""


def halves(span: Span) -> tuple[Span, Span]:
    """The two subtrees of a tree with more than one shard.

    Examples
    --------
    >>> halves((0, 4)), halves((3, 6))
    (((0, 2), (2, 4)), ((3, 4), (4, 6)))
    """
    start, stop = span
    middle = (start + stop) // 2
    return (start, middle), (middle, stop)


def subtrees(part: Span, whole: Span) -> list[Span]:
    """The fewest subtrees of the tree over `whole` that together are `part`, in order.

    Examples
    --------
    >>> subtrees((2, 4), (0, 4)), subtrees((1, 4), (0, 4)), subtrees((2, 4), (0, 6))
    ([(2, 4)], [(1, 2), (2, 4)], [(2, 3), (3, 4)])
    """
    if part[0] <= whole[0] and whole[1] <= part[1]:
        return [whole]
    if part[1] <= whole[0] or whole[1] <= part[0]:
        return []
    first, second = halves(whole)
    return subtrees(part, first) + subtrees(part, second)


def add_up(parts: MutableMapping[Span, Array], whole: Span) -> bool:
    """Add the parts up to the sum over `whole`, if they are sufficient. Returns whether they are.

    Arrays are added to in place. Parts that were added to a larger subtree are removed.

    Examples
    --------
    >>> import numpy as np
    >>> parts = {(s, s + 1): np.array([10.0**s]) for s in (0, 1, 3)}
    >>> add_up(parts, (0, 4)), sorted(parts)
    (False, [(0, 2), (3, 4)])
    >>> parts[2, 3] = np.array([100.0])
    >>> add_up(parts, (0, 4)), parts
    (True, {(0, 4): array([1111.])})
    """
    if whole in parts:
        return True
    if whole[1] - whole[0] < 2:
        return False
    first, second = halves(whole)
    there = [add_up(parts, first), add_up(parts, second)]
    if all(there):
        parts[whole] = parts.pop(first)
        parts[whole] += parts.pop(second)
    return all(there)
