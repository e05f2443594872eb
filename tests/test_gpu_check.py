"""Claim: the check of a GPU measures what it says, survives what breaks, and reports all of it.

Without a GPU: the grid runs on the CPU with a clock of its own, other programs are small or
recorded, and the program of measurements runs on the emulation.
"""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch
from cuda_emulation import build

from benchmarks import contenders, shapes
from benchmarks.checks import Check, expected_answer
from benchmarks.gpu import (
    answers,
    available,
    check,
    commands,
    exercise,
    grid,
    language,
    micro,
    pair,
    report,
    sanitizer,
    strategies,
    suite,
    timing,
)
from benchmarks.gpu import rows as rows_module
from benchmarks.gpu.commands import Finished, NotCompiled
from benchmarks.gpu.parts import MICRO, PRIMITIVES, Context, Outcome
from benchmarks.gpu.rows import Case, Results, Row
from rnnkern import accuracy

OURS, BASELINE = contenders.OURS, contenders.BASELINE
INFERENCE, TRAINING = shapes.MODES
FACTS = {
    "gpu": "NVIDIA H200",
    "capability": "90",
    "multiprocessors": 132,
    "driver": "580.1",
    "torch": "2.11.0+cu130",
    "cuda": "13.0",
    "cudnn": 91900,
    "python": "3.12.3",
    "commit": "a" * 40,
}


class FakeDevice:
    """The CPU, with the clock on the wall."""

    name = "cpu"

    def __init__(self):
        self.lost = False

    def finish(self):
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def seconds(self, run, calls):
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls

    def graphed(self, run):
        return run

    def kernels(self, run):
        run()
        return ["void gemm<float>", "void elemWiseRNNcell<__half, 2>" + "x" * 200]


