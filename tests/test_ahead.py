"""The second process that fills an empty cache: it does so once, for this very cache, and never outlives the first."""

import subprocess
import sys
import textwrap

import pytest

from tinyres.kernels import ahead

ONE_KERNEL = "import numpy as np, tinyres as tr; tr.ops.relu(tr.Tensor(np.ones((1, 1, 2, 2), np.float32)));"


@pytest.fixture
def started(monkeypatch):
    """Commands of the processes that would have been started, on a machine of two cores."""
    commands = []
    monkeypatch.setattr(ahead, "_cores", lambda: 2)
    monkeypatch.delenv("TINYRES_AHEAD")
    monkeypatch.setattr(ahead.subprocess, "Popen", lambda command, **options: commands.append(command))
    monkeypatch.setattr(ahead.atexit, "register", lambda *call: None)
    return commands


def test_one_process_for_each_cache(started, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for folder in (tmp_path, tmp_path, other, tmp_path):
        ahead.start(folder)
    assert [command[-1] for command in started] == [str(tmp_path), str(other)]
    assert {command[0] for command in started} == {sys.executable}


@pytest.mark.parametrize("executable", ["", None, "/opt/some/application", "C:/editor.exe"])
def test_only_python_is_started_as_python(started, tmp_path, monkeypatch, executable):
    monkeypatch.setattr(ahead.sys, "executable", executable)
    ahead.start(tmp_path)
    assert not started
    assert not list(tmp_path.iterdir())


def test_none_without_a_free_core_nor_in_a_frozen_application_nor_where_nobody_wants_it(started, tmp_path, monkeypatch):
    monkeypatch.setattr(ahead.sys, "frozen", True, raising=False)
    ahead.start(tmp_path)
    monkeypatch.setattr(ahead.sys, "frozen", False)
    monkeypatch.setattr(ahead, "_cores", lambda: 1)
    ahead.start(tmp_path)
    monkeypatch.setattr(ahead, "_cores", lambda: 2)
    monkeypatch.setenv("TINYRES_AHEAD", "0")
    ahead.start(tmp_path)
    assert not started


def test_nothing_is_said_where_none_can_be_started(started, tmp_path, monkeypatch):
    def refuse(*command, **options):
        raise PermissionError("no more processes")

    monkeypatch.setattr(ahead.subprocess, "Popen", refuse)
    ahead.start(tmp_path)
    ahead.start(tmp_path / "missing")


def python(code, cache):
    """Run code with a cache of its own, on whatever cores there are."""
    environment = {**ahead.os.environ, "TINYRES_CACHE": str(cache), "TINYRES_AHEAD": "1"}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(ahead._cores() < 2, reason="on one core no process is started")
def test_a_process_that_ends_takes_the_other_with_it(tmp_path):
    result = python(ONE_KERNEL, tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    (folder,) = (tmp_path / "kernels").iterdir()
    assert not (folder / ahead.STARTED).exists()  # it had not finished: whoever comes next starts one again


@pytest.mark.skipif(ahead._cores() < 2, reason="on one core no process is started")
def test_the_other_process_compiles_its_half(tmp_path):
    wait = """
    import numba.core.compiler
    from tinyres.kernels import ahead, compile, warmup
    (process,) = others
    assert process.wait() == 0
    def refuse(*what, **options): raise AssertionError("a kernel was compiled that should be there")
    compile._Pipeline.compile_extra = refuse
    steps = list(warmup.meanwhile())
    assert len(steps) > 5
    for name, compile_kernel in steps:
        compile_kernel()
    """
    spy = """
    from tinyres.kernels import ahead
    others, before = [], ahead.subprocess.Popen
    def popen(*command, **options):
        others.append(before(*command, **options))
        return others[-1]
    ahead.subprocess.Popen = popen
    """
    result = python(textwrap.dedent(spy) + ONE_KERNEL + textwrap.dedent(wait), tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert (next((tmp_path / "kernels").iterdir()) / ahead.STARTED).exists()
