"""Claim: on tensors of a GPU the modules do what they do on a CPU, on PyTorch's own terms.

That each kernel is right is what the tests with the backend "cuda" show.
"""

import copy
import io

import pytest
import torch
from pairs import CELLS, RNNS, leaves, pair, run, states
from problems import Problem
from tolerances import assert_all_accurate, assert_same_bits
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.utils.rnn import pack_padded_sequence

import rnnkern

DEVICE = "cuda"
available = torch.cuda.is_available() and rnnkern.cuda_version is not None
pytestmark = [
    pytest.mark.skipif(not available, reason="no GPU here, or a build without CUDA"),
    pytest.mark.own_device,
]

OPTIONS = [
    {},
    {"num_layers": 3},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"bias": False},
]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    """torch.nn would multiply in TF32 otherwise, and so would we."""
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")


def on_gpu(module):
    return copy.deepcopy(module).to(DEVICE)


def seeded(module, *inputs):
    torch.manual_seed(3)
    return run(module, *inputs)


def names(results):
    return [str(index) for index in range(len(results))]


def assert_as_torch(name, options, make_input, dtype=torch.float32):
    """Outputs and gradients, against torch.nn on the GPU in this dtype and in float64."""
    theirs, ours = pair(name, 6, 33, dtype=dtype, device=DEVICE, **options)
    x = make_input(dtype)
    exact = seeded(copy.deepcopy(theirs).double(), x.to(torch.float64))
    found = seeded(ours, x)
    assert all(t.is_cuda == (DEVICE == "cuda") for t in found)
    assert_all_accurate(found, seeded(theirs, x), exact, names(found))


