"""The main job: `python -m benchmarks.run`, about four minutes on two cores.

With --full the whole grid against all contenders instead (full.py): hours; --cell and --filter
choose parts, which the file of results gathers.

Exits with 1 if any of our answers is wrong.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from . import char_lm, full, machine, report, table
from .contenders import contenders
from .report import Results
from .shapes import CELLS

BUDGET = 2.5
"""Seconds of timing a row of the table gets."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description="Check rnnkern's answers and time them."
    )
    add = parser.add_argument
    add("--only", choices=["table", "char_lm"], help="one half of the job")
    add("--threads", type=int, metavar="N", help="default: torch's own choice")
    add(
        "--out",
        type=Path,
        metavar="FILE.json",
        help="default: benchmarks/results/CPU-Nthreads.json",
    )
    add("--text", type=Path, metavar="FILE", help="to train on; default: Python's own sources")
    add("--full", action="store_true", help="the whole grid, against everything installed")
    full_options = parser.add_argument_group("with --full")
    add = full_options.add_argument
    add("--cell", choices=CELLS, help="one cell")
    add(
        "--filter",
        type=re.compile,
        metavar="REGEX",
        help='rows with it in their name, such as "lstm T100 N32 H512 D2 training"',
    )
    add("--resume", action="store_true", help="leave out the rows that the file has")
    args = parser.parse_args()
    if not args.full and (args.cell or args.filter or args.resume):
        parser.error("--cell, --filter and --resume go with --full")
    if args.full and (args.only or args.text):
        parser.error("--only and --text do not go with --full")
    if args.threads is not None and args.threads < 1:
        parser.error("--threads must be positive")
    return args


def default_out(cpu: str, threads: int, only: str | None) -> Path:
    """A file for each machine, thread count and half of the job."""
    return machine.results_path(cpu, f"{threads}threads", *([only] if only else []))


def run_table(results: Results) -> None:
    """Fill in the rows."""
    with tqdm(total=table.ROWS, desc="table", unit="row") as bar:
        for row in table.measure(contenders(), BUDGET):
            results.rows.append(row)
            bar.set_postfix_str(str(row), refresh=False)
            bar.update()


def run_char_lm(results: Results, path: Path | None) -> None:
    """Train both models on the text, by default the sources of Python's standard library."""
    words = ["--text", str(path)] if path else []
    turns = char_lm.STEPS // char_lm.STEPS_OF_BLOCK * len(char_lm.IMPLEMENTATIONS)
    with tqdm(total=turns * char_lm.STEPS_OF_BLOCK, desc="training", unit="step") as bar:
        for result in char_lm.measure(words):
            results.char_lm = result
            bar.update(char_lm.STEPS_OF_BLOCK)


def main() -> int:
    """Run, report, and tell by the exit status whether all answers were right."""
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.full:
        return full.run(args.out, full.Selection(args.cell, args.filter, args.resume))
    facts = machine.facts(contenders())
    results = Results(facts)
    out = args.out or default_out(facts["cpu"], facts["threads"], args.only)
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.only != "table":  # first, so that an unusable text ends the run at once
        run_char_lm(results, args.text)
    if args.only != "char_lm":
        run_table(results)
    report.save_json(results, out)
    pictures = report.save_pictures(results, out)
    print(report.as_text(results))
    print("\nwritten:", *(path.name for path in (out, *pictures)), "in", out.parent)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
