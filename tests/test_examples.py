"""Claim: each example learns what it should, goes on where it stopped, and says what is wrong."""

import importlib
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

for module in ("tqdm", "safetensors", "matplotlib", "babel", "num2words", "sacrebleu", "sklearn"):
    pytest.importorskip(module, reason="the examples need requirements-examples.txt")

from safetensors.torch import load_file  # noqa: E402

import examples  # noqa: E402
import rnnkern  # noqa: E402
from examples import char_lm  # noqa: E402
from rnnkern.models import training  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MODULES = [info.name for info in pkgutil.iter_modules(examples.__path__) if info.name != "data"]


def example(name):
    """The class that a module of examples/ runs."""
    module = importlib.import_module(f"examples.{name}")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    (found,) = (
        cls for cls in classes if cls.__module__ == module.__name__ and hasattr(cls, "steps")
    )
    return found


@pytest.mark.parametrize("name", MODULES)
def test_quick(name, tmp_path):
    """It learns, keeps a checkpoint, and torch.nn's layers find the same with it and go on."""
    cls, path = example(name), tmp_path / f"{name}.safetensors"
    words = ["--quick", "--checkpoint", str(path)]
    report = training.main(cls, words)
    assert report.reached
    words += ["--resume", "--impl", "torch"]
    again = training.main(cls, [*words, "--steps", "0"])
    assert again.value == pytest.approx(report.value, rel=0.01)
    training.trainer_for(cls, training.parse(cls, words)).train(1, path)


@pytest.mark.parametrize("name", MODULES)
def test_resumed_training_is_uninterrupted_training(name, tmp_path):
    cls = example(name)

    def checkpoint(file, *words):
        path = tmp_path / file
        args = training.parse(cls, ["--checkpoint", str(path), "--quick", *words])
        training.trainer_for(cls, args).train(args.steps, path)
        return load_file(path)

    checkpoint("parts.safetensors", "--steps", "2")
    parts = checkpoint("parts.safetensors", "--steps", "1", "--resume")
    whole = checkpoint("whole.safetensors", "--steps", "3")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("name", MODULES)
def test_an_example_is_short(name):
    lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 225


