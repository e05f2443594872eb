"""Runs an example from the command line: options, training, checkpoints, and what came of it.

An example says what it learns from, with what model and loss, and how it is judged (`Example`);
`main` does the rest. Under torchrun each process trains on batches of its own and the gradients
are averaged.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import math
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from tqdm import tqdm

from rnnkern.convert import replace_by_torch_

IMPLEMENTATIONS = ("rnnkern", "torch")
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
SAVE_EVERY = 500
"""Steps from one checkpoint to the next."""
T = TypeVar("T")


def fail(message: str) -> NoReturn:
    """Ends the program with a sentence on stderr."""
    sys.exit(f"error: {message}")


def from_all(value: T) -> list[T]:
    """The value that each process calls this with, in the order of their ranks."""
    values = [value] * WORLD
    if WORLD > 1:
        distributed.all_gather_object(values, value)
    return values


class Example(ABC):
    """A system to train. `main(cls)` makes one from the command line.

    Attributes:
        steps, quick_steps: of training by default, and with --quick.
        lr: Adam's learning rate by default.
        sizes: option: (default, default with --quick); each is a positive integer, an option of the
            command line, and one of the facts that make a checkpoint fit.
        metric, unit: what `evaluate` gives.
        larger_is_better: of the metric.
        threshold, quick_threshold: what default data and options must reach.
        baseline: how `evaluate`'s second number comes about, in a few words.
    """

    steps: ClassVar[int]
    quick_steps: ClassVar[int]
    lr: ClassVar[float] = 2e-3
    sizes: ClassVar[dict[str, tuple[int, int]]]
    metric: ClassVar[str]
    unit: ClassVar[str] = ""
    larger_is_better: ClassVar[bool] = True
    threshold: ClassVar[float]
    quick_threshold: ClassVar[float]
    baseline: ClassVar[str]

    carried: tuple[Tensor, ...] = ()
    """What a step hands to the next besides the weights: tensors with the batch in dimension 0."""

    def __init__(self, args: argparse.Namespace, stored: dict[str, Any]) -> None:
        """Load the data.

        Args:
            args: the command line, `sizes` filled in.
            stored: `facts()` of the checkpoint that is resumed; empty for a new model.
        """
        self.args, self.device = args, torch.device(args.device)

    @classmethod
    def name(cls) -> str:
        """What its files are called."""
        spec = sys.modules[cls.__module__].__spec__
        if spec is None:
            fail("run it from the checkout's folder as python -m examples.NAME")
        return spec.name.rpartition(".")[2]

    @classmethod  # noqa: B027
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Options besides those that all examples have."""

    def own_data(self) -> list[Path]:
        """The files that the user brought to train on, for which no threshold is known."""
        return []

    def is_judged(self) -> bool:
        """Whether the threshold holds for the default data with these options."""
        return True

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must agree with besides `sizes`, and needs to be used: JSON values."""
        return {}

    @abstractmethod
    def build(self) -> nn.Module:
        """The model, on the CPU, of rnnkern's layers."""

    @abstractmethod
    def loss(self, model: nn.Module, step: int) -> Tensor:
        """The loss over the batch of a step; torch's generator is seeded anew for each step.

        The model is to be called as a whole, not a part of it: it may be wrapped.
        """

    @abstractmethod
    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        """The metric on data not trained on, and that of the baseline. Without gradients."""

    def show(self, model: nn.Module, picture: Path) -> None:  # noqa: B027
        """Print what the model can do, and draw it, after `evaluate`. Without gradients."""


