"""The landscape study: directions, surfaces of small networks, what is read from them, and the command."""

import itertools
import json
import signal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from support.runs import call_tiny, config, stop
from test_study import command, good

import tinyres as tr
from tinyres import models, train
from tinyres.files import CheckpointError
from tinyres.runs import read_config
from tinyres.study import landscape as study
from tinyres.study.landscape import Sharpness, Surface, filter_normalised, grid, sharpness
from tinyres.study.trained import Trained, load

NETS = "plain20", "resnet20"


@pytest.fixture(autouse=True)
def small(tiny, monkeypatch):
    call_tiny(monkeypatch, *NETS)


@pytest.fixture
def runs(tmp_path):
    """Folders of two trained networks."""
    for name in NETS:
        train.Run(config(model=name, epochs=1), tmp_path / name).fit()
    return [tmp_path / name for name in NETS]


def untrained(seed=0):
    tr.manual_seed(seed)
    images, labels = tr.data.shapes(30, size=16)
    loader = tr.data.Loader(images, labels, 20, mean=np.full(3, 0.5), std=np.full(3, 0.25), shuffle=False)
    return Trained("tiny", models.create("tiny").eval(), loader, list(tr.data.SHAPES_CLASSES))


def directions(net, seeds=(0, 1)):
    return tuple(filter_normalised(net.model, seed) for seed in seeds)


# ---------------------------------------------------------------- directions
def lengths(array):
    return np.linalg.norm(array.reshape(len(array), -1).astype("f8"), axis=1)


@given(st.tuples(*[st.integers(1, 4)] * 4), st.sampled_from([1e-6, 1.0, 1e6]), st.integers(0, 2**32 - 1), st.booleans())
def test_filters_of_a_direction_are_as_long_as_those_of_the_network(shape, scale, seed, dead):
    out, inner, size, classes = shape
    net = tr.nn.Sequential(
        tr.nn.Conv2d(inner, out, size), tr.nn.BatchNorm2d(out), tr.nn.Flatten(), tr.nn.Linear(out, classes)
    )
    before = filter_normalised(net, seed)
    net[0].weight.data = scale * net[0].weight.data
    if dead:
        net[0].weight.data[0] = 0
    found = filter_normalised(net, seed)
    assert found.keys() == {name for name, _ in net.named_parameters()}
    for name, parameter in net.named_parameters():
        d = found[name]
        assert d.dtype == parameter.dtype
        assert d.shape == parameter.shape
        if parameter.data.ndim < 2:
            assert not d.any(), name
        else:
            np.testing.assert_allclose(lengths(d), lengths(parameter.data), rtol=1e-5)
    # the direction itself does not depend on the weights
    for k in range(int(dead), out):
        np.testing.assert_allclose(found["0.weight"][k], scale * before["0.weight"][k], rtol=1e-5)


