"""Weights beside those that are trained, and runs that have them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import config, install_tiny, result

import tinyres as tr
from tinyres import checkpoints, nn, train
from tinyres.average import EMA, Lookahead


@given(st.floats(0, 1), st.integers(1, 4), st.none() | st.integers(1, 9), st.lists(st.floats(-9, 9), max_size=30))
def test_it_is_its_formula(decay, every, epoch, values):
    model = nn.Linear(1, 1, bias=False).astype("f8")
    model.weight.data[...] = expected = 1.0
    average, last = EMA(model, decay, every=every, epoch=epoch), 0
    for n, value in enumerate(values, 1):
        model.weight.data[...] = value
        average.update()
        if n % every == 0 or (epoch and n % epoch == 0):
            d = min(decay, (1 + n) / (10 + n)) ** (n - last)
            expected, last = d * expected + (1 - d) * value, n
        np.testing.assert_allclose(average.arrays["weight"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [lambda m: EMA(m, 0.5), lambda m: Lookahead(m, 0.5, 1)])
def test_weights_that_a_graph_holds_are_not_changed(make):
    model = nn.Linear(2, 1)
    beside = make(model)
    y = model(tr.Tensor([[1.0, 2.0]]))
    change = beside.update if isinstance(beside, Lookahead) else lambda: beside.in_place().__enter__()
    with pytest.raises(RuntimeError, match=r"average: cannot change the weights, .*: first call backward"):
        change()
    y.sum().backward()
    change()


def test_inside_the_block_the_model_has_the_averages_and_after_it_its_own():
    model = tr.models.ResNet(tr.models.BasicBlock, [1], widths=(4,))
    average = EMA(model, 0.5)
    model(tr.Tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype("f4")))  # moves running statistics
    for p in model.parameters():
        p.data = p.data + 1
    average.update()
    own, means = model.state_dict(), {name: array.copy() for name, array in average.arrays.items()}

    def look():
        with average.in_place():
            for name, array in model.named_arrays():
                np.testing.assert_array_equal(array, means.get(name, own[name]))
            raise KeyError

    with pytest.raises(KeyError):
        look()
    for name, array in model.named_arrays():
        np.testing.assert_array_equal(array, own[name])
    assert {name for name in own if name not in means} == {name for name in own if name.endswith("num_batches_tracked")}
    assert all((means[name] != own[name]).any() for name in means)


def test_a_shared_parameter_is_averaged_once():
    shared = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(shared, shared)
    average = EMA(model, 0.0)
    start = shared.weight.data.copy()
    shared.weight.data[...] = 3
    with average.in_place():
        np.testing.assert_array_equal(shared.weight.data, start)
    np.testing.assert_array_equal(shared.weight.data, np.full((2, 2), 3))


def test_an_epoch_has_a_step():
    with pytest.raises(ValueError, match="epoch: got 0, expected 1 or more"):
        EMA(nn.Linear(1, 1), 0.5, epoch=0)


@pytest.mark.parametrize(("decay", "every"), [(-0.1, 1), (1.1, 1), (float("nan"), 1), (0.5, 0)])
def test_what_makes_no_sense_is_refused(decay, every):
    with pytest.raises(ValueError, match="decay: got" if every else "every: got"):
        EMA(nn.Linear(1, 1), decay, every=every)


@given(st.floats(0, 1), st.integers(1, 4), st.integers(0, 3), st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_lookahead_is_its_formula(decay, every, beyond, moves):
    """Each step moves the weight from where the slow one has put it."""
    model = nn.Linear(1, 1, bias=False).astype("f8")
    model.weight.data[...] = slow = fast = 1.0
    total = len(moves)
    lookahead = Lookahead(model, decay, total, every=every)
    for n, move in enumerate([*moves, *[0.5] * beyond], 1):
        model.weight.data[...] += move
        fast += move
        lookahead.update()
        if n % every == 0 or n == total:
            d = decay**every * min(1, n / total) ** 3
            slow = fast = d * slow + (1 - d) * fast
        np.testing.assert_allclose(model.weight.data, fast, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(lookahead.arrays["weight"], slow, rtol=1e-9, atol=1e-9)


def test_lookahead_takes_running_statistics_along_and_leaves_counts():
    model = nn.Sequential(nn.BatchNorm2d(2))
    lookahead = Lookahead(model, 0.5, 1, every=5)
    norm = model[0]
    norm.running_mean[...], norm.num_batches_tracked[...] = 4, 7
    lookahead.update()
    d = 0.5**5
    np.testing.assert_allclose(norm.running_mean, 4 * (1 - d))
    assert norm.num_batches_tracked == 7


@pytest.mark.parametrize(
    ("options", "message"), [({"total": 0}, "total: got 0"), ({"decay": 2}, "decay: got 2"), ({"every": 0}, "every: ")]
)
def test_a_lookahead_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Lookahead(nn.Linear(1, 1), **{"decay": 0.5, "total": 9, **options})


# ---------------------------------------------------------------- runs
@pytest.fixture(autouse=True)
def tiny(monkeypatch, one_thread):
    install_tiny(monkeypatch)


def test_a_run_tests_and_saves_its_average_and_trains_as_without(tmp_path):
    runs = {name: train.Run(config(ema=ema), tmp_path / name) for name, ema in (("with", 0.9), ("without", 0.0))}
    scores = {name: run.fit() for name, run in runs.items()}
    arrays = {name: checkpoints.load(tmp_path / name / "last.safetensors")[0] for name in runs}
    plain = checkpoints.part(arrays["without"], "model")
    for name, array in checkpoints.part(arrays["with"], "trained").items():
        np.testing.assert_array_equal(array, plain[name])
    assert (arrays["with"]["model.fc.weight"] != plain["fc.weight"]).any()
    model, info = checkpoints.load_model(tmp_path / "with" / "best.safetensors")
    np.testing.assert_array_equal(
        model.fc.weight.data, checkpoints.load(tmp_path / "with" / "best.safetensors")[0]["model.fc.weight"]
    )
    loader = tr.data.Loader(*runs["with"].data.test, 250, mean=info["mean"], std=info["std"], shuffle=False)
    assert train.evaluate(model, loader)[0] == scores["with"]["test_loss"] != scores["without"]["test_loss"]


@pytest.mark.parametrize("step", [3, 4, 7, 11])
@pytest.mark.parametrize(
    "options", [{"ema": 0.9}, {"ema": 0.9, "shards": 2}, {"lookahead": 0.9}, {"lookahead": 0.9, "ema": 0.9}]
)
def test_a_run_with_other_weights_goes_on_as_if_it_had_not_stopped(tmp_path, step, options):
    wanted = config(**options)
    train.Run(wanted, tmp_path / "whole").fit()
    run = train.Run(wanted, tmp_path / "run")
    run.train_to(step)
    run.save("last")
    train.Run(wanted, tmp_path / "run", resume=True).fit()
    assert result(tmp_path / "run") == result(tmp_path / "whole")


def test_a_run_of_few_steps_has_an_average_of_them(tmp_path):
    """Four steps, where an update comes at each fifth."""
    run = train.Run(config(ema=0.5, epochs=1), tmp_path / "run")
    before = run.model.fc.weight.data.copy()
    run.fit()
    saved = run_at(tmp_path / "run", "last")
    assert (saved["model.fc.weight"] != before).any()
    assert (saved["model.fc.weight"] != saved["trained.fc.weight"]).any()


def test_a_run_with_lookahead_ends_at_its_slow_weights(tmp_path):
    """Twelve steps: at the last, which is no fifth one, as well. Before the fifth nothing differs."""
    for lookahead in (0.0, 0.95):
        run = train.Run(config(lookahead=lookahead), tmp_path / str(lookahead))
        for step in (4, 5, 12):
            run.train_to(step)
            run.save(str(step))
    plain, slow = ({s: run_at(tmp_path / str(v), s) for s in (4, 5, 12)} for v in (0.0, 0.95))
    assert all(
        np.array_equal(array, plain[4][f"model.{name}"]) for name, array in checkpoints.part(slow[4], "model").items()
    )
    for step in (5, 12):
        for name, array in checkpoints.part(slow[step], "model").items():
            np.testing.assert_array_equal(array, slow[step][f"slow.{name}"])
        assert (slow[step]["model.fc.weight"] != plain[step]["model.fc.weight"]).any()


def run_at(folder, step):
    return checkpoints.load(folder / f"{step}.safetensors")[0]


@pytest.mark.parametrize(("option", "prefix"), [("ema", "trained"), ("lookahead", "slow")])
def test_a_checkpoint_without_all_weights_is_refused(tmp_path, option, prefix):
    wanted = config(**{option: 0.9})
    run = train.Run(wanted, tmp_path / "run")
    run.train_to(2)
    run.save("last")
    path = tmp_path / "run" / "last.safetensors"
    arrays, info = checkpoints.load(path)
    checkpoints.save(path, {name: a for name, a in arrays.items() if name != f"{prefix}.fc.bias"}, info)
    with pytest.raises(checkpoints.CheckpointError, match=r"fc\.bias: missing"):
        train.Run(wanted, tmp_path / "run", resume=True)
