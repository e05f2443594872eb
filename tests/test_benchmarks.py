"""Claim: the benchmarks check before they time, report it all, and fail on wrong answers."""

import json
import sys

import pytest
import torch

pytest.importorskip("matplotlib", reason="the benchmarks need requirements-bench.txt")
pytest.importorskip("tqdm", reason="as above")
pytest.importorskip("safetensors", reason="as above")

from benchmarks import (
    char_lm,
    checks,
    contenders,
    full,
    grid,
    memory,
    peers,
    report,
    roofline,
    run,
    shapes,
    table,
    timing,
)
from rnnkern import accuracy

TINY = shapes.Shape(T=3, N=2, H=5)


@pytest.fixture
def quick(monkeypatch):
    """All of the machinery on one tiny shape, in no time."""
    for module in (table, report):
        monkeypatch.setattr(module, "SHAPES", (TINY,))
    monkeypatch.setattr(table, "ROWS", 6)
    monkeypatch.setattr(timing, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "BLOCK", 0.0)
    monkeypatch.setattr(run, "BUDGET", 0.0)


@pytest.fixture
def main(monkeypatch, tmp_path, quick):
    """Runs the command; its exit status and the JSON it wrote."""

    def command(*words):
        out = tmp_path / "new" / "result.json"
        monkeypatch.setattr(sys, "argv", ["run", "--out", str(out), *words])
        status = run.main()
        return status, json.loads(out.read_text())

    return command


class Wrong(contenders.Modules):
    """Ours with one number off by a little."""

    def job(self, problem, mode):
        job = super().job(problem, mode)
        return contenders.Job(lambda: [job.run()[0] + 1e-3, *job.run()[1:]])