def test_each_seed_has_a_direction_of_its_own_for_all_networks_of_these_shapes():
    a, b, c = (filter_normalised(untrained(k).model, seed) for k, seed in ((0, 5), (0, 6), (1, 5)))
    weights = a["layer1.0.conv1.weight"], b["layer1.0.conv1.weight"], c["layer1.0.conv1.weight"]
    units = [w / np.linalg.norm(w.reshape(len(w), -1), axis=1)[:, None, None, None] for w in weights]
    assert abs(units[0] - units[1]).max() > 0.1
    np.testing.assert_allclose(units[0], units[2], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- surfaces
@given(st.integers(2, 50), st.floats(1e-3, 1e3))
def test_grid_is_symmetric_about_an_exact_zero(half, radius):
    steps = grid(2 * half + 1, radius)
    assert len(steps) == 2 * half + 1
    assert steps[half] == 0
    assert (steps == -steps[::-1]).all()
    assert steps[-1] == pytest.approx(radius)
    assert np.diff(steps) == pytest.approx(radius / half)


def test_surface_is_the_loss_of_the_moved_network():
    net, steps = untrained(), grid(5, 0.5)
    first, second = directions(net)
    surface = study.landscape(net, (first, second), steps)
    other, state = models.create("tiny"), net.model.state_dict()
    for i, j in ((0, 0), (0, 4), (3, 1), (2, 4)):
        moved = {n: state[n] + steps[i] * first[n] + steps[j] * second[n] if n in first else state[n] for n in state}
        other.load_state_dict(moved)
        loss, accuracy = train.evaluate(other, net.loader)
        assert surface.losses[i, j] == pytest.approx(loss, rel=1e-4)
        assert surface.errors[i, j] == pytest.approx(1 - accuracy)
    assert len(np.unique(surface.losses)) > 20


def test_in_the_middle_is_the_network_and_it_stays_as_it_was():
    net = untrained()
    loss, accuracy = train.evaluate(net.model, net.loader)
    arrays = {name: parameter.data for name, parameter in net.model.named_parameters()}
    before = {name: array.tobytes() for name, array in net.model.state_dict().items()}
    surface = study.landscape(net, directions(net), grid(5, 1.0))
    assert surface.losses[2, 2] == loss
    assert surface.errors[2, 2] == 1 - accuracy
    assert all(parameter.data is arrays[name] for name, parameter in net.model.named_parameters())
    assert before == {name: array.tobytes() for name, array in net.model.state_dict().items()}


def test_directions_may_change_places():
    net = untrained()
    first, second = directions(net)
    a, b = (study.landscape(net, pair, grid(5, 1.0)) for pair in ((first, second), (second, first)))
    assert (a.losses == b.losses.T).all()
    assert (a.errors == b.errors.T).all()
    assert (a.losses != a.losses.T).any()


@pytest.mark.skipif(tr.backend.max_threads() < 2, reason="needs two cores to compare one thread with two")
def test_surface_does_not_depend_on_threads():
    found = []
    for n in (1, 2):
        tr.set_num_threads(n)
        net = untrained()
        found.append(study.landscape(net, directions(net), grid(5, 1.0)).losses.tobytes())
    assert found[0] == found[1]


def explore(folder, progress=None, **options):
    return study.explore([untrained(0), untrained(1)], folder, **{"points": 5, **options}, progress=progress)


@pytest.mark.parametrize("at", [1, 25, 42])
def test_what_was_stopped_goes_on_with_the_same_bits(tmp_path, at):
    told = []

    def interrupt(k, done, total):
        told.append((k, done, total))
        if len(told) == at:
            stop(signal.SIGINT)(None)

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    expected = explore(tmp_path / "whole")
    with pytest.raises(train.Interrupted):
        explore(tmp_path / "stopped", interrupt)
    assert len(told) == at
    found = explore(tmp_path / "stopped", lambda *point: told.append(point))
    assert told == [(k, done, 25) for k in (0, 1) for done in range(1, 26)]  # none twice
    for a, b in zip(found, expected, strict=True):
        assert a.losses.tobytes() == b.losses.tobytes()
        assert a.errors.tobytes() == b.errors.tobytes()


def test_what_differs_is_measured_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "evaluate", lambda model, loader: (model.fc.weight.data.std().item(), 0.5))
    first = explore(tmp_path)
    assert explore(tmp_path, pytest.fail)[1].losses.tobytes() == first[1].losses.tobytes()  # only read
    files = 2
    for change in ({"seed": 1}, {"radius": 0.5}, {"points": 7}):
        explore(tmp_path, **change)
        files += 2
        assert len(list(tmp_path.glob("grid-*.json"))) == files
    net = untrained()
    net.model.fc.bias.data[0] += 1e-3
    study.explore([net], tmp_path, points=5)
    assert len(list(tmp_path.glob("grid-*.json"))) == files + 1


