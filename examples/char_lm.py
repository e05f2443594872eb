"""A character language model: train it, stop it, resume it, sample from it.

    python examples/char_lm.py --quick --sample 300          # on Python's own sources
    python examples/char_lm.py --text book.txt --steps 5000  # Ctrl-C saves and ends
    python examples/char_lm.py --text book.txt --resume --steps 0 --sample 1000 --temperature 0.7
    torchrun --nproc-per-node=2 examples/char_lm.py --text book.txt --batch 16  # as one with 32

The text is cut into `batch` streams read side by side. A step reads the next `chunk` characters of
every stream from the state that the step before ended in, but no gradient flows back across that
border (truncated backpropagation through time). Both `--impl`s read each other's checkpoints.

Under torchrun each process reads `batch` streams of its own, and the gradients are averaged, so
that a step and a checkpoint are those of one process with all the streams.
"""

import argparse
import atexit
import json
import math
import os
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from tqdm import tqdm

import rnnkern

IMPLEMENTATIONS: dict[str, Callable[..., nn.Module]] = {"rnnkern": rnnkern.LSTM, "torch": nn.LSTM}
SIZES = {"hidden": 256, "layers": 2, "batch": 32, "chunk": 100}
QUICK_SIZES = {"hidden": 128, "layers": 1, "batch": 32, "chunk": 64}
FORMAT = "rnnkern char_lm 1"
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
State = tuple[Tensor, Tensor]
T = TypeVar("T")


def from_all(value: T) -> list[T]:
    """The value that each process calls this with, in the order of their ranks."""
    values = [value] * WORLD
    if WORLD > 1:
        distributed.all_gather_object(values, value)
    return values


def own(streams: Tensor) -> Tensor:
    """The streams [:, N] that are this process's."""
    return streams.tensor_split(WORLD, 1)[RANK].contiguous()


