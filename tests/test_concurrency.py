"""Several threads of one program, and forks of it: right answers or a clear error, on each of Numba's threading layers.

The layer is chosen when a process starts, so most tests run functions of this file in a process of their own.
"""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from contextlib import contextmanager

import numpy as np
import pytest

import tinyres as tr
from tinyres import ops, readonly, tape
from tinyres.kernels import memory

F4 = np.float32


def installed(pool):
    try:
        importlib.import_module(f"numba.np.ufunc.{pool}")
    except ImportError:
        return False
    return True


LAYERS = [layer for layer, pool in (("omp", "omppool"), ("workqueue", "workqueue")) if installed(pool)]
on_each_layer = pytest.mark.parametrize("layer", LAYERS)
can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def in_child(function, layer, **env):
    """What a function of this file prints, in a new process. It must neither fail nor abort nor hang."""
    env = {**os.environ, "NUMBA_THREADING_LAYER": layer, **env}
    command = [sys.executable, __file__, function.__name__]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextmanager
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(*functions):
    """Results of functions that threads begin at one moment."""
    barrier, results = threading.Barrier(len(functions)), [None] * len(functions)

    def run(i):
        barrier.wait()
        try:
            results[i] = functions[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


# ---------------------------------------------------------------- a thread for each model
def trainer(seed):
    """A function that trains a network of its own, on batches of its own; and gives all bytes of what comes out."""
    tr.manual_seed(seed)
    net = tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(16, 32))
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (40, 3, 16, 16), np.uint8), rng.integers(0, 10, 40)
    constants = {"mean": [0.5] * 3, "std": [0.25] * 3}
    loader = tr.data.Loader(images, labels, 10, **constants, augment=tr.data.Augment(), seed=seed)
    optimizer = tr.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)

    def train():
        for epoch in range(2):
            for x, y in loader.epoch(epoch):
                optimizer.zero_grad()
                ops.cross_entropy(net(tr.Tensor(x)), y).backward()
                optimizer.step()
        return b"".join(array.tobytes() for array in net.state_dict().values())

    return train


def train_at_once():
    alone = [trainer(seed)() for seed in range(4)]
    assert len(set(alone)) == 4
    for threads in {1, min(2, tr.backend.max_threads())}:
        tr.set_num_threads(threads)
        for n in (2, 4):
            with switching_often():
                assert at_once(*(trainer(seed) for seed in range(n))) == alone[:n]
    assert not readonly._locks
    assert not readonly._waiting


@on_each_layer
def test_threads_train_as_each_does_alone(layer):
    in_child(train_at_once, layer)


def compile_at_once():
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 8)).astype(F4)

    def run():
        leaf = tr.Tensor(x, requires_grad=True)
        h = ops.relu(leaf) + leaf
        (ops.max_pool2d(h, 2) * ops.avg_pool2d(h, 2)).sum().backward()
        return leaf.grad

    with switching_often():
        results = at_once(*[run] * 4)
    with tr.use_backend("reference"):
        expected = run()
    for result in results:
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
        assert result.tobytes() == results[0].tobytes()


@on_each_layer
def test_threads_compile_at_once(layer, tmp_path):
    in_child(compile_at_once, layer, TINYRES_CACHE=str(tmp_path))
    assert list(tmp_path.rglob("*.nbc"))


# ---------------------------------------------------------------- a model for several threads
def share_a_model():
    """A fused network keeps what kernels make of its weights: no thread may see it half made."""
    net = tr.models.ResNet(tr.models.BasicBlock, [1, 1], widths=(64, 128)).eval()
    x = tr.Tensor(np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(F4))
    with tr.no_grad():
        expected = [m(x).data.tobytes() for m in (net, tr.nn.fuse(net))]
    for _ in range(10):
        fused = tr.nn.fuse(net)

        def infer(model, fused=fused):
            with tr.no_grad():
                return (fused if model else net)(x).data.tobytes()

        with switching_often():
            assert at_once(*[lambda: infer(0), lambda: infer(1)] * 2) == expected * 2
    fused = None
    assert len(memory._made) <= 3 * 7  # what `infer` and the loop may still hold


@on_each_layer
def test_threads_share_a_model(layer):
    in_child(share_a_model, layer)


def test_what_is_made_of_a_constant_is_not_shared_before_it_is_complete():
    weight = np.ones((2, 2), F4)
    memory.make_constant(weight)
    first, ready = memory.made_of(weight, "key", (4,))
    second, also_ready = at_once(lambda: memory.made_of(weight, "key", (4,)))[0]
    assert not ready
    assert not also_ready
    assert first is not second


