"""Convolution, and the linear layer: a convolution of images of one pixel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyres import backend
from tinyres.kernels.arrays import out_size
from tinyres.kernels.launch import compute, launch
from tinyres.ops import _check
from tinyres.tape import Array
from tinyres.tensor import Tensor, as_tensor, record


def conv2d(  # PyTorch's arguments, and what can be done in the same pass
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    residual: Tensor | None = None,
    relu: bool = False,
    measure: bool = False,
) -> Tensor:
    """Two-dimensional convolution (cross-correlation, as in every deep-learning library).

    Parameters
    ----------
    x : Tensor of shape (N, C, H, W)
    weight : Tensor of shape (O, C / groups, KH, KW)
    bias : Tensor of shape (O,), optional
    stride, padding : int or pair of int
        Vertical and horizontal, in pixels. Zeros are padded on both sides.
    dilation : int or pair of int
        Distance in pixels between neighbouring elements of the kernel. It is computed as a larger kernel with zeros in
        the gaps, and costs as much: 3x3 with dilation 2 costs as much as 5x5.
    groups : int
        Cut the channels of x and of y into this many groups. Group i of y is computed from group i of x only
        (Xie et al., "Aggregated residual transformations for deep neural networks", CVPR 2017, figure 3c).
    residual : Tensor of shape (N, O, OH, OW), optional
        Added to the result: the shortcut of a residual block whose batch norm is folded into the convolution.
    relu : bool
        Apply ReLU at the end, in the same pass.
    measure : bool
        Measure the mean and variance of each channel while the result is stored, for the batch norm that follows, if
        the kernel can. The result is then read-only. It cannot be combined with a bias, a residual or ReLU.

    Returns
    -------
    Tensor of shape (N, O, OH, OW)
        OH = (H + 2 * padding - dilation * (KH - 1) - 1) // stride + 1, and OW likewise.

    Raises
    ------
    ValueError
        If shapes do not fit, `groups` does not divide the channels, the kernel is larger than the padded image, or
        `measure` is combined with a bias, a residual or ReLU.
    TypeError
        If dtypes differ.

    Notes
    -----
    With stride s, padding p, dilation d (Yu and Koltun, "Multi-scale context aggregation by dilated
    convolutions", 2016, equation 2), and x = 0 outside the image,

        y[n,o,i,j] = b[o] + sum_{c,k,l} x[n, c, s i + d k - p, s j + d l - p] w[o,c,k,l].

    Each y is linear in x and in w, so the gradient of an element sums over all terms in which this element occurs
    (Dumoulin and Visin, "A guide to convolution arithmetic", 2016, chapter 4):

        dL/dw[o,c,k,l] = sum_{n,i,j} dy[n,o,i,j] x[n, c, s i + d k - p, s j + d l - p]
        dL/dx[n,c,h,v] = sum_{o,k,l} dy[n,o,i,j] w[o,c,k,l]   over all i, j with s i + d k - p = h, s j + d l - p = v
        dL/db[o]       = sum_{n,i,j} dy[n,o,i,j].

    With groups, these are the sums within each group: c and o run over the channels of the same group. With ReLU, dy
    is replaced by 0 where y is not positive. The gradient of the residual is this dy.

    Examples
    --------
    >>> import numpy as np, tinyres as tr
    >>> x, w = tr.Tensor(np.ones((1, 1, 3, 3))), tr.Tensor(np.ones((1, 1, 3, 3)))
    >>> tr.ops.conv2d(x, w, padding=1).data[0, 0]
    array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]])
    """
    x, weight = as_tensor("x", x), as_tensor("weight", weight)
    bias = None if bias is None else as_tensor("bias", bias)
    stride, padding = _check.pair("stride", stride, 1), _check.pair("padding", padding, 0)
    dilation = _check.pair("dilation", dilation, 1)
    _check.images(x)
    if not isinstance(groups, int) or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups: got {groups!r}, expected a divisor of {x.shape[1]}, the channels of x")
    c = x.shape[1] // groups
    if weight.ndim != 4 or weight.shape[1] != c or 0 in weight.shape or weight.shape[0] % groups:
        raise ValueError(
            f"weight: got shape {weight.shape}, expected (O, {c}, KH, KW), none of them 0, for x of shape {x.shape}"
            + (f" in {groups} groups, with O a multiple of {groups}" if groups > 1 else "")
        )
    _check.vector("bias", bias, weight.shape[0], "the output channels of weight")
    residual = None if residual is None else as_tensor("residual", residual)
    _check.same_dtype(x, weight=weight, bias=bias, residual=residual)
    kh, kw = (d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True))
    _check.window(x, (kh, kw), padding)
    if measure and (bias is not None or residual is not None or relu):
        raise ValueError("measure: got True with a bias, a residual or relu, expected none of them: see batch_norm")
    expected = (x.shape[0], weight.shape[0], *out_size(x.shape[2:], (kh, kw), stride, padding))
    if residual is not None and residual.shape != expected:
        raise ValueError(f"residual: got shape {residual.shape}, expected {expected}, that of the result")
    w, options, statistics = weight.data, {"stride": stride, "padding": padding}, None
    taps = (..., slice(None, None, dilation[0]), slice(None, None, dilation[1]))  # the kernel, in the one with zeros
    if dilation != (1, 1):
        w = np.zeros((*w.shape[:2], kh, kw), w.dtype)
        launch(np.copyto, w[taps], weight.data)
    needs_x, needs_w, kernels = x.requires_grad, weight.requires_grad, backend.active
    b, shortcut = (None if t is None else t.data for t in (bias, residual))
    shapes = x.shape, w.shape, x.dtype.itemsize
    a = x._held if kernels.takes_pending(*shapes, **options) else x.data  # what is pending is computed as it is loaded
    if measure and kernels.measures(*shapes, **options):
        y, mean, var = kernels.conv2d_and_statistics(a, w, **options)
        y.flags.writeable, statistics = False, (mean, var)  # which stay true so
    else:
        y = kernels.conv2d(a, w, b, shortcut, relu=relu, **options)
    has_bias, has_shortcut, opened = bias is not None, residual is not None, y if relu else None

    def pullback(dy: Array, totals: Sequence[Array | None]) -> Sequence[Array | None]:
        g = dy if opened is None else kernels.relu_grad(dy, opened)
        dw = kernels.conv2d_weight_grad(g, a, w.shape, **options) if needs_w else None
        if dw is not None and dilation != (1, 1):
            dw = compute(np.positive, dw[taps])
        total = totals[0] if totals[0] is not None and _is_channels_last(totals[0]) else None
        dx = kernels.conv2d_input_grad(g, w, a.shape, total, **options) if needs_x else None
        return (dx, dw) + ((compute(np.sum, g, axis=(0, 2, 3)),) if has_bias else ()) + ((g,) if has_shortcut else ())

    parents = [t for t in (x, weight, bias, residual) if t is not None]
    how: dict[str, Any] = {"groups": groups, "bias": has_bias, "relu": relu, "dilation": dilation, **options}
    out = record("conv2d", y, parents, pullback, takes_totals=True, **how)
    out._statistics = statistics
    return out


def _is_channels_last(images: Array) -> bool:
    return images.transpose(0, 2, 3, 1).flags.c_contiguous


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer: an affine map of the last axis.

    Parameters
    ----------
    x : Tensor of shape (N, I)
    weight : Tensor of shape (O, I)
    bias : Tensor of shape (O,), optional

    Returns
    -------
    Tensor of shape (N, O)

    Raises
    ------
    ValueError
        If shapes do not fit.
    TypeError
        If dtypes differ.

    Notes
    -----
    A sample is treated as an image of one pixel, so this is a 1x1 convolution. With matrices,

        y = x W^T + b,   dL/dx = dL/dy W,   dL/dW = (dL/dy)^T x,   dL/db = sum_n dL/dy[n].

    Examples
    --------
    >>> import tinyres as tr
    >>> tr.ops.linear(tr.Tensor([[1.0, 2.0]]), tr.Tensor([[3.0, 4.0]]), tr.Tensor([0.5])).data
    array([[11.5]], dtype=float32)
    """
    x, weight = as_tensor("x", x), as_tensor("weight", weight)
    bias = None if bias is None else as_tensor("bias", bias)
    if x.ndim != 2:
        raise ValueError(f"x: got shape {x.shape}, expected 2 axes (N, I); flatten it first")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"weight: got shape {weight.shape}, expected (O, {x.shape[1]}), none of them 0, for x of shape {x.shape}"
        )
    _check.vector("bias", bias, weight.shape[0], "the output features of weight")
    _check.same_dtype(x, weight=weight, bias=bias)
    a, w, options = x.data[:, :, None, None], weight.data[:, :, None, None], {"stride": (1, 1), "padding": (0, 0)}
    needs_x, needs_w, kernels = x.requires_grad, weight.requires_grad, backend.active

    def pullback(dy: Array) -> Sequence[Array | None]:
        pixels = dy[:, :, None, None]
        dx = kernels.conv2d_input_grad(pixels, w, a.shape, **options)[:, :, 0, 0] if needs_x else None
        dw = kernels.conv2d_weight_grad(pixels, a, w.shape, **options)[:, :, 0, 0] if needs_w else None
        return (dx, dw) if bias is None else (dx, dw, compute(np.sum, dy, axis=0))

    y = kernels.conv2d(a, w, None if bias is None else bias.data, **options)[:, :, 0, 0]
    return record("linear", y, (x, weight) if bias is None else (x, weight, bias), pullback)
