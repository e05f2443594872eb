"""Claim: the strategies that keep weights on the chip or launch one kernel a time step are right
as far as the emulation can tell.

For every cell, arithmetic and division into blocks, forward and backward, and chunk after chunk.
"""

import pytest
import torch
from conftest import BACKENDS, EMULATION, GPU, switch_to
from problems import Problem, exact, exact_gradients, our_gradients, ours, peer
from tolerances import assert_all_accurate, assert_gradients_accurate, assert_same_bits, largest

ARITHMETIC = {
    "f32": (torch.float32, False),
    "tf32": (torch.float32, True),
    "bf16": (torch.bfloat16, False),
    "f16": (torch.float16, False),
}
STRATEGIES = ("cluster", "persistent", "fused")
COMBINATIONS = [
    (strategy, arithmetic)
    for strategy in STRATEGIES
    for arithmetic in ARITHMETIC
    if (strategy, arithmetic) != ("fused", "f32")
]
# (T, N, I, H): units and rows that fill no tile, several blocks, shards of the batch, and groups of
# rows in a shard.
SIZES = [(2, 3, 4, 8), (3, 70, 5, 40), (2, 1, 3, 75)]
TF32_EPS = 2.0**-10


@pytest.fixture(params=STRATEGIES)
def strategy(request, monkeypatch):
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", request.param)
    return request.param


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def dtype(request, kernels, monkeypatch):
    """The type of the tensors, for a strategy; None for float32 multiplied in TF32."""
    strategy, arithmetic = request.param
    dtype, tf32 = ARITHMETIC[arithmetic]
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", strategy)
    allow_tf32(monkeypatch, tf32)
    return None if tf32 else dtype


def allow_tf32(monkeypatch, allowed):
    precision = "tf32" if allowed else "ieee"
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)


@pytest.fixture(autouse=True, params=[name for name in BACKENDS if name in (EMULATION, GPU)])
def kernels(request, monkeypatch):
    """On the emulation, and on a GPU where there is one."""
    if request.config.getoption("backend") not in (None, request.param):
        pytest.skip("another backend was asked for")
    switch_to(request.param, monkeypatch)
    return request.param


def check(problem):
    assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)
    assert_gradients_accurate(problem)


def check_tf32(problem):
    """Within some roundings of TF32, and not more exact than TF32 could be.

    Without gradients where relu's jump may turn one over (see tolerances).
    """
    found, truth = ours(problem), exact(problem)
    if problem.cell != "rnn_relu":
        found, truth = [*found, *our_gradients(problem)], [*truth, *exact_gradients(problem)]
    errors = [
        largest(mine.double() - right) / largest(right)
        for mine, right in zip(found, truth, strict=True)
        if right is not None
    ]
    assert max(errors) < 4 * TF32_EPS
    assert max(errors) > TF32_EPS / 64


def check_in_float32(problem, strategy, monkeypatch):
    """In full where the strategy has kernels for that, else in TF32."""
    in_full = (strategy, "f32") in COMBINATIONS
    allow_tf32(monkeypatch, not in_full)
    check(problem) if in_full else check_tf32(problem)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-N{}-I{}-H{}".format(*s))
def test_matches_reference(cell, dtype, size, D):
    T, N, I, H = size
    if dtype is None:
        check_tf32(Problem(cell, torch.float32, T, N, I, H, D))
    else:
        check(Problem(cell, dtype, T, N, I, H, D))


@pytest.mark.usefixtures("poisoned")
def test_across_chunks(cell, strategy, monkeypatch):
    """The emulated GPU has so little memory that this takes several chunks each way."""
    check_in_float32(Problem(cell, T=40, N=2, I=3, H=33, D=2), strategy, monkeypatch)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("D", [1, 2], ids=["D1", "D2"])
@pytest.mark.parametrize("lengths", [(5, 4, 4, 1), (3,) * 70 + (1,) * 61], ids=["N4", "N131"])
def test_rows_that_come_and_go(cell, lengths, D, monkeypatch):
    """Of packed sequences, which start late in the opposite direction."""
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "fused")
    problem = Problem(cell, I=3, H=40, D=D, lengths=lengths)
    check_in_float32(problem, "fused", monkeypatch)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("N", [3, 33])
def test_depths_of_several_batches(cell, N, monkeypatch):
    """Of chunks that a warp of a fused kernel loads at once."""
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "fused")
    check_in_float32(Problem(cell, T=2, N=N, H=530), "fused", monkeypatch)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("strategy", "cell", "H"),
    [("persistent", "lstm", 240), ("cluster", "gru", 384)],
    indirect=["strategy"],
)
def test_weights_partly_in_shared_memory(cell, H, strategy, monkeypatch):
    """Of the emulated GPU; a whole one has registers for all of them."""
    allow_tf32(monkeypatch, False)
    check(Problem(cell, T=2, N=3, I=2, H=H))


@pytest.mark.usefixtures("poisoned")
def test_without_biases_and_with_some_gradients(cell, strategy, monkeypatch):
    problem = Problem(cell, T=3, N=3, H=17, bias=False)
    check_in_float32(problem, strategy, monkeypatch)
    everything, names = our_gradients(problem), problem.names
    for wanted in (["x"], ["h0"], ["w_hh[0]"], []):
        found = our_gradients(problem, [name in wanted for name in names])
        kept = [g for g, name in zip(everything, names, strict=True) if name in wanted]
        assert_same_bits([g for g in found if g is not None], kept)


def test_training_and_inference_and_every_run_give_the_same_bits(cell, dtype):
    problem = Problem(cell, dtype or torch.float32, T=3, N=9, H=24, D=2)
    first = ours(problem)
    assert_same_bits(ours(problem, training=True), first)
    gradients = [g for g in our_gradients(problem) if g is not None]
    for _ in range(2):
        assert_same_bits(ours(problem), first)
        assert_same_bits([g for g in our_gradients(problem) if g is not None], gradients)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"dtype": torch.float64}, "float64"),
        ({"P": 3}, "projection"),
        ({"H": 8, "P": 8}, "projection"),
    ],
)
def test_what_it_cannot_run_is_refused(strategy, options, reason, monkeypatch):
    allow_tf32(monkeypatch, True)
    with pytest.raises(RuntimeError, match=f"RNNKERN_CUDA_STRATEGY: {strategy} .*{reason}"):
        ours(Problem("lstm", **options))


@pytest.mark.parametrize("strategy", ["cluster", "persistent"], indirect=True)
@pytest.mark.parametrize(
    ("options", "reason"),
    [({"lengths": (3, 1)}, "packed"), ({"H": 600}, "do not fit|at most 512 hidden units")],
)
def test_what_resident_weights_cannot_run_is_refused(strategy, options, reason, kernels):
    if kernels == GPU and "H" in options:
        pytest.skip("a whole GPU has room for it")
    with pytest.raises(RuntimeError, match=f"RNNKERN_CUDA_STRATEGY: {strategy} .*{reason}"):
        ours(Problem("lstm", **options))


def test_fused_kernels_do_not_multiply_float32_in_full(monkeypatch):
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "fused")
    allow_tf32(monkeypatch, False)
    with pytest.raises(RuntimeError, match=r"fused cannot run this: .*float32 without TF32"):
        ours(Problem("gru"))


def test_a_batch_that_all_multiprocessors_cannot_hold_is_refused(monkeypatch, kernels):
    if kernels == GPU:
        pytest.skip("a whole GPU has room for it")
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "persistent")
    with pytest.raises(RuntimeError, match="a batch of 100000 do not fit"):
        ours(Problem("gru", T=1, N=100_000, I=1))