def test_threads_add_up_the_gradient_of_a_shared_leaf():
    """And what the tape holds of it is counted right: it can be written to as soon as the last graph is gone."""
    n, shared = 60, tr.Tensor(np.ones(3), requires_grad=True)
    others = set(readonly._locks)  # what tests before this one have left to the collector of garbage

    def let_others_run(frame, event, argument):  # after each line of these files
        time.sleep(0)
        return let_others_run

    def run():
        files = tape.__file__, readonly.__file__
        sys.settrace(lambda frame, *_: let_others_run if frame.f_code.co_filename in files else None)
        for i in range(n):
            y = (shared * shared).sum()
            if i % 3:
                y.backward()
            del y

    at_once(*[run] * 4)
    np.testing.assert_array_equal(shared.grad, 4 * (n - n // 3) * 2.0)
    assert shared.data.flags.writeable
    assert readonly._locks.keys() <= others
    assert not readonly._released


# ---------------------------------------------------------------- what belongs to a thread, and what to the process
def test_modes_are_of_their_thread():
    with tr.no_grad(), tr.detect_anomaly(), tape.scope("here"), tape.watching(None):
        seen = at_once(lambda: (tape.state.grad_enabled, tape.state.anomaly, tape.state.scope, tape.state.watch))[0]
        assert not tape.state.grad_enabled
    assert seen == (True, False, [], None)


def test_anomalies_are_found_in_the_thread_that_looks():
    x = tr.Tensor([0.0])

    def looks():
        with tr.detect_anomaly(), pytest.raises(FloatingPointError, match="in mine gave -inf"), tape.scope("mine"):
            x.log()

    at_once(looks, lambda: x.log().data)


def test_number_of_threads_is_of_the_process():
    before = tr.num_threads()
    try:
        for n in {1, tr.backend.max_threads()}:
            tr.set_num_threads(n)
            assert at_once(tr.num_threads, lambda: numba_threads_of_a_kernel()) == [n, n]
            at_once(lambda: tr.set_num_threads(1))
            assert tr.num_threads() == numba_threads_of_a_kernel() == 1
    finally:
        tr.set_num_threads(before)


def numba_threads_of_a_kernel():
    """As many as Numba uses after the first kernel of a thread has begun."""
    import numba

    ops.relu(tr.Tensor(np.ones(3)))
    return numba.get_num_threads()


# ---------------------------------------------------------------- forks
def forked(function):
    """What a forked child sent back, the error it raised or the signal that ended it."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(30)  # ends what hangs
        try:
            text = function()
        except BaseException:
            text = traceback.format_exc()
        os.write(send, str(text).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return text if status == 0 else f"ended by signal {status & 127}"


def convolve():
    x, w = tr.Tensor(np.ones((4, 3, 8, 8))), tr.Tensor(np.ones((4, 3, 3, 3)), requires_grad=True)
    ops.conv2d(x, w).sum().backward()
    return w.grad.sum()


def fork():
    import numba

    answer = str(4 * 4 * 27 * 36.0)
    assert forked(convolve) == answer  # before the parent has begun with kernels
    assert str(convolve()) == answer
    text = forked(convolve)
    print("works" if text == answer else text)
    print(forked(lambda: forked(convolve)))  # a grandchild is no better off
    assert forked(lambda: (tr.Tensor([3.0]) * 2).item()) == "6.0"
    assert str(convolve()) == answer
    print(numba.threading_layer())


@can_fork
@on_each_layer
def test_forked_child_works_or_says_why_not(layer):
    printed = in_child(fork, layer)
    assert printed.endswith(f"{layer}\n")
    if layer == "omp" and vendor() == "GNU":
        message = "RuntimeError: this process was forked from one that runs kernels on threads of GNU OpenMP"
        assert printed.count(message) == 2
        assert printed.count('multiprocessing.get_context("spawn")') == 2
    else:
        assert printed.startswith("works\n")


def vendor():
    from numba.np.ufunc import omppool

    return omppool.openmp_vendor


def fork_among_threads():
    """A lock that another thread holds at the moment of the fork would stay locked in the child for ever."""
    stop = threading.Event()

    def busy():
        x = tr.Tensor(np.ones(2 * memory.SMALLEST, F4), requires_grad=True)
        while not stop.is_set():
            memory.empty((memory.SMALLEST,), F4)
            (x[:2] * x[:2]).sum().backward()

    def child():
        x = tr.Tensor(np.ones(2), requires_grad=True)
        (x * x).sum().backward()
        return memory.empty((memory.SMALLEST,), F4).size + x.grad.sum()

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with switching_often():
            for _ in range(40):
                assert forked(child) == f"{memory.SMALLEST + 4.0}"
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@can_fork
def test_fork_while_threads_are_at_work():
    in_child(fork_among_threads, LAYERS[0])


def spawned(queue):
    queue.put(float(convolve()))


@on_each_layer
def test_spawned_process_works(layer, monkeypatch):
    """As the error message says."""
    monkeypatch.setenv("NUMBA_THREADING_LAYER", layer)
    expected = convolve()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=spawned, args=(queue,))
    process.start()
    assert queue.get(timeout=120) == expected
    process.join()
    assert process.exitcode == 0


if __name__ == "__main__":
    globals()[sys.argv[1]]()
