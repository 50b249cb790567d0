"""What all tests share: a Hypothesis profile, chosen by HYPOTHESIS_PROFILE ("ci", the default, or "nightly")."""

import gc
import os

os.environ.setdefault("TINYRES_AHEAD", "0")  # no second process beside each that the tests start
if len(getattr(os, "sched_getaffinity", lambda _: [0, 1])(0)) < 2:  # one core can run two threads, in turns
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")  # read by Numba as it is loaded; else no test could ask for them
if "PYTEST_XDIST_WORKER" in os.environ:  # of several workers none has more than a core; processes they start inherit it
    os.environ["OMP_NUM_THREADS"] = "1"  # read by BLAS and PyTorch as they are loaded

import shutil
import sys

import pytest
from hypothesis import settings
from support import commands
from support.runs import install_tiny, pictures

import tinyres as tr
from tinyres import machine

if "PYTEST_XDIST_WORKER" in os.environ:
    tr.set_num_threads(1)  # tests of more threads say so

# No deadline: the first example compiles kernels. Derandomized: a test that passed passes again.
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("nightly", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_finish():
    """Thirteen thousand tests live to the end: the collector of garbage need not look at them each time."""
    gc.collect()
    gc.freeze()


FIRST = ["ops", "isa", "train", "kernels", "parallel", "docs", "notebooks", "cli", "study_explain_page", "mutation"]
FIRST += ["concurrency", "study_gym", "hostile", "examples", "cli_train", "cli_profile"]


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that no worker is left alone with one of them; and of the first two, the
    one compiles nearly all kernels, and the other compiles for other instruction sets."""
    names = [f"test_{name}" for name in FIRST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file():
    """Of the files in here. Doctests are the package's: to look for some in what helps the tests would be to import it,
    and with it PyTorch."""
    return [found for found in (yield) if type(found) is pytest.Module]


@pytest.fixture(scope="module")
def one_thread():
    """Small problems gain nothing from more; and where PyTorch is there, each library's threads would wait for the
    other's, spinning."""
    torch = sys.modules.get("torch")
    before = tr.num_threads(), torch and torch.get_num_threads()
    tr.set_num_threads(1)
    if torch:
        torch.set_num_threads(1)
    yield
    tr.set_num_threads(before[0])
    if torch:
        torch.set_num_threads(before[1])


@pytest.fixture
def tiny(monkeypatch, one_thread):
    """The network and pictures of `runs`. On one thread: networks as small gain nothing from more."""
    install_tiny(monkeypatch)


@pytest.fixture(scope="module")
def data():
    """The pictures of `runs` to train on, and their labels."""
    return pictures("train")


@pytest.fixture
def ceilings(monkeypatch):
    """Known ones, at no cost."""
    monkeypatch.setattr(machine, "ceilings", lambda: machine.Ceilings(sgemm=100e9, copy=10e9))


@pytest.fixture
def small_world(tmp_path):
    """What `commands` has instead of large networks and the network outside."""
    with commands.small_world(tmp_path):
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of `commands`, not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    with commands.small_world(folder):
        commands.good(*commands.TRAIN, "--out", folder / "run")
    return folder / "run"


@pytest.fixture
def run(tmp_path, trained):
    """A run of its own for each test."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def browser():
    """A Chromium that shows pages and asks for nothing by itself."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not (chromium := shutil.which("chromium")):
        pytest.skip("there is no chromium on this machine")
    quiet = ["background-networking", "component-update", "sync", "quic", "gpu"]
    options = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet)]
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()
