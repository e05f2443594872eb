"""Claim: the benchmarks check before they time, report it all, and fail on wrong answers."""

import json
import sys

import pytest
import torch

pytest.importorskip("matplotlib", reason="the benchmarks need requirements-bench.txt")
pytest.importorskip("tqdm", reason="as above")
pytest.importorskip("safetensors", reason="as above")

from benchmarks import char_lm, checks, contenders, report, run, shapes, table, timing

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
    monkeypatch.setattr(
        char_lm.char_lm, "SIZES", {"hidden": 8, "layers": 1, "batch": 2, "chunk": 5}
    )
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
            assert checks.max_error(tensor, expected[name]) < 1e-5


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


@pytest.mark.parametrize("words", [["--threads", "0"], ["--only", "nothing"]], ids=str)
def test_impossible_options_are_refused(main, words):
    with pytest.raises(SystemExit) as ended:
        main(*words)
    assert ended.value.code == 2
