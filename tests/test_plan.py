"""Claim: what a call would do can be asked for, of recorded GPUs without having one."""

import re

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import rnnkern
from rnnkern import _C

MEASURED = {"H200"}
"""GPUs on which strategies were timed."""


def plan(gpu, cell="lstm", dtype=torch.bfloat16, T=100, N=16, H=512, P=0, D=1):
    return dict(_C.explain(cell, dtype, [N] * T, H, H, P, D, gpu))


def explained(capsys, *arguments, **options):
    assert rnnkern.explain(*arguments, **options) is None
    return capsys.readouterr().out


@pytest.mark.parametrize("gpu", rnnkern.gpus())
def test_every_recorded_gpu_runs_every_cell(gpu, cell):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        for H in (1, 256, 4096):
            found = plan(gpu, cell, dtype, H=H)
            assert found["device"] == gpu
            assert found["strategy"] == "stepwise" or gpu in MEASURED


def test_the_gpus_that_are_recorded():
    assert {"T4", "A100", "RTX 4090", "H100", "H200", "B200"} <= set(rnnkern.gpus())


@pytest.mark.parametrize(
    ("options", "strategy"),
    [
        ({}, "cluster"),
        ({"H": 128, "N": 1}, "cluster"),
        ({"H": 1024}, "persistent"),
        ({"cell": "gru", "H": 2048}, "persistent"),
        ({"H": 4096}, "stepwise"),
        ({"T": 1}, "stepwise"),
        ({"H": 1024, "N": 1000}, "stepwise"),
        ({"P": 64}, "stepwise"),
        ({"dtype": torch.float64}, "stepwise"),
        ({"dtype": torch.float32}, "stepwise"),
    ],
)
def test_the_fastest_is_chosen_where_that_was_measured(options, strategy):
    assert plan("H200", **options)["strategy"] == strategy
    assert plan("H100", **options)["strategy"] == "stepwise"


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    """Whether TF32 is allowed is part of a plan."""
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")


@pytest.mark.parametrize(
    ("gpu", "strategy", "reason"),
    [
        ("T4", "cluster", "compute capability 9.0.*has 7.5"),
        ("A100", "cluster", "compute capability 9.0.*has 8.0"),
        ("RTX 4090", "cluster", "compute capability 9.0.*has 8.9"),
        ("T4", "persistent", "compute capability 8.0.*has 7.5"),
        ("A100", "persistent", "possible, but not measured"),
        ("T4", "fused", "compute capability 8.0.*has 7.5"),
        ("A100", "fused", "possible, but not run"),
        ("H200", "fused", "possible, but not run"),
        ("B200", "cluster", "possible, but not measured"),
        ("H200", "persistent", "possible, but slower"),
    ],
)
def test_why_a_strategy_was_not_chosen(gpu, strategy, reason):
    assert re.search(reason, plan(gpu, H=256)[strategy])


def test_a_block_has_no_more_units_than_threads():
    assert plan("H200", H=512)["strategy"] == "cluster"
    assert plan("H200", H=520)["cluster"] == "takes at most 512 hidden units"


@pytest.mark.parametrize(("precision", "strategy"), [("tf32", "persistent"), ("ieee", "stepwise")])
def test_float32_follows_the_switch_of_tf32(precision, strategy, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", precision)
    assert plan("H200", H=1024, dtype=torch.float32)["strategy"] == strategy


def test_why_another_strategy_was_not_chosen(monkeypatch):
    assert "exact" in plan("H200", dtype=torch.float32)["persistent"]
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "stepwise")
    assert plan("H200")["cluster"] == "possible, but another was asked for"


@pytest.mark.parametrize(
    ("gpu", "strategy", "largest"),
    [
        ("H200", "persistent", 1584),
        ("A100", "persistent", 1296),
        ("RTX 4090", "persistent", 1536),
        ("B200", "persistent", 1776),
    ],
)
def test_a_strategy_is_refused_where_the_weights_do_not_fit(gpu, strategy, largest):
    """Sizes of an LSTM in bfloat16 with a batch of 16."""
    fitting = plan(gpu, H=largest)
    assert fitting["strategy"] == strategy or fitting[strategy].startswith("possible")
    assert re.search(r"weights.*, [\d.]+ MiB, .* do not fit", plan(gpu, H=largest + 8)[strategy])


def test_training_may_need_more_room_than_inference():
    """As backward exchanges the gradients of all gates."""
    assert plan("RTX 4090", H=1440)["persistent"].startswith("possible, but")
    reason = plan("RTX 4090", H=1448)["persistent"]
    assert reason.startswith("possible without gradients only: backward")


@pytest.mark.parametrize("gpu", rnnkern.gpus())
def test_batches_of_any_size_have_a_plan(gpu, cell):
    """Of none, too: and no shard of the batch is empty."""
    for N in (0, 1, 7, 529, 10**7):
        found = plan(gpu, cell, T=2, N=N, H=16)
        assert {found["strategy"], *found} >= {"cluster", "persistent", "fused", "stepwise"}
    assert ("takes a batch of at most" in found["fused"]) == (gpu != "T4")


def test_what_fits_depends_on_gates_and_dtype():
    assert "do not fit" in plan("A100", H=1400)["persistent"]
    assert "possible" in plan("A100", cell="gru", H=1400)["persistent"]
    assert "do not fit" in plan("A100", dtype=torch.float32, H=1296)["persistent"]