class FakeClock:
    """Goes on by a second at every look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def tiny(monkeypatch):
    """Short problems, timed in no time."""
    torch.set_num_threads(1)
    for name in ("collect", "freeze", "unfreeze"):
        monkeypatch.setattr(grid.gc, name, lambda: 0)
    monkeypatch.setattr(grid, "T", 5)
    monkeypatch.setattr(grid, "NAMES_STEPS", 2)
    monkeypatch.setattr(timing, "BLOCK", 0.0)
    monkeypatch.setattr(grid, "ROW_SECONDS", 0.0)


@pytest.fixture
def results(tmp_path):
    return Results(dict(FACTS), [tmp_path / "new" / "gpu.json", tmp_path / "out" / "gpu.json"])


class Changed(contenders.Modules):
    """Ours with another way to answer."""

    def __init__(self, change):
        ours = contenders.RNNKERN
        super().__init__(ours.name, ours.version, ours.package)
        object.__setattr__(self, "change", change)

    def job(self, problem, mode):
        job = super().job(problem, mode)
        return contenders.Job(lambda: self.change(job.run()))


def add_a_little(answer):
    return [answer[0] + 0.1, *answer[1:]]


def raise_an_error(answer):
    raise RuntimeError("no kernel image\nis available")


# ---- Rows


def test_the_grid_is_whole_and_the_most_telling_comes_first():
    cases = rows_module.all_cases()
    assert len(set(cases)) == len(cases) == 3 * 4 * 6 * 6
    assert str(cases[0]) == "lstm bf16 H512 N16"
    first = cases[: 3 * 2 * 3 * 3]
    assert {case.precision for case in first} == {"bf16", "fp32"}
    assert {case.H for case in first} == {256, 512, 1024}
    assert {case.N for case in first} == {1, 16, 64}
    assert {case.cell for case in first[:6]} == set(shapes.CELLS)
    assert sum(case.in_a_graph for case in cases) == 3 * 2 * 3 * 2


@pytest.mark.parametrize(
    ("kernels", "path"),
    [
        (["void RNN_persist_fp<__half, __half>", "void persistRNN_addBias"], "persistent"),
        (["void RNN_blockPersist_fp_LSTM<float>"], "small persistent"),
        (["nvjet_hsh_64x8", "void elemWiseRNNcell<__half>"], "standard"),
        (["void LSTM_elementWise_fp<float>"], "standard"),
        (["void at::native::lstm_cell_forward<float>"], "other"),
    ],
)
def test_the_way_of_cudnn_is_told_by_its_kernels(kernels, path):
    assert rows_module.path_of(kernels) == path


def make_row(case, mode, ours=4.0, baseline=6.0, passed=True):
    checked = {OURS: [Check("y", 1e-3, 1e-2 if passed else 1e-4)]}
    us = {OURS: [ours, ours * 2, ours], BASELINE: [baseline] * 3}
    if rows_module.wants_graph(case, mode):
        us |= {rows_module.OURS_GRAPH: [ours / 2], rows_module.BASELINE_GRAPH: [baseline]}
    return Row(case, mode, us, checked, {}, ["void RNN_persist_fp<__half>"], "stepwise")


def test_a_row_survives_being_saved():
    row = make_row(Case("gru", "tf32", 256, 17), TRAINING)
    row.broken["rnnkern, graph"] = "RuntimeError: not capturable"
    again = Row.from_json(json.loads(json.dumps(row.as_json())))
    assert again == row
    assert again.speedup() == 1.5
    assert again.failures == ["rnnkern, graph: RuntimeError: not capturable"]


def test_a_wrong_row_counts_nowhere():
    row = make_row(Case("gru", "tf32", 256, 17), TRAINING, passed=False)
    assert row.speedup() is None
    assert row.failures == ["rnnkern: y 1.0e-03 > 1.0e-04"]


# ---- Measuring


def test_contenders_take_turns():
    calls = []

    class Counting(FakeDevice):
        def seconds(self, run, calls):
            run()
            return 1.0

    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = timing.compare(Counting(), runs, 0.0, FakeClock())
    assert [len(times) for times in seconds.values()] == [timing.MIN_ROUNDS] * 2
    assert "".join(calls[2:]) == "abbaab"
    seconds = timing.compare(Counting(), runs, 1e9, FakeClock())
    assert [len(times) for times in seconds.values()] == [timing.MAX_ROUNDS] * 2


@pytest.mark.parametrize("precision", answers.PRECISIONS)
@pytest.mark.parametrize("cell", shapes.CELLS)
def test_rows_of_a_case(tiny, results, cell, precision):
    case = Case(cell, precision, 8, 3)
    grid.measure(FakeDevice(), results, [case], 100.0)
    inference, training = results.rows.values()
    assert (inference.mode, training.mode) == shapes.MODES
    for row in (inference, training):
        assert row.failures == []
        assert row.speedup() > 0
        assert len(row.us[OURS]) == timing.MIN_ROUNDS
    tensors = [found.tensor for found in training.checks[OURS]]
    assert tensors == ["y", "h_n", *["c_n"] * (cell == "lstm"), "dx", "dw_hh_l0"]


def test_what_is_right_is_what_the_reference_says():
    problem = answers.make_problem("lstm", shapes.Shape(5, 3, 8, dtype="bfloat16"), "cpu")
    truth = expected_answer(problem)
    found = answers.expected(problem)
    assert set(found) == set(answers.CHECKED[TRAINING])
    for name, tensor in found.items():
        assert tensor.dtype == torch.float64
        assert accuracy.error(tensor, truth[name]) < 1e-12


def test_a_problem_is_the_same_each_time():
    shape = shapes.Shape(3, 2, 5)
    a, b = (answers.make_problem("lstm", shape, "cpu") for _ in range(2))
    assert all(torch.equal(a.leaves[name], b.leaves[name]) for name in a.leaves)


def test_the_precision_is_put_back():
    settings = torch.backends.cudnn.rnn
    before = settings.fp32_precision
    with answers.using(answers.PRECISIONS["tf32"]):
        assert settings.fp32_precision == "tf32"
    assert settings.fp32_precision == before


def test_inference_of_main_cases_is_measured_in_a_graph_too(tiny, results, monkeypatch):
    monkeypatch.setattr(Case, "in_a_graph", True)
    grid.measure(FakeDevice(), results, [Case("gru", "fp32", 8, 1)], 100.0)
    inference, training = results.rows.values()
    assert set(inference.us) == {BASELINE, OURS, *rows_module.GRAPHS.values()}
    assert set(inference.checks) == {OURS, rows_module.OURS_GRAPH}
    assert set(training.us) == {OURS, BASELINE}


def test_a_wrong_answer_is_loud(tiny, results, monkeypatch, capsys):
    monkeypatch.setattr(grid, "RNNKERN", Changed(add_a_little))
    grid.measure(FakeDevice(), results, [Case("gru", "fp32", 8, 3)], 100.0)
    for row in results.rows.values():
        assert row.speedup() is None
        assert "rnnkern: y 1.0e-01" in row.failures[0]
    assert "rnnkern: y 1.0e-01" in capsys.readouterr().out
    text = "\n".join(report.grid_lines(list(results.rows.values()), 0))
    assert "WRONG: 2 rows" in text
    assert "gru fp32 H8 N3 training" in text


def test_an_exception_is_noted_and_the_grid_goes_on(tiny, results, monkeypatch):
    monkeypatch.setattr(grid, "RNNKERN", Changed(raise_an_error))
    grid.measure(FakeDevice(), results, [Case("gru", "fp32", 8, n) for n in (1, 2)], 100.0)
    assert len(results.rows) == 4
    for row in results.rows.values():
        assert row.broken == {OURS: "RuntimeError: no kernel image"}
        assert BASELINE in row.us


def test_a_lost_device_ends_the_grid_but_not_its_file(tiny, results, monkeypatch):
    device = FakeDevice()

    def lose(answer):
        device.lost = True
        return answer

    monkeypatch.setattr(grid, "RNNKERN", Changed(lose))
    with pytest.raises(grid.DeviceLost, match="illegal memory access"):
        grid.measure(device, results, [Case("gru", "fp32", 8, 1)], 100.0)
    _, (saved,) = rows_module.read(results.paths[0])
    assert "illegal memory access" in saved.broken[OURS]


def test_the_budget_ends_the_grid(tiny, results):
    cases = [Case("rnn_tanh", "fp32", 4, n) for n in range(1, 6)]
    grid.measure(FakeDevice(), results, cases, 3.0, FakeClock())
    assert [row.case.N for row in results.rows.values()] == [1, 1, 2, 2]


def test_files_are_whole_after_every_row_and_resumed(tiny, results, monkeypatch):
    cases = tuple(Case("gru", "fp32", 8, n) for n in (1, 2))
    monkeypatch.setattr(rows_module, "all_cases", lambda: cases)
    grid.measure(FakeDevice(), results, cases[:1], 100.0)
    first, second = (json.loads(path.read_text()) for path in results.paths)
    assert first == second
    assert first["gpu"] == "NVIDIA H200"
    assert first["not_measured"] == ["gru fp32 H8 N2 inference", "gru fp32 H8 N2 training"]
    assert [row["mode"] for row in first["rows"]] == [INFERENCE, TRAINING]

    again = Results(dict(FACTS), results.paths)
    again.resume()
    assert again.rows == results.rows
    grid.measure(FakeDevice(), again, cases, 100.0)
    assert len(again.rows) == 4
    assert again.missing() == []
    assert again.rows["gru fp32 H8 N1 training"] == results.rows["gru fp32 H8 N1 training"]

    other = Results({**FACTS, "commit": "b" * 40}, results.paths)
    other.resume()
    assert other.rows == {}


def test_kernels_are_named_after_all_timing(tiny, results, monkeypatch):
    case = Case("gru", "fp32", 8, 1)
    monkeypatch.setattr(grid, "all_cases", lambda: [case])
    monkeypatch.setattr(grid.environment, "state", lambda: {"sm_mhz": "1980"})
    grid.run(FakeDevice(), results, 100.0)
    facts, rows = rows_module.read(results.paths[0])
    for row in rows:
        assert row.path == "standard"
        assert row.kernels[1] == "void gemm<float>"
        assert max(len(name) for name in row.kernels) == grid.LONGEST_NAME
    assert facts["clocks"]["after"] == {"sm_mhz": "1980"}


def test_a_profiler_that_fails_costs_only_the_names(tiny, results, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUPTI is not there")

    monkeypatch.setattr(grid, "all_cases", lambda: [Case("gru", "fp32", 8, 1)])
    monkeypatch.setattr(FakeDevice, "kernels", fail)
    grid.run(FakeDevice(), results, 100.0)
    assert "CUPTI" in json.loads(results.paths[0].read_text())["kernels"]


# ---- The table


def everything():
    """A row for each of the grid, some of them slower than torch.nn."""
    rows = []
    for index, case in enumerate(rows_module.all_cases()):
        rows += [make_row(case, mode, ours=2.0 + index % 7) for mode in shapes.MODES]
    return rows


def test_means_are_geometric():
    case = Case("gru", "bf16", 256, 1)
    rows = [make_row(case, INFERENCE, 1.0, 2.0), make_row(case, INFERENCE, 1.0, 8.0)]
    assert report.mean(row.speedup() for row in rows) == "4.00 (2)"
    assert report.mean([None]) == "-"


def test_the_grid_in_short():
    lines = report.grid_lines(everything(), 7)
    text = "\n".join(lines)
    assert "864 rows measured, 7 not" in text
    assert re.search(r"^lstm +\d\.\d\d \(36\)", text, re.MULTILINE)
    assert "persistent inference " in text
    assert "inference in a CUDA graph" in text
    assert re.search(r"^worst +0\.75 ", text, re.MULTILINE)
    assert re.search(r"^best +3\.00 ", text, re.MULTILINE)
    assert re.search(r"slower than torch.nn: \d+ of 864 rows \(gru inference \d+", text)
    assert len(lines) <= check.MOST_LINES["grid"]
    assert report.grid_lines([], 864) == ["grid: no row measured, 864 missing"]


def recorded_numbers():
    """As many numbers as the programs print, in such words."""
    return [
        {"what": what, "how": f"{n} blocks by bulk copies, {k} KiB", "value": 1234.5, "unit": "ns"}
        for what in (
            "exchange in a cluster, one way",
            "all blocks through the L2 cache",
            "launches",
        )
        for n in (1, 16, 132, 512)
        for k in range(8)
    ]


def test_all_that_matters_fits_on_a_page():
    found = {
        "tests": (Outcome(["suite: 4000 passed, 0 failed, 9 skipped"] * 3), 60.0),
        "sanitizer": (
            Outcome(["all kernels: memcheck passed in 20 s; racecheck passed in 30 s"]),
            50.0,
        ),
        "micro": (Outcome(micro.table(recorded_numbers())), 20.0),
        "grid": (Outcome(report.grid_lines(everything(), 0)), 200.0),
    }
    text = check.as_text(FACTS, found)
    assert text.endswith("\ngpu-check: passed")
    assert "more lines" not in text
    assert len(text) < 12_000
    assert len(text.splitlines()) < 140
    assert sum(check.MOST_LINES.values()) + 8 < 140


def test_what_is_too_long_is_cut():
    assert check.clipped(["a", "b", "c"], 3) == ["a", "b", "c"]
    assert check.clipped(["a", "b", "c", "d"], 3) == ["a", "b", "... 2 lines more"]
    assert len(check.clipped(["x" * 500], 3)[0]) == check.WIDTH


# ---- The command


@pytest.fixture
def command(monkeypatch, tmp_path):
    """The command on a machine that has all it asks for, with parts that do nothing."""
    monkeypatch.setattr(check, "missing", lambda: None)
    monkeypatch.setattr(check, "FOLDER", tmp_path / "gpu-check")
    monkeypatch.setattr(check.environment, "facts", lambda: dict(FACTS))
    monkeypatch.setattr(commands, "compile_cuda", lambda source, program, *_: program)
    monkeypatch.setattr(check.signal, "signal", lambda *_: None)
    (tmp_path / "out").mkdir()
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    run = []

    def part(name, outcome):
        def do(context, seconds):
            run.append((name, seconds))
            context.log(name).write_text("the log")
            return outcome

        return do

    fakes = {name: part(name, Outcome([f"{name} is fine"])) for name in check.SHARES}
    monkeypatch.setattr(check, "parts", lambda args: {n: fakes[n] for n in fakes if n in args.only})
    return fakes, run


def test_everything_in_order(command, tmp_path, capsys):
    _, run = command
    assert check.main([]) == 0
    assert [name for name, _ in run] == list(check.SHARES)
    assert run[-1][1] == pytest.approx(check.LIMIT, abs=5)
    assert run[0][1] < check.LIMIT / 2
    printed = capsys.readouterr().out
    assert "grid is fine" in printed
    assert printed.endswith("\ngpu-check: passed\n")
    kept = {path.name for path in (tmp_path / "out").iterdir()}
    assert kept == {"logs.txt", "summary.txt"}
    logs = (tmp_path / "out" / "logs.txt").read_text()
    assert logs.count("the log") == len(check.SHARES)
    assert "==== language.log\nthe log" in logs


def test_a_part_alone_has_all_the_time(command):
    _, run = command
    assert check.main(["--only", "micro,tests", "--limit", "100"]) == 0
    assert [name for name, _ in run] == ["tests", "micro"]
    assert run[-1][1] == pytest.approx(100, abs=5)


def test_failures_are_told_by_name_and_status(command, capsys):
    fakes, _ = command

    def broken(context, seconds):
        raise ValueError("what a pity")

    fakes["sanitizer"] = broken
    fakes["grid"] = lambda context, seconds: Outcome([], ["3 rows of the grid"])
    assert check.main([]) == 1
    printed = capsys.readouterr().out
    assert "ValueError: what a pity" in printed
    assert "FAILED (sanitizer: it broke off; grid: 3 rows of the grid)\n" in printed
    assert "micro is fine" in printed


@pytest.mark.parametrize("words", ["--only nothing", "--only tests,nothing", "--limit soon"])
def test_impossible_options_are_refused(command, words):
    with pytest.raises(SystemExit) as ended:
        check.main(words.split())
    assert ended.value.code == 2


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for main in (available.main, lambda: check.main([])):
        assert main() == 1
        (line,) = capsys.readouterr().out.splitlines()
        assert re.fullmatch(r"gpu-check: FAILED \(.*(no GPU|no CUDA).*\)", line)


def test_the_goal_of_make_asks_first_and_makes_no_environment():
    variables = {n: v for n, v in os.environ.items() if n not in ("PYTHON", "MAKEFLAGS")}
    command = ["make", "-n", "-C", str(commands.ROOT), "gpu-check"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    first, *_, last = (line for line in done.stdout.splitlines() if "benchmarks.gpu" in line)
    assert "python3 -m benchmarks.gpu.available" in first
    assert "python3 -m benchmarks.gpu.check" in last
    assert ".venv" not in done.stdout


def test_a_build_without_cuda_is_told_apart(monkeypatch):
    monkeypatch.setattr(available, "reason", lambda: None)
    monkeypatch.setattr(check.rnnkern, "cuda_version", None)
    assert check.missing() == "rnnkern was built without CUDA"


def context_in(folder, programs=None):
    return Context(folder, None, "NVIDIA H200", programs or {})


def test_a_lost_device_is_followed_by_a_new_process(monkeypatch, tmp_path):
    asked, codes = [], [grid.DEVICE_LOST, 0]
    path = tmp_path / "gpu.json"

    def run(words, log, seconds):
        asked.append(words)
        clocks = {"clocks": {"after": {"sm_mhz": "1980"}}}
        results = Results({**FACTS, **clocks}, [path])
        results.add(make_row(Case("gru", "bf16", 256, 1), INFERENCE))
        return Finished(codes[len(asked) - 1], "", 1.0)

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(grid, "default_path", lambda gpu: path)
    outcome = check.run_grid(context_in(tmp_path), 100.0, 200.0, resume=False)
    assert outcome.failures == []
    assert ["--resume" in words for words in asked] == [False, True]
    assert int(asked[0][asked[0].index("--budget") + 1]) <= 100
    assert "1 rows measured, 863 not" in outcome.lines[0]
    assert "after the grid: SM clock 1980 MHz, memory ? MHz, ? C" in outcome.lines


def test_rows_of_an_earlier_run_are_not_taken_for_this_one(monkeypatch, tmp_path):
    path = tmp_path / "gpu.json"
    Results(dict(FACTS), [path]).add(make_row(Case("gru", "bf16", 256, 1), INFERENCE))
    os.utime(path, (1, 1))
    monkeypatch.setattr(commands, "run", lambda *_: Finished(1, "ImportError", 1.0))
    monkeypatch.setattr(grid, "default_path", lambda gpu: path)
    outcome = check.run_grid(context_in(tmp_path), 100.0, 200.0, resume=False)
    assert outcome.failures == ["the grid ended with 1"]


# ---- Other programs


def test_a_program_that_takes_too_long_is_ended_with_its_children(monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "GRACE", 0.1)
    script = "trap '' INT; echo begun; sleep 60 & echo $!; wait; wait"
    finished = commands.run(["sh", "-c", script], tmp_path / "log", 0.5)
    assert finished.code is None
    assert finished.seconds < 5
    begun, child = finished.output.split()
    assert begun == "begun"
    state = Path(f"/proc/{child}/stat")
    deadline = time.monotonic() + 5
    while state.exists() and ") Z " not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not state.exists() or ") Z " in state.read_text()


def test_logs_gather_and_outputs_do_not(tmp_path):
    for word in ("one", "two"):
        finished = commands.run(["echo", word], tmp_path / "log", 10.0)
        assert (finished.code, finished.output) == (0, f"{word}\n")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


TESTS = """
import pytest

