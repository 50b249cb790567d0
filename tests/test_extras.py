"""Extras: nothing loads them unasked, and whoever asks for one that is not installed hears how to, before any work."""

import importlib
import subprocess
import sys

import pytest

import tinyres as tr
from tinyres.study import gym

EXTRAS = ("hypothesis", "jinja2", "matplotlib", "mpi4py", "onnx", "onnxruntime", "sklearn", "tensorboardX", "torch")
LATER = ("click", "pooch", "requests", "rich", "typer")  # of what is always installed: slow to load, and seldom needed


def after(code):
    """What a new process has loaded of the extras, and of what only a download or the command line needs."""
    code += f"; import sys; print(*[name for name in {EXTRAS + LATER} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_the_package_loads_no_extra_and_nothing_that_it_may_not_need():
    assert after("import tinyres") == []


def test_scikit_learn_is_loaded_by_who_asks_for_it():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'tinyres[sklearn]'")
    assert "sklearn" in after("import tinyres as tr; tr.sklearn.ResNetClassifier")


def test_a_network_is_trained_without_what_reads_data_and_runs():
    """That takes longer to load than all the rest of the package."""
    code = "import tinyres as tr; loss = tr.nn.Linear(2, 2)(tr.ones(3, 2)).sum(); loss.backward()"
    code += "; import sys; print(*[name for name in sys.modules if name.split('.')[0] in ('tinyres', 'PIL')])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "tinyres.nn" in loaded
    assert not {"PIL", *(f"tinyres.{name}" for name in tr._LATER.values())} & set(loaded)


@pytest.mark.parametrize("load", ["importlib.import_module(place)", "getattr(tr, name)"])
def test_what_is_loaded_later_is_the_same_whoever_loads_it(load):
    """A module that loads another one puts it among the names of the package: `tinyres.lr_find` must not become one."""
    later = {name: f"tinyres.{place}" for name, place in tr._LATER.items() if name != "sklearn"}
    code = f"""
import importlib
import tinyres as tr
for name, place in {later}.items():
    {load}
for name, place in {later}.items():
    module = importlib.import_module(place)
    assert getattr(tr, name) is (module if place == "tinyres." + name else getattr(module, name)), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(later) <= set(dir(tr))


def test_a_name_that_is_nowhere_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'tinyres' has no attribute 'no_such_name'"):
        tr.no_such_name  # noqa: B018
    assert not hasattr(tr, "__no_such_name__")


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("sklearn.base", "sklearn", lambda folder: tr.sklearn),
        ("tensorboardX", "tensorboard", lambda folder: tr.callbacks.TensorBoard(folder / "board")),
        ("matplotlib.figure", "plot", lambda folder: tr.callbacks.LearningRateFinder(folder / "rates.png")),
        ("onnx", "onnx", lambda folder: tr.from_onnx(folder / "model.onnx")),
        ("hypothesis", "testing", lambda folder: importlib.import_module("tinyres.testing.strategies")),
        ("hypothesis", "testing", lambda folder: gym.examine(folder / "tensor.py", gym.find("sqrt"))),
        ("onnx", "onnx", lambda folder: tr.export.to_onnx(tr.nn.Linear(2, 2), folder / "model.onnx")),
    ],
)
def test_an_extra_that_is_not_there_is_named_with_its_command(package, extra, use, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    for module in ("tinyres.sklearn", "tinyres.testing.strategies"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.delitem(vars(tr), "sklearn", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'tinyres\[{extra}\]'"):
        use(tmp_path)
    assert list(tmp_path.iterdir()) == []