def test_the_command_of_the_documentation(tmp_path):
    """As a user runs it, but for fewer steps: on Python's own sources, with a sample."""
    words = ["-m", "examples.char_lm", "--quick", "--steps", "3", "--sample", "40"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert bits(done.stdout) < 10
    assert (tmp_path / "char_lm.safetensors").is_file()


# What the harness does is tested on the character language model.

SMALL = ["--hidden", "24", "--layers", "2", "--batch", "4", "--chunk", "16", "--lr", "0.02"]


@pytest.fixture
def text(tmp_path):
    """Learnable at once: the same words again and again."""
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    return path


@pytest.fixture
def run(tmp_path, text, monkeypatch, capsys):
    """Trains char_lm here with these options, in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def main(*words, sizes=SMALL, checkpoint="model.safetensors"):
        training.main(
            char_lm.CharLM, ["--text", str(text), "--checkpoint", checkpoint, *sizes, *words]
        )
        return capsys.readouterr().out

    return main


def bits(out):
    return float(re.search(r"([\d.]+) bits per character", out).group(1))


def test_it_learns(run):
    """From log2 of the number of characters, 4.8, to less than half of it."""
    untrained = bits(run("--steps", "0"))
    assert untrained > 4
    assert bits(run("--steps", "120")) < untrained / 2


@pytest.mark.parametrize("impl", ["rnnkern", "torch"])
def test_impl_is_whose_layers_are_trained(text, impl):
    words = ["--text", str(text), "--impl", impl]
    model = training.trainer_for(char_lm.CharLM, training.parse(char_lm.CharLM, words)).model
    assert type(model.rnn) is {"rnnkern": rnnkern.LSTM, "torch": nn.LSTM}[impl]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_saves_after_the_step_and_ends(run, number, monkeypatch, capsys):
    advance = training.Trainer.advance

    def interrupted(trainer):
        if trainer.step == 4:
            signal.raise_signal(number)
        return advance(trainer)

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(training.Trainer, "advance", interrupted)
    with pytest.raises(SystemExit) as ended:
        run("--steps", "1000")
    assert ended.value.code == 128 + number
    assert "step 5" in capsys.readouterr().err
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert sorted(path.name for path in Path().iterdir()) == ["model.safetensors", "text.txt"]
    monkeypatch.setattr(training.Trainer, "advance", advance)
    run("--resume", "--steps", "1", sizes=[])


def test_what_is_not_given_is_the_checkpoints(run):
    """Sizes, the learning rate and the seed."""
    run("--steps", "3", "--seed", "5", checkpoint="whole.safetensors")
    run("--steps", "2", "--seed", "5")
    run("--resume", "--steps", "1", sizes=["--hidden", "24"])
    whole, parts = load_file("whole.safetensors"), load_file("model.safetensors")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_evaluation_is_without_dropout_and_gradients(run, monkeypatch):
    def evaluate(example, model):
        assert not model.training
        assert not torch.is_grad_enabled()
        return 1.0, 2.0

    monkeypatch.setattr(char_lm.CharLM, "evaluate", evaluate)
    monkeypatch.setattr(char_lm.CharLM, "show", lambda self, model, picture: evaluate(self, model))
    run("--steps", "1")


def test_a_sample_has_only_characters(run):
    """Though the model was not trained."""
    out = run("--steps", "0", "--sample", "500")
    assert len(out.partition("characters)\n")[2]) == 501


def test_sample_depends_on_the_seed_alone(run):
    run("--steps", "3")
    words = ["--resume", "--steps", "0", "--sample", "50"]
    once, again = run(*words), run(*words)
    assert once == again
    assert run(*words, "--seed", "1") != once


def test_a_loss_that_is_no_number_ends_training(run, monkeypatch):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    loss = char_lm.CharLM.loss
    monkeypatch.setattr(char_lm.CharLM, "loss", lambda *args: loss(*args) * torch.nan)
    with pytest.raises(SystemExit, match=r"^error: the loss is nan at step 1; .*smaller --lr"):
        run("--steps", "50")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize(
    ("threshold", "larger", "reached"),
    [(1e9, False, True), (0, False, False), (0, True, True), (1e9, True, False)],
)
def test_the_threshold_decides_the_status(run, monkeypatch, capsys, threshold, larger, reached):
    monkeypatch.setattr(char_lm.CharLM, "own_data", lambda self: [])
    sizes = {"hidden": 24, "layers": 2, "batch": 4, "chunk": 16}
    both = {name: (size, size) for name, size in sizes.items()}
    monkeypatch.setattr(char_lm.CharLM, "sizes", both)
    monkeypatch.setattr(char_lm.CharLM, "threshold", threshold)
    monkeypatch.setattr(char_lm.CharLM, "larger_is_better", larger)
    run("--steps", "1")  # not judged: fewer steps than the default
    monkeypatch.setattr(char_lm.CharLM, "steps", 2)
    if reached:
        assert ", reaching" in run("--steps", "1", "--resume")
    else:
        with pytest.raises(SystemExit) as ended:
            run("--steps", "1", "--resume")
        assert ended.value.code == 1
        assert "NOT reaching" in capsys.readouterr().out


def damaged(path):
    path.write_bytes(b"no checkpoint")
    return ["--resume"]


def of_another_size(path):
    return ["--resume", "--hidden", "25"]


def of_another_example(path):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    safetensors.torch.save_file(
        load_file(path), path, {"example": "tagging", "about": json.dumps(about)}
    )
    return ["--resume"]


def with_another_alphabet(path):
    path.with_name("text.txt").write_text("ÄÖÜ" * 1000)
    return ["--resume"]


def with_other_data(path):
    path.with_name("text.txt").write_text("the lazy dog jumps over the quick brown fox. " * 100)
    return ["--resume"]


def with_one_character(path):
    path.with_name("text.txt").write_text("a" * 1000)
    return ["--checkpoint", "other.safetensors"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: [], "exists"),
        (damaged, "cannot read the checkpoint"),
        (of_another_size, "another model: hidden is 24 there and 25 here"),
        (of_another_example, "not a checkpoint of char_lm"),
        (with_another_alphabet, "does not know"),
        (with_other_data, "trained on other data"),
        (with_one_character, "at least 2 words"),
        (lambda path: ["--checkpoint", "other.safetensors", "--resume"], "cannot read"),
        (lambda path: ["--checkpoint", "missing/model.safetensors"], "not a directory"),
        (lambda path: ["--text", "missing.txt", "--resume"], "cannot read missing.txt"),
        (lambda path: ["--text", os.devnull, "--resume"], "is empty"),
        (lambda path: ["--resume", "--chunk", "100000"], "tokens to train on"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value[:12],
)
def test_mistakes_end_with_a_sentence(run, prepare, message):
    run("--steps", "1")
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        run("--steps", "1", *prepare(Path("model.safetensors")))


@pytest.mark.parametrize(
    "words",
    [
        ["--hidden", "0"],
        ["--layers", "-1"],
        ["--batch", "0"],
        ["--chunk", "0"],
        ["--steps", "-1"],
        ["--sample", "-1"],
        ["--temperature", "0"],
        ["--lr", "nan"],
        ["--device", "abacus"],
        ["--device", "meta"],
        ["--seed", "99999999999999999999"],
        ["--impl", "keras"],
    ],
    ids=str,
)
def test_impossible_options_are_refused(run, words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    assert re.search(rf"error: (argument )?{words[0]}\b.*{words[1]}", capsys.readouterr().err)