@pytest.mark.parametrize("name", RNNS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
def test_networks(name, options):
    assert_as_torch(name, options, lambda dtype: torch.randn(7, 5, 6, dtype=dtype, device=DEVICE))


@pytest.mark.parametrize("name", RNNS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(name, dtype):
    make = torch.randn(9, 5, 6, device=DEVICE).to
    assert_as_torch(name, {"bidirectional": True}, make, dtype)


def test_projection():
    options = {"proj_size": 7, "num_layers": 2, "bidirectional": True}
    assert_as_torch("LSTM", options, torch.randn(7, 5, 6, device=DEVICE).to)


@pytest.mark.parametrize("name", RNNS)
def test_packed(name):
    x = torch.randn(7, 4, 6, device=DEVICE)

    def packed(dtype):
        return pack_padded_sequence(x.to(dtype), [3, 7, 1, 7], enforce_sorted=False)

    assert_as_torch(name, {"num_layers": 2, "bidirectional": True}, packed)


@pytest.mark.parametrize("name", RNNS)
def test_dropout_is_torch_dropout_between_the_layers(name):
    _, ours = pair(name, 8, 8, num_layers=2, dropout=0.5, device=DEVICE)
    lower, upper = (getattr(rnnkern, name)(8, 8).to(DEVICE, torch.float64) for _ in range(2))
    for layer, module in enumerate((lower, upper)):
        for key in module.state_dict():
            source = getattr(ours, key.replace("l0", f"l{layer}"))
            getattr(module, key).data.copy_(source.data)
    x = torch.randn(7, 5, 8, dtype=torch.float64, device=DEVICE)
    torch.manual_seed(5)
    expected = upper(torch.dropout(lower(x)[0], 0.5, True))[0]
    torch.manual_seed(5)
    assert torch.equal(ours(x)[0], expected)
    assert torch.equal(ours.eval()(x)[0], upper(lower(x)[0])[0])


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_arguments_are_left_alone_and_results_share_no_memory(cell, training):
    layer = Problem(cell, T=3, N=2, H=8, D=2).layer.map(lambda t: t.to(DEVICE))
    before = layer.map(torch.Tensor.clone)
    results = rnnkern._C.forward(cell, *layer, training)
    for now, then in zip(layer.inputs(), before.inputs(), strict=True):
        assert now is None or torch.equal(now, then)
    tensors = [t for t in [*layer.inputs(), *results] if t is not None and t.numel()]
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)


def test_memory_does_not_grow_from_call_to_call():
    module = rnnkern.LSTM(16, 32, bidirectional=True, device=DEVICE)
    x = torch.randn(5, 4, 16, device=DEVICE)
    allocated = []
    for _ in range(40):
        run(module, x)
        allocated.append(torch.cuda.memory_allocated())
    assert allocated[2] == allocated[-1]


@pytest.mark.parametrize("name", CELLS)
def test_cells(name):
    theirs, ours = pair(name, 6, 33, device=DEVICE)
    x = torch.randn(5, 6, dtype=torch.float64, device=DEVICE)
    for mine, other in zip(run(ours, x), run(theirs, x), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", RNNS)
def test_backward_in_eval_mode_and_twice(name):
    _, ours = pair(name, 3, 4, device=DEVICE)
    ours.eval()
    x = torch.randn(3, 2, 3, dtype=torch.float64, device=DEVICE, requires_grad=True)
    assert gradcheck(lambda x: ours(x)[0], x)
    assert gradgradcheck(lambda x: ours(x)[0], x)


def test_replacing_moving_and_saving_a_model():
    model = nn.Sequential(nn.Linear(6, 6), nn.LSTM(6, 8, device=DEVICE)).to(DEVICE)
    x = torch.randn(3, 2, 6, device=DEVICE)
    before = leaves(model(x))
    assert rnnkern.replace_rnn_(model) == ["1"]
    after = leaves(model(x))
    for mine, other in zip(after, before, strict=True):
        torch.testing.assert_close(mine, other)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    model.load_state_dict(torch.load(buffer))
    on_cpu = leaves(model.cpu()(x.cpu()))
    for mine, other in zip(on_cpu, after, strict=True):
        torch.testing.assert_close(mine, other.cpu())


def test_half_and_autocast():
    module = rnnkern.GRU(6, 8, device=DEVICE)
    x = torch.randn(3, 2, 6, device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert module(x)[0].dtype == torch.bfloat16
    assert module.half()(x.half())[0].dtype == torch.float16


@pytest.mark.parametrize("name", RNNS)
def test_it_waits_for_the_stream_it_is_on(name):
    """What made the input on the current stream has run before, what reads the output after."""
    _, module = pair(name, 64, 64, bidirectional=True, device=DEVICE)
    x = torch.randn(20, 8, 64, dtype=torch.float64, device=DEVICE)
    expected = run(module, x)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.full_like(x, torch.nan)
        torch.cuda._sleep(50_000_000)
        late.copy_(x)
        found = run(module, late)
    stream.synchronize()
    assert_same_bits(found, expected)


@pytest.mark.parametrize("name", RNNS)
def test_it_does_not_wait_for_the_gpu(name):
    _, module = pair(name, 6, 8, num_layers=2, bidirectional=True, device=DEVICE)
    x = torch.randn(5, 3, 6, dtype=torch.float64, device=DEVICE)
    run(module, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(module, x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", RNNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_a_cuda_graph(name, dtype):
    _, module = pair(name, 16, 32, num_layers=2, bidirectional=True, dtype=dtype, device=DEVICE)
    x = torch.randn(6, 4, 16, device=DEVICE).to(dtype).requires_grad_()
    dy = torch.randn(6, 4, 64, device=DEVICE).to(dtype)

    def step():
        y, _ = module(x)
        gradients = torch.autograd.grad(y, [x, *module.parameters()], dy)
        return [y.detach(), *gradients]  # a graph kept alive would belong to another stream

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
        for result in captured:
            result.fill_(torch.nan)
    graph.replay()
    assert_same_bits(captured, step())


@pytest.mark.parametrize("name", RNNS)
def test_the_same_bits_every_time(name):
    _, module = pair(name, 40, 65, bidirectional=True, dtype=torch.float32, device=DEVICE)
    x = torch.randn(30, 17, 40, device=DEVICE)
    first = run(module, x)
    for _ in range(20):
        assert_same_bits(run(module, x), first)


@pytest.mark.parametrize("strategy", ["cluster", "persistent", "fused"])
def test_a_thousand_runs_of_a_strategy_give_the_same_bits(strategy, monkeypatch):
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", strategy)
    _, module = pair("LSTM", 64, 256, dtype=torch.bfloat16, device=DEVICE)
    x = torch.randn(20, 33, 64, device=DEVICE, dtype=torch.bfloat16)
    first = run(module, x)
    for _ in range(1000):
        assert_same_bits(run(module, x), first)


def test_tf32_is_obeyed(monkeypatch):
    """By torch.nn's switch: with it our error is that of TF32, without that of float32."""
    theirs, ours = pair("GRU", 64, 128, dtype=torch.float32, device=DEVICE)
    x = torch.randn(10, 16, 64, device=DEVICE)
    exact = leaves(copy.deepcopy(theirs).double()(x.double()))

    def error(module):
        return (leaves(module(x))[0].double() - exact[0]).abs().max().item()

    precise = error(ours)
    assert precise < 2e-6
    monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "tf32")
    if torch.cuda.get_device_capability() >= (8, 0):
        assert error(ours) > 10 * precise
    assert error(ours) <= max(2 * error(theirs), 4e-3)


def test_every_tensor_on_the_same_device():
    module, x = rnnkern.LSTM(6, 8, device=DEVICE), torch.randn(3, 2, 6)
    with pytest.raises(RuntimeError, match="not at the same device"):
        module(x)
    with pytest.raises(RuntimeError, match="not at the same device"):
        module(x.to(DEVICE), states(rnnkern.LSTM(6, 8), 2))


def test_out_of_memory_is_an_error_and_passes():
    module = rnnkern.RNN(1, 1, device=DEVICE)
    x = torch.zeros(1, 1, 1, device=DEVICE).expand(1, 2**40, 1)
    with pytest.raises(torch.OutOfMemoryError):
        module(x, x)
    small = torch.randn(3, 2, 1)
    torch.testing.assert_close(module(small.to(DEVICE))[0].cpu(), module.cpu()(small)[0])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_on_another_gpu_than_the_current_one():
    module = rnnkern.LSTM(6, 8, bidirectional=True)
    x = torch.randn(3, 2, 6)
    expected = run(module, x)
    torch.cuda.set_device(0)
    for mine, other in zip(run(on_gpu(module).to("cuda:1"), x.to("cuda:1")), expected, strict=True):
        assert mine.device == torch.device("cuda:1")
        torch.testing.assert_close(mine.cpu(), other)


def test_a_forced_strategy(monkeypatch, capsys):
    module, x = rnnkern.LSTM(6, 8, device=DEVICE), torch.randn(3, 2, 6, device=DEVICE)
    expected = module(x)[0]
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "stepwise")
    torch.testing.assert_close(module(x)[0], expected)
    rnnkern.explain(module, x)
    assert "strategy: stepwise" in capsys.readouterr().out
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "fastest")
    with pytest.raises(RuntimeError, match="RNNKERN_CUDA_STRATEGY"):
        module(x)


def tree(result):
    return [t.detach().cpu() for t in leaves(result)]


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it imports and compiles with
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("name", RNNS)
def test_compiled(name, mode):
    """Forward and backward in one graph, captured or not."""
    torch._dynamo.reset()
    _, module = pair(name, 6, 16, num_layers=2, bidirectional=True, device=DEVICE)
    compiled = torch.compile(module, fullgraph=True, mode=mode)
    for _ in range(3):  # the third call replays
        x = torch.randn(7, 3, 6, dtype=torch.float64, device=DEVICE)
        found, expected = (
            [y, *torch.autograd.grad(y.square().sum(), list(module.parameters()))]
            for y in (compiled(x)[0], module(x)[0])
        )
        torch.testing.assert_close(tree(found), tree(expected))
    torch._dynamo.reset()


@pytest.mark.parametrize("where", ["cpu", DEVICE])
@pytest.mark.parametrize("name", RNNS)
def test_lengths(name, where):
    _, module = pair(name, 6, 16, num_layers=2, bidirectional=True, batch_first=True)
    x, lengths = torch.randn(5, 7, 6, dtype=torch.float64), torch.tensor([7, 0, 3, 7, 1])
    expected = run_with(module, x, lengths=lengths)
    found = run_with(on_gpu(module), x.to(DEVICE), lengths=lengths.to(where))
    torch.testing.assert_close(found, expected)


def test_cell_states():
    _, module = pair("LSTM", 6, 16, bidirectional=True, device="cpu")
    x = torch.randn(7, 3, 6, dtype=torch.float64)
    expected = run_with(module, x, return_cell_states=True)
    found = run_with(on_gpu(module), x.to(DEVICE), return_cell_states=True)
    torch.testing.assert_close(found, expected)


def run_with(module, x, **options):
    """Outputs and the gradients of parameters."""
    results = leaves(module(x, **options))
    loss = sum(t.square().sum() for t in results)
    return [*tree(results), *tree(torch.autograd.grad(loss, list(module.parameters())))]


@pytest.mark.parametrize("name", RNNS)
def test_stream(name):
    _, module = pair(name, 6, 16, num_layers=2, device=DEVICE)
    x = torch.randn(9, 3, 6, dtype=torch.float64, device=DEVICE)
    stream = rnnkern.Stream(module, 3)
    found = torch.cat([stream(chunk) for chunk in x.split([1, 5, 3])])
    torch.testing.assert_close(found, module(x)[0].detach())
    weights_before = stream(x)
    stream.reset()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    assert not torch.equal(stream(x), weights_before)  # another state
    stream.reset()
    torch.testing.assert_close(stream(x), found)  # the weights of before


def test_scaled_gradients():
    module = rnnkern.LSTM(6, 16, device=DEVICE)
    optimizer, scaler = torch.optim.SGD(module.parameters(), lr=0.1), torch.amp.GradScaler(DEVICE)
    before = [p.detach().clone() for p in module.parameters()]
    for _ in range(20):  # the scale falls from 65536 until nothing overflows
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.float16):
            loss = module(torch.randn(7, 3, 6, device=DEVICE))[0].float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    after = list(module.parameters())
    assert all(torch.isfinite(p).all() for p in after)
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("name", RNNS)
def test_transforms(name):
    _, module = pair(name, 6, 16, batch_first=True, device=DEVICE)
    params = {key: p.detach() for key, p in module.named_parameters()}
    xs = torch.randn(4, 7, 6, dtype=torch.float64, device=DEVICE)

    def loss(params, x):
        return torch.func.functional_call(module, params, (x,))[0].square().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, xs)
    alone = torch.func.grad(loss)(params, xs[2])
    for key, gradient in alone.items():
        torch.testing.assert_close(found[key][2], gradient)
