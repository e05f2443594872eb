"""The training run: the model of examples/char_lm.py, trained by both packages in turns.

Training amplifies rounding, so two correct runs part in the end. How fast shows a third run, the
baseline's own from weights that differ in their last bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from examples import char_lm
from rnnkern.models import training

from . import timing
from .contenders import BASELINE, OURS

STEPS = 200
STEPS_OF_BLOCK = 20
NUDGED = f"{BASELINE}, last bit changed"
IMPLEMENTATIONS = {OURS: "rnnkern", BASELINE: "torch", NUDGED: "torch"}


@dataclass
class CharLM:
    """Losses and speed of the runs; same seed, same text, same batches."""

    sizes: dict[str, int]
    losses: dict[str, list[float]] = field(default_factory=dict)
    """By contender: nats per character, one number a step."""
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """By contender: a step's time, one number a block of STEPS_OF_BLOCK."""

    def differences(self, name: str) -> list[float]:
        """How far a run's losses lie from the baseline's at each step, nats per character."""
        return [abs(a - b) for a, b in zip(self.losses[name], self.losses[BASELINE], strict=True)]

    def characters_per_second(self, name: str) -> float:
        """Characters trained on per second, from the median block."""
        return self.sizes["batch"] * self.sizes["chunk"] / timing.median(self.seconds[name])

    @property
    def ratio(self) -> float:
        """How many times faster a training step is than the baseline's."""
        return timing.median(self.seconds[BASELINE]) / timing.median(self.seconds[OURS])

    def as_json(self) -> dict[str, Any]:
        return {
            "sizes": self.sizes,
            "ratio": self.ratio,
            "largest_difference_of_losses": {
                name: max(self.differences(name)) for name in (OURS, NUDGED)
            },
            "characters_per_second": {n: self.characters_per_second(n) for n in self.seconds},
            "losses": {n: [float(f"{loss:.8g}") for loss in ls] for n, ls in self.losses.items()},
            "ms_of_blocks": {n: timing.as_ms(times) for n, times in self.seconds.items()},
        }


def measure(words: list[str], steps: int = STEPS) -> Iterator[CharLM]:
    """Train all in turns; yields the same result, STEPS_OF_BLOCK steps longer, after each turn.

    `words` are options of the example.
    """
    trainers = {
        name: training.trainer_for(
            char_lm.CharLM, training.parse(char_lm.CharLM, [*words, "--impl", impl])
        )
        for name, impl in IMPLEMENTATIONS.items()
    }
    nudge(trainers[NUDGED].model)
    result = CharLM(
        training.sizes_of(trainers[OURS].example),
        {name: [] for name in trainers},
        {name: [] for name in trainers},
    )
    order = list(trainers)
    for _ in range(0, steps, STEPS_OF_BLOCK):
        for name in order:
            train_block(trainers[name], result.losses[name], result.seconds[name])
            yield result
        order.reverse()


@torch.no_grad()
def nudge(model: torch.nn.Module) -> None:
    """Change the last bit of every parameter."""
    for parameter in model.parameters():
        parameter.mul_(1 + torch.finfo(parameter.dtype).eps)


def train_block(trainer: training.Trainer, losses: list[float], seconds: list[float]) -> None:
    """STEPS_OF_BLOCK steps after a pause; appends their losses, and the seconds of a step."""

    def step() -> None:
        losses.append(trainer.advance())

    with timing.quiet():
        seconds.append(timing.block(step, STEPS_OF_BLOCK, wake=False))
