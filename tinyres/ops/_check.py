"""Checks of arguments that several operations share. Each message has the argument's name, its value, and the values
that are expected."""

from tinyres.tensor import Tensor


def pair(name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    """An int, or a pair of them, as (vertical, horizontal)."""
    both = (value, value) if isinstance(value, int) else value
    if not (
        isinstance(both, tuple | list)
        and len(both) == 2
        and all(isinstance(v, int) and not isinstance(v, bool) and v >= minimum for v in both)
    ):
        raise ValueError(
            f"{name}: got {value!r}, expected an int >= {minimum} or a pair of them (vertical, horizontal)"
        )
    return both[0], both[1]


def images(x: Tensor, name: str = "x") -> None:
    if x.ndim != 4:
        raise ValueError(f"{name}: got shape {x.shape}, expected 4 axes (N, C, H, W)")


def same_dtype(x: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None and other.dtype != x.dtype:
            raise TypeError(
                f"{name}: got dtype {other.dtype}, expected {x.dtype}, that of x: write x.astype(np.{other.dtype}), or "
                f"make what {name} belongs to {x.dtype} (net.astype(np.{x.dtype}))"
            )


def vector(name: str, value: Tensor | None, length: int, meaning: str) -> None:
    if value is not None and value.shape != (length,):
        raise ValueError(f"{name}: got shape {value.shape}, expected ({length},), {meaning}")


def window(x: Tensor, kernel_size: tuple[int, int], padding: tuple[int, int]) -> None:
    """The padded image must hold at least one window."""
    for axis, size, kernel, pad in zip(("height", "width"), x.shape[2:], kernel_size, padding, strict=True):
        if size + 2 * pad < kernel:
            raise ValueError(
                f"x: got {axis} {size} with padding {pad}, expected at least the kernel's, {kernel}: "
                "make the image or the padding larger"
            )
