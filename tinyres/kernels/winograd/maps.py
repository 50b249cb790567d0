"""The linear maps of Winograd's method in one dimension, and the forms of a convolution that they make.

A form says how input d, weights g and outputs y of a tile are related: y = A^T [(G g) * (B^T d)]. A transform in two
dimensions applies its map to columns, and then to rows.

Stride 1, `SAME`: F(4, 3), see `tinyres.kernels.winograd`.

Stride 2, `DOWN`: of four outputs y_i = d_2i g_0 + d_(2i+1) g_1 + d_(2i+2) g_2, the first and the last tap meet only the
even inputs, at stride 1. This is F(4, 2): five multiplications, at the points +-1, +-1/2 and infinity, with powers of
two as constants. The middle tap meets the odd inputs, each of them once. So there are nine multiplications in place of
twelve; in two dimensions, 81 in place of 144. The last four have the same transformed weight, the tap itself.

Its input gradient, `UP`: with padding 1, dx_2i = dy_i g_1 and dx_(2i+1) = dy_i g_2 + dy_(i+1) g_0. So the same two
convolutions, with flipped taps, compute eight dx from five dy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tinyres.kernels.traced import traced

A, B = 0.5**0.5, 2.0**0.5  # the points of F(4, 3), beside 0 and infinity; A^2 + B^2 = 5/2, A B = 1
NA, NB = -1.5, 6.0  # m'(+-A), m'(+-B); m'(0) = 1


# ---------------------------------------------------------------- stride 1
def same_input(d0, d1, d2, d3, d4, d5):
    """B^T d."""
    even, odd = d4 - 2.0 * d2, A * (d3 - 2.0 * d1)
    even_, odd_ = d4 - 0.5 * d2, B * (d3 - 0.5 * d1)
    return (d0 - 2.5 * d2) + d4, even + odd, even - odd, even_ + odd_, even_ - odd_, (d1 - 2.5 * d3) + d5


def same_weight(g0, g1, g2):
    """G g."""
    even, odd = (g0 + 0.5 * g2) * (1 / NA), g1 * (A / NA)
    even_, odd_ = (g0 + 2.0 * g2) * (1 / NB), g1 * (B / NB)
    return g0, even + odd, even - odd, even_ + odd_, even_ - odd_, g2


def same_weight_transposed(m0, m1, m2, m3, m4, m5):
    """G^T m."""
    even, odd = (m1 + m2) * (1 / NA), (m1 - m2) * (A / NA)
    even_, odd_ = (m3 + m4) * (1 / NB), (m3 - m4) * (B / NB)
    return (m0 + even) + even_, odd + odd_, (m5 + 2.0 * even_) + 0.5 * even


def same_output(m0, m1, m2, m3, m4, m5):
    """A^T m."""
    even, odd, even_, odd_ = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    y3 = (m5 + (B * 2) * odd_) + (A / 2) * odd
    return (m0 + even) + even_, B * odd_ + A * odd, 2.0 * even_ + 0.5 * even, y3


def same_output_transposed(y0, y1, y2, y3):
    """A y."""
    even, odd = y0 + 0.5 * y2, A * (y1 + 0.5 * y3)
    even_, odd_ = y0 + 2.0 * y2, B * (y1 + 2.0 * y3)
    return y0, even + odd, even - odd, even_ + odd_, even_ - odd_, y3


# ---------------------------------------------------------------- stride 2: first and last tap
def _input_of_two(d0, d1, d2, d3, d4):
    """B^T d."""
    even, odd = d3 - 0.25 * d1, d2 - 0.25 * d0
    even_, odd_ = d3 - d1, 0.5 * (d2 - d0)
    return even + odd, even - odd, even_ + odd_, even_ - odd_, (d4 - 1.25 * d2) + 0.25 * d0


def _output_of_two(m0, m1, m2, m3, m4):
    """A^T m."""
    even, odd, even_, odd_ = m0 + m1, m0 - m1, m2 + m3, m2 - m3
    return even + even_, odd + 0.5 * odd_, even + 0.25 * even_, (odd + m4) + 0.125 * odd_


def _output_of_two_transposed(y0, y1, y2, y3):
    """A y."""
    even, odd = y0 + y2, y1 + y3
    even_, odd_ = y0 + 0.25 * y2, 0.5 * y1 + 0.125 * y3
    return even + odd, even - odd, even_ + odd_, even_ - odd_, y3


# ---------------------------------------------------------------- stride 2: all taps, the middle one last
def strided_weight(g0, g1, g2):
    """G g, with m'(+-1) = +-3/2 and m'(+-1/2) = -+3/4."""
    even, odd, even_, odd_ = g0 * (1 / 1.5), g2 * (1 / 1.5), g0 * (-1 / 0.75), g2 * (-0.5 / 0.75)
    return even + odd, odd - even, even_ + odd_, odd_ - even_, g2, g1


def strided_weight_transposed(m0, m1, m2, m3, m4, m5):
    """G^T m."""
    g0 = (m0 - m1) * (1 / 1.5) + (m2 - m3) * (-1 / 0.75)
    return g0, m5, (m4 + (m2 + m3) * (-0.5 / 0.75)) + (m0 + m1) * (1 / 1.5)


def down_input(*d):
    """B^T d: nine numbers."""
    return *_input_of_two(*d[::2]), *d[1::2]


def down_output(*m):
    """A^T m, from nine numbers."""
    return tuple(first_and_last + middle for first_and_last, middle in zip(_output_of_two(*m[:5]), m[5:], strict=True))


def down_output_transposed(y0, y1, y2, y3):
    """A y."""
    return *_output_of_two_transposed(y0, y1, y2, y3), y0, y1, y2, y3


def up_input(*d):
    """B^T d, from five numbers."""
    return *_input_of_two(*d), *d[:4]


def up_output(*m):
    """A^T m, from nine numbers."""
    return tuple(y for pair in zip(m[5:], _output_of_two(*m[:5]), strict=True) for y in pair)


# ---------------------------------------------------------------- forms
class Form(NamedTuple):
    """Sizes of a tile in one dimension, and its maps, as functions of vectors in tuples."""

    x_step: int  # pixels of input from one tile to the next,
    y_step: int  # and pixels of output
    window: int  # input pixels that a tile reads
    places: int  # number of products in a tile
    input: Callable[..., Any]
    output: Callable[..., Any]
    output_transposed: Callable[..., Any]
    weight: Callable[..., Any]
    weight_transposed: Callable[..., Any]


_same_weights = traced(same_weight, 6), traced(same_weight_transposed, 3)
_strided_weights = traced(strided_weight, 6), traced(strided_weight_transposed, 3)
_transposed = traced(down_output_transposed, 9)

SAME = Form(
    4, 4, 6, 6, traced(same_input, 6), traced(same_output, 4), traced(same_output_transposed, 6), *_same_weights
)
DOWN = Form(8, 4, 9, 9, traced(down_input, 9), traced(down_output, 4), _transposed, *_strided_weights)
UP = Form(4, 8, 5, 9, traced(up_input, 9), traced(up_output, 8), _transposed, *_strided_weights)