def test_right():
    pass

def test_wrong():
    assert 1 == 2, "a pity"

@pytest.mark.skip
def test_left_out():
    pass

@pytest.fixture
def broken():
    raise ValueError

def test_broken(broken):
    pass
"""


def test_what_pytest_finds_is_counted(tmp_path):
    (tmp_path / "test_it.py").write_text(TESTS)
    words = [str(tmp_path), "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
    counts = suite.pytest_run(words, tmp_path / "log", tmp_path / "it.xml", 60.0)
    assert counts.outcomes == {"passed": 1, "failed": 2, "skipped": 1}
    assert counts.trouble is None
    assert counts.failed[0].startswith("test_it::test_wrong: AssertionError: a pity")
    outcome = Outcome()
    suite.add(outcome, "suite", counts)
    assert outcome.lines[0] == "suite: 1 passed, 2 failed, 1 skipped"
    assert outcome.failures == ["2 tests of suite"]


def test_a_pytest_that_does_not_get_to_its_end_fails(tmp_path):
    words = ["--no-such", str(tmp_path), f"--rootdir={tmp_path}"]
    counts = suite.pytest_run(words, tmp_path / "log", tmp_path / "it.xml", 60.0)
    assert "pytest ended with 4" in counts.trouble
    outcome = Outcome()
    suite.add(outcome, "suite", counts)
    assert len(outcome.failures) == 1
    suite.add(outcome, "primitives", suite.Counts())
    assert outcome.failures[1] == "no test of primitives ran"


def test_the_suite_is_asked_for_what_it_has():
    words = suite.suite_words()
    assert words[:2] == ["--backend", "cuda"]
    for word in words:
        if word.startswith("--ignore="):
            assert Path(word.partition("=")[2]).exists()


def test_the_words_of_the_primitives(monkeypatch, tmp_path):
    counts = suite.parse_lines("ok a\nFAILED b: 1 instead of 2\nskipped c: needs 100\nnoise\n")
    assert counts.outcomes == {"passed": 1, "failed": 1, "skipped": 1}
    assert counts.failed == ["b: 1 instead of 2"]
    counts = suite.primitives_run(context_in(tmp_path), tmp_path / "log", 1.0)
    assert "was not asked for" in counts.trouble


MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at void rnnkern::cuda::forward_kernel<Lstm>(int)+0x1d0 in pointwise.cuh:55
=========     by thread (0,0,0) in block (0,0,0)
=========
========= Invalid __global__ write of size 4 bytes
=========     at void rnnkern::cuda::forward_kernel<Lstm>(int)+0x1d0 in pointwise.cuh:55
=========     by thread (1,0,0) in block (0,0,0)
=========
========= ERROR SUMMARY: 2 errors
"""
RACECHECK = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at sums+0x80 in rows.cuh:40
=========     and Read access at sums+0xa0 in rows.cuh:44 [4 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


@pytest.mark.parametrize(
    ("code", "output", "failed", "text", "finding"),
    [
        (0, "calls: cluster 9\n========= ERROR SUMMARY: 0 errors\n", False, "passed in 7 s", ""),
        (0, "calls: cluster 0\n========= ERROR SUMMARY: 0 errors\n", False, "nothing to look", ""),
        (
            99,
            MEMCHECK,
            True,
            "2 errors",
            "2 x Invalid __global__ write of size 4 bytes at",
        ),
        (99, RACECHECK, True, "1 hazard displayed", "1 x Error: Race reported between Write"),
        (1, "========= Error: Device not supported. Please\n", False, "refused", ""),
        (1, "Traceback\nValueError: no\n", True, "the program ended with 1", "Traceback"),
        (None, MEMCHECK, True, "interrupted after 7 s", "2 x Invalid"),
    ],
)
def test_verdicts_of_the_sanitizer(code, output, failed, text, finding):
    verdict = sanitizer.judge(Finished(code, output, 7.0))
    assert verdict.failed == failed
    assert text in verdict.text
    assert "".join(verdict.findings).startswith(finding)


def test_every_tool_runs_over_both_programs(monkeypatch, tmp_path):
    asked = []

    def run(words, log, seconds, environment):
        asked.append([str(word) for word in words])
        log.write_text("log")
        racy = "racecheck" in words and "--kernel-name" in words
        return Finished(99, RACECHECK, 1.0) if racy else Finished(0, "", 1.0)

    class Program:
        def result(self):
            return tmp_path / PRIMITIVES

    monkeypatch.setattr(commands, "find", lambda name: f"/opt/{name}")
    monkeypatch.setattr(commands, "run", run)
    outcome = sanitizer.run(context_in(tmp_path, {PRIMITIVES: Program()}), 100.0)
    programs = len(exercise.STRATEGIES) + 1
    assert len(asked) == len(sanitizer.TOOLS) * programs
    assert outcome.failures == [f"racecheck of {name}" for name in exercise.STRATEGIES]
    assert len(outcome.lines) == programs + len(exercise.STRATEGIES)
    assert "racecheck 1 hazard" in outcome.lines[0]
    assert "== sanitizer-synccheck-primitives" in (tmp_path / "sanitizer.log").read_text()


def test_a_machine_without_the_sanitizer_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "find", lambda name: None)
    outcome = sanitizer.run(context_in(tmp_path), 100.0)
    assert outcome == Outcome(["there is no compute-sanitizer here: not run"])


