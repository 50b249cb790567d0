"""`verify`: certifies what can be computed again, and says what differs."""

import signal

import numpy as np
import pytest
from support.runs import Reporter, config, fit, stop

import tinyres as tr
from tinyres import checkpoints, train
from tinyres.checkpoints import CheckpointError
from tinyres.verify import verify

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def done(tmp_path):
    fit(tmp_path / "run")
    return tmp_path / "run"


def rewrite(path, change):
    """A checkpoint with something else in it, and a checksum that fits."""
    arrays, info = checkpoints.load(path)
    change(arrays, info)
    checkpoints.save(path, arrays, info)


def test_verify_certifies_what_can_be_computed_again(done):
    files = {path: path.read_bytes() for path in done.iterdir()}
    reporter = Reporter()
    found = verify(done, reporter)
    assert (found.start, found.stop) == (8, 12)
    assert len(reporter.losses) == 4
    assert {path: path.read_bytes() for path in done.iterdir()} == files
    with tr.files.safetensors.safe_open(done / "last.safetensors", "numpy") as file:
        assert file.metadata()["sha256"] == found.sha256


@pytest.mark.parametrize("step", [1, 6, 8])
def test_verify_of_a_run_that_was_stopped(tmp_path, step):
    with pytest.raises(train.Interrupted):
        fit(tmp_path / "run", Reporter(step, stop(signal.SIGINT)))
    found = verify(tmp_path / "run")
    assert (found.start, found.stop) == (max(0, (step - 1) // 4 * 4), step)


def test_verify_starts_from_the_beginning_where_no_earlier_checkpoint_is(done):
    (done / "previous.safetensors").unlink()
    assert verify(done)[:2] == (0, 12)
    (done / "previous.safetensors").write_bytes((done / "last.safetensors").read_bytes())  # a crash while saving
    assert verify(done)[:2] == (0, 12)


def change_weight(arrays, info):
    weight = arrays["model.conv1.weight"]
    weight[0, 0, 0, 0] = np.nextafter(weight[0, 0, 0, 0], 1)


DIFFERENCES = {
    "a weight's last bit": (change_weight, r"model.conv1.weight is up to [\d.e-]+ off in 1 of 216 numbers"),
    "momentum": (lambda a, i: a["optimizer.0.momentum"].fill(0), "optimizer.0.momentum is up to"),
    "the metrics": (lambda a, i: i["history"][0].update(train_loss=0.0), "history differs"),
    "the sums": (lambda a, i: i["sums"].update(images=1), "sums differs"),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_verify_finds_what_differs(done, what):
    change, message = DIFFERENCES[what]
    rewrite(done / "last.safetensors", change)
    with pytest.raises(CheckpointError, match=f"steps 8 to 12, run again, give another state: {message}"):
        verify(done)


def test_verify_says_where_another_instruction_set_was_in_use(done):
    rewrite(done / "last.safetensors", lambda a, i: i.update(simd="avx3"))
    with pytest.raises(CheckpointError, match=f"computed with .* 'avx3', and this process uses {tr.machine.simd()}"):
        verify(done)
    notes = train.Run(config(), done, resume=True).notes
    assert [note for note in notes if f"'avx3' so far, and with {tr.machine.simd()!r} from now on" in note]


def test_verify_of_a_run_that_does_not_say_its_instruction_set(done):
    """Those of before."""
    rewrite(done / "last.safetensors", lambda a, i: i.pop("simd"))
    assert verify(done).stop == 12


@pytest.mark.parametrize("name", ["last", "previous", "best"])
def test_verify_refuses_damaged_checkpoints(done, name):
    path = done / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name}.safetensors: damaged: its content is not what was written"):
        verify(done)
