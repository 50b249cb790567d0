"""Gradients broken on purpose, one small edit each: what the tests must notice, and learners find.

A mutant replaces one piece of text in one file of the package. It is applied to a copy, never to the package itself.
The idea is DeMillo, Lipton and Sayward's, "Hints on test data selection", 1978: tests that notice small faults notice
large ones.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """One fault."""

    name: str
    file: str  # in the package
    before: str  # occurs once in it
    after: str
    tests: str  # file of tests that should notice first, and an expression for pytest -k

    def apply(self, package: Path) -> None:
        """Put the fault into a copy of the package.

        Raises
        ------
        ValueError
            Where the text to replace is not there exactly once.
        """
        path = package / self.file
        source = path.read_text()
        if source.count(self.before) != 1:
            raise ValueError(
                f"{self.name}: {self.file} holds its text {source.count(self.before)} times, expected once"
            )
        path.write_text(source.replace(self.before, self.after))


_OPS, _TAPE, _CONV, _POOL = "test_ops.py", "test_tensor.py", "test_kernels.py conv or grad", "test_ops.py pool"
_LAYERS = "test_ops.py batch_norm"


def _mutants() -> Iterator[Mutant]:
    yield Mutant(
        "un-broadcast dropped: stretched axes are not summed",
        "tape.py",
        "    return gradient.sum((*range(added), *stretched)).reshape(target.shape)",
        "    return gradient.sum((*range(added),)).reshape(-1)[: int(np.prod(target.shape))].reshape(target.shape)",
        _TAPE,
    )
    yield Mutant(
        "un-broadcast: mean for sum",
        "tape.py",
        "    return gradient.sum((*range(added), *stretched))",
        "    return gradient.mean((*range(added), *stretched))",
        _TAPE,
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
        "node.grad = total.copied() if node.grad is None else node.grad + total.array",
        "node.grad = total.copied()",
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
        "tensor.py",
        "b * a ** np.where(b == 0, 1, b - 1))",
        "b * a ** np.where(b == 0, 1, b))",
        _TAPE,
    )
    yield Mutant(
        "matmul: a product of the wrong side",
        "tensor.py",
        "rows.swapaxes(-1, -2) @ dy\n",
        "(dy.swapaxes(-1, -2) @ rows)\n",
        _TAPE,
    )
    yield Mutant(
        "indexing: an element taken twice gets one of its gradients",
        "tensor.py",
        "                np.add.at(dx, index, dy)  # an element taken twice gets both gradients\n",
        "                dx[index] = dy\n",
        _TAPE,
    )
    yield Mutant(
        "max: equal maxima each get the whole gradient",
        "tensor.py",
        "            return (hit / hit.sum(axes, keepdims=True) * _with_axes(dy, axes, x.ndim),)",
        "            return (hit * _with_axes(dy, axes, x.ndim),)",
        _TAPE,
    )
    yield Mutant(
        "maximum: a tie goes to the first",
        "ops/elementary.py",
        "((a.data > b.data) + 0.5 * (a.data == b.data))",
        "(a.data >= b.data)",
        _OPS,
    )
    yield Mutant("sigmoid: y for y (1 - y)", "ops/activation.py", "(dy * y * (1 - y),)", "(dy * y,)", _OPS)
    yield Mutant("tanh: 1 - y for 1 - y^2", "ops/activation.py", "(dy * (1 - y * y),)", "(dy * (1 - y),)", _OPS)
    yield Mutant(
        "softmax: without the coupling of classes",
        "ops/activation.py",
        "(y * (dy - (dy * y).sum(axis, keepdims=True)),)",
        "(y * (1 - y) * dy,)",
        _OPS,
    )
    yield Mutant(
        "log-softmax: the sum of dy forgotten",
        "ops/activation.py",
        "(dy - np.exp(y) * dy.sum(axis, keepdims=True),)",
        "(dy - np.exp(y) * dy,)",
        _OPS,
    )
    yield Mutant(
        "cross entropy: 1/N missing",
        "ops/loss.py",
        "return (dy * (np.exp(log_p) - q) / n,)",
        "return (dy * (np.exp(log_p) - q),)",
        _OPS,
    )
    yield Mutant(
        "cross entropy: smoothing forgotten in the gradient",
        "ops/loss.py",
        "q = np.full(x.shape, label_smoothing / k, x.dtype)",
        "q = np.zeros(x.shape, x.dtype)",
        _OPS,
    )
    yield Mutant("pad: cut one element late", "ops/shape.py", "slice(b, b + n) for", "slice(a, a + n) for", _OPS)
    yield Mutant(
        "concat: cut at lengths, not at their sums",
        "ops/shape.py",
        "np.cumsum([s[axis] for s in shapes])[:-1]",
        "[s[axis] for s in shapes][:-1]",
        _OPS,
    )
    yield Mutant(
        "where: the branches' gradients exchanged",
        "ops/shape.py",
        "return np.where(chosen, dy, 0), np.where(chosen, 0, dy)",
        "return np.where(chosen, 0, dy), np.where(chosen, dy, 0)",
        _OPS,
    )
    yield Mutant("subtraction: the sign lost", "tensor.py", "lambda dy: (dy, -dy))", "lambda dy: (dy, dy))", _TAPE)
    yield Mutant("division: b for b^2", "tensor.py", "-dy * a / (b * b)))", "-dy * a / b))", _TAPE)
    yield Mutant("square root: half of the factor 2", "tensor.py", "(dy / (y + y),)", "(dy / y,)", _TAPE)
    yield Mutant("transpose: the same axes back", "tensor.py", "dy.transpose(inverse)", "dy.transpose(order)", _TAPE)
    yield Mutant(
        "convolution: the bias's gradient is a mean",
        "ops/conv.py",
        "((g.sum((0, 2, 3)),) if has_bias",
        "((g.mean((0, 2, 3)),) if has_bias",
        _OPS + " conv2d",
    )
    yield Mutant(
        "convolution: ReLU's gate forgotten",
        "ops/conv.py",
        "g = dy if opened is None else kernels.relu_grad(dy, opened)",
        "g = dy",
        _OPS + " conv2d",
    )
    yield Mutant(
        "convolution: added to a total, and returned to be added again",
        "ops/conv.py",
        "dx = kernels.conv2d_input_grad(g, w, a.shape, total, **options) if needs_x else None",
        "dx = kernels.conv2d_input_grad(g, w, a.shape, total, **options).copy() if needs_x else None",
        _OPS + " conv2d",
    )
    yield Mutant(
        "linear: the weight's gradient of swapped arguments",
        "ops/conv.py",
        "kernels.conv2d_weight_grad(pixels, a, w.shape, **options)[:, :, 0, 0]",
        "kernels.conv2d_weight_grad(pixels, a, w.shape, **options)[::-1, :, 0, 0]",
        _OPS + " linear",
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
        "finish, accumulate=total is not None)",
        "finish, accumulate=False)",
        _OPS + " conv2d or total or shortcut",
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
        "image > start or first > 0,",
        "True,",
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
        "max-pool: of equal elements the last one",
        "kernels/pool.py",
        "values[c] > best[c] or tap[c] < 0",
        "values[c] >= best[c] or tap[c] < 0",
        "test_kernels.py pool",
    )
    yield Mutant(
        "max-pool: padding taken for zeros",
        "kernels/pool.py",
        "            best[:] = -np.inf\n            tap[:] = -1\n",
        "            best[:] = 0\n            tap[:] = 0\n",
        "test_kernels.py pool",
    )
    yield Mutant(
        "max-pool: overlapping windows overwrite each other's gradient",
        "kernels/pool.py",
        "flat[first + offsets[tap[c]] + c] += gradient[c]",
        "flat[first + offsets[tap[c]] + c] = gradient[c]",
        "test_kernels.py pool",
    )
    yield Mutant(
        "average pool: the gradient is not shared out",
        "kernels/pool.py",
        "dx[image, row, column, c] += dy[image, i, j, c] / (kh * kw)",
        "dx[image, row, column, c] += dy[image, i, j, c]",
        "test_kernels.py pool",
    )
    yield Mutant(
        "average pool: the first row of the image lost",
        "kernels/pool.py",
        "            total[:] = 0\n            for row in range(max(0, i * sh - ph)",
        "            total[:] = 0\n            for row in range(max(1, i * sh - ph)",
        "test_kernels.py pool",
    )
    yield Mutant(
        "col2im: what two windows share is written, not added",
        "kernels/im2col.py",
        "x[image, row, column] += columns[image, i, j, k, l]",
        "x[image, row, column] = columns[image, i, j, k, l]",
        _CONV,
    )
    yield Mutant(
        "batch norm (reference): the mean of the gradient forgotten",
        "reference.py",
        "dx = g - (_per_channel(dbias) + normalised * _per_channel(dweight)) / pixels",
        "dx = g - normalised * _per_channel(dweight) / pixels",
        _LAYERS,
    )
    yield Mutant(
        "batch norm (reference): N for N H W",
        "reference.py",
        "pixels = x.size // x.shape[1]",
        "pixels = x.shape[0]",
        _LAYERS,
    )
    yield Mutant(
        "batch norm: the running variance not corrected for the sample's size",
        "ops/norm.py",
        "(var * (pixels / (pixels - 1)) - running_var)",
        "(var - running_var)",
        "test_ops.py norm or running",
    )
    yield Mutant(
        "batch norm: the residual's gradient is dropped",
        "ops/norm.py",
        "return (dx, dgamma, dbeta, dresidual) if shortcut",
        "return (dx, dgamma, dbeta, None) if shortcut",
        _LAYERS,
    )


MUTANTS = tuple(_mutants())