def test_the_exercise_runs_everything(monkeypatch):
    monkeypatch.setenv("RNNKERN_CUDA_STRATEGY", "")
    networks, dtypes, inputs = 5, len(exercise.DTYPES), 2
    expected = networks * dtypes * len(exercise.SHAPES) * inputs
    assert exercise.exercise("cpu", ["stepwise"]) == {"stepwise": expected}


def test_the_strategies_are_those_of_the_plan():
    plan = (commands.ROOT / "csrc" / "cuda" / "plan.cpp").read_text()
    assert set(exercise.STRATEGIES) <= set(re.findall(r'"(\w+)"', plan))
    header = (commands.ROOT / "csrc" / "cuda" / "plan.h").read_text()
    kinds = re.search(r"enum class Strategy \{(.*?)\}", header)[1]
    assert len(kinds.split(",")) == len(exercise.STRATEGIES)
    assert exercise.REFUSED in plan


# ---- The program of measurements


def test_numbers_that_were_cut_off_are_left_out():
    good = {"what": "a", "how": "b, c", "value": None, "unit": "ns", "why": "no such cluster"}
    assert micro.parse(f'{json.dumps(good)}\nnoise\n{{"what": "a", "how') == [good]
    assert micro.table([good]) == ["a [ns]: b: c none"]
    lines = micro.table(
        [
            {"what": "barrier", "how": "ours, 8 blocks", "value": 812.34, "unit": "ns"},
            {"what": "barrier", "how": "ours, 16 blocks", "value": 1234.5, "unit": "ns"},
            {"what": "clusters", "how": "8 blocks", "value": 16, "unit": ""},
        ]
    )
    assert lines == ["barrier [ns]: ours: 8 blocks 812, 16 blocks 1234", "clusters: 8 blocks: 16"]


