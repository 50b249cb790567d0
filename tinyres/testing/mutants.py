"""Faults in gradients of tinyres, made on purpose by one small edit each: for tests to notice, and learners to find."""

from collections.abc import Iterator
from pathlib import Path

from tinyres.testing.mutation import Mutant

PACKAGE = Path(__file__).parents[1]

_OPS, _TAPE, _CONV = "test_ops.py", "test_tensor.py", "test_kernels.py conv"
_POOL, _NORM, _WINOGRAD = "test_kernels.py pool", "test_kernels.py norm or statistics or variance", "test_winograd.py"
_PENDING, _REPLAY = "test_pending.py", "test_replay.py"
_ELEMENTWISE = "test_kernels.py relu or add_to"
_ARGUMENTS = "test_kernel_arguments.py"


def _mutants() -> Iterator[Mutant]:
    yield Mutant(
        "un-broadcast dropped: stretched axes are not summed",
        "tape.py",
        "    return gradient.sum((*range(added), *stretched)).reshape(target.shape)",
        "    return gradient.sum((*range(added),)).reshape(-1)[: int(np.prod(target.shape))].reshape(target.shape)",
        _TAPE,
        "where",
    )
    yield Mutant(
        "un-broadcast: mean for sum",
        "tape.py",
        "    return gradient.sum((*range(added), *stretched))",
        "    return gradient.mean((*range(added), *stretched))",
        _TAPE,
        "where",
    )
    yield Mutant(
        "fan-out: the last gradient instead of the sum",
        "tape.py",
        "                gradients[id(parent)].add(part)\n",
        "                gradients[id(parent)] = _Sum(part, owned=False)\n",
        _TAPE,
    )
    yield Mutant(
        "fan-out: the sum is written over an array that somebody else sees",
        "tape.py",
        "owned=_is_fresh(part, [total.array, *parts]))",
        "owned=True)",
        _TAPE,
    )
    yield Mutant(
        "a second backward replaces grad instead of adding to it",
        "tape.py",
        "leaf.grad = total.copied() if before is None else before + total.array",
        "leaf.grad = total.copied()",
        _TAPE,
    )
    yield Mutant(
        "the order of nodes is by first sight, not topological",
        "tape.py",
        "            stack.append((node, True))\n",
        "            order.insert(0, node)\n",
        _TAPE,
    )
    yield Mutant(
        "multiplication: each factor gets its own value",
        "tensor.py",
        "lambda dy: (dy * b, dy * a))",
        "lambda dy: (dy * a, dy * b))",
        _TAPE,
    )
    yield Mutant(
        "power: exponent not reduced",
        "rules.py",
        "b * a ** np.where(b == 0, 1, b - 1))",
        "b * a ** np.where(b == 0, 1, b))",
        _TAPE,
    )
    yield Mutant(
        "matmul: a product of the wrong side",
        "rules.py",
        "rows.swapaxes(-1, -2) @ dy\n",
        "(dy.swapaxes(-1, -2) @ rows)\n",
        _TAPE,
        "matmul",
    )
    yield Mutant(
        "indexing: an element taken twice gets one of its gradients",
        "rules.py",
        "        np.add.at(dx, index, dy)  # an element taken twice gets both gradients\n",
        "        dx[index] = dy\n",
        _TAPE,
    )
    yield Mutant(
        "max: equal maxima each get the whole gradient",
        "rules.py",
        "        return (hit / hit.sum(axes, keepdims=True) * with_axes(dy, axes, x.ndim),)",
        "        return (hit * with_axes(dy, axes, x.ndim),)",
        _TAPE,
    )
    yield Mutant("subtraction: the sign lost", "tensor.py", "lambda dy: (dy, -dy))", "lambda dy: (dy, dy))", _TAPE)
    yield Mutant("division: b for b^2", "tensor.py", "-dy * a / (b * b)))", "-dy * a / b))", _TAPE)
    yield Mutant("square root: half of the factor 2", "tensor.py", "(dy / (y + y),)", "(dy / y,)", _TAPE, "sqrt")
    yield Mutant(
        "permute: the same axes back", "tensor.py", "dy.transpose(inverse)", "dy.transpose(order)", _TAPE, "permute"
    )
    yield Mutant("mean: 1/n forgotten", "tensor.py", "keepdims=keepdims) / count", "keepdims=keepdims)", _TAPE)
    yield Mutant("absolute value: the sign lost", "tensor.py", "dy * np.sign(x)", "dy * np.ones_like(x)", _OPS + " abs")
    yield Mutant(
        "variance: the factor 2 lost", "rules.py", "(2 / degrees) * centred", "(1 / degrees) * centred", _OPS + " var"
    )
    yield Mutant(
        "clip: nothing is cut off", "rules.py", "np.where(inside, dy, 0)", "np.where(True, dy, 0)", _OPS + " clip"
    )
    yield Mutant(
        "stack: the gradient along the wrong axis",
        "ops/shape.py",
        "np.moveaxis(dy, axis, 0)",
        "np.moveaxis(dy, 0, 0)",
        _OPS + " stack",
    )
    yield Mutant(
        "maximum: a tie goes to the first",
        "ops/elementary.py",
        "((a.data > b.data) + 0.5 * (a.data == b.data))",
        "(a.data >= b.data)",
        _OPS + " maximum",
    )
    yield Mutant(
        "sigmoid: y for y (1 - y)",
        "ops/activation.py",
        "(dy * y * (1 - y),)",
        "(dy * y,)",
        _OPS + " sigmoid",
        "sigmoid",
    )
    yield Mutant(
        "tanh: 1 - y for 1 - y^2",
        "ops/activation.py",
        "(dy * (1 - y * y),)",
        "(dy * (1 - y),)",
        _OPS + " tanh",
        "tanh",
    )
    yield Mutant(
        "softmax: without the coupling of classes",
        "ops/activation.py",
        "(y * (dy - (dy * y).sum(axis, keepdims=True)),)",
        "(y * (1 - y) * dy,)",
        _OPS + " softmax",
        "softmax",
    )
    yield Mutant(
        "log-softmax: the sum of dy forgotten",
        "ops/activation.py",
        "(dy - np.exp(y) * dy.sum(axis, keepdims=True),)",
        "(dy - np.exp(y) * dy,)",
        _OPS + " log_softmax",
        "log_softmax",
    )
    yield Mutant(
        "log-softmax: the sum of dy always over the last axis",
        "ops/activation.py",
        "(dy - np.exp(y) * dy.sum(axis, keepdims=True),)",
        "(dy - np.exp(y) * dy.sum(-1, keepdims=True),)",
        _OPS + " log_softmax",
        "log_softmax",
    )
    yield Mutant(
        "cross entropy: 1/N missing",
        "ops/loss.py",
        "(p - r), mass, out=dx)",
        "(p - r), 1, out=dx)",
        _OPS + " cross_entropy",
        "cross_entropy",
    )
    yield Mutant(
        "cross entropy: smoothing forgotten in the gradient",
        "ops/loss.py",
        "(p - r), mass",
        "(p - (r == r.max(1, keepdims=True))), mass",
        _OPS + " cross_entropy",
        "cross_entropy",
    )
    yield Mutant(
        "cross entropy: the target is added, not taken away",
        "ops/loss.py",
        "(p - r), mass",
        "(p + r), mass",
        _OPS + " cross_entropy",
        "cross_entropy",
    )
    yield Mutant(
        "cross entropy: the true class loses its share of the smoothing",
        "ops/loss.py",
        "r[np.arange(len(r)), target] += 1 - label_smoothing",
        "r[np.arange(len(r)), target] = 1 - label_smoothing",
        _OPS + " label_smoothing",
    )
    yield Mutant(
        "pad: cut by what was put behind, not before",
        "ops/shape.py",
        "(dy[inner],)",
        "(dy[tuple(slice(a, n - b) for a, b, n in zip(after, before, dy.shape, strict=True))],)",
        _OPS + " pad",
        "pad",
    )
    yield Mutant(
        "concat: cut at lengths, not at their sums",
        "ops/shape.py",
        "np.cumsum([s[axis] for s in shapes])[:-1]",
        "[s[axis] for s in shapes][:-1]",
        _OPS + " concat",
        "concat",
    )
    yield Mutant(
        "where: the branches' gradients exchanged",
        "ops/shape.py",
        "return np.where(chosen, dy, 0), np.where(chosen, 0, dy)",
        "return np.where(chosen, 0, dy), np.where(chosen, dy, 0)",
        _OPS + " where",
        "where",
    )
    yield Mutant(
        "convolution: the bias's gradient is a mean",
        "ops/conv.py",
        "((compute(np.sum, g, axis=(0, 2, 3)),) if has_bias",
        "((compute(np.mean, g, axis=(0, 2, 3)),) if has_bias",
        _OPS + " conv2d",
        "conv2d",
    )
    yield Mutant(
        "convolution: ReLU's gate forgotten",
        "ops/conv.py",
        "g = dy if opened is None else kernels.relu_grad(dy, opened)",
        "g = dy",
        _OPS + " conv2d",
        "conv2d",
    )
    yield Mutant(
        "convolution: added to a total, and returned to be added again",
        "ops/conv.py",
        "dx = kernels.conv2d_input_grad(g, w, a.shape, total, **options) if needs_x else None",
        "dx = kernels.conv2d_input_grad(g, w, a.shape, total, **options).copy() if needs_x else None",
        _TAPE + " shortcut",
    )
    yield Mutant(
        "linear: the weight's gradient upside down",
        "ops/conv.py",
        "kernels.conv2d_weight_grad(pixels, a, w.shape, **options)[:, :, 0, 0]",
        "kernels.conv2d_weight_grad(pixels, a, w.shape, **options)[::-1, :, 0, 0]",
        _OPS + " linear",
        "linear",
    )
    yield Mutant(
        "batch norm: the running variance not corrected for the sample's size",
        "ops/norm.py",
        "(var * (pixels / (pixels - 1)) - running_var)",
        "(var - running_var)",
        _OPS + " batch_norm",
    )
    yield Mutant(
        "batch norm: the residual's gradient is dropped",
        "ops/norm.py",
        "return (dx, dgamma, dbeta, dresidual) if shortcut",
        "return (dx, dgamma, dbeta, None) if shortcut",
        _OPS + " batch_norm",
        "batch_norm",
    )
    yield Mutant(
        "batch norm: eps beside the root",
        "ops/norm.py",
        "1 / np.sqrt(np.asarray(var, np.float64) + eps)",
        "1 / (np.sqrt(np.asarray(var, np.float64)) + eps)",
        _OPS + " batch_norm",
        "batch_norm",
    )
    yield Mutant(
        "batch norm: the gradient sees what became of the running mean since",
        "ops/norm.py",
        "    launch(_normalisers, mean, var, eps, gamma, centre, inv_std, scale)\n",
        "    launch(_normalisers, mean, var, eps, gamma, centre, inv_std, scale)\n"
        "    centre = np.asarray(mean, a.dtype)\n",
        _OPS + " batch_norm",
    )
    yield Mutant(
        "batch norm (reference): the mean of the gradient forgotten",
        "reference.py",
        "dx = g - (_per_channel(total) + distance",
        "dx = g - (distance",
        _OPS + " batch_norm",
        "batch_norm",
    )
    yield Mutant(
        "batch norm (reference): N for N H W",
        "reference.py",
        "sums = dbias, moment, x.size // x.shape[1]",
        "sums = dbias, moment, x.shape[0]",
        _OPS + " batch_norm",
        "batch_norm",
    )
    yield Mutant(
        "input gradient: the kernel not flipped",
        "kernels/conv.py",
        "    dy, flat = channels_last(dy), contiguous(weight).reshape(-1)\n",
        "    dy, flat = channels_last(dy), contiguous(weight[:, :, ::-1, ::-1]).reshape(-1)\n",
        _CONV,
    )
    yield Mutant(
        "input gradient: an off-by-one in the residue of the stride",
        "kernels/conv.py",
        "divmod(a + ph, sh), divmod(b + pw, sw)",
        "divmod(a + ph, sh), divmod(b + pw + 1, sw)",
        _CONV,
    )
    yield Mutant(
        "input gradient: a total that was there is overwritten",
        "kernels/conv.py",
        "False, dx, add=total is not None)",
        "False, dx, add=False)",
        "test_kernels.py total",
    )
    yield Mutant(
        "convolution: padding begins a row late",
        "kernels/conv.py",
        "window, place = (kh, kw, sh, sw, -ph, -pw), (0, 0, 1, 1, oh, ow)",
        "window, place = (kh, kw, sh, sw, 1 - ph, -pw), (0, 0, 1, 1, oh, ow)",
        _CONV,
    )
    yield Mutant(
        "convolution: what was in the scratch memory stays where padding should be",
        "kernels/conv.py",
        "    clear(out, to, before)\n",
        "",
        _CONV,
    )
    yield Mutant(
        "convolution: a tap read one channel further",
        "kernels/conv.py",
        "        a_runs=np.arange(kh) * pitch,\n",
        "        a_runs=np.arange(kh) * pitch + (kh > 1),\n",
        _CONV,
    )
    yield Mutant(
        "convolution: channels beyond whole blocks come from the block before",
        "kernels/conv.py",
        "at = y_start + plan.y_rows[q] + block * columns + channel",
        "at = y_start + plan.y_rows[q] + max(0, block - 1) * columns + channel",
        _CONV,
    )
    yield Mutant(
        "input gradient: constant weights, packed for the forward, used as they are",
        "kernels/conv.py",
        'key = "packed", *taps[1:]\n',
        'key = "packed", *taps[1:6]\n',
        "test_kernels.py constant",
    )
    yield Mutant(
        "convolution: channels beyond whole blocks overwrite the total",
        "kernels/conv.py",
        "(y_flat[at] if finish.add else 0)",
        "0",
        _TAPE + " shortcut",
    )
    yield Mutant(
        "convolution: each group adds the bias of the first",
        "kernels/conv.py",
        "count, plan.y_start % y.shape[3] + channel, finish)",
        "count, channel, finish)",
        _CONV,
    )
    yield Mutant(
        "convolution: a group's weights begin within those of the group before",
        "kernels/groups.py",
        "g * o * c * kh * kw) for g",
        "g * c * kh * kw) for g",
        _CONV,
    )
    yield Mutant(
        "convolution: each group reads the channels of the first",
        "kernels/conv.py",
        "(source + j) * all_channels + plan.x_channel, c)",
        "(source + j) * all_channels, c)",
        _CONV,
    )
    yield Mutant(
        "convolution: the channels of other groups taken for the next pixel",
        "kernels/conv.py",
        "neighbours = channels == x_shape[3] or kernel[1] == 1",
        "neighbours = True",
        _CONV,
    )
    yield Mutant(
        "convolution: packed filters begin at the first tap that is wanted of them",
        "kernels/filters.py",
        "at = taps.start - taps.start % size + first",
        "at = taps.start + first",
        _CONV,
    )
    yield Mutant(
        "weight gradient: the stride of rows is not that of x",
        "kernels/weight_grad.py",
        "        a_runs=(g * in_rows + i * sh_) * in_columns * width,\n",
        "        a_runs=(g * in_rows + i) * in_columns * width,\n",
        _CONV,
    )
    yield Mutant(
        "weight gradient: an off-by-one in a tap",
        "kernels/weight_grad.py",
        "(k * in_columns + l) * width + channel % width",
        "(k * in_columns + (l + 1) % kw) * width + channel % width",
        _CONV,
    )
    yield Mutant(
        "weight gradient: the first strip of a slot adds to what was there",
        "kernels/weight_grad.py",
        "add = image > start or first > 0\n",
        "add = True\n",
        _CONV,
    )
    yield Mutant(
        "weight gradient: one slot forgotten",
        "kernels/weight_grad.py",
        "for slot in range(1, slots):",
        "for slot in range(1, slots - 1):",
        _CONV,
    )
    yield Mutant(
        "weight gradient: images of one slot counted twice",
        "kernels/weight_grad.py",
        "start, stop = slot * n // slots, (slot + 1) * n // slots",
        "start, stop = slot * n // slots, min(n, (slot + 1) * n // slots + 1)",
        _CONV,
    )
    yield Mutant(
        "Winograd: a sign in the transform of the input",
        "kernels/winograd/maps.py",
        "even + odd, even - odd, even_ + odd_, even_ - odd_, (d1 - 2.5 * d3) + d5",
        "even + odd, even - odd, even_ - odd_, even_ + odd_, (d1 - 2.5 * d3) + d5",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd: the kernel not flipped",
        "kernels/winograd/__init__.py",
        "8, channels, o, 3, 3, 9, channels * 9, -3, -1)",
        "0, channels, o, 3, 3, 9, channels * 9, 3, 1)",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd: the input gradient padded as the forward is, which is right for 1 alone",
        "kernels/winograd/__init__.py",
        "(padding[0] - 2, padding[1] - 2)",
        "(-padding[0], -padding[1])",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd: no bias where a tile leaves the image",
        "kernels/winograd/transforms.py",
        "stores_within(y, at, step, larger(plus(plus(row, bias), residual), floor), count)",
        "stores_within(y, at, step, larger(plus(row, residual), floor), count)",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd: beyond its last column, a row of dy goes on with the next",
        "kernels/winograd/transforms.py",
        "height * (j + 2 < width)",
        "height",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd: the point at infinity forgotten in the weight gradient",
        "kernels/winograd/maps.py",
        "(m5 + 2.0 * even_) + 0.5 * even",
        "2.0 * even_ + 0.5 * even",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd, stride 2: of the pixels that one tap meets, the last alone counts in the weight gradient",
        "kernels/winograd/products.py",
        "more = add or plane // plan.places >= R or plane % plan.places >= R",
        "more = add",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd, stride 2: outputs of the input gradient begin with the wrong one",
        "kernels/winograd/maps.py",
        "zip(m[5:], _output_of_two(*m[:5]), strict=True) for y in pair)",
        "zip(_output_of_two(*m[:5]), m[5:], strict=True) for y in pair)",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd, stride 2: used with any padding",
        "kernels/winograd/__init__.py",
        "((2, 2), (1, 1))",
        "((2, 2), tuple(padding))",
        _WINOGRAD,
    )
    yield Mutant(
        "Winograd: one slot of the weight gradient forgotten",
        "kernels/winograd/transforms.py",
        "for other in range(slot + 1, slot + slots):",
        "for other in range(slot + 1, slot + slots - 1):",
        _WINOGRAD,
    )
    yield Mutant(
        "col2im: what two windows share is written, not added",
        "kernels/im2col.py",
        "x[image, row, column] += columns[image, i, j, k, l]",
        "x[image, row, column] = columns[image, i, j, k, l]",
        _CONV,
    )
    yield Mutant(
        "batch norm: spans merged without the distance of their means",
        "kernels/norm.py",
        "m2 + delta * delta * seen * share",
        "m2",
        _NORM,
    )
    yield Mutant(
        "batch norm: chunks merged without the distance of their means",
        "kernels/moments.py",
        "squares + fma(n * delta, delta, maximum(m2, zero))",
        "squares + maximum(m2, zero)",
        _NORM,
    )
    yield Mutant(
        "batch norm: the mean of means, of chunks that are not of one size",
        "kernels/moments.py",
        "        centre = total / pixels\n",
        "        centre = zero\n"
        "        for k in range(many):\n"
        "            for at in range(3 * k * width + c, (3 * k + 1) * width, channels):\n"
        "                centre = centre + load_as(zero, flat, at)\n"
        "        centre = centre / splat(zero, np.float64(many * (width // channels)))\n",
        _NORM,
    )
    yield Mutant(
        "moments: each row of tiles begins its part anew",
        "kernels/winograd/transforms.py",
        "r % finish.part_rows == 0)",
        "True)",
        _PENDING,
    )
    yield Mutant(
        "pending: padding is normalised too",
        "kernels/pending.py",
        "inside(row, stop, _normalised(zero, a, constants))",
        "_normalised(zero, a, constants)",
        _PENDING,
    )
    yield Mutant(
        "pending: what was measured may change after that",
        "ops/conv.py",
        "y.flags.writeable, statistics = False,",
        "y.flags.writeable, statistics = True,",
        _PENDING,
    )
    yield Mutant(
        "groups: all that are merged read the first one's channels",
        "kernels/groups.py",
        "(places[:, i, :, i], weights[:, i])",
        "(places[:, i, :, 0], weights[:, i])",
        _CONV + " or groups",
    )
    yield Mutant(
        "replay: the batch is that of the noted step",
        "replay.py",
        "            np.copyto(own, array)\n",
        "            pass\n",
        _REPLAY,
    )
    yield Mutant(
        "replay: what was noted is trusted without a look",
        "replay.py",
        "if computed == self._digests([*outputs, *buffers]):",
        "if True:",
        _REPLAY,
    )
    yield Mutant(
        "replay: one comparison is enough, whatever it compared",
        "replay.py",
        "return {i for i in left if not np.array_equal(arrays[i], self.inputs[i])}",
        "return set()",
        _REPLAY,
    )
    yield Mutant(
        "replay: what no launch has written is not looked for",
        "replay.py",
        "            self.fault = where\n",
        "            pass\n",
        _REPLAY,
    )
    yield Mutant(
        "replay: a layer's settings may change without notice",
        "replay.py",
        "        kept.extend(attributes.values())\n",
        "",
        _REPLAY,
    )
    yield Mutant(
        "replay: the statistics move twice where steps are compared",
        "replay.py",
        "        assign(buffers, *unchanged)\n        outputs = noted",
        "        outputs = noted",
        _REPLAY,
    )
    yield Mutant(
        "replay: gradients to be added to are written over",
        "replay.py",
        "            p.grad = gradient.copy()\n",
        "            pass\n",
        _REPLAY,
    )
    yield Mutant(
        "replay: zeros are there for the first step only",
        "kernels/memory.py",
        "    launch(np.copyto, array, 0)\n",
        "    array[...] = 0\n",
        _REPLAY,
    )
    yield Mutant(
        "batch norm: ReLU before the shortcut is added",
        "kernels/norm.py",
        """            if add:
                value = value + _read(zero, residual, at)
            if relu:
                value = maximum(value, zero)
""",
        """            if relu:
                value = maximum(value, zero)
            if add:
                value = value + _read(zero, residual, at)
""",
        _NORM,
    )
    yield Mutant(
        "batch norm: the mean of the gradient forgotten",
        "kernels/norm.py",
        "constants[3], constants[4] = of_all[0] / of_all[2], of_all",
        "constants[3], constants[4] = 0, of_all",
        _NORM,
    )
    yield Mutant(
        "batch norm: 1 / std for 1 / var",
        "kernels/norm.py",
        "inv_std.astype(np.float64) ** 2",
        "inv_std.astype(np.float64)",
        _NORM,
    )
    yield Mutant(
        "batch norm: ReLU's gate forgotten in the second pass",
        "kernels/norm.py",
        """            if recompute:
                value = where_positive(fma(distance, scale, bias), value, zero)
            if training""",
        "            if training",
        _NORM,
    )
    yield Mutant(
        "batch norm: ReLU's gate without beta",
        "kernels/norm.py",
        "g = where_positive(fma(distance, scale, bias), g, zero)",
        "g = where_positive(distance * scale, g, zero)",
        _NORM,
    )
    yield Mutant(
        "batch norm: the shortcut's gradient stored before ReLU's gate",
        "kernels/norm.py",
        """                g = where_positive(_read(zero, y, at), g, zero)
                store(masked, at, g)
""",
        """                store(masked, at, g)
                g = where_positive(_read(zero, y, at), g, zero)
""",
        _NORM,
    )
    yield Mutant(
        "ReLU: the gradient read in another order of memory",
        "kernels/elementwise.py",
        "_where_positive(_flat(dy), flat, dx",
        "_where_positive(contiguous(dy).reshape(-1), flat, dx",
        _ELEMENTWISE,
    )
    yield Mutant(
        "ReLU: one number too few beyond the whole vectors",
        "kernels/elementwise.py",
        "_where_positive_in(single(out), source, test, out, rest, out.size)",
        "_where_positive_in(single(out), source, test, out, rest, out.size - 1)",
        _ELEMENTWISE,
    )
    yield Mutant(
        "sum in place: the part instead of the sum",
        "kernels/elementwise.py",
        "store(total, i, load(zero, total, i) + load(zero, part, i))",
        "store(total, i, load(zero, part, i))",
        _ELEMENTWISE,
    )
    yield Mutant(
        "max-pool: of equal elements the last one",
        "kernels/pool.py",
        "values[c] > best[c] or tap[c] < 0",
        "values[c] >= best[c] or tap[c] < 0",
        _POOL,
    )
    yield Mutant(
        "max-pool: padding taken for zeros",
        "kernels/pool.py",
        "            best[:] = -np.inf\n            tap[:] = -1\n",
        "            best[:] = 0\n            tap[:] = 0\n",
        _POOL,
    )
    yield Mutant(
        "max-pool: overlapping windows overwrite each other's gradient",
        "kernels/pool.py",
        "flat[places[tap[c]] + c] += gradient[c]",
        "flat[places[tap[c]] + c] = gradient[c]",
        _POOL,
    )
    yield Mutant(
        "average pool: the gradient is not shared out",
        "kernels/pool.py",
        "dx[image, row, column, c] += dy[image, i, j, c] / (kh * kw)",
        "dx[image, row, column, c] += dy[image, i, j, c]",
        _POOL,
    )
    yield Mutant(
        "average pool: the first row of the image lost",
        "kernels/pool.py",
        "            total[:] = 0\n            for row in range(max(0, i * sh - ph)",
        "            total[:] = 0\n            for row in range(max(1, i * sh - ph)",
        _POOL,
    )
    yield Mutant(
        "kernels: a bias of any length",
        "kernels/arrays.py",
        '"bias?: O", "residual',
        '"bias?: ...", "residual',
        _ARGUMENTS,
    )
    yield Mutant(
        "kernels: images of any size for a gradient",
        "kernels/arrays.py",
        "if sizes.get(letter, number) != number:",
        "if False:",
        _ARGUMENTS,
    )
    yield Mutant(
        "max-pool: taps in the padding",
        "kernels/pool.py",
        "inside = 0 <= row < height and 0 <= column < width\n",
        "inside = True\n",
        _ARGUMENTS,
    )


MUTANTS = tuple(_mutants())
