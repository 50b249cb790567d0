"""Several processes: the order of sums, and runs under mpiexec that end with the same bits on any number of them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import runs
from support.json_keys import check_keys

import tinyres as tr
from tinyres import checkpoints, timeline
from tinyres.parallel.exchange import Shards
from tinyres.parallel.launch import launch, mpiexec
from tinyres.parallel.meeting import Meeting
from tinyres.parallel.tree import add_up, subtrees
from tinyres.parallel.world import World, world

PROGRAMS = Path(__file__).parent / "support" / "processes.py"


try:
    import mpi4py  # noqa: F401
except ImportError:
    mpi = pytest.mark.skip(reason="needs mpi4py and mpiexec: pip install 'tinyres[mpi]'")
else:
    mpi = pytest.mark.skipif(mpiexec() is None, reason="needs mpiexec: pip install 'tinyres[mpi]'")


def start(count, *command, **environment):
    """Start a command of tinyres's, or a program of support/processes.py, on so many processes."""
    names = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    names = {k: v for k, v in names.items() if not k.startswith(("PMI_", "OMPI_"))}
    line = [mpiexec(), "-n", str(count), sys.executable, *map(str, command)]
    return subprocess.Popen(line, env=names, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(count, *command, code=0, within=120, **environment):
    process = start(count, *command, **environment)
    try:
        out, err = process.communicate(timeout=within)
    finally:
        process.kill()
    assert (process.returncode == 0) == (code == 0), out + err
    return out, err


# ---------------------------------------------------------------- the order of sums
whole_numbers = st.integers(1, 40)


@given(data=st.data(), count=whole_numbers)
def test_sum_has_one_order_however_shards_are_dealt(data, count):
    """To the last bit, for float32 numbers whose sum depends on the order, put in any order."""
    cuts = sorted(data.draw(st.sets(st.integers(1, count - 1), max_size=6))) if count > 1 else []
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    shards = [rng.standard_normal(3).astype("f4") * np.float32(10) ** rng.integers(-6, 6) for _ in range(count)]

    def in_tree(start, stop):
        if stop - start == 1:
            return shards[start]
        middle = (start + stop) // 2
        return in_tree(start, middle) + in_tree(middle, stop)

    received = {}
    for part in zip([0, *cuts], [*cuts, count], strict=True):
        own = {}
        for shard in rng.permutation(range(*part)):
            own[shard, shard + 1] = shards[shard].copy()
            add_up(own, (0, count))
        assert sorted(own) == subtrees(part, (0, count))
        received |= own
    assert add_up(received, (0, count))
    assert received.keys() == {(0, count)}
    np.testing.assert_array_equal(received[0, count], in_tree(0, count))


@given(st.integers(0, 6).flatmap(lambda k: st.tuples(st.just(2**k), st.integers(1, 8))))
def test_power_of_two_of_processes_sends_one_array_each(case):
    processes, each = case
    for rank in range(processes):
        part = rank * each, (rank + 1) * each
        assert subtrees(part, (0, processes * each)) == [part]


# ---------------------------------------------------------------- who started us
@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, ("mpiexec", 2, 4, 1)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}, ("Open MPI's mpiexec", 0, 3, 0)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3"}, ("srun", 5, 8, 3)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, ("srun", 5, 8, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # the batch script itself
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({"PMI_RANK": "no", "PMI_SIZE": "4"}, None),
    ],
)
def test_launchers_are_recognised(environment, found):
    assert launch(environment) == found


def test_without_mpi4py_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"pip install 'tinyres\[mpi\]'"):
        tr.parallel.init()


def test_alone_all_is_as_with_one_process():
    assert (tr.parallel.rank(), tr.parallel.world_size()) == (0, 1)
    x = np.arange(3.0)
    np.testing.assert_array_equal(tr.parallel.all_reduce(x, "mean"), x)
    with pytest.raises(ValueError, match="source: got 1, expected 0 to 0"):
        tr.parallel.broadcast(x, 1)
    with pytest.raises(ValueError, match="op: got 'max', expected 'sum' or 'mean'"):
        tr.parallel.all_reduce(x, "max")


# ---------------------------------------------------------------- gradients
def test_parameter_without_a_gradient_is_an_error():
    net = tr.nn.Sequential(tr.nn.Linear(2, 2), tr.nn.Linear(2, 1))
    gradients = tr.parallel.Gradients(net.parameters(), shards=Shards(2, world()))
    net[0](tr.Tensor([[1.0, 2.0]])).sum().backward()
    with pytest.raises(RuntimeError, match=r"parameter of shape \(1,\): got none"):
        gradients.end()