def test_numbers_are_kept_and_failures_told(monkeypatch, tmp_path):
    number = {"what": "a", "how": "b", "value": 1.0, "unit": "ns"}
    monkeypatch.setattr(micro.environment, "facts", lambda: dict(FACTS))
    monkeypatch.setattr(micro.machine, "results_path", lambda *words: tmp_path / "micro.json")
    monkeypatch.setattr(commands, "run", lambda *_: Finished(1, json.dumps(number) + "\n", 1.0))
    outcome = micro.run(context_in(tmp_path), 10.0)
    assert outcome.lines[-1] == "a [ns]: b: 1"
    assert outcome.failures[0] == "micro.cu: micro was not asked for"
    assert outcome.failures[1:] == ["benchmarks.gpu.pair ended with 1"]
    assert json.loads((tmp_path / "micro.json").read_text())["numbers"] == [number]


def test_steps_of_a_pair_of_kernels(monkeypatch):
    monkeypatch.setattr(pair, "STEPS", 2)
    monkeypatch.setattr(pair, "TRIALS", 1)
    found = list(pair.measure(FakeDevice()))
    assert len(found) == len(pair.HIDDENS) * 3 * 2
    assert all(number["value"] > 0 for number in found)


def test_the_program_compiles(tmp_path):
    if commands.find("nvcc") is None:
        pytest.skip("there is no nvcc")
    strict = ["-Werror", "all-warnings", "-c"]
    program = commands.compile_cuda(check.SOURCES[MICRO], tmp_path / "micro.o", "90", strict)
    assert program.stat().st_size > 0


