"""Gradient flow: norms and factors against plain arithmetic, closed activations that can be counted, the command."""

import json
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import nets
from support.runs import config
from test_study import command, good

import tinyres as tr
from tinyres import models, ops, splits
from tinyres.study import gradient_flow, probe, variants
from tinyres.study.gradient_flow import Layer

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCKS = {
    "plain": models.PlainBlock,
    "basic": models.BasicBlock,
    "bottleneck": models.Bottleneck,
    "preact": models.PreActBlock,
}


def net(block="basic", *, seed=0, activation="relu", batch_norm=True, widths=(4, 8), dtype=np.float64, **options):
    tr.manual_seed(seed)
    options = {"shortcut": None if block == "plain" else "B", **options}
    model = models.ResNet(BLOCKS[block], [1] * len(widths), widths=widths, **options).astype(dtype)
    return variants.vary(model, activation=activation, batch_norm=batch_norm).astype(dtype)


batch = partial(nets.batch, n=3, dtype=np.float64)


# ---------------------------------------------------------------- one batch
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("block", BLOCKS)
def test_weights_and_gradients_are_those_of_an_ordinary_backward(block, activation, batch_norm):
    model, (x, y) = net(block, activation=activation, batch_norm=batch_norm), batch()
    loss, layers = gradient_flow.measure(model, x, y, activation)
    model.zero_grad()
    expected = ops.cross_entropy(model(tr.Tensor(x)), y)
    expected.backward()
    assert loss == expected.item()
    weights = {n.removesuffix(".weight"): p for n, p in model.named_parameters() if p.ndim == 4 and n[-4:] != "bias"}
    assert [layer.name for layer in layers] == [name for name in weights if "downsample" not in name]
    for layer in layers:
        w = weights[layer.name]
        assert layer.weight == pytest.approx(np.linalg.norm(w.data), rel=1e-12)
        assert layer.gradient == pytest.approx(np.linalg.norm(w.grad), rel=1e-12)
        assert layer.ratio == layer.gradient / layer.weight
    assert not any(module._forward_hooks for module in model.modules())


def test_flow_is_the_gradient_of_each_layers_output():
    """Of a plain net the outputs can be computed by hand, one after the other, and made leaves."""
    model, (x, y) = net("plain"), batch()
    _, layers = gradient_flow.measure(model, x, y)
    convs = [(model.conv1, model.bn1)]
    for _, block in model.blocks():
        convs += [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    outputs, h = [], tr.Tensor(x)
    for conv, bn in convs:
        h = bn(conv(h), relu=True)
        h.retain_grad()
        outputs.append(h)
    ops.cross_entropy(model.fc(ops.flatten(model.avgpool(h))), y).backward()
    np.testing.assert_allclose([layer.flow for layer in layers], [np.linalg.norm(h.grad) for h in outputs], rtol=1e-12)
    assert [layer.closed for layer in layers] == [np.mean(h.data == 0) for h in outputs]


@pytest.mark.parametrize("block", ["basic", "preact"])
def test_flow_at_a_block_is_the_whole_gradient_of_its_input(block):
    model, (x, y) = net(block), batch()
    _, layers = gradient_flow.measure(model, x, y)
    inputs = []
    for _, b in model.blocks():
        b.register_forward_hook(lambda m, args, out: inputs.append(args[0].retain_grad() or args[0]))
    ops.cross_entropy(model(tr.Tensor(x)), y).backward()
    found = {layer.name: layer.flow for layer in layers}
    assert found["conv1"] == pytest.approx(np.linalg.norm(inputs[0].grad), rel=1e-12)
    assert found["layer1.0.conv2"] == pytest.approx(np.linalg.norm(inputs[1].grad), rel=1e-12)


@given(st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=60))
def test_the_product_of_the_factors_is_the_quotient_of_the_ends(flows):
    layers = [Layer("", 1, 1, 1, flow, 0, 0) for flow in flows]
    product, mean = gradient_flow.whole(layers)
    logs = sum(math.log(factor) for factor in gradient_flow.factors(layers))
    assert math.log(product) == pytest.approx(logs, abs=1e-9)
    assert mean ** (len(flows) - 1) == pytest.approx(product, rel=1e-9)


def test_what_vanished_has_factor_0():
    layers = [Layer("", 1, 1, 1, flow, 0, 0) for flow in (0.0, 0.0, 2.0)]
    assert gradient_flow.factors(layers) == [0, 0]
    assert gradient_flow.whole(layers) == (0, 0)


def test_norms_of_vanishing_gradients_are_not_0():
    assert probe.norm(np.full((2, 8), 1e-30, np.float32)) == pytest.approx(4e-30)


def test_dead_relus_are_counted():
    model, (x, y) = net("plain"), batch()
    bn = next(model.blocks())[1].bn1
    bn.weight.data[1:3] = 0
    bn.bias.data[1:3] = -1  # so two of four channels are 0 everywhere
    dead = {layer.name: (layer.dead, layer.closed) for layer in gradient_flow.measure(model, x, y)[1]}
    assert dead["layer1.0.conv1"][0] == 0.5
    assert 0.5 < dead["layer1.0.conv1"][1] < 1
    assert dead["conv1"][0] == 0


def test_saturated_sigmoids_are_counted():
    model, (x, y) = net("plain", activation="sigmoid"), batch()
    bn = next(model.blocks())[1].bn1.norm
    bn.weight.data[...] = 0
    bn.bias.data[...] = [0, 4, 5, -5]  # y (1 - y) is 1/4, 0.018, 0.0066 and 0.0066
    layers = {layer.name: layer for layer in gradient_flow.measure(model, x, y, "sigmoid")[1]}
    assert (layers["layer1.0.conv1"].closed, layers["layer1.0.conv1"].dead) == (0.5, 0.5)