@pytest.mark.parametrize(
    ("options", "reason"), [({"dtype": torch.float64}, "float64"), ({"P": 64}, "projection")]
)
def test_what_the_resident_kernels_cannot_do(options, reason):
    for strategy in ("cluster", "persistent"):
        assert reason in plan("H200", **options)[strategy]


def test_packed_sequences_run_step_by_step():
    found = dict(_C.explain("lstm", torch.bfloat16, [3, 2, 1], 8, 8, 0, 1, "H200"))
    assert "packed" in found["cluster"]
    assert "packed" in found["persistent"]


@pytest.mark.parametrize(
    ("strategy", "options", "blocks"),
    [
        ("persistent", {"H": 1024, "N": 16}, "86 of 12 units .* 1 shards of 16 rows"),
        ("persistent", {"H": 512, "N": 16}, "43 of 12 units .* 3 shards of 6 rows"),
        ("persistent", {"H": 512, "N": 16, "D": 2}, "29 of 18 units .* 2 shards of 8 rows"),
        ("cluster", {"H": 512, "N": 64}, "16 of 32 units .* 7 shards of 10 rows"),
        ("cluster", {"H": 128, "N": 9}, "16 of 8 units .* 5 shards of 2 rows"),
        ("fused", {"H": 512, "N": 16}, "64 of 8 units .* 1 shards of 16 rows"),
        ("fused", {"cell": "gru", "H": 100, "N": 200}, "7 of 16 units .* 4 shards of 64 rows"),
    ],
)
def test_how_a_forced_strategy_divides_the_work(strategy, options, blocks, monkeypatch):
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", strategy)
    assert re.match(blocks, plan("H200", **options)["blocks"])


def test_chunks_grow_with_memory_and_never_pass_the_sequence():
    rows = [int(plan(gpu, T=10**6)["input projection"].split()[0]) for gpu in ("T4", "H200")]
    assert 1 < rows[0] < rows[1]
    assert plan("H200", T=2, N=3)["input projection"].startswith("6 rows")


def test_a_strategy_can_be_forced(monkeypatch):
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "stepwise")
    assert plan("H200")["strategy"] == "stepwise"
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "cluster")
    with pytest.raises(
        RuntimeError, match=r"RNNKERN_CUDA_STRATEGY: cluster cannot run this: .*9\.0"
    ):
        plan("A100")
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "fast")
    text = "RNNKERN_CUDA_STRATEGY: expected one of cluster, persistent, fused, stepwise, got 'fast'"
    with pytest.raises(RuntimeError, match=text):
        plan("A100")


def test_a_forced_strategy_is_obeyed_or_refused_when_run(monkeypatch):
    from cuda_emulation import build

    x, h, w = torch.zeros(1, 1, 2), torch.zeros(1, 1, 3), torch.zeros(3, 3)
    call = ("rnn_tanh", x, None, [h], [w[:, :2], w, None, None, None], False)
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "stepwise")
    assert len(build.emulated().forward(*call)) == 2
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "fastest")
    with pytest.raises(RuntimeError, match="RNNKERN_CUDA_STRATEGY"):
        build.emulated().forward(*call)


def test_explain_prints_every_layer(capsys, monkeypatch):
    monkeypatch.delenv("RNNKERN_ISA", raising=False)
    module = rnnkern.LSTM(8, 16, num_layers=3, bidirectional=True, proj_size=5)
    text = explained(capsys, module, torch.zeros(4, 2, 8))
    assert text.count("layer ") == 3
    assert text.count(f"instruction set: {rnnkern.backends()[0]}") == 3
    assert explained(capsys, module, torch.zeros(4, 8)).count("device: cpu") == 3
    text = explained(capsys, module, torch.zeros(4, 2, 8), device="T4")
    assert text.count("strategy: stepwise") == 3


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_explain_takes_cells(name, capsys):
    cell = getattr(rnnkern, name)(4, 8)
    assert explained(capsys, cell, torch.zeros(3, 4)).startswith(f"{name}\n  device: cpu")
    assert "strategy" in explained(capsys, cell, torch.zeros(4), device="H100")


def test_explain_on_the_cpu_says_how_the_work_is_divided(capsys, monkeypatch):
    monkeypatch.setenv("RNNKERN_ISA", "scalar")
    module = rnnkern.GRU(64, 64)
    assert "instruction set: scalar" in explained(capsys, module, torch.zeros(50, 8, 64))
    assert "rows of the batch" in explained(capsys, module, torch.zeros(50, 64, 64))
    assert "hidden units" in explained(capsys, module, torch.zeros(50, 2, 64))
    torch.set_num_threads(1)
    assert "threads: one thread" in explained(capsys, module, torch.zeros(50, 64, 64))


def test_explain_reads_packed_and_batch_first_input(capsys):
    module = rnnkern.RNN(4, 8, batch_first=True)
    packed = pack_sequence([torch.zeros(7, 4), torch.zeros(2, 4)])
    assert "9 rows" in explained(capsys, module, packed, device="A100")
    assert "30 rows" in explained(capsys, module, torch.zeros(3, 10, 4), device="A100")


def test_explain_refuses_what_it_does_not_know():
    module, x = rnnkern.LSTM(4, 8), torch.zeros(3, 2, 4)
    with pytest.raises(TypeError, match="module: expected one of rnnkern's, got LSTM"):
        rnnkern.explain(torch.nn.LSTM(4, 8), x)
    with pytest.raises(RuntimeError, match=r"device: expected one of cpu, cuda, T4.*, got 'K80'"):
        rnnkern.explain(module, x, device="K80")
    with pytest.raises(RuntimeError, match="dtype"):
        rnnkern.explain(module, x.long())