class Trainer:
    """A model, its optimizer and the number of steps done."""

    def __init__(self, example: Example) -> None:
        args = example.args
        torch.manual_seed(args.seed)
        self.example, self.seed, self.step = example, args.seed, 0
        self.model = example.build()
        if args.impl == "torch":
            replace_by_torch_(self.model)
        self.model.to(example.device)
        self.wrapped = self.model if WORLD == 1 else nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=args.lr)

    def advance(self) -> float:
        """One step; its loss."""
        torch.manual_seed((self.seed * 1_000_003 + self.step) * WORLD + RANK)
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.example.loss(self.wrapped, self.step)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def train(self, steps: int, path: Path) -> None:
        """Train and save; Ctrl-C and SIGTERM end the program after the step they fall in, saved."""
        caught = [0]
        handlers = {
            number: signal.signal(number, lambda number, frame: caught.append(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._advance(steps, path, caught)
            self.save(path)
        finally:
            for which, handler in handlers.items():
                signal.signal(which, handler)
        if RANK == 0:
            print(f"{path} holds step {self.step}", file=sys.stderr)
        if number := max(from_all(max(caught))):
            sys.exit(128 + number)

    def _advance(self, steps: int, path: Path, caught: list[int]) -> None:
        """So many steps, or fewer when a process has caught a signal."""
        with tqdm(range(steps), unit="step", disable=RANK > 0) as bar:
            for _ in bar:
                losses, signals = zip(*from_all((self.advance(), max(caught))), strict=True)
                loss = fmean(losses)
                if not math.isfinite(loss):
                    fail(f"the loss is {loss} at step {self.step}; try a smaller --lr")
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                if any(signals):
                    break
                if self.step % SAVE_EVERY == 0:
                    self.save(path)

    def save(self, path: Path) -> None:
        """Write all that a later run needs to go on as if it had never stopped, or nothing."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            adam = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{key}.{name}": value for key, value in adam.items()}
        for place, carried in enumerate(self.example.carried):
            tensors[f"carried.{place}"] = torch.cat(from_all(carried.cpu()))
        copies = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
        about = {"step": self.step, **settings(self.example)}
        if RANK == 0:
            partial = path.with_name(path.name + ".partial")
            save_file(copies, partial, {"example": self.example.name(), "about": json.dumps(about)})
            os.replace(partial, path)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over what `save` wrote, on any device and with either implementation."""
        tensors, device = checkpoint.tensors, self.example.device
        self.model.load_state_dict({n: tensors[f"model.{n}"] for n in self.model.state_dict()})
        for name, parameter in self.model.named_parameters():
            keys = ("step", "exp_avg", "exp_avg_sq")
            adam = {k: tensors[key] for k in keys if (key := f"adam.{k}.{name}") in tensors}
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(device) for key, value in adam.items()
            }
        carried = [tensors[name] for name in sorted(tensors) if name.startswith("carried.")]
        self.example.carried = tuple(c.tensor_split(WORLD)[RANK].to(device) for c in carried)
        self.step = checkpoint.step


@dataclass
class Checkpoint:
    """A file that `Trainer.save` wrote."""

    path: Path
    step: int
    options: dict[str, Any]
    """The seed, the learning rate and the sizes."""
    facts: dict[str, Any]
    data: str
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path, example: type[Example]) -> Checkpoint:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            fail(f"cannot read the checkpoint {path}: {error}")
        if metadata.get("example") != example.name():
            fail(f"{path} is not a checkpoint of {example.name()}")
        return cls(path=path, tensors=tensors, **json.loads(metadata["about"]))

    def check(self, example: Example) -> None:
        """Ends the program unless the example's model and data are those of this file."""
        if self.data != digest(example.own_data()):
            fail(f"the model in {self.path} was trained on other data")
        here, there = sizes_of(example) | example.facts(), self.options | self.facts
        for name in here:
            if here[name] != there.get(name):
                fail(
                    f"{self.path} is the checkpoint of another model: {name} is "
                    f"{brief(there.get(name))} there and {brief(here[name])} here"
                )


def sizes_of(example: Example) -> dict[str, int]:
    """The sizes that the example was made with."""
    return {name: getattr(example.args, name) for name in example.sizes}


def settings(example: Example) -> dict[str, Any]:
    """What a checkpoint tells about the example it is of, besides the step."""
    options = sizes_of(example) | {"seed": example.args.seed, "lr": example.args.lr}
    return {"options": options, "facts": example.facts(), "data": digest(example.own_data())}


def digest(files: list[Path]) -> str:
    """A number for the contents of files."""
    sums = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()


def brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."


@dataclass
class Report:
    """What a run came to. `reached` is None where no threshold is known."""

    value: float
    baseline: float
    reached: bool | None


def main(cls: type[Example], words: list[str] | None = None) -> Report:
    """Train as the command line says, evaluate, show; ends with status 1 below the threshold.

    Args:
        cls: the example.
        words: the command line; default that of the program.
    """
    args = parse(cls, words)
    if not args.resume and args.checkpoint.exists():
        fail(f"{args.checkpoint} exists: go on with --resume, or name another --checkpoint")
    if not args.checkpoint.parent.is_dir():
        fail(f"{args.checkpoint.parent} is not a directory")
    if WORLD > 1:
        if args.device.startswith("cuda"):
            torch.cuda.set_device(args.device)
        distributed.init_process_group()
        atexit.register(distributed.destroy_process_group)
    trainer = trainer_for(cls, args)
    if args.steps > 0:
        trainer.train(args.steps, args.checkpoint)
    if RANK > 0:
        sys.exit()
    with torch.no_grad():
        trainer.model.eval()
        torch.manual_seed(args.seed)
        report = judge(trainer)
        torch.manual_seed(args.seed)
        trainer.example.show(trainer.model, args.checkpoint.with_suffix(".png"))
    if report.reached is False:
        sys.exit(1)
    return report


def judge(trainer: Trainer) -> Report:
    """Evaluate and print. A threshold holds for default data and sizes, and steps or more."""
    example, quick = trainer.example, trainer.example.args.quick
    value, baseline = example.evaluate(trainer.model)
    text, reached = f"{example.metric}: {value:.4g}{example.unit}", None
    usual = sizes_of(example) == {name: both[quick] for name, both in example.sizes.items()}
    enough = trainer.step >= (example.quick_steps if quick else example.steps)
    if usual and enough and example.is_judged() and not example.own_data():
        threshold = example.quick_threshold if quick else example.threshold
        reached = value >= threshold if example.larger_is_better else value <= threshold
        text += f", {'reaching' if reached else 'NOT reaching'} {threshold:g}{example.unit}"
    print(f"{text} ({baseline:.4g}{example.unit} by {example.baseline})")
    return Report(value, baseline, reached)


def parser_of(cls: type[Example]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{cls.name()}",
        description=sys.modules[cls.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    cls.add_options(parser)
    for name, (default, quick) in cls.sizes.items():
        option = f"--{name.replace('_', '-')}"
        add(option, type=positive_int, metavar="N", help=f"default {default}, --quick {quick}")
    steps = f"to train now; default {cls.steps}, with --quick {cls.quick_steps}"
    add("--steps", type=natural_int, metavar="N", help=steps)
    add("--quick", action="store_true", help="a small model, at most half a minute")
    path = Path(f"{cls.name()}.safetensors")
    add("--checkpoint", type=Path, metavar="FILE", default=path, help=f"default {path}")
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--lr", type=positive_float, metavar="LR", help=f"Adam's; default {cls.lr}")
    add("--impl", choices=IMPLEMENTATIONS, default="rnnkern", help="whose layers; default rnnkern")
    add("--device", default="cpu")
    add("--seed", type=seed, metavar="N", help="default 0")
    return parser


def positive_int(text: str) -> int:
    """For argparse: 1, 2, ..."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def natural_int(text: str) -> int:
    """For argparse: 0, 1, ..."""
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return number


def seed(text: str) -> int:
    """For argparse: what leaves room for the number of a step beside it."""
    if not 0 <= (number := int(text)) < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**32 - 1}, got {text}")
    return number


def positive_float(text: str) -> float:
    """For argparse: a finite number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive and finite, got {text}")
    return number


def parse(cls: type[Example], words: list[str] | None = None) -> argparse.Namespace:
    """The command line of an example; default the program's."""
    parser = parser_of(cls)
    args = parser.parse_args(words)
    check_device(parser, args)
    return args


def check_device(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program for a device that is not there; fills in the process's own GPU."""
    if WORLD > 1 and args.device == "cuda":
        args.device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.zeros(1, device=args.device).item()  # which the device "meta" cannot tell
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")


def trainer_for(cls: type[Example], args: argparse.Namespace) -> Trainer:
    """The checkpoint's trainer with --resume, else a new one; fills in sizes and steps."""
    checkpoint = Checkpoint.read(args.checkpoint, cls) if args.resume else None
    defaults: dict[str, Any] = {"seed": 0, "lr": cls.lr}
    defaults |= {name: both[args.quick] for name, both in cls.sizes.items()}
    for name, default in (defaults | (checkpoint.options if checkpoint else {})).items():
        if getattr(args, name) is None:
            setattr(args, name, default)
    if args.steps is None:
        args.steps = cls.quick_steps if args.quick else cls.steps
    try:
        example = cls(args, checkpoint.facts if checkpoint else {})
    except ValueError as error:
        fail(str(error))
    trainer = Trainer(example)
    if checkpoint:
        checkpoint.check(example)
        trainer.restore(checkpoint)
    return trainer


def read_text(path: Path) -> str:
    """A UTF-8 file that has something in it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"cannot read {path}: {error}")
    if not text.strip():
        fail(f"{path} is empty")
    return text


def read_table(path: Path, columns: int) -> list[list[str]]:
    """The lines of a file of tab-separated columns; empty lines are left out."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            rows.append([cell.strip() for cell in line.split("\t")])
            if len(rows[-1]) != columns or not all(rows[-1]):
                what = f"expected {columns} columns with a tab between, got {rows[-1]}"
                fail(f"{path}, line {number}: {what}")
    return rows


def split(items: Sequence[T], key: Callable[[T], Hashable]) -> tuple[list[T], list[T]]:
    """The items of a 20th of the keys, 500 at most, and the rest: no key is on both sides.

    Returns:
        The items to train on and those held out, each in the order they had.
    """
    keys = list(dict.fromkeys(map(key, items)))
    if len(keys) < 2:
        fail(f"there must be something to train on and something else to hold out, got {keys}")
    chosen = set(Random(0).sample(keys, min(500, max(1, len(keys) // 20))))
    sides: tuple[list[T], list[T]] = [], []
    for item in items:
        sides[key(item) in chosen].append(item)
    return sides


def accuracy(right: Iterable[bool]) -> float:
    """The share of what is true."""
    return fmean(map(float, right))
