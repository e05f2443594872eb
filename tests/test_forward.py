"""Claim: one layer's forward is right for every cell, dtype, instruction set, size and option."""

import pytest
import torch
from problems import MANY_CHUNKS, MANY_CHUNKS_LENGTHS, Problem, exact, ours, peer, torch_layer
from tolerances import assert_accurate, assert_all_accurate, assert_equivalent, assert_same_bits

from rnnkern import _C, reference

# (T, N, I, H): single steps, single rows, widths around and below a vector, rows past a tile.
SIZES = [
    (1, 1, 1, 1),
    (1, 3, 4, 16),
    (1, 40, 19, 70),
    (7, 1, 5, 17),
    (4, 1, 2, 64),
    (2, 1, 40, 130),
    (5, 2, 3, 4),
    (3, 7, 9, 33),
    (2, 13, 6, 65),
    (3, 33, 17, 32),
    (2, 70, 19, 5),
    (6, 4, 1, 3),
    (90, 3, 2, 9),
]
BIG = [(3, 5, 300, 129), (2, 35, 70, 260), (400, 2, 3, 16), (3, 1, 5, 515)]
IDS = ["T{}-N{}-I{}-H{}".format(*size) for size in SIZES]
BIG_IDS = ["T{}-N{}-I{}-H{}".format(*size) for size in BIG]

PROJECTING = [name for name, traits in _C.cells().items() if traits["projection"]]


@pytest.fixture(params=[1, 2], ids=["D1", "D2"])
def D(request):
    return request.param


@pytest.mark.usefixtures("poisoned")
def test_fresh_memory_is_poisoned():
    """Or the tests that rely on it would find nothing."""
    for count in (1, 100, 100_000, 10_000_000):
        assert torch.isnan(torch.empty(count)).all()


def check(problem):
    assert_all_accurate(ours(problem), peer(problem), exact(problem), problem.output_names)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_matches_reference(cell, dtype, size, D):
    check(Problem(cell, dtype, *size, D=D))


@pytest.mark.usefixtures("backend", "poisoned", "threads")
@pytest.mark.parametrize("size", BIG, ids=BIG_IDS)
def test_matches_reference_at_larger_sizes(cell, size):
    check(Problem(cell, torch.float32, *size))
    check(Problem(cell, torch.float32, *size, D=2))


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("lengths", [None, MANY_CHUNKS_LENGTHS], ids=["padded", "packed"])
def test_across_chunks(cell, D, lengths):
    check(Problem(cell, torch.float64, **MANY_CHUNKS, D=D, lengths=lengths))


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("N", [1, 3, 33])
def test_without_biases(cell, dtype, N):
    check(Problem(cell, dtype, N=N, H=17, D=2, bias=False))


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("missing", ["b_ih", "b_hh"])
def test_with_one_of_two_biases(cell, missing):
    problem = Problem(cell, torch.float64, H=9)
    layer = problem.layer
    index = ["w_ih", "w_hh", "b_ih", "b_hh"].index(missing)
    zeroed = layer._replace(weights=[*layer.weights])
    zeroed.weights[index] = torch.zeros_like(layer.weights[index])
    layer.weights[index] = None
    assert_equivalent(_C.forward(cell, *layer, False), _C.forward(cell, *zeroed, False))


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize(("N", "P"), [(1, 3), (1, 32), (3, 1), (5, 16), (33, 7)])
@pytest.mark.parametrize(
    "projecting", [c for c, traits in _C.cells().items() if traits["projection"]]
)
def test_projection(projecting, dtype, N, P):
    check(Problem(projecting, dtype, N=N, H=33, P=P, D=2))
    check(Problem(projecting, dtype, T=1, N=N, H=33, P=P, bias=False))


def test_projection_of_a_cell_that_has_none():
    for cell, traits in _C.cells().items():
        if not traits["projection"]:
            with pytest.raises((RuntimeError, ValueError), match=r"w_hr|projection"):
                ours(Problem(cell, P=3))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("T", [1, 3])
def test_empty_batch(cell, dtype, T, D):
    problem = Problem(cell, dtype, T=T, N=0, D=D)
    for mine, truth in zip(ours(problem), exact(problem), strict=True):
        assert mine.shape == truth.shape
        assert mine.dtype == dtype


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("size", SIZES[:8], ids=IDS[:8])
def test_training_and_inference_give_the_same_bits(cell, dtype, size):
    for D in (1, 2):
        problem = Problem(cell, dtype, *size, D=D)
        assert_same_bits(ours(problem, training=True), ours(problem, training=False))


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("size", [SIZES[9], BIG[0]], ids=[IDS[9], BIG_IDS[0]])
def test_two_runs_give_the_same_bits(cell, dtype, size):
    problem = Problem(cell, dtype, *size, D=2)
    expected = ours(problem)
    for _ in range(3):
        assert_same_bits(ours(problem), expected)