def test_table(main, tmp_path, capsys):
    status, found = main("--only", "table", "--threads", "1")
    assert status == 0
    assert found["failures"] == []
    assert found["threads"] == 1
    assert len(found["table"]) == len(shapes.CELLS) * len(shapes.MODES)
    for row in found["table"]:
        assert row["ms"][contenders.OURS] > 0
        assert row["best"] == contenders.BASELINE
        ratio = row["ms"][contenders.BASELINE] / row["ms"][contenders.OURS]
        assert row["ratio"] == pytest.approx(ratio)
        assert all(check["passed"] for check in row["checks"][contenders.OURS])
        assert len(row["ms_of_blocks"][contenders.OURS]) >= timing.MIN_ROUNDS
    assert (tmp_path / "new" / "result-ratios.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert all(cell in printed for cell in shapes.CELLS)
    assert "geometric mean" in printed


def test_a_wrong_answer_is_not_timed_and_fails_the_run(main, monkeypatch, capsys):
    ours, baseline = contenders.contenders()
    wrong = [Wrong(ours.name, ours.version, ours.package), baseline]
    monkeypatch.setattr(run, "contenders", lambda: wrong)
    status, found = main("--only", "table")
    assert status == 1
    assert len(found["failures"]) == len(found["table"])
    for row in found["table"]:
        assert contenders.OURS not in row["ms"]
        assert row["ratio"] is None
    assert "WRONG" in capsys.readouterr().out


def test_training_run(main, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(char_lm, "STEPS_OF_BLOCK", 2)
    monkeypatch.setattr(char_lm.measure, "__defaults__", (4,))
    sizes = {"hidden": (8, 8), "layers": (1, 1), "batch": (2, 2), "chunk": (5, 5)}
    monkeypatch.setattr(char_lm.char_lm.CharLM, "sizes", sizes)
    text = tmp_path / "text.txt"
    text.write_text("round and round it goes " * 20)
    status, found = main("--only", "char_lm", "--text", str(text))
    assert status == 0
    losses = found["char_lm"]["losses"]
    assert [len(losses[name]) for name in (contenders.OURS, contenders.BASELINE)] == [4, 4]
    assert found["char_lm"]["largest_difference_of_losses"][contenders.OURS] < 1e-4
    assert (tmp_path / "new" / "result-losses.png").stat().st_size > 1000
    assert "characters/s" in capsys.readouterr().out


@pytest.mark.parametrize("mode", shapes.MODES)
@pytest.mark.parametrize("cell", shapes.CELLS)
def test_jobs_do_what_they_say(cell, mode):
    """Both contenders give every named tensor, near the expected answer."""
    problem = shapes.make_problem(cell, TINY)
    expected, names = checks.expected_answer(problem), problem.answer_names(mode)
    for contender in contenders.contenders():
        job = contender.job(problem, mode)
        for name, tensor in zip(names, job.tensors(job.run()), strict=True):
            assert accuracy.error(tensor, expected[name]) < 1e-5


OPTIONS = {
    "bidirectional": shapes.Shape(3, 2, 5, D=2),
    "layers": shapes.Shape(3, 2, 5, I=4, L=3, D=2),
    "packed": shapes.Shape(13, 4, 5, packed=True),
    "double": shapes.Shape(3, 2, 5, dtype="float64"),
}


@pytest.mark.parametrize("shape", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("mode", shapes.MODES)
@pytest.mark.parametrize("cell", shapes.CELLS)
def test_options_are_measured(quick, cell, mode, shape):
    (row,) = table.measure_shape(contenders.contenders(), cell, shape, [mode], 0.0)
    for found in row.checks.values():
        assert max(check.error for check in found) < 1e-5
    assert str(table.Row.from_json(json.loads(json.dumps(row.as_json())))) == str(row)


@pytest.mark.parametrize("shape", [TINY, shapes.Shape(1, 2, 5), *OPTIONS.values()], ids=str)
@pytest.mark.parametrize("cell", shapes.CELLS)
def test_peers_that_are_installed_are_right(quick, cell, shape):
    """All but the compiled ones, which take seconds each."""
    found = [peer for peer in peers.peers()[0] if not isinstance(peer, peers.Compiled)]
    everyone = [*contenders.contenders(), *found]
    for row in table.measure_shape(everyone, cell, shape, shapes.MODES, 0.0):
        assert row.broken == {}
        assert {peer.name for peer in found} & set(row.checks) <= set(row.seconds)


def test_a_peer_may_be_missing(monkeypatch):
    def not_here(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(peers, "import_module", not_here)
    found, missing = peers.peers()
    assert found[0].name == "torch.nn cell"
    assert [line.split(" (")[0] for line in missing] == ["JAX", "ONNX Runtime", "OpenVINO"]


def test_a_peer_that_breaks_is_reported(quick):
    class Broken(contenders.Modules):
        def job(self, problem, mode):
            raise NotImplementedError("not for\nthis")

    everyone = [*contenders.contenders(), Broken("broken", "1", None)]
    (row,) = table.measure_shape(everyone, "gru", TINY, [shapes.INFERENCE], 0.0)
    assert row.broken == {"broken": "NotImplementedError: not for"}
    assert row.ratio


FLAT = roofline.Roofline(1, {"float32": 1e9, "float64": 5e8}, [[1000, 1e9], [10**6, 1e6]])


def test_limit_adds_up_the_phases():
    """An RNN of H = 10 reads 400 bytes (the fast level) or, at H = 100, 40,000 (the slow one)."""
    small, large = shapes.Shape(7, 3, 10), shapes.Shape(7, 3, 100)
    phases = [max(2 * 21 * 100 / 1e9, 400 / 1e9), max(2 * 21 * 100 / 1e9, 7 * 400 / 1e9)]
    assert FLAT.limit("rnn_tanh", small, shapes.INFERENCE) == pytest.approx(sum(phases))
    training = 2 * sum(phases) + 2 * 21 * 200 / 1e9
    assert FLAT.limit("rnn_tanh", small, shapes.TRAINING) == pytest.approx(training)
    slow = (1 + 7) * 40_000 / 1e6
    assert FLAT.limit("rnn_tanh", large, shapes.INFERENCE) == pytest.approx(slow)


def test_roofline_is_measured_once(monkeypatch, tmp_path):
    monkeypatch.setattr(roofline, "SIZES", [2**14])
    monkeypatch.setattr(roofline, "SECONDS", 1e-4)
    path = tmp_path / "roofline.json"
    try:
        measured = roofline.load(path, 2)
    except roofline.NoCompiler as error:
        pytest.skip(str(error))
    assert measured.flops["float32"] > measured.flops["float64"] > 0
    assert measured.bandwidth[0][1] > 0
    monkeypatch.setattr(roofline, "measure", None)
    assert roofline.load(path, 2) == measured


@pytest.fixture
def small_grid(monkeypatch, quick):
    """The full job on two shapes, without compilers."""
    square = (TINY, shapes.Shape(1, 2, 5))
    for module in (grid, full.full_report):
        monkeypatch.setattr(module, "SQUARE", square)
    for name, values in (("BATCHES", (2,)), ("HIDDENS", (5,)), ("STEPS", (1, 3))):
        monkeypatch.setattr(full.full_report, name, values)
    monkeypatch.setattr(grid, "OPTIONS", (OPTIONS["bidirectional"],))
    monkeypatch.setattr(grid, "LSTM_ONLY", ())
    monkeypatch.setattr(full, "BUDGET", 0.0)
    monkeypatch.setattr(full, "peers", lambda: ([], ["JAX (not here)"]))
    monkeypatch.setattr(full, "load_roofline", lambda *_: FLAT)
    sizes = {contenders.OURS: 2**20, contenders.BASELINE: 2**21}
    monkeypatch.setattr(memory, "measure", lambda threads: {"gru": sizes})


def test_full_grid_in_parts(main, small_grid, monkeypatch, tmp_path, capsys):
    status, found = main("--full", "--cell", "gru", "--filter", "T3.*inference")
    assert status == 0
    assert len(found["table"]) == 2
    assert found["memory"] == {}
    status, found = main("--full", "--resume")
    assert status == 0
    assert len(found["table"]) == 3 * 3 * 2
    assert [row["cell"] for row in found["table"][::6]] == list(shapes.CELLS)
    assert all(row["fraction"] > 0 for row in found["table"])
    assert (tmp_path / "new" / "result-ratios.png").stat().st_size > 1000
    assert (tmp_path / "new" / "result-fractions.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    for words in ("left out: JAX", "of limit", "options", "T3 N2 H5 D2", "ratio 2.00"):
        assert words in printed
    monkeypatch.setattr(table, "measure_shape", None)
    main("--full", "--resume")


@pytest.mark.skipif(not memory.STATUS.exists(), reason="Linux tells the peak of memory")
def test_memory_of_a_step():
    output = memory.SHAPE.T * memory.SHAPE.N * memory.SHAPE.H * 4
    assert memory.ask(contenders.OURS, "lstm", threads=2) > output


@pytest.mark.parametrize("value", [1e-3, float("nan"), float("inf")], ids=str)
def test_check_finds_what_is_wrong(value):
    right = torch.rand(3, 4, dtype=torch.float64)
    baseline = right.float()
    (good,) = checks.check_answer({"y": right}, ["y"], [baseline.clone()], [baseline])
    bad_answer = baseline.clone()
    bad_answer[1, 2] += value
    (bad,) = checks.check_answer({"y": right}, ["y"], [bad_answer], [baseline])
    (misshapen,) = checks.check_answer({"y": right}, ["y"], [baseline[:2]], [baseline])
    assert (good.passed, bad.passed, misshapen.passed) == (True, False, False)


def test_contenders_take_turns(quick):
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = timing.compare(runs, budget=0.0)
    assert [len(times) for times in seconds.values()] == [timing.MIN_ROUNDS] * 2
    assert "".join(calls[2:]) == "abbaab"


def test_problems_are_the_same_each_time():
    a, b = (shapes.make_problem("lstm", TINY) for _ in range(2))
    assert all(torch.equal(a.leaves[name], b.leaves[name]) for name in a.leaves)


def test_result_files_are_named_after_the_machine():
    path = run.default_out("AMD EPYC 9R14 (96-Core)", 2, None)
    assert path.name == "amd-epyc-9r14-96-core-2threads.json"


@pytest.mark.parametrize(
    "words",
    ["--threads 0", "--only nothing", "--resume", "--cell gru", "--full --only table"],
)
def test_impossible_options_are_refused(main, words):
    with pytest.raises(SystemExit) as ended:
        main(*words.split())
    assert ended.value.code == 2
