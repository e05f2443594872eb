"""Claim: what was trained survives saving, copying and sending, between torch.nn and us as well."""

import copy
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pairs import leaves, run
from tolerances import assert_equivalent, assert_same_bits
from torch import Tensor, multiprocessing, nn

import rnnkern

ROOT = Path(__file__).resolve().parents[1]


def build(namespace, cell, form, **options):
    """The module of a cell: form is "" for a layer, "Cell" for a single step; float64."""
    name, _, nonlinearity = cell.partition("_")
    options |= {"nonlinearity": nonlinearity} if nonlinearity else {}
    return getattr(namespace, name.upper() + form)(3, 4, dtype=torch.float64, **options)


def layer(cell, namespace):
    """Two layers in both directions, the LSTM with a projection."""
    options = {"proj_size": 2} if cell == "lstm" else {}
    return build(namespace, cell, "", num_layers=2, bidirectional=True, **options)


def step(cell, namespace):
    return build(namespace, cell, "Cell")


class Model(nn.Module):
    """Layers, and a loop over a cell beside them; torch.nn's, or ours by replace_rnn_."""

    def __init__(self, cell: str, namespace, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer, self.step = layer(cell, nn), step(cell, nn)
        if namespace is rnnkern:
            assert rnnkern.replace_rnn_(self) == ["layer", "step"]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hx = None
        for row in x:
            hx = self.step(row, hx)
        return self.layer(x)[0], leaves(hx)[0]


def inputs():
    """[T, N, I], always the same."""
    return torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def train(model, optimizer):
    """Two steps; their losses, and the parameters at the end."""
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        losses.append(sum(y.square().sum() for y in model(inputs())))
        losses[-1].backward()
        optimizer.step()
    return [t.detach() for t in [*losses, *model.parameters()]]


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.05)


def by_torch(source, target, path):
    torch.save(source.state_dict(), path)
    target.load_state_dict(torch.load(path, weights_only=True))


def by_memory_map(source, target, path):
    torch.save(source.state_dict(), path)
    target.load_state_dict(torch.load(path, weights_only=True, mmap=True), assign=True)