def test_what_does_not_compile_says_why(tmp_path):
    if commands.find("nvcc") is None:
        pytest.skip("there is no nvcc")
    source = tmp_path / "bad.cu"
    source.write_text("int main() { return nothing; }\n")
    with pytest.raises(NotCompiled, match=r"bad.cu: .*nothing"):
        commands.compile_cuda(source, tmp_path / "bad", "90")


# What the emulation lacks of CUDA's runtime; graphs are not run there.
RUNTIME = """
#pragma once
#include <cuda_runtime.h>
namespace cooperative_groups {
struct Grid { void sync() const {} };
inline Grid this_grid() { return {}; }
}
using cudaGraph_t = void*;
using cudaGraphExec_t = void*;
enum { cudaStreamCaptureModeGlobal };
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, int) { return cudaErrorInvalidValue; }
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*) { return cudaSuccess; }
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, int) { return cudaSuccess; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
inline cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* time, cudaEvent_t, cudaEvent_t) {
  static float now = 0;
  *time = now += 1;
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMemcpyFromSymbol(void* to, T& from, size_t) {
  *static_cast<T*>(to) = from;
  return cudaSuccess;
}
template <class T>
cudaError_t cudaMemcpyToSymbol(T& to, const void* from, size_t) {
  to = *static_cast<const T*>(from);
  return cudaSuccess;
}
"""
EMULATION = ("emulation", "runtime")
FEWER = [
    ("int trial = -1;", "int trial = 0;"),
    ("kTrials = 9;", "kTrials = 1;"),
    ("kLaunches = 2000;", "kLaunches = 2;"),
    ("uint64_t{20'000'000}", "uint64_t{1}"),
    ("const double once =", "rounds = 3;\n  const double once ="),
]


