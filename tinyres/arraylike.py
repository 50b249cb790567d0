"""A tensor as other libraries see it: by the protocols of NumPy, and by DLPack."""

from typing import Any

import numpy as np

from tinyres.tape import Array, state

OF_NUMPY = {
    "append": "tr.ops.concat",
    "argmax": "t.argmax",
    "argmin": "t.argmin",
    "concatenate": "tr.ops.concat",
    "dot": "tr.ops.matmul",
    "einsum": "tr.ops.matmul, or multiply and tr.ops.sum",
    "hstack": "tr.ops.concat",
    "tensordot": "tr.ops.matmul",
    "vstack": "tr.ops.concat",
}
"""NumPy's functions that have another name here, and that name."""


class ArrayLike:
    """Base class of `Tensor`: what NumPy and other libraries call."""

    __slots__ = ()
    __array_ufunc__ = None  # array * tensor is Tensor.__rmul__, not an array of objects

    _data: Array
    requires_grad: bool

    def _would_lose_gradient(self) -> bool:
        return self.requires_grad and state.grad_enabled

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if self._would_lose_gradient():
            raise TypeError(
                "an array of this tensor would lose its gradient: to join tensors, call ops.stack or ops.concat; "
                "for the values alone, take t.data or t.detach()"
            )
        return np.array(self._data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """Called by ``from_dlpack`` of another library, with the options of the array API standard."""
        if self.requires_grad:
            raise BufferError("this tensor requires a gradient, which other libraries would lose: share t.detach()")
        if not self._data.flags.writeable and not options.get("copy"):  # PyTorch would write to it all the same
            raise BufferError(
                "this tensor's values are read-only, perhaps because a recorded operation needs them, and other "
                "libraries might write to them: share a copy, tr.tensor(t)"
            )
        return self._data.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU, as a pair of numbers that the DLPack standard defines."""
        return self._data.__dlpack_device__()

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Called by NumPy when one of its functions gets a tensor: it computes values, without gradients."""

        def values(argument: Any) -> Any:
            if isinstance(argument, ArrayLike):
                if argument._would_lose_gradient():
                    name = function.__name__
                    call = OF_NUMPY.get(name, f"tr.ops.{name}, if there is one")
                    raise TypeError(
                        f"np.{name}: the gradient of a tensor would be lost: call {call}; for the values alone, give "
                        "it t.data or t.detach()"
                    )
                return argument._data
            if type(argument) in (list, tuple):
                return type(argument)(values(a) for a in argument)
            return argument

        return function(*values(args), **{name: values(a) for name, a in kwargs.items()})
