"""What machine this is, and its ceilings: what is counted, and that it is measured at all."""

import numpy as np
import pytest

import tinyres as tr
from tinyres import machine

pytestmark = pytest.mark.usefixtures("one_thread")


def test_ceilings_count_each_operation_and_each_byte_both_ways(monkeypatch):
    monkeypatch.setattr(machine, "SIDE", 10)
    monkeypatch.setattr(machine, "COPY_BYTES", 1001)
    monkeypatch.setattr(machine.backend, "num_threads", lambda: 3)
    copied = []

    def take_half_a_second(run):
        run()
        return 0.5

    monkeypatch.setattr(machine.np, "copyto", lambda target, source: copied.append(len(target)))
    monkeypatch.setattr(machine, "_best", take_half_a_second)
    assert machine.ceilings() == (2 * 10**3 / 0.5, 2 * 1001 / 0.5)
    assert sum(copied) == 1001
    assert len(copied) == 3


def test_ceilings_are_measured(monkeypatch):
    monkeypatch.setattr(machine, "SIDE", 64)
    monkeypatch.setattr(machine, "COPY_BYTES", 10_001)
    assert min(machine.ceilings()) > 0


def test_the_machine_is_described():
    about = machine.describe()
    assert about["processor"]
    assert about["threads"] == tr.num_threads() == 1
    assert about["versions"]["numpy"] == np.__version__
    peak = machine.peak_memory()
    if peak is not None:
        held = np.ones(200 * 2**20, np.uint8)
        assert machine.peak_memory() >= max(peak, held.nbytes)
