"""The study of layer responses: what each batch norm gives by itself, over all images, and nothing else changed."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nets import batch
from support.runs import config
from test_study import command, good

import tinyres as tr
from tinyres import models, train
from tinyres.study import responses
from tinyres.study.responses import Response, Responses

pytestmark = pytest.mark.usefixtures("one_thread")


@st.composite
def networks(draw):
    tr.manual_seed(draw(st.integers(0, 99)))
    block = draw(st.sampled_from([models.BasicBlock, models.Bottleneck, models.PlainBlock]))
    shortcut = None if block is models.PlainBlock else draw(st.sampled_from("AB"))
    net = models.ResNet(block, [1, 2], widths=[4, 8], shortcut=shortcut)
    net(tr.Tensor(batch(1, n=8)[0]))  # running statistics of some images
    return net.eval()


@given(networks(), st.integers(0, 99))
def test_a_response_is_the_scaled_deviation_of_what_the_convolution_gave(net, seed):
    images, _ = batch(seed, n=3)
    inputs = {}
    for path, m in net.named_modules():
        if isinstance(m, tr.nn.Conv2d):
            m.register_forward_hook(lambda m, args, y, path=path: inputs.update({path: y.data.astype(np.float64)}))
    found = responses.measure(net, [images])
    convolutions = {path: x for path, x in inputs.items() if "downsample" not in path}
    assert [r.layer for r in found] == [path.replace("conv", "bn") for path in convolutions]
    for response, (path, x) in zip(found, convolutions.items(), strict=True):
        bn = dict(net.named_modules())[path.replace("conv", "bn")]
        scale = (bn.weight.data / np.sqrt(bn.running_var + bn.eps))[:, None, None]
        y = (x - bn.running_mean[:, None, None]) * scale + bn.bias.data[:, None, None]
        assert response.std == pytest.approx(y.std(), rel=1e-5)  # y itself is computed in float32


@given(networks(), st.lists(st.integers(1, 4), min_size=2, max_size=3))
def test_it_does_not_matter_how_images_are_cut_into_batches(net, sizes):
    images, _ = batch(0, n=sum(sizes))
    whole = responses.measure(net, [images])
    cut = responses.measure(net, np.split(images, np.cumsum(sizes)[:-1]))
    for a, b in zip(whole, cut, strict=True):
        assert a.layer == b.layer
        assert a.std == pytest.approx(b.std, rel=1e-5)  # other batches, other tiles: rounding in float32


@given(networks())
def test_the_network_stays_as_it_was(net):
    images, _ = batch(0)
    before, y = net.state_dict(), net(tr.Tensor(images)).data
    responses.measure(net, [images])
    assert all(np.array_equal(before[name], value) for name, value in net.state_dict().items())
    assert np.array_equal(net(tr.Tensor(images)).data, y)


def test_networks_that_have_no_responses_are_refused():
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\)"):
        responses.measure(models.create("resnet20"), [])
    with pytest.raises(ValueError, match="begin with batch norm"):
        responses.measure(models.create("preact_resnet20").eval(), [])


@given(st.lists(st.floats(0, 10), min_size=2, max_size=5))
def test_verdict_and_picture(stds):
    found = [Responses(name, [Response(f"bn{i}", s) for i, s in enumerate(stds)]) for name in ("plain20", "resnet20")]
    assert f"{min(stds):.3f} to {max(stds):.3f}, {np.mean(stds):.3f} on average" in responses.verdict(found)[1]
    left, right = responses.draw(found).axes
    assert [list(line.get_ydata()) for line in left.lines] == [stds, stds]
    assert [list(line.get_ydata()) for line in right.lines] == [sorted(stds, reverse=True)] * 2


def test_the_command(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.Run(config(epochs=1), tmp_path / "run").fit()
    output = good("responses", "run", "run", "--images", 20)
    numbers = json.loads((tmp_path / "study/responses/responses.json").read_text())
    assert len(numbers["networks"]) == 2
    stds = [layer["std"] for layer in numbers["networks"][0]["layers"]]
    assert f"{np.mean(stds):.3f}" in output
    assert (tmp_path / "study/responses/responses.png").stat().st_size > 5000
    missing = command("responses", "nowhere")
    assert missing.exit_code == 1
    assert "nowhere" in missing.output
