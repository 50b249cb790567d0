"""Two ways to compute a convolution: windows as rows of a matrix (im2col), and Winograd's tile."""

import numpy as np
from figures.svg import Box, Drawing, number

import tinyres as tr
from tinyres import reference
from tinyres.kernels.winograd import maps

CELL = 30


def _grid(
    drawing: Drawing, left: float, top: float, array, lit=lambda i, j: False, text="", wide=CELL, title=""
) -> Box:
    """Draw a matrix as squares with a number in each; those that are `lit` have another colour."""
    rows, columns = array.shape
    if title:
        drawing.text(left + wide * columns / 2, top - 14, title, "strong")
    for i in range(rows):
        for j in range(columns):
            x, y = left + wide * j, top + CELL * i
            drawing.rect(x, y, wide, CELL, "lit" if lit(i, j) else "")
            drawing.text(x + wide / 2, y + CELL / 2, number(array[i, j]), text)
    above = 24 if title else 0
    return Box(left + wide * columns / 2, top + (CELL * rows - above) / 2, wide * columns, CELL * rows + above)


def _digits(shape: tuple[int, int]):
    return np.random.default_rng(1).integers(0, 10, shape).astype(float)


def im2col() -> str:
    """Four windows of an image become four rows; a product with the weights gives four pixels."""
    image, weight = _digits((4, 4)), np.array([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])
    y = tr.ops.conv2d(tr.Tensor(image[None, None]), tr.Tensor(weight[None, None])).data[0, 0]
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3)).reshape(4, 9)
    assert np.array_equal((windows @ weight.ravel()).reshape(2, 2), y)  # checks that the drawing is true
    drawing = Drawing(700, 312, "A 4 by 4 image, its four windows as rows of a matrix, the weights, and the result")
    picture = _grid(drawing, 1, 28, image, lambda i, j: i < 3 and j >= 1, "value", title="x, (4, 4)")
    _grid(drawing, 16, 205, weight, title="w, (3, 3)")
    matrix = _grid(drawing, 190, 28, windows, lambda i, j: i == 1, "value", title="one window in each row, (4, 9)")
    drawing.arrow(picture, matrix)
    drawing.text(481, 88, "@", "strong")
    _grid(drawing, 496, 28, weight.reshape(9, 1), title="w, (9)")
    drawing.text(543, 88, "=", "strong")
    column = _grid(drawing, 560, 28, y.reshape(4, 1), lambda i, j: i == 1, "value")
    result = _grid(drawing, 638, 58, y, lambda i, j: (i, j) == (0, 1), "value", title="y, (2, 2)")
    drawing.arrow(column, result)
    return str(drawing)


def winograd() -> str:
    """A tile of 4 x 4 outputs by 36 products, with the maps that the kernels use."""
    d, g = _digits((6, 6)), np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])

    def twice(one_dimension, array):  # first the columns, then the rows of the result
        return np.array(one_dimension(*np.array(one_dimension(*array)).T)).T

    v, u = twice(maps.same_input, d), twice(maps.same_weight, g)
    y = twice(maps.same_output, u * v)
    assert np.allclose(y, reference.conv2d(d[None, None], g[None, None], stride=(1, 1), padding=(0, 0))[0, 0])
    drawing = Drawing(600, 690, "Winograd's tile: 6 by 6 inputs and 3 by 3 weights, 36 products, and 4 by 4 outputs")
    inputs = _grid(drawing, 46, 28, d, text="value", title="d: 6 × 6 inputs")
    weights = _grid(drawing, 420, 28, g, title="g: 3 × 3 weights")
    there = _grid(drawing, 1, 264, v, text="value", wide=45, title="BᵀdB, once for all weights")
    filters = _grid(drawing, 328, 264, u, wide=45, title="G g Gᵀ, once for all tiles")
    products = _grid(drawing, 1, 500, u * v, text="value", wide=45, title="36 products, one by one")
    outputs = _grid(drawing, 405, 530, y, text="value", title="4 × 4 outputs")
    drawing.arrow(inputs, there)
    drawing.arrow(weights, filters)
    drawing.arrow(there, products)
    drawing.arrow(filters, products)
    drawing.arrow(products, outputs, "Aᵀ m A", "")
    return str(drawing)
