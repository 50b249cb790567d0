"""One table of what each kernel that Python can call requires of its arguments.

Compiled code does not check bounds: if an array is shorter than expected, or its numbers have fewer bytes, the kernel
reads and writes the memory after it. So a kernel first checks the dtypes and shapes of all its arguments together. The
result of a check is remembered for each combination, since every step has the same ones.
"""

from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.lib.array_utils import byte_bounds

Ints: TypeAlias = Iterable[int]

_WINDOW = ("stride = SH SW", "padding = PH PW")

# Arguments in the order in which `check` gets them. After a colon comes the shape of an array, after "=" a tuple of
# ints. A letter stands for the same number in all arguments of a kernel; "..." stands for a whole shape. An argument
# with "?" may be None. Arrays are float32 or float64, all of a kernel the same, except the int32 ones. Convolutions are
# the kernels with an I, see `_misfit`.
KERNELS = {
    "conv2d": ("x: N C H W", "weight: O I KH KW", "bias?: O", "residual?: N O OH OW", *_WINDOW),
    "conv2d_and_statistics": ("x: N C H W", "weight: O I KH KW", *_WINDOW),
    "conv2d_input_grad": ("dy: N O OH OW", "weight: O I KH KW", "x_shape = N C H W", "total?: N C H W", *_WINDOW),
    "conv2d_weight_grad": ("dy: N O OH OW", "x: N C H W", "weight_shape = O I KH KW", *_WINDOW),
    "im2col": ("x: N C H W", "kernel_size = KH KW", *_WINDOW),
    "col2im": ("columns: P K", "x_shape = N C H W", "kernel_size = KH KW", *_WINDOW),
    "batch_norm_statistics": ("x: N C H W",),
    "batch_norm_apply": ("x: N C H W", "mean: C", "scale: C", "bias: C", "residual?: N C H W"),
    "batch_norm_grad": ("dy: N C H W", "x: N C H W", "y: N C H W", "mean: C", "inv_std: C", "weight: C", "bias: C"),
    "max_pool2d": ("x: N C H W", "kernel_size = KH KW", *_WINDOW),
    "max_pool2d_grad": (
        "dy: N C OH OW", "taps int32: N C OH OW", "x_shape = N C H W", "kernel_size = KH KW", *_WINDOW
    ),
    "avg_pool2d": ("x: N C H W", "kernel_size = KH KW", *_WINDOW),
    "avg_pool2d_grad": ("dy: N C OH OW", "x_shape = N C H W", "kernel_size = KH KW", *_WINDOW),
    "erf": ("x: ...",),
    "relu": ("x: ...",),
    "relu_grad": ("dy: ...", "y: ..."),
    "add_to": ("total: ...", "part: ..."),
    "sgd_update": ("p: ...", "g: ...", "v: ..."),
    "adamw_update": ("p: ...", "g: ...", "m: ...", "v: ..."),
}  # fmt: skip
_AT_LEAST_ONE = {"O", "I", "KH", "KW", "SH", "SW"}
_ARRAYS = (np.ndarray, np.generic)
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def check(kernel, *arguments):
    """Raise TypeError or ValueError if an argument is not what `KERNELS` says, or if two do not fit; name the argument.

    A NumPy scalar is accepted as an array without axes, since NumPy returns scalars in place of such arrays.
    """
    fault = _fault(kernel, tuple([
        (a.dtype, a.shape) if isinstance(a, _ARRAYS) else
        (a, tuple(map(type, a))) if isinstance(a, tuple) else  # (1, True) and (1, 1.0) equal (1, 1)
        a if a is None else type(a)
        for a in arguments
    ]))  # fmt: skip
    if fault:
        raise fault[0](f"{kernel}: {fault[1]}")


def out_size(size: Ints, kernel_size: Ints, stride: Ints, padding: Ints) -> tuple[int, ...]:
    """How many windows fit along each axis: the size of the result of a convolution or of pooling."""
    return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel_size, stride, padding, strict=True))


def check_in_place(kernel, name, array, **others):
    """Raise ValueError if an array is read-only, or shares memory with one of the others."""
    if not array.flags.writeable:
        raise ValueError(f"{kernel}: {name}: got a read-only array, expected one that may be changed in place")
    for other, its in others.items():
        if its is not None and overlap(array, its):
            raise ValueError(f"{kernel}: {name}: got memory that {other} has too, expected its own: pass a copy")


def check_each(kernel, in_place, **lists):
    """Call `check` and `check_in_place` for the first array of each list, then for the second, and so on.

    An array that is changed in place must not share memory with any other array in the lists.
    """
    for name, arrays in lists.items():
        if not isinstance(arrays, list | tuple):
            what = "an array" if isinstance(arrays, np.ndarray) else type(arrays).__name__
            raise TypeError(f"{kernel}: {name}: got {what}, expected a list of arrays, one of each parameter")
    if len(set(map(len, lists.values()))) > 1:
        lengths = ", ".join(f"{len(arrays)} of {name}" for name, arrays in lists.items())
        raise ValueError(f"{kernel}: got {lengths}, expected lists of one length")
    for arrays in zip(*lists.values(), strict=True):
        check(kernel, *arrays)
    for name in in_place:
        for array in lists[name]:
            check_in_place(kernel, name, array)
    spans = [(*byte_bounds(a), name, a) for name, arrays in lists.items() for a in arrays if a.size]
    spans.sort(key=itemgetter(0))
    for i, (_, stop, name, array) in enumerate(spans):
        for start, _, other, its in spans[i + 1 :]:
            if start >= stop:  # the next ones start later still
                break
            if name in in_place:
                check_in_place(kernel, name, array, **{other: its})
            elif other in in_place:
                check_in_place(kernel, other, its, **{name: array})