def test_its_kernels_do_not_wait_in_vain(tmp_path):
    """On the emulation: a few rounds of each measurement but that of graphs."""
    text = check.SOURCES[MICRO].read_text()
    for before, after in FEWER:
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "micro.cu").write_text(text)
    (tmp_path / "cooperative_groups.h").write_text(RUNTIME)
    barrier = check.SOURCES[MICRO].with_name("grid_barrier.cuh")
    (tmp_path / barrier.name).write_text(barrier.read_text())
    build.BUILD.mkdir(parents=True, exist_ok=True)
    objects = [build.compiled(build.HERE / f"{name}.cpp", None) for name in EMULATION]
    includes = [f"-I{folder}" for folder in (tmp_path, build.HERE / "include", build.CSRC)]
    flags = ["-std=c++20", "-O1", "-Wno-unknown-pragmas", "-pthread", *includes]
    sources = ["-x", "c++", str(tmp_path / "micro.cu"), "-x", "none", *map(str, objects)]
    program = tmp_path / "micro"
    build.run(["g++", *flags, *sources, "-o", str(program)])
    done = subprocess.run([program], capture_output=True, text=True, timeout=100, check=True)
    numbers = micro.parse(done.stdout)
    assert len(numbers) == 83
    why = {number["why"].partition(":")[0] for number in numbers if number["value"] is None}
    assert why == {"no such cluster fits", "cannot capture"}