@pytest.mark.cpu
@pytest.mark.parametrize("isa", _C.backends())
@pytest.mark.parametrize("N", [3, 33])
def test_rows_of_the_batch_do_not_depend_on_each_other(cell, isa, N, monkeypatch):
    """Neither on their values nor on their places: the bits are the same."""
    monkeypatch.setenv("RNNKERN_ISA", isa)
    x, _, states, weights = Problem(cell, T=4, N=N, I=9, H=35, D=2).layer
    order = torch.randperm(N)
    keep = order[0].item()

    def answer(x, states):
        y, *rest = _C.forward(cell, x, None, states, weights, True)
        finals, residuals = rest[: len(states)], rest[len(states) :]
        wanted = [True] * (1 + len(states)) + [False] * len(weights)
        gradients = _C.backward(cell, x, None, states, weights, y, residuals, y, finals, wanted)
        return [y, *finals, *gradients[: 1 + len(states)]]

    def row(tensors, n):
        return [tensor[:, n] for tensor in tensors]

    found = answer(x, states)
    moved = answer(x[:, order], [state[:, order] for state in states])
    assert_same_bits([tensor[:, order] for tensor in found], moved)
    others = [torch.randn_like(tensor) for tensor in (x, *states)]
    for other, tensor in zip(others, (x, *states), strict=True):
        other[:, keep] = tensor[:, keep]
    assert_same_bits(row(answer(others[0], others[1:]), keep), row(found, keep))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("size", [(3, 4, 5, 6), (2, 1, 3, 40), (4, 9, 33, 17)])
def test_strided_arguments(cell, dtype, size):
    """Every argument as a view with gaps, and as a transposed view."""
    layer = Problem(cell, dtype, *size, D=2).layer
    expected = _C.forward(cell, *layer, False)
    gaps = layer.map(lambda t: torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0])
    turned = layer.map(lambda t: t.mT.contiguous().mT if t.dim() > 1 else t)
    assert_same_bits(_C.forward(cell, *gaps, False), expected)
    assert_same_bits(_C.forward(cell, *turned, False), expected)


@pytest.mark.usefixtures("backend")
def test_broadcast_arguments(cell):
    """Views with stride 0, as expand makes them."""
    layer = Problem(cell, N=3).layer
    layer = layer._replace(
        x=layer.x[:, :1].expand_as(layer.x),
        states=[s[:, :1].expand_as(s) for s in layer.states],
    )
    copied = layer.map(torch.Tensor.contiguous)
    assert_same_bits(_C.forward(cell, *layer, False), _C.forward(cell, *copied, False))


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("T", [1, 3])
def test_arguments_are_left_alone_and_results_share_no_memory(cell, T, D, training):
    layer = Problem(cell, T=T, N=2, H=8, D=D).layer
    before = layer.map(torch.Tensor.clone)
    results = _C.forward(cell, *layer, training)
    for now, then in zip(layer.inputs(), before.inputs(), strict=True):
        assert now is None or torch.equal(now, then)
    tensors = [t for t in [*layer.inputs(), *results] if t is not None and t.numel()]
    storages = {t.untyped_storage().data_ptr() for t in tensors}
    assert len(storages) == len(tensors)


def test_results_are_contiguous_and_counted(cell, dtype):
    problem = Problem(cell, dtype, D=2)
    traits = _C.cells()[cell]
    results = _C.forward(cell, *problem.layer, True)
    assert len(results) == 1 + traits["states"] + traits["residuals"]
    assert len(_C.forward(cell, *problem.layer, False)) == 1 + traits["states"]
    assert all(t.is_contiguous() for t in results)


@pytest.mark.usefixtures("backend", "poisoned")
@pytest.mark.parametrize("magnitude", [1e-30, 1e-6, 1e-3, 30.0, 1e30])
@pytest.mark.parametrize("precise", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_small_and_large_numbers(cell, precise, magnitude):
    """Near zero the activations keep their relative accuracy; far out they saturate."""
    layer = Problem(cell, precise, T=2, N=4, I=3, H=19, bias=False).layer
    layer = layer._replace(x=layer.x * magnitude, states=[s * magnitude for s in layer.states])
    truth = reference.layer(cell, *layer.map(torch.Tensor.double))
    theirs = torch_layer(cell, layer)
    mine = _C.forward(cell, *layer, False)
    for a, b, c in zip(mine, theirs, truth, strict=True):
        assert_accurate(a, b, c, scale=min(1.0, magnitude))


@pytest.mark.cpu
def test_instruction_set_is_the_best_or_the_one_asked_for(monkeypatch):
    monkeypatch.delenv("RNNKERN_ISA", raising=False)
    assert _C.active_backend() == _C.backends()[0]
    for name in reversed(_C.backends()):
        monkeypatch.setenv("RNNKERN_ISA", name)
        assert _C.active_backend() == name