def overlap(a, b):
    """Whether two arrays share an element; also True if this is hard to decide."""
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=1000)
    except np.exceptions.TooHardError:
        return True


class _Argument(NamedTuple):
    name: str
    optional: bool
    array: bool  # False: a tuple
    integer: bool  # whether its dtype is int32
    letters: tuple[str, ...]

    @classmethod
    def of(cls, text):
        array = ":" in text
        name, letters = text.split(":" if array else " =")
        name, *dtype = name.split()
        return cls(name.rstrip("?"), name.endswith("?"), array, bool(dtype), tuple(letters.split()))

    @property
    def form(self):
        return f"({', '.join(self.letters)}{',' * (len(self.letters) == 1)})"


_ARGUMENTS = {kernel: [_Argument.of(text) for text in texts] for kernel, texts in KERNELS.items()}


@lru_cache(maxsize=4096)
def _fault(kernel, forms):
    """The first error and its message, or None. An array has the form (dtype, shape), a tuple (itself, types)."""
    sizes, owners, dtype = {}, {}, None  # for each letter: its number, and the argument where it was seen first
    for argument, given in zip(_ARGUMENTS[kernel], forms, strict=True):
        name, letters = argument.name, argument.letters
        if given is None and argument.optional:
            continue
        if not argument.array:
            shape = given[0] if isinstance(given, tuple) and not _is_array(given) else None
            if shape is None or len(shape) != len(letters) or not all(map(_is_int, shape)):
                return TypeError, f"{name}: got {_shown(given)}, expected a tuple of ints {argument.form}"
        elif not _is_array(given):
            return TypeError, f"{name}: got {_shown(given)}, expected a NumPy array {argument.form}"
        else:
            its, shape = given
            allowed = (np.dtype(np.int32),) if argument.integer else _FLOATS if dtype is None else (dtype,)
            if its not in allowed:
                whose = f", that of {_ARGUMENTS[kernel][0].name}" if len(allowed) == 1 and not argument.integer else ""
                return TypeError, f"{name}: got dtype {its}, expected {' or '.join(map(str, allowed))}{whose}"
            dtype = dtype if argument.integer else its
        if letters == ("...",):
            shape = (shape,)
        if len(shape) != len(letters):
            return ValueError, f"{name}: got shape {shape}, expected {len(letters)} axes {argument.form}"
        for letter, number in zip(letters, shape, strict=True):
            expected = sizes.setdefault(letter, number)
            owner = owners.setdefault(letter, name)
            if number != expected:
                got, what = (number, "") if letter == "..." else (shape, f"{argument.form} with {letter} = ")
                return ValueError, f"{name}: got shape {got}, expected {what}{expected}, that of {owner}"
            least = 1 if letter in _AT_LEAST_ONE else 0
            if letter != "..." and number < least:
                return ValueError, f"{name}: got {shape}, expected {argument.form} with {letter} >= {least}"
    fault = _misfit(kernel, sizes, owners) if "KH" in sizes else None
    return fault and (ValueError, fault)


def _misfit(kernel, sizes, owners):
    """The message if the numbers of a kernel with windows do not fit, or None."""
    if "I" in sizes:  # a group has I of the C channels, and C / I groups share the O channels
        c, o, i = (sizes[letter] for letter in "COI")
        if c % i or c < i or o % (c // i):
            divisors = f"I to divide C = {c} of {owners['C']}, and C / I to divide O"
            return f"{owners['I']}: got O = {o} and I = {i}, expected {divisors}"
    for size, kernel_size, padding in (("H", "KH", "PH"), ("W", "KW", "PW")):
        n, k, p = sizes[size], sizes[kernel_size], sizes[padding]
        if n + 2 * p < k:
            return f"{owners[size]}: got {size} = {n} with padding {p}, expected at least {kernel_size} = {k}"
        if "pool" in kernel and (p >= k or n == 0):  # a window could be empty, and have no largest element
            return f"padding: got {p}, expected some of {size} = {n} in each window of {kernel_size} = {k}"
    oh, ow = out_size(*((sizes[f"{what}H"], sizes[f"{what}W"]) for what in ("", "K", "S", "P")))
    expected = {"OH": oh, "OW": ow, "P": sizes["N"] * oh * ow, "K": sizes["KH"] * sizes["KW"] * sizes["C"]}
    for letter, number in expected.items():
        if sizes.get(letter, number) != number:
            image = ", ".join(f"{name} = {sizes[name]}" for name in "NCHW")
            return f"{owners[letter]}: got {letter} = {sizes[letter]}, expected {number}, as follows from {image}"
    return None


def _is_array(form):
    return isinstance(form, tuple) and len(form) == 2 and isinstance(form[0], np.dtype)


def _is_int(number):
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def _shown(form):
    if isinstance(form, type):
        return form.__name__
    return "an array" if _is_array(form) else repr(form and form[0])