class CharLM(nn.Module):
    """Tokens [T, N] and a state to logits [T, N, vocabulary] and the next state."""

    def __init__(self, vocabulary: int, hidden: int, layers: int, impl: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.rnn = IMPLEMENTATIONS[impl](hidden, hidden, layers)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        y, state = self.rnn(self.embed(tokens), state)
        return self.head(y), state


def load_text(path: Path | None) -> str:
    """A file's text, or 3 million characters of the standard library in alphabetical order."""
    files = [path] if path else sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    try:
        text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    except OSError as error:
        sys.exit(f"error: cannot read the text: {error}")
    if len(set(text)) < 2:
        sys.exit(f"error: nothing to learn: the text's characters are {sorted(set(text))}")
    return text if path else text[:3_000_000]


def encode(text: str, vocabulary: str) -> Tensor:
    """Characters to their places in the vocabulary, int64 [len(text)]."""
    if unknown := sorted(set(text) - set(vocabulary)):
        sys.exit(f"error: the text has characters the checkpoint does not know: {unknown[:8]}")
    places = {character: place for place, character in enumerate(vocabulary)}
    return torch.tensor([places[character] for character in text])


def split(tokens: Tensor, batch: int, chunk: int) -> Tensor:
    """Tokens [M] to streams [M // batch, batch], long enough for one chunk and its last target."""
    length = len(tokens) // batch
    if length <= chunk:
        sys.exit(f"error: {len(tokens)} characters to train on, {batch * (chunk + 1)} are needed")
    return tokens[: batch * length].view(batch, length).t().contiguous()


class Trainer:
    """A model, its optimizer, the number of steps done and the LSTM state they ended in."""

    def __init__(
        self, sizes: dict[str, int], vocabulary: str, impl: str, device: str, lr: float
    ) -> None:
        self.sizes, self.vocabulary, self.step = sizes, vocabulary, 0
        self.model = CharLM(len(vocabulary), sizes["hidden"], sizes["layers"], impl).to(device)
        self.forward = self.model if WORLD == 1 else nn.parallel.DistributedDataParallel(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=lr)
        self.state: State | None = None

    def advance(self, streams: Tensor) -> float:
        """One step on the next chunk of streams [S, N]; their loss in nats per character."""
        length = self.sizes["chunk"]
        start = self.step % ((len(streams) - 1) // length) * length
        chunk = streams[start : start + length + 1]
        before = self.state if start else None  # a new pass over the text starts from zeros
        self.optimizer.zero_grad()
        logits, (h, c) = self.forward(chunk[:-1], before)
        loss = F.cross_entropy(logits.flatten(0, 1), chunk[1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step, self.state = self.step + 1, (h.detach(), c.detach())
        return loss.item()

    def save(self, path: Path) -> None:
        """Write all that a later run needs to go on as if it had never stopped, or nothing."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            adam = self.optimizer.state[parameter]
            tensors |= {f"adam.{key}.{name}": value for key, value in adam.items()}
        states = [torch.cat(from_all(state.cpu()), 1) for state in self.state or ()]
        tensors |= dict(zip(("state.h", "state.c"), states, strict=False))
        copies = {name: value.cpu().contiguous().clone() for name, value in tensors.items()}
        sizes = self.sizes | {"batch": self.sizes["batch"] * WORLD}
        about = {"vocabulary": self.vocabulary, "step": self.step, "sizes": sizes}
        if RANK == 0:
            partial = path.with_name(path.name + ".partial")
            save_file(copies, partial, {"format": FORMAT, "about": json.dumps(about)})
            os.replace(partial, path)

    @classmethod
    def restore(cls, path: Path, impl: str, device: str, lr: float) -> "Trainer":
        """The trainer that `save` wrote, on any device and with either implementation."""
        try:
            with safe_open(path, "pt", device=device) as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            sys.exit(f"error: cannot read the checkpoint {path}: {error}")
        if metadata.get("format") != FORMAT:
            sys.exit(f"error: {path} is the checkpoint of another program or version")
        about = json.loads(metadata["about"])
        sizes = about["sizes"]
        if sizes["batch"] % WORLD:
            sys.exit(f"error: {WORLD} processes cannot share {path}'s {sizes['batch']} streams")
        sizes["batch"] //= WORLD
        trainer = cls(sizes, about["vocabulary"], impl, device, lr)
        model, keys = trainer.model, ("step", "exp_avg", "exp_avg_sq")
        model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
        for name, parameter in model.named_parameters():
            adam = {key: tensors[f"adam.{key}.{name}"] for key in keys}
            trainer.optimizer.state[parameter] = adam
        trainer.step = about["step"]
        trainer.state = own(tensors["state.h"]), own(tensors["state.c"])
        return trainer


def train(trainer: Trainer, streams: Tensor, steps: int, path: Path) -> None:
    """Train and save; Ctrl-C or SIGTERM ends the program after the step it falls in, saved too."""
    caught = [0]
    handlers = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    with tqdm(range(steps), unit="step", disable=RANK > 0) as bar:
        for _ in bar:
            own_loss = trainer.advance(streams)
            losses, signals = zip(*from_all((own_loss, max(caught))), strict=True)
            loss = fmean(losses)
            if not math.isfinite(loss):
                sys.exit(f"error: the loss is {loss} at step {trainer.step}; try a smaller --lr")
            bar.set_postfix_str(f"{loss / math.log(2):.3f} bits/char", refresh=False)
            if any(signals):
                break
            if trainer.step % 500 == 0:
                trainer.save(path)
    trainer.save(path)
    for which, handler in handlers.items():
        signal.signal(which, handler)
    if RANK == 0:
        print(f"{path} holds step {trainer.step}", file=sys.stderr)
    if number := max(from_all(max(caught))):
        sys.exit(128 + number)


@torch.no_grad()
def evaluate(model: CharLM, streams: Tensor) -> float:
    """Bits per character over streams [S, N], the state carried from chunk to chunk."""
    state, nats, mine = None, 0.0, own(streams)
    for inputs, targets in zip(mine[:-1].split(256), mine[1:].split(256), strict=True):
        logits, state = model(inputs, state)
        logits, targets = logits.flatten(0, 1), targets.flatten()
        nats += F.cross_entropy(logits, targets, reduction="sum").item()
    return sum(from_all(nats)) / math.log(2) / streams[1:].numel()


@torch.no_grad()
def sample(model: CharLM, vocabulary: str, count: int, temperature: float) -> str:
    """Text of `count` characters; a temperature below 1 makes likely characters likelier."""
    text, state = vocabulary[0], None
    for _ in range(count):
        token = encode(text[-1], vocabulary).view(1, 1).to(model.head.weight.device)
        logits, state = model(token, state)
        logits = logits.flatten().double().cpu()
        weights = torch.softmax((logits - logits.max()) / temperature, 0)
        text += vocabulary[int(torch.multinomial(weights, 1))]
    return text[1:]


def arguments() -> argparse.Namespace:
    """The command line; `sizes` holds those of SIZES that were asked for."""
    parser = argparse.ArgumentParser(description="Train a character LSTM and sample from it.")
    add = parser.add_argument
    add("--text", type=Path, metavar="FILE", help="UTF-8 text; default: Python's own sources")
    add("--steps", type=int, metavar="N", help="to train now; default 2000, with --quick 200")
    add("--quick", action="store_true", help="a small model, at most half a minute")
    add("--checkpoint", type=Path, metavar="FILE", default=Path("char_lm.safetensors"))
    add("--resume", action="store_true", help="go on from the checkpoint")
    add("--sample", type=int, default=0, metavar="N", help="characters to print at the end")
    add("--temperature", type=float, default=1.0)
    for name, value in SIZES.items():
        add(f"--{name}", type=int, metavar="N", help=f"default {value}, or the checkpoint's")
    add("--lr", type=float, default=2e-3)
    add("--impl", choices=list(IMPLEMENTATIONS), default="rnnkern")
    add("--device", default="cpu")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the program for an impossible number or device; fills in `sizes` and the own GPU."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    for name in given.keys() & {*SIZES, "lr", "temperature"}:
        if not given[name] > 0:
            parser.error(f"--{name} must be positive, got {given[name]}")
    for name in given.keys() & {"steps", "sample"}:
        if given[name] < 0:
            parser.error(f"--{name} must not be negative, got {given[name]}")
    args.sizes = {name: given[name] for name in SIZES if name in given}
    if WORLD > 1 and args.device == "cuda":
        args.device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"--device {args.device}: {str(error).splitlines()[0]}")


def trainer_for(args: argparse.Namespace, vocabulary: str) -> Trainer:
    """The checkpoint's trainer with --resume, else a new one."""
    path = args.checkpoint
    if args.resume:
        trainer = Trainer.restore(path, args.impl, args.device, args.lr)
        if trainer.sizes != trainer.sizes | args.sizes:
            sys.exit(f"error: {path} is of another model: its sizes are {trainer.sizes}")
        return trainer
    if path.exists():
        sys.exit(f"error: {path} exists: go on with --resume, or name another --checkpoint")
    if not path.parent.is_dir():
        sys.exit(f"error: {path.parent} is not a directory")
    sizes = (QUICK_SIZES if args.quick else SIZES) | args.sizes
    return Trainer(sizes, vocabulary, args.impl, args.device, args.lr)


def main() -> None:
    """Train, then print bits per character of held-out text and a sample."""
    args = arguments()
    if WORLD > 1:
        if args.device.startswith("cuda"):
            torch.cuda.set_device(args.device)
        distributed.init_process_group()
        atexit.register(distributed.destroy_process_group)
    text = load_text(args.text)
    torch.manual_seed(args.seed)
    trainer = trainer_for(args, "".join(sorted(set(text))))
    tokens = encode(text, trainer.vocabulary).to(args.device)
    held_out = max(16, len(tokens) // 20)
    streams = split(tokens[:-held_out], trainer.sizes["batch"] * WORLD, trainer.sizes["chunk"])
    steps = args.steps if args.steps is not None else 200 if args.quick else 2000
    if steps > 0:
        train(trainer, own(streams), steps, args.checkpoint)
    bits = evaluate(trainer.model, split(tokens[-held_out:][:100_000], 8, 1))
    if RANK > 0:
        return
    print(f"held-out text: {bits:.3f} bits per character")
    if args.sample > 0:
        torch.manual_seed(args.seed)
        print(sample(trainer.model, trainer.vocabulary, args.sample, args.temperature))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:  # outside of training
        sys.exit(128 + signal.SIGINT)
