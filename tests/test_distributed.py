"""Claim: two processes that share a batch compute what one process does with all of it."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tolerances import assert_equivalent

pytest.importorskip("tqdm", reason="the example needs requirements-bench.txt")
safetensors = pytest.importorskip("safetensors.torch", reason="as above")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("needs torch.distributed with gloo", allow_module_level=True)

import distributed_worker  # noqa: E402

from examples import char_lm  # noqa: E402
from rnnkern.models import language, training  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
WORKER = ROOT / "tests" / "distributed_worker.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(*words):
    """Two processes run this script with these arguments to its end; what they printed."""
    return subprocess.run(
        [*TORCHRUN, *words],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


def small(folder, checkpoint, *words):
    """A command line for a small model and a text to learn."""
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 50)
    sizes = ["--hidden", "12", "--layers", "2", "--chunk", "8", "--lr", "0.02"]
    files = ["--text", str(folder / "text.txt"), "--checkpoint", str(folder / checkpoint)]
    return [*files, *sizes, *words]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("char_lm")


@pytest.fixture(scope="module")
def alone(folder):
    """What one process finds and prints in steps 3 to 6; those before are in two.safetensors."""
    with contextlib.redirect_stdout(io.StringIO()):
        words = small(folder, "one.safetensors", "--batch", "8", "--steps", "2")
        distributed_worker.char_lm_in_float64(words)
    shutil.copy(folder / "one.safetensors", folder / "two.safetensors")
    words = ["--resume", "--steps", "4", "--sample", "40"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        words = small(folder, "one.safetensors", *words)
        return distributed_worker.char_lm_in_float64(words), out.getvalue()


@pytest.fixture(scope="module")
def together(folder, alone):
    """What each of two processes finds in the same steps, and by sharding; what they print."""
    words = ["--resume", "--steps", "4", "--sample", "40"]
    words = small(folder, "two.safetensors", *words)
    done = torchrun(WORKER, folder, *words)
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(2)], done


def test_loss_curve(alone, together):
    """The processes read different streams; together they read all of them."""
    (theirs, _), (ours, _) = alone, together
    curves = [found["char_lm"]["losses"][0] for found in ours]
    assert not torch.equal(*curves)
    assert_equivalent([sum(curves) / 2], theirs["losses"])


def test_gradients_are_clipped_after_they_are_averaged(alone, together):
    (theirs, _), (ours, _) = alone, together
    for found in ours:
        assert_equivalent(found["char_lm"]["norms"], theirs["norms"])


def test_checkpoint(folder, alone, together):
    both = []
    for name in ("one.safetensors", "two.safetensors"):
        with safetensors.safe_open(folder / name, "pt") as file:
            both.append((file.metadata(), safetensors.load_file(folder / name)))
    (their_metadata, theirs), (our_metadata, ours) = both
    assert our_metadata == their_metadata
    assert ours.keys() == theirs.keys()
    assert_equivalent([ours[key] for key in theirs], list(theirs.values()))


def test_what_is_printed(alone, together):
    """The metric and the sample, once; the loss shown is that of all streams."""
    (theirs, out), (_, done) = alone, together
    assert done.stdout == out
    assert done.stderr.count("holds step 6") == 1
    shown = re.findall(r"loss ([\d.]+)", done.stderr)
    assert shown[-1] == f"{theirs['losses'][0][-1]:.3f}"


def test_a_signal_to_one_process_ends_both(tmp_path):
    """After the same step, which one of them saves; the other says nothing at all."""
    words = small(tmp_path, "model.safetensors", "--batch", "8", "--steps", "1000000")
    logs, port = [tmp_path / "log-0", tmp_path / "log-1"], free_port()
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(log, port, *words)) for log in logs]
        wait_for(r"[1-9]\d*/1000000", logs[0], processes[0])
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in processes] == [128 + signal.SIGTERM] * 2
    texts = [text_of(log) for log in logs]
    step = re.search(r"holds step (\d+)\n$", texts[0]).group(1)
    assert texts[1] == ""
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert (about["step"], about["options"]["batch"]) == (int(step), 8)
    assert not list(tmp_path.glob("*.partial"))


@contextlib.contextmanager
def started(log, port, *words):
    """char_lm as the process of rank N of two, writing to the file that ends in N."""
    place = {"RANK": log.name[-1], "WORLD_SIZE": "2"}
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "examples.char_lm", *words],
            env=ENVIRONMENT | place | address,
            stdout=file,
            stderr=file,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def text_of(log):
    return log.read_text(encoding="utf-8", errors="replace")


def wait_for(pattern, log, process):
    """Until the pattern is in the log of a process that is running."""
    deadline = time.monotonic() + 100
    while not re.search(pattern, text_of(log)):
        assert process.poll() is None, text_of(log)
        assert time.monotonic() < deadline, text_of(log)
        time.sleep(0.1)


def test_streams_that_cannot_be_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(language, "WORLD", 2)
    words = small(tmp_path, "model.safetensors", "--batch", "5")
    with pytest.raises(SystemExit, match=r"^error: 2 processes cannot share 5 streams"):
        training.trainer_for(char_lm.CharLM, training.parse(char_lm.CharLM, words))


@pytest.mark.parametrize("name", distributed_worker.SHARDED)
def test_two_steps_of_fully_sharded_training(name, together):
    """With torch.distributed.fsdp.fully_shard parameters are whole during calls only."""
    want = distributed_worker.train(distributed_worker.Model(name), distributed_worker.inputs())
    parts = [process[name] for process in together[0]]
    outputs = zip(*(part["outputs"] for part in parts), strict=True)
    assert_equivalent([torch.cat(output, 1) for output in outputs], want["outputs"])
    for part in parts:
        assert_equivalent(part["gradients"], want["gradients"])
        assert_equivalent(part["parameters"], want["parameters"])