# ---------------------------------------------------------------- what it says
@given(*[st.integers(-8, 8)] * 3)
def test_not_convex_is_where_the_smaller_eigenvalue_is_negative(p, q, r):
    a, b = np.meshgrid(steps := grid(7, 3.0), steps, indexing="ij")  # whole numbers: no rounding
    smaller = np.linalg.eigvalsh([[p, q], [q, r]])[0]
    if p * r == q * q:  # 0 up to rounding, or the smaller of two of one sign
        smaller = min(p, r, 0)
        if smaller == 0:
            return
    found = sharpness(Surface("a", steps, 0.5 * p * a**2 + q * a * b + 0.5 * r * b**2, np.zeros_like(a)))
    assert found.bent == (smaller < 0)


@given(st.floats(0.1, 20), st.floats(0, 10))
def test_sharpness_of_a_bowl(steepness, bottom):
    a, b = np.meshgrid(steps := grid(41, 1.0), steps, indexing="ij")
    found = sharpness(Surface("bowl", steps, bottom + steepness * (a**2 + b**2), np.full_like(a, 0.25)))
    assert (found.loss, found.error) == (bottom, 0.25)
    assert found.rise(0.5) == pytest.approx(steepness / 4, rel=0.1)
    assert found.rise(1.0) == pytest.approx(steepness, rel=0.1)
    assert all(low <= mean <= high for low, mean, high in zip(found.least, found.mean, found.most, strict=True))
    if steepness > 1:  # the disc is inside of the plane, of area 4
        assert found.basin == pytest.approx(np.pi / steepness / 4, rel=0.3)  # points of a disc, counted


def measured(name, rise, basin=0.5, loss=1.0):
    return Sharpness(name, loss, 0.1, [0.0, 0.5, 1.0], [loss, loss + rise, 9.0], [], [], basin, 0.25)


def test_verdict_compares_with_the_first():
    found = [measured("plain56", 3.0, 0.1), measured("resnet56", 0.5), measured("other", 6.0), measured("odd", -0.5)]
    assert study.verdict(found) == [
        "At distance 0.5 the loss of plain56 rises by 3.00, that of resnet56 by 0.50: resnet56 is flatter by a factor "
        "of 6.0. Within 1 of the trained network are 10% of the plane of plain56, 50% of that of resnet56; not "
        "convex are 25% and 25%.",
        "At distance 0.5 the loss of plain56 rises by 3.00, that of other by 6.00: other is steeper by a factor "
        "of 2.0. Within 1 of the trained network are 10% of the plane of plain56, 50% of that of other; not "
        "convex are 25% and 25%.",
        "At distance 0.5 the loss of plain56 rises by 3.00, that of odd by -0.50. "
        "Within 1 of the trained network are 10% of the plane of plain56, 50% of that of odd; not "
        "convex are 25% and 25%.",
    ]
    assert study.verdict(found[:1]) == []
    unlike = study.verdict([measured("plain56", 0.5, loss=2.0), measured("resnet56", 0.5)])
    assert unlike[1].startswith("But they are not equally well trained, with losses of 2.00 and 1.00")


def test_pictures_of_losses_that_are_no_numbers_or_zero():
    losses = np.array([*itertools.islice(itertools.cycle([0.0, 1.0, 1e30, np.inf, np.nan, 2.0, 3.0]), 25)])
    figure = study.draw([Surface(n, grid(5, 1.0), losses.reshape(5, 5), losses.reshape(5, 5)) for n in ("plain", "b")])
    figure.canvas.draw()
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[0].startswith("plain: loss")


# ---------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 24}, "points: got 24, expected 5, 7, 9"),
        ({"points": 3}, "points: got 3, expected 5, 7, 9"),
        ({"radius": 0.0}, "radius: got 0.0, expected a positive number"),
        ({"radius": float("nan")}, "radius: got nan, expected a positive number"),
    ],
)
def test_bad_grids_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        explore(tmp_path, **options)


