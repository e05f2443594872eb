"""Claim: the examples run as their first lines say, and can be stopped and resumed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("tqdm", reason="the examples need requirements-bench.txt")
safetensors = pytest.importorskip("safetensors.torch", reason="as above")

from examples import char_lm  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--hidden", "24", "--layers", "2", "--batch", "4", "--chunk", "16", "--lr", "0.02"]


@pytest.fixture
def text(tmp_path):
    """Learnable at once: the same words again and again."""
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    return path


@pytest.fixture
def run(tmp_path, text, monkeypatch, capsys):
    """Runs char_lm's main here with these arguments, in an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def main(*words, sizes=SMALL, checkpoint="model.safetensors"):
        line = ["char_lm.py", "--text", str(text), "--checkpoint", checkpoint, *sizes, *words]
        monkeypatch.setattr(sys, "argv", line)
        char_lm.main()
        return capsys.readouterr().out

    return main


def bits(out):
    return float(re.search(r"([\d.]+) bits per character", out).group(1))


def load(path="model.safetensors"):
    return safetensors.load_file(path)


def test_the_command_of_the_documentation(tmp_path):
    """As a user runs it, but for fewer steps: on Python's own sources, with a sample."""
    script = ROOT / "examples" / "char_lm.py"
    words = ["--quick", "--steps", "3", "--sample", "40"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert bits(done.stdout) < 10
    assert len(done.stdout.partition("character\n")[2]) == 41
    assert (tmp_path / "char_lm.safetensors").is_file()


def test_it_learns(run):
    """From log2 of the number of characters, 4.8, to less than half of it."""
    untrained = bits(run("--steps", "0"))
    assert untrained > 4
    assert bits(run("--steps", "120")) < untrained / 2


def test_resumed_training_is_uninterrupted_training(run):
    run("--steps", "7", checkpoint="whole.safetensors")
    run("--steps", "4")
    run("--steps", "3", "--resume")
    whole, parts = load("whole.safetensors"), load()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_both_implementations_read_each_others_checkpoints(run):
    run("--steps", "3")
    ours = bits(run("--resume", "--steps", "0"))
    theirs = bits(run("--resume", "--steps", "0", "--impl", "torch"))
    assert ours == pytest.approx(theirs, abs=2e-3)
    run("--resume", "--steps", "2", "--impl", "torch")
    run("--resume", "--steps", "2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_saves_after_the_step_and_ends(run, number, monkeypatch, capsys):
    advance = char_lm.Trainer.advance

    def interrupted(trainer, streams):
        if trainer.step == 4:
            signal.raise_signal(number)
        return advance(trainer, streams)

    monkeypatch.setattr(char_lm.Trainer, "advance", interrupted)
    with pytest.raises(SystemExit) as ended:
        run("--steps", "1000")
    assert ended.value.code == 128 + number
    assert "step 5" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert sorted(path.name for path in Path().iterdir()) == ["model.safetensors", "text.txt"]
    monkeypatch.setattr(char_lm.Trainer, "advance", advance)
    run("--resume", "--steps", "1")


def test_sample_depends_on_the_seed_alone(run):
    run("--steps", "3")
    words = ["--resume", "--steps", "0", "--sample", "50"]
    once, again = run(*words), run(*words)
    assert once == again
    assert run(*words, "--seed", "1") != once


def test_a_vanishing_temperature_takes_the_likeliest(run):
    run("--steps", "3")
    words = ["--resume", "--steps", "0", "--sample", "50", "--temperature", "1e-320"]
    assert run(*words) == run(*words, "--seed", "1")


def damaged(path):
    path.write_bytes(b"no checkpoint")
    return ["--resume"]


def of_another_size(path):
    return ["--resume", "--hidden", "25"]


def with_another_alphabet(path):
    path.with_name("text.txt").write_text("ÄÖÜ" * 1000)
    return ["--resume"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: [], "exists"),
        (damaged, "cannot read the checkpoint"),
        (of_another_size, "another model"),
        (with_another_alphabet, "does not know"),
        (lambda path: ["--checkpoint", "other.safetensors", "--resume"], "cannot read"),
        (lambda path: ["--checkpoint", "missing/model.safetensors"], "not a directory"),
        (lambda path: ["--text", "missing.txt", "--resume"], "cannot read the text"),
        (lambda path: ["--text", os.devnull, "--resume"], "nothing to learn"),
    ],
    ids=["exists", "damaged", "size", "alphabet", "no-checkpoint", "no-folder", "no-text", "empty"],
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
    ],
    ids=str,
)
def test_impossible_options_are_refused(run, words, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*words)
    assert ended.value.code == 2
    assert re.search(rf"error: {words[0]}\b.*{words[1]}", capsys.readouterr().err)


def test_a_text_shorter_than_a_chunk(run):
    with pytest.raises(SystemExit, match="characters to train on"):
        run("--chunk", "100000")