def test_gradient_that_comes_twice_is_an_error():
    net = tr.nn.Linear(2, 1)
    tr.parallel.Gradients(net.parameters(), shards=Shards(2, world()))
    net(tr.Tensor([[1.0, 2.0]])).sum().backward()
    with pytest.raises(RuntimeError, match="got a second one in this step"):
        net(tr.Tensor([[1.0, 2.0]])).sum().backward()


def test_hook_sees_the_complete_gradient_of_a_leaf_once():
    w, seen = tr.Tensor([1.0, 2.0], requires_grad=True), []
    with w.register_post_accumulate_grad_hook(lambda leaf: seen.append(leaf.grad.copy())):
        (w * w + 3 * w).sum().backward()
        w.sum().backward()
    w.sum().backward()
    np.testing.assert_array_equal(seen, [[5, 7], [6, 8]])
    with pytest.raises(RuntimeError, match="was computed from others"):
        (w * 2).register_post_accumulate_grad_hook(print)
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        tr.Tensor([1.0]).register_post_accumulate_grad_hook(print)


# ---------------------------------------------------------------- batch norm of all shards
def in_shards(sizes, arrays, gather):
    """Outputs, and gradients of x, weight, bias and residual, of batch norm over a batch cut into such shards."""
    x, dy, weight, bias, residual = arrays
    cuts, found = np.cumsum([0, *sizes]), {}
    mean, var = np.zeros(x.shape[1]), np.ones(x.shape[1])

    def work(shard):
        own = slice(cuts[shard], cuts[shard + 1])
        names = x[own], weight, bias, residual[own]
        leaves = [tr.Tensor(a, requires_grad=True) for a in names]
        options = {"training": True, "relu": True, "residual": leaves[3], "gather": gather}
        y = tr.ops.batch_norm(leaves[0], mean, var, leaves[1], leaves[2], **options)
        y.backward(dy[own])
        found[shard] = [y.data, *(leaf.grad for leaf in leaves)]

    gather.run(work) if gather else work(0)
    y, dx, dweight, dbias, dresidual = zip(*(found[s] for s in range(len(sizes))), strict=True)
    return *map(np.concatenate, (y, dx, dresidual)), sum(dweight), sum(dbias), mean, var


@given(
    sizes=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    c=st.integers(1, 9),
    mean=st.sampled_from([0, 100]),
)
def test_batch_norm_over_shards_is_that_of_the_whole_batch(sizes, seed, c, mean):
    rng = np.random.default_rng(seed)
    shape = sum(sizes), c, 2, 3
    x, dy, residual = (rng.standard_normal(shape) for _ in range(3))
    arrays = 3 * x + mean, dy, rng.uniform(0.5, 1.5, c), rng.standard_normal(c), residual
    together = in_shards(sizes, arrays, Meeting(Shards(len(sizes), World())))
    within = 1e-11 if mean else 1e-12  # the mean is 33 times the spread, which costs digits
    for one, other in zip(in_shards([len(x)], arrays, None), together, strict=True):
        np.testing.assert_allclose(other, one, rtol=within, atol=within)


def test_error_of_a_shard_ends_those_that_wait_for_it():
    def work(shard):
        meeting(np.zeros(1))
        if shard == 1:
            raise ValueError("fault of shard 1")
        meeting(np.zeros(1))

    meeting = Meeting(Shards(3, World()))
    with pytest.raises(ValueError, match="fault of shard 1"):
        meeting.run(work)
    meeting.run(lambda shard: meeting(np.zeros(1)))  # and the next step goes as ever


def test_gradient_of_a_weight_is_complete_with_that_of_its_layer():
    """So that it may be summed while backward goes on to the layers below."""
    layers = [tr.nn.Linear(2, 2, bias=False) for _ in range(3)]
    happened, x = [], tr.Tensor([[1.0, 2.0]], requires_grad=True)
    for i, layer in enumerate(layers):
        layer.weight.register_post_accumulate_grad_hook(lambda w, i=i: happened.append(f"weight {i}"))
        x = layer(x)
        x.register_hook(lambda g, i=i: happened.append(f"output {i}"))
    x.sum().backward()
    assert happened == ["output 2", "weight 2", "output 1", "weight 1", "output 0", "weight 0"]


@mpi
@pytest.mark.parametrize("count", [2, 4])
def test_exchange_between_processes(count):
    """Sums of random sizes and dtypes over random numbers of shards, in many rounds, against one process's."""
    out, _ = run(count, PROGRAMS, "exchange")
    assert out.splitlines() == ["same"] * count


