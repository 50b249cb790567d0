"""The same numbers as PyTorch: each operation and both optimizers. Whole networks are compared in `test_family.py`.

Distances are relative, in the Euclidean norm over all elements. What both sides round differently is the order of
sums: in float64 that leaves about 1e-15, and 1e-12 is far from chance. In float32 a sum of K products is off by about
6e-8 sqrt(K), with K up to a few hundred here, and Winograd's convolutions by up to 5e-6 (docs in `kernels/`): 2e-5.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import ops
from tinyres.testing.strategies import batch_norm_problems, conv_problems, pool_problems, shapes, tensors

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed: pip install torch==2.13.0")
F = torch.nn.functional


pytestmark = pytest.mark.usefixtures("one_thread")


TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}
DTYPES = [np.float32, np.float64]


def assert_near(found, expected, tolerance=None, scale=0.0):
    """Relative to the expected array or to `scale`, the size of what it was summed from, where that is larger."""
    found = np.asarray(found)
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    difference = np.linalg.norm((found.astype(np.float64) - expected).ravel())
    allowed = (TOLERANCE[found.dtype] if tolerance is None else tolerance) * max(
        float(np.linalg.norm(expected.astype(np.float64).ravel())), scale, 1e-30
    )
    assert difference <= allowed, f"off by {difference:.3g}, allowed {allowed:.3g}"


def twins(*arrays):
    """Leaves of the same values in both libraries."""
    ours = [tr.Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.from_numpy(np.array(a, order="C")).requires_grad_() for a in arrays]
    return ours, theirs


def compare(ours, theirs, ours_y, theirs_y, dy, **options):
    assert_near(ours_y.data, theirs_y, **options)
    ours_y.backward(dy)
    theirs_y.backward(torch.from_numpy(np.array(dy, order="C")))
    for a, b in zip(ours, theirs, strict=True):
        assert_near(a.grad, b.grad, **options)


# ---------------------------------------------------------------- operations
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv2d(dtype):
    @given(conv_problems(dtype, max_size=8))
    def check(p):
        arrays = [p.x, p.weight] if p.bias is None else [p.x, p.weight, p.bias]
        ours, theirs = twins(*arrays)
        y, z = ops.conv2d(*ours, groups=p.groups, **p.options), F.conv2d(*theirs, groups=p.groups, **p.options)
        # sums of numbers about 1 may all but cancel; their rounding does not
        compare(ours, theirs, y, z, p.dy, scale=np.sqrt(p.x.size))

    check()


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 99))
def test_dilated_convolution(dtype, dh, dw, stride, kernel, seed):
    rng = np.random.default_rng(seed)
    ours, theirs = twins(*(rng.standard_normal(s).astype(dtype) for s in ((2, 4, 8, 9), (6, 2, kernel, 2), (6,))))
    options = {"dilation": (dh, dw), "stride": stride, "padding": 1, "groups": 2}
    y, z = ops.conv2d(*ours, **options), F.conv2d(*theirs, **options)
    compare(ours, theirs, y, z, rng.standard_normal(y.shape).astype(dtype), scale=10.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("c", "o", "side"), [(16, 16, 32), (16, 32, 16), (64, 64, 8), (3, 16, 32)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0)])
def test_conv2d_of_residual_networks(dtype, c, o, side, kernel, stride, padding):
    rng = np.random.default_rng(0)
    ours, theirs = twins(
        rng.standard_normal((2, c, side, side)).astype(dtype), rng.standard_normal((o, c, kernel, kernel)).astype(dtype)
    )
    y = ops.conv2d(*ours, stride=stride, padding=padding)
    z = F.conv2d(*theirs, stride=stride, padding=padding)
    compare(ours, theirs, y, z, rng.standard_normal(y.shape).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm(dtype):
    @given(batch_norm_problems(dtype), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([1e-5, 1e-2]))
    def check(p, momentum, eps):
        arrays = [p.x, p.weight, p.bias] + ([] if p.residual is None else [p.residual])
        ours, theirs = twins(*arrays)
        running, torch_running = (
            [p.running_mean.copy(), p.running_var.copy()],
            [torch.from_numpy(a.copy()) for a in (p.running_mean, p.running_var)],
        )
        x, weight, bias, *residual = ours
        y = ops.batch_norm(
            x, *running, weight, bias, training=p.training, momentum=momentum, eps=eps, residual=(residual or [None])[0]
        )
        x, weight, bias, *residual = theirs
        z = F.batch_norm(x, *torch_running, weight, bias, p.training, momentum, eps)
        z = z + residual[0] if residual else z
        for a, b in zip(running, torch_running, strict=True):
            assert_near(a, b, scale=1.0)
        # values that are close together are divided by little, and their rounding with them
        spread = min(1.0, np.sqrt((p.x.astype(np.float64).var((0, 2, 3)) + eps).min()) if p.training else 1.0)
        compare(ours, theirs, y, z, p.dy, scale=np.sqrt(p.x.size) / spread**3)

    check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_relu_and_shortcut_in_one(dtype, training):
    rng = np.random.default_rng(0)
    a = [rng.standard_normal(s).astype(dtype) for s in ((4, 16, 6, 6), (16,), (16,), (4, 16, 6, 6))]
    ours, theirs = twins(*a)
    running = [np.zeros(16, dtype), np.ones(16, dtype)]
    y = ops.batch_norm(ours[0], *running, *ours[1:3], training=training, residual=ours[3], relu=True)
    z = F.batch_norm(theirs[0], torch.zeros(16).to(theirs[0]), torch.ones(16).to(theirs[0]), *theirs[1:3], training)
    compare(ours, theirs, y, F.relu(z + theirs[3]), rng.standard_normal(y.shape).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.integers(2, 3), st.integers(1, 3), st.integers(1, 4), st.lists(st.integers(1, 3), max_size=2), st.data())
def test_norms_within_a_sample(dtype, n, groups, each, pixels, data):
    shape = (n, groups * each, *pixels)
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    axes = data.draw(st.integers(1, len(shape)))
    for name, of, sizes in (("group_norm", groups, shape[1:2]), ("layer_norm", shape[-axes:], shape[-axes:])):
        ours, theirs = twins(*(rng.standard_normal(s).astype(dtype) for s in (shape, sizes, sizes)))
        y, z = (
            getattr(ops, name)(ours[0], of, *ours[1:], eps=0.01),
            getattr(F, name)(theirs[0], of, *theirs[1:], eps=0.01),
        )
        compare(ours, theirs, y, z, rng.standard_normal(shape).astype(dtype), scale=10 * np.sqrt(np.prod(shape)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_pooling(dtype, kind):
    @given(pool_problems(dtype))
    def check(p):
        ours, theirs = twins(p.x)
        y = getattr(ops, f"{kind}_pool2d")(*ours, p.kernel_size, **p.options)
        z = getattr(F, f"{kind}_pool2d")(*theirs, p.kernel_size, **p.options)
        compare(ours, theirs, y, z, p.dy, scale=1.0)

    check()


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data())
def test_max_pooling_passes_nan_on(dtype, data):
    p = data.draw(pool_problems(dtype, orders=["contiguous"]))
    x = p.x.copy()
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    y = ops.max_pool2d(tr.Tensor(x), p.kernel_size, **p.options).data
    np.testing.assert_array_equal(y, F.max_pool2d(torch.from_numpy(x), p.kernel_size, **p.options).numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_adaptive_average(dtype, height, width, oh, ow, seed):
    rng = np.random.default_rng(seed)
    ours, theirs = twins(rng.standard_normal((2, 3, height, width)).astype(dtype))
    y, z = ops.adaptive_avg_pool2d(*ours, (oh, ow)), F.adaptive_avg_pool2d(*theirs, (oh, ow))
    compare(ours, theirs, y, z, rng.standard_normal(y.shape).astype(dtype), scale=1.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_global_average(dtype):
    rng = np.random.default_rng(0)
    ours, theirs = twins(rng.standard_normal((2, 5, 4, 3)).astype(dtype))
    y, z = ops.global_avg_pool2d(*ours), F.adaptive_avg_pool2d(*theirs, 1)
    compare(ours, theirs, y, z, rng.standard_normal((2, 5, 1, 1)).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "relu", "sigmoid", "tanh", "silu", "gelu"])
@given(st.data())
def test_activations(dtype, name, data):
    x = data.draw(tensors(dtype, shapes(min_dims=1)))
    ours, theirs = twins(3 * x.data)
    options = [data.draw(st.integers(-x.ndim, x.ndim - 1))] if "softmax" in name else []
    y = getattr(ops, name)(*ours, *options)
    z = getattr(F if name in ("silu", "gelu") else torch, name)(*theirs, *options)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    compare(ours, theirs, y, z, dy, scale=np.sqrt(x.size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 999), st.sampled_from([0.0, 0.1, 1.0]), st.booleans())
def test_cross_entropy(dtype, reduction, n, k, seed, smoothing, weighted):
    rng = np.random.default_rng(seed)
    logits = (10 * rng.standard_normal((n, k))).astype(dtype)
    weight = rng.uniform(0.5, 2, k).astype(dtype) if weighted else None
    for target in (rng.integers(0, k, n), rng.dirichlet(np.ones(k), n).astype(dtype)):
        ours, theirs = twins(logits)
        options = {"label_smoothing": smoothing, "reduction": reduction}
        y = ops.cross_entropy(*ours, target, weight=weight, **options)
        weights = None if weight is None else torch.from_numpy(weight)
        z = F.cross_entropy(*theirs, torch.from_numpy(target.copy()), weight=weights, **options)
        compare(ours, theirs, y, z, rng.standard_normal(y.shape).astype(dtype), scale=float(n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss"])
@given(shapes(), st.integers(0, 999))
def test_losses_of_numbers(dtype, reduction, name, shape, seed):
    rng = np.random.default_rng(seed)
    ours, theirs = twins(*rng.standard_normal((2, *shape)).astype(dtype))
    y, z = (getattr(m, name)(*a, reduction=reduction) for m, a in ((ops, ours), (F, theirs)))
    compare(ours, theirs, y, z, rng.standard_normal(y.shape).astype(dtype), scale=float(np.prod(shape)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@given(shapes(), st.integers(0, 999), st.sampled_from([None, 0.3, 4.0]))
def test_binary_cross_entropy(dtype, reduction, shape, seed, weight):
    rng = np.random.default_rng(seed)
    ours, theirs = twins((10 * rng.standard_normal(shape)).astype(dtype))
    target = rng.uniform(0, 1, shape).astype(dtype)
    y = ops.binary_cross_entropy_with_logits(*ours, target, pos_weight=weight, reduction=reduction)
    weights = None if weight is None else torch.tensor(weight, dtype=theirs[0].dtype)
    options = {"pos_weight": weights, "reduction": reduction}
    z = F.binary_cross_entropy_with_logits(*theirs, torch.from_numpy(target.copy()), **options)
    compare(ours, theirs, y, z, rng.standard_normal(y.shape).astype(dtype), scale=float(np.prod(shape)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(dtype):
    rng = np.random.default_rng(0)
    ours, theirs = twins(*(rng.standard_normal(s).astype(dtype) for s in ((5, 7), (3, 7), (3,))))
    compare(ours, theirs, ops.linear(*ours), F.linear(*theirs), rng.standard_normal((5, 3)).astype(dtype))


# ---------------------------------------------------------------- optimizers
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1}),
        ("SGD", {"lr": 0.1, "momentum": 0.9}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True}),
        ("AdamW", {"lr": 0.01}),
        ("AdamW", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
        ("AdamW", {"lr": 0.1, "weight_decay": 0.0}),
        ("Adam", {"lr": 0.05}),
        ("Adam", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
        ("RMSprop", {"lr": 0.01}),
        ("RMSprop", {"lr": 0.05, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8}),
    ],
)
def test_optimizers_take_the_same_way(name, options):
    rng = np.random.default_rng(0)
    ours = [tr.nn.Parameter(rng.standard_normal(s)) for s in ((3, 4), (4,), (2, 3, 1, 1))]
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in ours]
    optimizer, rival = getattr(tr.optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(20):
        for a, b in zip(ours, theirs, strict=True):
            # towards 1, so that it goes somewhere, with noise
            a.grad = a.data - 1 + 0.1 * rng.standard_normal(a.shape)
            b.grad = torch.from_numpy(a.grad.copy())
        if step == 10:
            optimizer.set_lr(options["lr"] / 10)
            for group in rival.param_groups:
                group["lr"] = options["lr"] / 10
        optimizer.step()
        rival.step()
        for a, b in zip(ours, theirs, strict=True):
            assert_near(a.data, b)
