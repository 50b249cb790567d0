"""What dropout draws: as often as it should, in every way a step is computed the same, and in no two steps."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyres as tr
from tinyres import chance, nn, ops

pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed=0):
    tr.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 3), nn.Dropout(0.1))


def batch(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((5, 6)).astype("f4"), rng.integers(0, 3, 5)


@given(st.floats(0, 1), st.integers(0, 999))
def test_elements_are_dropped_as_often_as_asked_and_the_mean_stays(p, seed):
    """Of 10,000, within five standard deviations."""
    chance.start(seed)
    y = ops.dropout(tr.Tensor(np.ones(10_000)), p).data
    assert set(np.unique(y)) <= {0.0, 1 / (1 - p) if p < 1 else 0.0}
    assert abs((y == 0).mean() - p) <= 5 * np.sqrt(p * (1 - p) / 10_000)


def test_each_draw_is_another_and_follows_from_the_seed():
    def draws():
        return [chance.uniform(50).tolist() for _ in range(4)]

    tr.manual_seed(3)
    first, second = draws(), draws()
    assert len({tuple(d) for d in first + second}) == 8
    tr.manual_seed(3)
    assert draws() == first
    chance.start(3, 1)
    assert draws() != first


def test_a_thread_draws_for_itself():
    chance.start(5)
    found = []

    def work():
        chance.start(5)
        found.append(chance.uniform(9).tolist())

    chance.uniform(9)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert chance.now() == ((5,), 1)
    chance.start(5)
    assert found == [chance.uniform(9).tolist()]


def test_evaluation_drops_nothing_and_draws_nothing():
    layer, before = nn.Dropout(0.9).eval(), chance.now()
    x = tr.Tensor(np.ones(9))
    assert layer(x) is x
    assert chance.now() == before


def gradients(net):
    return [p.grad.copy() for p in net.parameters()]


@pytest.mark.parametrize("segment", [1, 2, 5])
def test_a_checkpoint_drops_the_same_again(segment):
    found = []
    for length in (0, segment):
        net, (x, y) = network(), batch(0)
        net.segment = length
        for _ in range(2):  # and goes on drawing as if it had not
            loss = ops.cross_entropy(net(tr.Tensor(x)), y)
            with chance.again(((5,), 3)):  # whatever is drawn from when backward comes
                loss.backward()
        found.append(gradients(net))
    for plain, again in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, again)


def test_a_repeated_step_drops_others_each_time_as_a_computed_one_does():
    plain, repeated = network(), network()
    step = tr.Replay(repeated, lambda x, y: ops.cross_entropy(repeated(x), y))
    counts = [0, 0]
    losses = set()
    for seed in range(8):
        x, y = batch(0)
        found = []
        for k, net in enumerate((plain, repeated)):
            net.zero_grad()
            with chance.again(((9,), counts[k])):
                if k:
                    loss = step(x, y)
                else:
                    loss = ops.cross_entropy(net(tr.Tensor(x)), y)
                    loss.backward()
                counts[k] = chance.now()[1]
            found.append([loss.data, *gradients(net)])
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)
        losses.add(float(found[0][0]))
        assert counts == [2 * seed + 2] * 2
    assert step.repeats
    assert len(losses) == 8


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_a_layer_that_makes_no_sense_is_refused(p):
    with pytest.raises(ValueError, match="Dropout: p: got"):
        nn.Dropout(p)