def by_safetensors(source, target, path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(source.state_dict(), path)
    target.load_state_dict(safetensors.load_file(path))


def by_safetensors_model(source, target, path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_model(source, path)
    assert safetensors.load_model(target, path) == (set(), [])


BY = {
    "torch": by_torch,
    "memory-map": by_memory_map,
    "safetensors": by_safetensors,
    "safetensors-model": by_safetensors_model,
}
BETWEEN = {"ours": (rnnkern, rnnkern), "to-torch": (rnnkern, nn), "from-torch": (nn, rnnkern)}


@pytest.mark.parametrize("namespaces", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("transfer", BY.values(), ids=BY)
def test_state_dict_through_a_file(cell, transfer, namespaces, tmp_path):
    """Into a model that has run: nothing of its old weights stays."""
    source, target = (Model(cell, each, seed) for seed, each in enumerate(namespaces))
    run(target, inputs())
    transfer(source, target, tmp_path / "file")
    assert_same_bits(list(target.parameters()), list(source.parameters()))
    assert_equivalent(run(target, inputs()), run(source, inputs()))


@pytest.mark.parametrize("namespace", [nn, rnnkern], ids=["from-torch", "ours"])
def test_state_dict_into_a_model_without_memory(cell, namespace):
    with torch.device("meta"):
        model = Model(cell, rnnkern)
    source = Model(cell, namespace)
    model.load_state_dict(source.state_dict(), assign=True)
    assert_equivalent(run(model, inputs()), run(source, inputs()))


def test_state_dict_that_does_not_fit(cell):
    """The texts of torch.nn: a parameter too many, one too few, one of another shape."""
    outcomes = []
    for namespace in (nn, rnnkern):
        model = Model(cell, namespace)
        state = model.state_dict()
        state["layer.weight_xx_l0"] = state.pop("layer.weight_hh_l1_reverse")
        outcomes.append(model.load_state_dict(state, strict=False))
        state["step.bias_hh"] = torch.zeros(7)
        with pytest.raises(RuntimeError) as caught:
            model.load_state_dict(state)
        outcomes.append(str(caught.value))
    assert outcomes[2:] == outcomes[:2]
    assert len(outcomes[0].missing_keys) == len(outcomes[0].unexpected_keys) == 1


def tied(cell, namespace):
    module = layer(cell, namespace)
    module.weight_hh_l1 = module.weight_hh_l0
    return module


@pytest.mark.parametrize("namespaces", BETWEEN.values(), ids=BETWEEN)
def test_tied_weights_in_safetensors(cell, namespaces, tmp_path):
    """They are in the file once, and tied again where they are loaded."""
    safetensors = pytest.importorskip("safetensors.torch")
    source, target = (tied(cell, namespace) for namespace in namespaces)
    safetensors.save_model(source, tmp_path / "file")
    assert len(safetensors.load_file(tmp_path / "file")) == len(source.state_dict()) - 1
    assert safetensors.load_model(target, tmp_path / "file") == (set(), [])
    assert target.weight_hh_l1 is target.weight_hh_l0
    assert_equivalent(run(target, inputs()), run(source, inputs()))


def through_torch(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch": through_torch,
}
every_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


@every_copy
def test_a_copy_keeps_ties(cell, copied):
    ours = tied(cell, rnnkern)
    twin = copied(ours)
    assert twin.weight_hh_l1 is twin.weight_hh_l0
    assert twin.weight_hh_l1 is not ours.weight_hh_l1
    assert_same_bits(run(twin, inputs()), run(ours, inputs()))


@every_copy
def test_a_model_copied_with_its_optimizer_trains_on(cell, copied):
    model = Model(cell, rnnkern)
    optimizer = adam(model)
    train(model, optimizer)
    twin = copied((model, optimizer))
    assert_same_bits(train(*twin), train(model, optimizer))


def test_torch_load_of_a_module_that_is_called_safe(cell):
    """Naming its class is enough; torch.load refuses it otherwise."""
    for ours in (layer(cell, rnnkern), step(cell, rnnkern)):
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        with pytest.raises(
            pickle.UnpicklingError, match=rf"rnnkern\.modules\.{type(ours).__name__}"
        ):
            torch.load(file)
        file.seek(0)
        with torch.serialization.safe_globals([type(ours)]):
            twin = torch.load(file)
        assert type(twin) is type(ours)
        assert_same_bits(leaves(twin(inputs()[0])), leaves(ours(inputs()[0])))


@pytest.mark.parametrize("namespaces", BETWEEN.values(), ids=BETWEEN)
def test_training_goes_on_from_a_checkpoint(cell, namespaces, tmp_path):
    """Model and optimizer saved by one package, loaded and trained on by the other."""
    model, other = (Model(cell, each, seed) for seed, each in enumerate(namespaces))
    optimizer, its_optimizer = adam(model), adam(other)
    train(model, optimizer)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "file")
    state = torch.load(tmp_path / "file", weights_only=True)
    other.load_state_dict(state["model"])
    its_optimizer.load_state_dict(state["optimizer"])
    assert_equivalent(train(other, its_optimizer), train(model, optimizer))


def test_replaced_in_the_middle_of_training(cell):
    """The optimizer of before goes on with its moments."""
    theirs, ours = Model(cell, nn), Model(cell, nn)
    optimizers = [adam(theirs), adam(ours)]
    for model, optimizer in zip((theirs, ours), optimizers, strict=True):
        train(model, optimizer)
    rnnkern.replace_rnn_(ours)
    assert_equivalent(train(ours, optimizers[1]), train(theirs, optimizers[0]))


LOAD_AND_RUN = """
import sys, torch
modules, x = torch.load(sys.argv[1], weights_only=False)
torch.save([module(x) for module in modules], sys.argv[2])
"""


def test_modules_in_a_fresh_process(tmp_path):
    """The file says where the classes are: nothing has to be imported."""
    cells = sorted(rnnkern._C.cells())
    modules = [make(cell, rnnkern) for cell in cells for make in (layer, step)]
    torch.save((modules, inputs()[0]), tmp_path / "modules")
    words = [sys.executable, "-c", LOAD_AND_RUN, tmp_path / "modules", tmp_path / "results"]
    subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    results = torch.load(tmp_path / "results")
    assert_equivalent(leaves(results), leaves([module(inputs()[0]) for module in modules]))


def train_here(index, models):
    for model in models:
        train(model, adam(model))


def test_processes_train_the_same_parameters():
    """Shared memory goes to a process that is started afresh; what it does to it shows here."""
    cells = sorted(rnnkern._C.cells())
    models = [Model(cell, rnnkern).share_memory() for cell in cells]
    assert all(p.is_shared() for model in models for p in model.parameters())
    multiprocessing.spawn(train_here, args=(models,))
    for cell, model in zip(cells, models, strict=True):
        alone = Model(cell, rnnkern)
        train(alone, adam(alone))
        assert_equivalent(run(model, inputs()), run(alone, inputs()))