def test_other_data_is_refused(tmp_path):
    nets = untrained(), untrained()._replace(name="other", classes=["cat", "dog"])
    with pytest.raises(ValueError, match="other and tiny: expected networks that were trained on one data set"):
        study.explore(nets, tmp_path, points=5)


@pytest.mark.parametrize("content", ["[[1, 2", "[1, 2]", "[[1, 2, 3]]", "{}x", "[" * 99999, json.dumps([[1, 1]] * 26)])
def test_damaged_points_are_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    net = untrained()
    with pytest.raises(CheckpointError, match=r"a\.json: expected a loss and an error for each point"):
        study.landscape(net, directions(net), grid(5, 1.0), keep=path)


def test_load_takes_the_images_that_the_network_was_trained_on(runs):
    net = load(runs[0], 20)
    expected = train.load_data(read_config(runs[0]))
    assert (net.loader.images == expected.train[0][:20]).all()
    assert (net.loader.mean == expected.mean).all()
    assert net.name == "plain20"
    best, last = (load(runs[0] / f"{name}.safetensors", 20) for name in ("best", "last"))
    assert (best.model.fc.weight.data == net.model.fc.weight.data).all()
    (runs[0] / "best.safetensors").unlink()
    assert (load(runs[0], 20).model.fc.weight.data == last.model.fc.weight.data).all()
    for images in (0, 43):
        with pytest.raises(ValueError, match=f"images: got {images}, expected 1 to 42"):
            load(runs[0], images)


# ---------------------------------------------------------------- command
SMALL = ["--points", 5, "--images", 20]


def test_command_on_runs(runs, tmp_path):
    text = good("landscape", *runs, *SMALL, "--out", tmp_path / "out")
    assert "the loss of plain20 rises by" in text
    found = json.loads((tmp_path / "out" / "landscape.json").read_text())
    assert [net["name"] for net in found["networks"]] == list(NETS)
    for net, run in zip(found["networks"], runs, strict=True):
        here = load(run, 20)
        assert net["losses"][2][2] == train.evaluate(here.model, here.loader)[0] == net["loss"]
    assert (tmp_path / "out" / "landscape.png").read_bytes().startswith(b"\x89PNG")
    text = good(
        "landscape", runs[0] / "best.safetensors", runs[0] / "last.safetensors", *SMALL, "--out", tmp_path / "o"
    )
    assert "best.safetensors rises by" in text.replace("\n", "")  # names that tell them apart


def test_command_trains_networks_and_goes_on(tmp_path, monkeypatch):
    words = ["landscape", "--dataset", "shapes", "--networks", ",".join(NETS), "--epochs", 1, *SMALL, "--out", tmp_path]
    real, calls = train.evaluate, []

    def evaluate(model, loader):
        calls.append(model)
        if len(calls) == 12:
            signal.raise_signal(signal.SIGINT)
        return real(model, loader)

    monkeypatch.setattr(train, "evaluate", evaluate)
    run = command(*words)
    assert run.exit_code == 130
    assert "Stopped and saved. The same command continues from there." in run.output
    assert not (tmp_path / "landscape.json").exists()
    good(*words)
    assert (read_config(tmp_path / "plain20").lr, read_config(tmp_path / "plain20").epochs) == (0.1, 1)
    found = json.loads((tmp_path / "landscape.json").read_text())
    assert [net["name"] for net in found["networks"]] == list(NETS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--networks", "plain20"], "--networks: got runs and networks to train"),
        (["--networks", "plain21"], "plain21"),
        (["--points", 4], "points: got 4"),
        (["nowhere"], "nowhere: no such file"),
        (["."], "a folder, expected a checkpoint"),
        (["--threads", 0], "got 0 threads"),
    ],
)
def test_mistakes_end_without_a_traceback(tmp_path, words, message):
    run = command("landscape", *words, "--dataset", "shapes", "--out", tmp_path / "out")
    assert run.exit_code == 1
    assert message in run.output.replace("\n", " ")