# ---------------------------------------------------------------- what is known of such products
@given(st.integers(0, 10**6))
def test_activations_of_a_sigmoid_chain_multiply_by_a_quarter_at_most(seed):
    """The bound that the verdict names."""
    rng = np.random.default_rng(seed)
    z = tr.Tensor(rng.normal(0, 3, (2, 3, 4, 4)), requires_grad=True)
    dy = rng.standard_normal(z.shape)
    ops.sigmoid(z).backward(dy)
    assert probe.norm(z.grad) <= 0.25 * probe.norm(dy) * (1 + 1e-12)


def test_sigmoids_vanish_without_batch_norm_and_not_with_it():
    def product(**options):
        model = net("plain", widths=(8,), **options)
        stage = [models.PlainBlock(8, 8).astype(np.float64) for _ in range(6)]
        model.layer1 = tr.nn.Sequential(*stage)
        variants.vary(model, activation=options["activation"], batch_norm=options["batch_norm"]).astype(np.float64)
        return gradient_flow.whole(gradient_flow.measure(model, *batch(n=8), options["activation"])[1])[1]

    assert product(activation="sigmoid", batch_norm=False) < 0.4
    assert product(activation="sigmoid", batch_norm=True) > 0.7
    assert product(activation="relu", batch_norm=True) > 1  # Yang et al., "A mean field theory of batch norm.", 2019


# ---------------------------------------------------------------- variants
@pytest.mark.parametrize("block", BLOCKS)
def test_variants_are_the_blocks_written_out(block):
    """A ReLU that is applied by the stand-in is the one that batch norm applies."""
    plain, varied = net(block), net(block)
    for module in list(varied.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, tr.nn.BatchNorm2d):
                setattr(module, name, variants.Activated(child.weight.size, "relu", child))
    x, _ = batch()
    np.testing.assert_allclose(varied(tr.Tensor(x)).data, plain(tr.Tensor(x)).data, rtol=1e-12)


def test_without_batch_norm_none_is_left():
    model = net("basic", batch_norm=False)
    assert not any(isinstance(m, tr.nn.BatchNorm2d) for m in model.modules())
    assert {p.shape for n, p in model.named_parameters() if n.endswith("bn1.bias")} == {(1, 4, 1, 1), (1, 8, 1, 1)}


def test_no_such_activation():
    with pytest.raises(ValueError, match="activation: got 'gelu', expected one of relu, sigmoid"):
        net(activation="gelu")


# ---------------------------------------------------------------- over training
@given(st.integers(0, 10**5))
def test_moments_begin_and_end_the_training(steps):
    moments = probe.moments_of(steps)
    assert moments[0] == 0
    assert moments[-1] == steps
    assert moments == sorted(set(moments))


def flow_of(tiny_steps, **changes):
    recipe_of = config(validation=0, **changes)
    return gradient_flow.gradient_flow("tiny", recipe_of, splits.load_data(recipe_of), tiny_steps)


def test_one_seed_one_result(tiny):
    first = flow_of(4)
    assert flow_of(4) == first
    assert [moment.step for moment in first.moments] == [0, 1, 3, 4]
    assert len({moment.loss for moment in first.moments}) == 4
    assert flow_of(4, seed=1) != first


def test_measuring_does_not_change_the_training(tiny):
    how = config(validation=0)
    weights = []
    for measure in (gradient_flow.measure, lambda model, x, y: (0.0, [])):
        tr.manual_seed(0)
        model = models.create("tiny")
        probe.train_and_measure(model, how, splits.load_data(how), 4, measure)
        weights.append([p.data.tobytes() for p in model.parameters()])
    assert weights[0] == weights[1]


def test_divergence_keeps_what_came_before(tiny):
    found = flow_of(10, lr=1e30)
    assert found.moments[0].step == 0
    assert found.moments[-1].step < 10


def test_steps_that_make_no_sense(tiny):
    with pytest.raises(ValueError, match="steps: got -1, expected 0 or more"):
        flow_of(-1)


# ---------------------------------------------------------------- the command
def test_command(tiny, tmp_path):
    options = ["--dataset", "shapes", "--steps", 2, "--batch-size", 12, "--out", tmp_path]
    text = good("gradient-flow", "tiny", "--activation", "sigmoid", "--no-batch-norm", *options)
    assert "tiny, sigmoid, no batch norm: after 2 steps a layer multiplies the gradient's norm by" in text
    found = json.loads((tmp_path / "gradient-flow.json").read_text())
    assert [moment["step"] for moment in found["networks"][0]["moments"]] == [0, 1, 2]
    assert {"name", "ratio", "flow", "dead"} <= found["networks"][0]["moments"][0]["measured"][0].keys()
    assert (tmp_path / "gradient-flow.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_of_the_user(tiny, tmp_path):
    for words, message in (
        (["tiny", "resnet21"], "there is no 'resnet21'"),
        (["tiny", "--activation", "gelu"], "activation: got 'gelu'"),
        (["tiny", "--subset", 999], "subset: got 999"),
    ):
        run = command("gradient-flow", *words, "--dataset", "shapes", "--out", tmp_path)
        assert run.exit_code == 1
        assert message in run.output
        assert "Traceback" not in run.output
