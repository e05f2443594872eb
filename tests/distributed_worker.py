"""What each of the processes that test_distributed.py starts does.

torchrun [options] distributed_worker.py FOLDER words for char_lm

Each trains char_lm, then sharded models, and writes what it found to FOLDER/found-RANK.pt.
"""

import sys
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard

import rnnkern
from examples import char_lm
from rnnkern.models import training

SHARDED = {
    "RNN": {"num_layers": 2, "bidirectional": True, "nonlinearity": "relu"},
    "GRU": {"num_layers": 2, "bidirectional": True},
    "LSTM": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "RNNCell": {},
    "GRUCell": {},
    "LSTMCell": {},
}


def char_lm_in_float64(words: list[str]) -> dict[str, list[Tensor]]:
    """Runs char_lm; of each step the loss over this process's streams, and the norm clipped."""
    losses, norms = [], []
    advance, clip = training.Trainer.advance, nn.utils.clip_grad_norm_

    def recorded_advance(trainer: training.Trainer) -> float:
        losses.append(advance(trainer))
        return losses[-1]

    def recorded_clip(*arguments) -> Tensor:
        norms.append(clip(*arguments))
        return norms[-1]

    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(training.Trainer, "advance", recorded_advance),
            mock.patch.object(nn.utils, "clip_grad_norm_", recorded_clip),
        ):
            training.main(char_lm.CharLM, words)
    except SystemExit as end:  # of a process that has nothing to print
        if end.code:
            raise
    finally:
        torch.set_default_dtype(torch.float32)
    return {"losses": [torch.tensor(losses, dtype=torch.float64)], "norms": [torch.stack(norms)]}


class Model(nn.Module):
    """A recurrent layer, or a loop over a cell, over a linear one; float64."""

    def __init__(self, name: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Linear(3, 4)
        self.rnn = getattr(rnnkern, name)(4, 5, **SHARDED[name])
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if isinstance(self.rnn, nn.RNNBase):
            return self.rnn(x)[0]
        hx, steps = None, []
        for step in x:
            hx = self.rnn(step, hx)
            steps.append(hx[0] if isinstance(hx, tuple) else hx)
        return torch.stack(steps)


def inputs() -> Tensor:
    """[T, N, 3], the same in every process."""
    return torch.randn(6, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def train(model: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """Two steps of Adam: their outputs, the last gradients, and the parameters at the end."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    outputs = []
    for _ in range(2):
        optimizer.zero_grad()
        outputs.append(model(x))
        outputs[-1].square().mean().backward()
        optimizer.step()
    return {
        "outputs": [y.detach() for y in outputs],
        "gradients": [whole(p.grad) for p in model.parameters()],
        "parameters": [whole(p.detach()) for p in model.parameters()],
    }


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may have a part, in one piece."""
    return tensor.full_tensor() if isinstance(tensor, distributed.tensor.DTensor) else tensor


def sharded() -> dict[str, dict[str, list[Tensor]]]:
    """What `train` gives in this process for every model, sharded, on its part of the batch."""
    found = {}
    for name in SHARDED:
        model = Model(name)
        fully_shard(model.rnn)
        fully_shard(model)
        found[name] = train(model, inputs().tensor_split(training.WORLD, 1)[training.RANK])
    return found


def main() -> None:
    folder, *words = sys.argv[1:]
    found = {"char_lm": char_lm_in_float64(words)}  # whose processes stay connected until the end
    torch.save(found | sharded(), Path(folder) / f"found-{training.RANK}.pt")


if __name__ == "__main__":
    main()
