"""Words that mean one of ours: PyTorch's for NumPy's (``dim`` for ``axis``, ``keepdim`` for ``keepdims``), and misspelt
names."""

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
WORDS = {"dim": "axis", "keepdim": "keepdims"}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that there is not: the nearest that there is, if any.

    Examples
    --------
    >>> did_you_mean("epoch", ["lr", "epochs"]), did_you_mean("x", ["lr"])
    ('; did you mean epochs?', '')
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def either_spelling(function: Callable[..., T]) -> Callable[..., T]:
    """Let a function that takes `axis` (and `keepdims`) be called with `dim` (and `keepdim`) as well.

    Examples
    --------
    >>> @either_spelling
    ... def total(x, axis=None):
    ...     return x.sum(axis)
    >>> import numpy as np
    >>> total(np.ones((2, 3)), dim=1)
    array([3., 3.])
    >>> total(np.ones((2, 3)), axis=0, dim=1)
    Traceback (most recent call last):
    TypeError: total: got both axis and dim, which are two words for the same
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        if not WORDS.keys().isdisjoint(kwargs):
            for word, name in WORDS.items():
                if word in kwargs and name in kwargs:
                    raise TypeError(
                        f"{function.__name__}: got both {name} and {word}, which are two words for the same"
                    )
            kwargs = {WORDS.get(word, word): value for word, value in kwargs.items()}
        return function(*args, **kwargs)

    return call