@mpi
@pytest.mark.parametrize("count", [2, 4])
def test_each_process_sends_no_more_than_it_must(count):
    out, _ = run(count, PROGRAMS, "volume")
    assert [float(line) for line in out.splitlines()] == [2 * (count - 1) / count] * 3 * count


@mpi
def test_sums_without_end():
    out, _ = run(2, PROGRAMS, "many")
    assert out.splitlines() == ["same"] * 2


@mpi
def test_batch_norm_of_two_processes_has_the_gradient_of_finite_differences():
    out, _ = run(2, PROGRAMS, "batch_norm")
    assert out.splitlines() == ["same"] * 2


@mpi
def test_users_own_loop():
    """Three lines make it data-parallel: both processes hold the weights of one that saw the whole batch."""
    out, _ = run(2, PROGRAMS, "loop")
    first, second, alone = (np.array(json.loads(line)) for line in [*sorted(out.splitlines()), *loop_alone()])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone, rtol=1e-12)


def loop_alone():
    result = subprocess.run([sys.executable, PROGRAMS, "loop"], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


@mpi
def test_a_trainer_learns_the_same_on_any_number_of_processes(tmp_path):
    told = [run(count, PROGRAMS, "trainer", tmp_path / str(count))[0] for count in (1, 2)]
    lines = [[line for line in out.splitlines() if line.startswith("[[")] for out in told]
    assert [len(found) for found in lines] == [1, 2]
    assert len({*lines[0], *lines[1]}) == 1
    assert (tmp_path / "1/a.csv").read_text() == (tmp_path / "2/a.csv").read_text()


# ---------------------------------------------------------------- runs
OPTIONS = {"dataset": "shapes", "model": "tiny", "validation": 8, "batch-size": 12, "epochs": 2, "shards": 4}
RECIPE = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]


def train(folder, count, *options, **how):
    return run(count, PROGRAMS, "tinyres", "train", *RECIPE, "--out", folder, *options, **how)


def state(folder):
    return checkpoints.state_digest(*checkpoints.load(folder / "last.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "one"
    command = [sys.executable, PROGRAMS, "tinyres", "train", *RECIPE, "--out", folder, "--threads", "1"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


@mpi
@pytest.mark.parametrize(("count", "threads"), [(1, 2), (2, 1), (4, 1)])
def test_any_number_of_processes_ends_with_the_same_bits(count, threads, undisturbed, tmp_path):
    out, _ = train(tmp_path / "run", count, "--threads", threads)
    assert out.count("Test accuracy") == 1, "one process speaks"
    assert state(tmp_path / "run") == state(undisturbed)
    for name in ("metrics.jsonl", "config.json"):
        assert (tmp_path / "run" / name).read_text() == (undisturbed / name).read_text()


@mpi
@pytest.mark.parametrize("count", [1, 2, 4])
def test_synchronised_batch_norm_ends_with_the_same_bits(count, tmp_path):
    """One process runs its four shards side by side, four run one each."""
    train(tmp_path / "one", 1, "--sync-batch-norm", "--threads", 1)
    train(tmp_path / "run", count, "--sync-batch-norm", "--threads", 1)
    assert state(tmp_path / "run") == state(tmp_path / "one")


@mpi
def test_killed_run_goes_on_with_other_processes_to_the_same_bits(undisturbed, tmp_path):
    """Kill one of four in the second epoch; go on with two, and then verify with one."""
    folder = tmp_path / "run"
    process = start(4, PROGRAMS, "tinyres", "train", *RECIPE, "--out", folder, "--checkpoint-every", "1", VICTIM="3@6")
    began = time.monotonic()
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    assert state(folder) != state(undisturbed)
    run(2, PROGRAMS, "tinyres", "train", "--out", folder, "--resume")
    assert state(folder) == state(undisturbed)
    out, _ = run(1, PROGRAMS, "tinyres", "verify", folder)
    assert "Certified" in out


@mpi
@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"FAIL": "1@3"}, "process 1 of 2: Error: fault of process 1"),
        ({"FAIL": "0@3"}, "process 0 of 2: Error: fault of process 0"),
        ({"FAIL": "*@3"}, "process 0 of 2: Error: fault of process 0"),
        ({"CRASH": "1@3"}, "process 1 of 2: "),
        ({"OTHER_SIMD": "1"}, "instruction set (TINYRES_SIMD): got sse2 in process 1 and "),
        ({"OTHER_VERSION": "1"}, "version of tinyres: got 9.9 in process 1 and "),
        ({"FULL": "0"}, "No space left on device"),
    ],
)
def test_fault_of_one_process_ends_all_with_one_message(environment, said, tmp_path):
    began = time.monotonic()
    _, err = train(tmp_path / "run", 2, code=1, **environment)
    assert time.monotonic() - began < 60
    ours = [line for line in err.splitlines() if "process" in line or "Error" in line or said in line]
    assert sum(said in line for line in ours) == 1, err
    if "CRASH" not in environment:
        assert sum("Error: " in line for line in ours) == 1, err


