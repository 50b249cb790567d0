"""Other spellings of names: PyTorch's ``dim`` and ``keepdim`` for ``axis`` and ``keepdims``, and hints for misspelt
names."""

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
WORDS = {"dim": "axis", "keepdim": "keepdims"}


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: it suggests the nearest known name, if one is near.

    Examples
    --------
    >>> did_you_mean("epoch", ["lr", "epochs"]), did_you_mean("x", ["lr"])
    ('; did you mean epochs?', '')
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def either_spelling(function: Callable[..., T]) -> Callable[..., T]:
    """Let a function with `axis` (and `keepdims`) also accept `dim` (and `keepdim`).

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
    TypeError: total: got both axis and dim, which are two names for the same argument
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> T:
        if not WORDS.keys().isdisjoint(kwargs):
            for word, name in WORDS.items():
                if word in kwargs and name in kwargs:
                    raise TypeError(
                        f"{function.__name__}: got both {name} and {word}, which are two names for the same argument"
                    )
            kwargs = {WORDS.get(word, word): value for word, value in kwargs.items()}
        return function(*args, **kwargs)

    return call
