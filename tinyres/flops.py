"""The work of an operation on the tape: its floating-point operations, and the bytes that it must move."""

import math
from collections.abc import Sequence

from tinyres.kernels.pending import Pending
from tinyres.tape import Array, Node


def count_flops(node: Node, inputs: Sequence[Array | Pending]) -> tuple[int, int]:
    """Floating-point operations of a node, forward and backward.

    Only products are counted, as in the paper: conv2d, linear and matmul. A multiply-add counts as two, once forward
    and once for each gradient that is needed. Convolutions count as direct ones, even if they are computed in another
    way.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> class Printer:
    ...     def recorded(self, node, inputs):
    ...         print(node, count_flops(node, inputs))
    ...     def summed(self, node):
    ...         pass
    >>> a, b = tr.Tensor(np.ones((2, 3)), True), tr.Tensor(np.ones((3, 4)), True)
    >>> with tr.tape.watching(Printer()):
    ...     y = a @ b
    <matmul(2, 4)> (48, 96)
    """
    if node.name in ("conv2d", "linear"):
        terms = inputs[1].size // inputs[1].shape[0]  # terms in the sum for one element of the output
    elif node.name == "matmul":
        terms = inputs[0].shape[-1]
    else:
        return 0, 0
    forward = 2 * terms * math.prod(node.shape)
    return forward, forward * _wanted(node)


def count_bytes(node: Node, inputs: Sequence[Array | Pending]) -> tuple[int, int]:
    """Bytes that a node must read or write, forward and backward, if caches keep nothing from one pass to the next.

    Notes
    -----
    With x the input, y the output, dx and dy their gradients, each array counts once for each pass over it:

    ==================  ======================================  =================================================
    operation           forward                                 backward
    ==================  ======================================  =================================================
    conv2d, linear      x, w, y (and a residual)                dy, w, dx and dy, x, dw, where wanted; dy for a bias;
                                                                with ReLU first dy, y and what is left of dy
    batch_norm          x for the statistics, unless the        dy, x for the sums; dy, x, dx; with residual and
                        convolution before has measured them;   ReLU the first pass reads y and writes g as well
                        x, residual, y, unless y is pending
    relu                x, y                                    dy, y, dx
    max_pool2d          x, y, its int32 places                  dy, places, dx
    avg_pool2d          x, y                                    dy, dx
    add                 both, y                                 none: dy is passed on
    reshape, transpose  none: y is a view                       none
    getitem             y twice                                 dy, dx
    pad                 x, y                                    none: dx is a view
    any other           inputs, y                               dy, inputs, each gradient that is wanted
    ==================  ======================================  =================================================

    In batch_norm, arrays with one value for each channel are not counted. A pending y is computed when the next
    convolution loads it, or by the first other operation that needs it.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> class Printer:
    ...     def recorded(self, node, inputs):
    ...         print(node, count_bytes(node, inputs))
    ...     def summed(self, node):
    ...         pass
    >>> a, b = tr.Tensor(np.ones((2, 3)), True), tr.Tensor(np.ones((3, 4)), True)
    >>> with tr.tape.watching(Printer()):
    ...     y = a @ b
    <matmul(2, 4)> (208, 352)
    """
    y = math.prod(node.shape) * node.dtype.itemsize
    sizes = [array.nbytes for array in inputs]
    x = sizes[0] if sizes else 0
    match node.name:
        case "conv2d":
            once, a = x + sizes[1] + y, node.attributes
            residual = len(inputs) > 2 + a["bias"]
            return once + residual * y, once * _wanted(node) + (a["bias"] + 3 * a["relu"]) * y
        case "linear":
            once = x + sizes[1] + y
            return once, once * _wanted(node) + (y if len(inputs) > 2 else 0)
        case "batch_norm":
            residual = len(inputs) > 3
            stores = residual and node.attributes["relu"]
            a = node.attributes
            measures, applies = a["training"] and not a["measured"], not a["pending"]
            return measures * x + applies * (x + residual * x + y), 5 * x + (2 * x if stores else 0)
        case "relu":
            return x + y, 3 * y
        case "max_pool2d":
            places = math.prod(node.shape) * 4
            return x + y + places, y + places + x
        case "avg_pool2d":
            return x + y, y + x
        case "add":
            return sum(sizes) + y, 0
        case "reshape" | "transpose":
            return 0, 0
        case "getitem":
            return 2 * y, y + x
        case "pad":
            return x + y, 0
    gradients = sum(size for size, parent in zip(sizes, node.parents, strict=True) if parent is not None)
    return sum(sizes) + y, y + sum(sizes) + gradients


def _wanted(node: Node) -> int:
    """Number of gradients of a product: of its two factors, those that lead to a parameter."""
    return sum(parent is not None for parent in node.parents[:2])