def test_strategies_are_forced_one_after_the_other(tiny, monkeypatch):
    monkeypatch.setattr(strategies, "ROW_SECONDS", 0.0)
    asked = []

    class Asked(contenders.Modules):
        def job(self, problem, mode):
            job = super().job(problem, mode)

            def run():
                asked.append(os.environ[strategies.VARIABLE])
                if asked[-1] == "cluster":
                    raise RuntimeError(f"cluster {exercise.REFUSED}: too large")
                if asked[-1] == "persistent":
                    raise RuntimeError("lost")
                return job.run()

            return contenders.Job(run, job.tensors)

    monkeypatch.setattr(strategies, "RNNKERN", Asked(OURS, "1", contenders.RNNKERN.package))
    monkeypatch.setenv(strategies.VARIABLE, "")
    (case,) = strategies.cases("lstm/fp32/8/3")
    row = strategies.measure(FakeDevice(), case, TRAINING, steps=4)
    assert set(row["us_of_blocks"]) == {BASELINE, "fused", "stepwise"}
    assert row["wrong"] == {"persistent": "RuntimeError: lost"}
    assert asked[:2] == ["cluster", "persistent"]
    assert set(asked[2:]) == {"fused", "stepwise"}
    assert "WRONG persistent: RuntimeError: lost" in strategies.line(row)


def test_cases_are_all_combinations():
    found = [str(case) for case in strategies.cases("lstm,gru/bf16/512,8/16")]
    assert len(found) == 4
    assert found[-1] == "gru bf16 H8 N16"
    for text in strategies.CASES:
        assert all(case.precision in answers.PRECISIONS for case in strategies.cases(text))


@pytest.mark.parametrize("program", [strategies, language])
def test_programs_need_a_gpu(program, monkeypatch, capsys):
    monkeypatch.setattr(available, "reason", lambda: "there is none")
    assert program.main([]) == 1
    assert capsys.readouterr().out == "there is none\n"


@pytest.mark.parametrize(
    ("code", "failures"), [(0, []), (1, ["it ended with 1"]), (None, ["it was interrupted"])]
)
def test_a_program_is_judged_by_its_exit_status(code, failures, monkeypatch, tmp_path):
    asked = []

    def run(words, log, seconds):
        asked.append(words)
        return Finished(code, "one\ntwo\n", 1.0)

    monkeypatch.setattr(commands, "run", run)
    outcome = check.run_strategies(context_in(tmp_path), 60.0)
    assert outcome == Outcome(["one", "two"], failures)
    assert asked[0][2:] == ["benchmarks.gpu.strategies", "--budget", "35"]


# ---- The language model


def test_a_language_model_is_trained_by_both(monkeypatch):
    monkeypatch.setattr(language, "BLOCKS", 4)
    monkeypatch.setattr(language, "STEPS", 1)
    sizes = {"--hidden": 16, "--layers": 1, "--batch": 4, "--chunk": 8}
    row = language.measure(FakeDevice(), sizes, autocast=False)
    assert row["agree"]
    assert [len(each) for each in row["losses"].values()] == [4, 4]
    assert row["losses"][OURS] == pytest.approx(row["losses"][BASELINE], rel=0.01)
    assert all(rate > 0 for rate in row["tokens_per_second"].values())
    assert "times as fast" in language.lines(row)[-1]
    assert "DIFFER" in language.lines({**row, "agree": False})[-1]
