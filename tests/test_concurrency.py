"""Claim: threads, forks and worker processes change neither results nor whether there are any."""

import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from problems import Problem, exact, exact_gradients, our_gradients, ours, peer, peer_gradients
from tolerances import assert_all_accurate, assert_same_bits
from torch.utils.data import DataLoader, Dataset

import rnnkern

SHAPES = [(4, 1, 5, 70), (3, 9, 5, 33), (5, 2, 3, 8), (1, 1, 1, 1)]


def results(problem):
    return [*ours(problem), *(g for g in our_gradients(problem) if g is not None)]


@pytest.mark.usefixtures("backend")
def test_many_python_threads_at_once(cell):
    """Each with its own layer, each getting the bits it gets alone."""
    problems = [Problem(cell, torch.float32, *size, D=D) for size in SHAPES for D in (1, 2)] * 4
    alone = [results(problem) for problem in problems]
    start = threading.Barrier(4)

    def work(share):
        torch.set_num_threads(2)  # a setting of the calling thread
        start.wait()
        return [results(problem) for problem in share]

    with ThreadPoolExecutor(4) as pool:
        together = pool.map(work, [problems[i::4] for i in range(4)])
    for i, share in enumerate(together):
        for found, expected in zip(share, alone[i::4], strict=True):
            assert_same_bits(found, expected)


def test_threads_share_one_module():
    module = rnnkern.LSTM(5, 33, 2, bidirectional=True)
    x = torch.randn(6, 3, 5)
    expected = module(x)[0]

    def work(_):
        torch.set_num_threads(2)
        return module(x)[0]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(40)):
            assert_same_bits([found], [expected])


def test_other_python_threads_run_meanwhile():
    """The lock of the interpreter is released while a kernel runs."""
    layer = Problem("lstm", T=600, N=32, I=64, H=256).layer
    done = threading.Event()

    def work():
        rnnkern._C.forward("lstm", *layer, False)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    turns = 0
    while not done.wait(0.001):
        turns += 1
    worker.join()
    assert turns > 3


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("size", SHAPES, ids=str)
@pytest.mark.usefixtures("backend")
def test_any_number_of_threads(cell, size, count):
    """More threads than cores, rows or units as well; the result is right and repeatable."""
    problem = Problem(cell, torch.float32, *size, D=2)
    torch.set_num_threads(count)
    found, gradients = ours(problem), our_gradients(problem)
    assert_all_accurate(found, peer(problem), exact(problem), problem.output_names)
    assert_all_accurate(gradients, peer_gradients(problem), exact_gradients(problem), problem.names)
    assert_same_bits(ours(problem), found)


@pytest.mark.usefixtures("backend")
def test_number_of_threads_changes_before_backward(cell):
    problem = Problem(cell, torch.float64, N=9, H=33)
    layer = problem.layer.map(torch.Tensor.requires_grad_)
    inputs = [t for t in layer.inputs() if t is not None]
    y = rnnkern.autograd.recurrence(cell, *layer)[0]
    expected = torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)
    for count in (1, 5, 2):
        torch.set_num_threads(count)
        again = torch.autograd.grad(y.square().sum(), inputs, retain_graph=True)
        for a, b in zip(again, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


FORK = """
import os, sys, warnings
import torch, rnnkern
warnings.simplefilter("ignore", DeprecationWarning)
torch.manual_seed(0)
torch.set_num_threads(2)
modules = [rnnkern.LSTM(5, 70), rnnkern.GRU(5, 33, bidirectional=True), rnnkern.RNN(5, 8)]
x = torch.randn(4, 9, 5)

def run():
    results = []
    for module in modules:
        module.zero_grad()
        for batch in (x, x[:, :1]):
            y = module(batch)[0]
            y.square().sum().backward()
        results += [y.detach(), *(p.grad.clone() for p in module.parameters())]
    return results

expected = run()
child = os.fork()
if child == 0:
    torch.set_num_threads(1)  # as torch.multiprocessing and DataLoader do
    same = all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(run(), expected))
    os._exit(0 if same else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_after_fork():
    """The parent's threads do not exist in the child; with one thread none is needed."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)


class Encoded(Dataset):
    """Items that went through a recurrent module."""

    def __init__(self):
        self.module = rnnkern.GRU(4, 33, batch_first=True)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        with torch.no_grad():
            return self.module(torch.full((3, 4), float(index)))[0]


@pytest.mark.cpu
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_inside_a_data_loader_worker(start):
    if start not in torch.multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {start}")
    data = Encoded()
    torch.set_num_threads(1)  # as the workers have, for the same bits
    expected = torch.stack([data[i] for i in range(6)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
        loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=start)
        found = torch.cat(list(loader))
    assert_same_bits([found], [expected])


def test_backward_on_another_thread():
    module = rnnkern.GRU(4, 9)
    loss = module(torch.randn(3, 2, 4))[0].square().sum()
    expected = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
    with ThreadPoolExecutor(1) as pool:

        def backward():
            torch.set_num_threads(2)
            return torch.autograd.grad(loss, list(module.parameters()))

        assert_same_bits(pool.submit(backward).result(), expected)