@mpi
def test_shards_that_processes_cannot_share(tmp_path):
    _, err = run(4, PROGRAMS, "tinyres", "train", *RECIPE, "--shards", 6, "--out", tmp_path / "run", code=1)
    assert "shards: got 6 for 4 processes, which fit 1, 2, 3, 6 processes" in err


def test_more_shards_than_images(tiny, tmp_path):
    with pytest.raises(ValueError, match="shards: got 8, expected at most 6, the size of the smallest batch"):
        tr.train.Run(runs.config(shards=8), tmp_path / "run")


@mpi
def test_signal_to_one_process_stops_all_after_the_step(undisturbed, tmp_path):
    folder = tmp_path / "run"
    out, _ = train(folder, 2, code=130, SIGNAL="1@3")
    assert "Stopped and saved at step" in out
    run(1, PROGRAMS, "tinyres", "train", "--out", folder, "--resume")
    assert state(folder) == state(undisturbed)


@mpi
@pytest.mark.parametrize("local", ["0", "1"])
def test_launcher_and_library_that_do_not_know_each_other(local, tmp_path):
    """An error, that the first process of the machine tells without a traceback."""
    environment = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": local}
    result = subprocess.run(
        [sys.executable, PROGRAMS, "tinyres", "train", *map(str, RECIPE), "--out", tmp_path / "run"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    told = result.stderr.startswith("Error: srun started 2 processes, and the MPI library of mpi4py")
    assert told if local == "0" else not result.stderr
    assert "Traceback" not in result.stderr
    assert result.returncode == 1


@mpi
def test_evaluation_and_prediction_are_shared_out(undisturbed, tmp_path):
    """The same words from three processes as from one."""
    from PIL import Image

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, pixels in enumerate(tr.data.shapes(7, size=16)[0]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(pictures / f"{i}.png")
    (pictures / "bad.png").write_bytes(b"no picture")
    checkpoint = undisturbed / "last.safetensors"
    for command in (["eval", checkpoint], ["predict", checkpoint, pictures, "--json"]):
        one, _ = run(1, PROGRAMS, "tinyres", *command)
        three, err = run(3, PROGRAMS, "tinyres", *command)
        assert three == one
        assert err.count("Passed over") == ("predict" in command)


@mpi
def test_processes_of_a_machine_hold_the_data_once():
    out, _ = run(2, PROGRAMS, "shared")
    assert out.splitlines() == ["same"] * 2


@mpi
def test_other_commands_are_done_once():
    out, _ = run(2, PROGRAMS, "tinyres", "--version")
    assert out.count("tinyres") == 1


@mpi
@pytest.mark.parametrize("wrong", [["--nothing"], ["--epochs", "many"], ["--optimizer", "none"], ["--threads", "0"]])
def test_mistake_in_a_command_is_told_once(wrong):
    _, err = run(3, PROGRAMS, "tinyres", "train", *wrong, code=1)
    assert err.count("Error") == 1, err


@mpi
def test_profile_draws_when_processes_exchange(tmp_path):
    how = ["--batch-size", 8, "--image-size", 16, "--steps", 2, "--timeline", tmp_path / "a.png"]
    out, _ = run(2, PROGRAMS, "tinyres", "profile", "tiny", *how, "--json", tmp_path / "a.json")
    assert "% of the exchange of gradients happens" in out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "a.json").read_text())
    check_keys("tinyres profile --timeline", found)
    assert f"At least {found['hidden']:.0%}" in out
    assert [{span["what"] for span in process} for process in found["processes"]] == [set(timeline.COLOURS)] * 2
    for count, option, said in (
        (1, [], "--timeline: needs several processes"),
        (2, ["--batch-size", 1], "--batch-size: got 1, expected 2 or more"),
    ):
        _, err = run(count, PROGRAMS, "tinyres", "profile", "tiny", *how, *option, code=1)
        assert said in err
