"""Claim: models with our layers train inside what others wrap around them as in a plain loop."""

import contextlib
import itertools

import pytest
import torch
from pairs import CELLS, RNNS, leaves, pair
from tolerances import assert_same_bits
from torch import nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import rnnkern


@pytest.mark.parametrize("hooks", [contextlib.nullcontext, save_on_cpu], ids=["plain", "offload"])
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["not-reentrant", "reentrant"])
@pytest.mark.parametrize("name", [*RNNS, *CELLS])
def test_activation_checkpointing(name, use_reentrant, hooks):
    """Computed twice, with the same dropout. The reentrant kind wants results that are not nested,
    of torch.nn's modules as well."""
    options = {"num_layers": 3, "dropout": 0.5, "bidirectional": True} if name in RNNS else {}
    ours = pair(name, 4, 3, **options)[1]
    x = torch.randn(*((5, 2, 4) if name in RNNS else (2, 4)), dtype=torch.float64)
    calls = []
    ours.register_forward_pre_hook(lambda module, args: calls.append(module))

    def flat(x):
        return tuple(leaves(ours(x)))

    def checkpointed(x):
        with hooks():
            return checkpoint(flat, x, use_reentrant=use_reentrant)

    plain, again = (results(ours, function, x) for function in (flat, checkpointed))
    assert len(calls) == 3
    assert_same_bits(again, plain)


def results(module, function, x):
    """Outputs, and the gradients of input and parameters."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    torch.manual_seed(11)
    outputs = function(x)
    sum(y.square().sum() for y in outputs).backward()
    return [*(y.detach() for y in outputs), x.grad, *(p.grad for p in module.parameters())]


class Classifier(nn.Module):
    """Sequences [N, T, 3] to two numbers [N, 2], by a layer and a single step over its states."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.rnn = rnnkern.GRU(3, 5, batch_first=True)
        self.step = rnnkern.LSTMCell(5, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.step(self.rnn(x)[1][-1])[0])


def batches():
    torch.manual_seed(2)
    return DataLoader(TensorDataset(torch.randn(12, 7, 3), torch.randn(12, 2)), batch_size=4)


def loss_of(model, batch):
    x, y = batch
    return nn.functional.mse_loss(model(x), y)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.05)


def losses_of_a_loop(model, optimizer, loader, backward):
    """Two epochs."""
    losses = []
    for batch in itertools.chain(loader, loader):
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def plain():
    model = Classifier()
    return losses_of_a_loop(model, adam(model), batches(), torch.Tensor.backward)


def test_accelerate(plain):
    accelerate = pytest.importorskip("accelerate", reason="needs requirements-train.txt")
    accelerator = accelerate.Accelerator(cpu=True)
    model = Classifier()
    prepared = accelerator.prepare(model, adam(model), batches())
    assert losses_of_a_loop(*prepared, accelerator.backward) == plain


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",  # Lightning's use of torch
    "ignore:The 'train_dataloader' does not have many workers:UserWarning",
    "ignore:GPU available but not used:UserWarning",
)
def test_lightning(plain, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="needs requirements-train.txt")
    losses = []

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = Classifier()

        def training_step(self, batch, index):
            loss = loss_of(self.model, batch)
            losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return adam(self.model)

    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Task(), batches())
    assert losses == plain


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # of torch.backends.mkldnn.flags
@pytest.mark.parametrize("name", RNNS)
def test_scaled_gradients_of_float16_autocast(name):
    """GradScaler over float32 parameters: the steps of torch.nn, to the precision of float16."""
    losses = []
    for model in pair(name, 4, 8, 2, dtype=torch.float32):
        torch.manual_seed(3)
        x, target = torch.randn(6, 3, 4).half(), torch.randn(6, 3, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        losses.append([])
        for _ in range(5):
            optimizer.zero_grad()
            # oneDNN lacks float16 on many CPUs.
            with torch.autocast("cpu", torch.float16), torch.backends.mkldnn.flags(enabled=False):
                y = model(x)[0]
                loss = (y.float() - target).square().mean()
            assert y.dtype == torch.float16
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses[-1].append(loss.item())
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
        assert scaler.get_scale() == 2.0**8  # no overflow, so no step was left out
    assert losses[0][-1] < losses[0][0]
    # In 8 draws of each kind the losses were apart by up to 8e-5 of themselves.
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=4e-4, atol=0)


@pytest.mark.parametrize("name", [*RNNS, *CELLS])
def test_deterministic_algorithms(name):
    """Nothing that torch forbids then, and the same bits."""
    module = pair(name, 4, 8)[1]
    x = torch.randn(*((6, 5, 4) if name in RNNS else (5, 4)), dtype=torch.float64)
    options = {"lengths": [6, 1, 0, 3, 6]} if name in RNNS else {}
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            results(module, lambda x: leaves(module(x, **options)), x) for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_bits(first, second)
