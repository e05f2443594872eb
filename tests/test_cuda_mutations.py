"""Claim: the emulation catches mistakes. Each is made in a copy of one source, and must be seen."""

import io
import multiprocessing
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cuda_emulation.verify
import pytest
from cuda_emulation import build

TESTS = Path(__file__).resolve().parent
ELMAN = ("elman", "elman_fused", "elman_relu_resident", "elman_tanh_resident")
RESIDENT = ("lstm_resident", "gru_resident")
FUSED = ("lstm_fused", "gru_fused")
SPARED: dict[str, tuple[str, ...]] = {
    "resident.cuh": (*ELMAN, "gru_resident"),
    "mma.cuh": (*ELMAN, *FUSED, "gru_resident"),
    "fused.cuh": tuple(name for name in ELMAN if name != "elman_fused"),
    "pointwise.cuh": (*ELMAN, *FUSED),
    "elements.cuh": (*ELMAN, *FUSED, *RESIDENT),
}
"""Instances that need not share a source's mistake: it is seen in others."""
STRATEGIES: dict[str, tuple[str, ...]] = {
    "resident.cuh": ("cluster", "persistent"),
    "resident.cpp": ("cluster", "persistent"),
    "mma.cuh": ("cluster", "persistent"),
    "fused.cuh": ("fused",),
}
"""Those in which the mistakes of a source are looked for; stepwise where nothing else is said."""


class Mutation(NamedTuple):
    """Text of a source of csrc/cuda/, which stands there once, and what replaces it."""

    name: str
    source: str
    before: str
    after: str
    strategies: tuple[str, ...] = ()
    """That run it, where they are not all that run the source."""


MUTATIONS = [
    Mutation("dropped barrier", "rows.cuh", "  sync_block();\n", ""),
    Mutation("lost lane of a sum", "rows.cuh", "lane < kSumLanes;", "lane < kSumLanes - 1;"),
    Mutation("sum not added to", "rows.cuh", "job.accumulate ? *out : T(0)", "T(0)"),
    Mutation(
        "lost slab of a sum", "rows.cuh", "slab < slabs; ++slab", "slab < (slabs > 0); ++slab"
    ),
    Mutation(
        "wrong type of a row",
        "stepwise.cpp",
        "as_input(own.initial[0], R, storage_bytes)",
        "as_input(own.initial[0], R, compute_bytes)",
    ),
    Mutation(
        "swapped gates",
        "pointwise.cuh",
        "load<T>(step.x_gates, (n * Cell::kGates + g) * H + unit)",
        "load<T>(step.x_gates, (n * Cell::kGates + (g ^ 1) % Cell::kGates) * H + unit)",
    ),
    Mutation(
        "off-by-one tile", "elements.cuh", "(ceil_div(columns, threads))", "(columns / threads)"
    ),
    Mutation(
        "row not written",
        "pointwise.cuh",
        "n < step.rows; n += gridDim.y) forward_unit",
        "n + 1 < step.rows; n += gridDim.y) forward_unit",
    ),
    Mutation(
        "gradient of a row not written",
        "pointwise.cuh",
        "n < step.rows; n += gridDim.y) backward_unit",
        "n + 1 < step.rows; n += gridDim.y) backward_unit",
    ),
    Mutation(
        "bias of the other product",
        "pointwise.cuh",
        "r[g] = product[g] + V(widen(inputs.b_hh[g]))",
        "r[g] = product[g] + V(widen(inputs.b_ih[g]))",
    ),
    Mutation(
        "row starts a step late",
        "pointwise.cuh",
        "fresh = n >= step.continuing;\n  ForwardInputs",
        "fresh = n > step.continuing;\n  ForwardInputs",
    ),
    Mutation(
        "row ends a step late", "pointwise.cuh", "ends = n >= step.ending", "ends = n > step.ending"
    ),
    Mutation(
        "direct path of h forgotten",
        "pointwise.cuh",
        "if (Cell::kDirectH || n >= step.later)",
        "if (n >= step.later)",
    ),
    Mutation(
        "later chunks overwrite weight gradients",
        "passes.cpp",
        "const bool add = chunk.steps.end < shape.steps;",
        "const bool add = false;",
    ),
    Mutation(
        "product of the wrong rows",
        "stepwise.cpp",
        "matrix(dr_gates, row_in_chunk() + rows.begin)",
        "matrix(dr_gates, rows.begin)",
    ),
    Mutation(
        "initial state's gradient overwritten",
        "stepwise.cpp",
        "compute_bytes), cell.direct_h);",
        "compute_bytes), false);",
    ),
    Mutation(
        "final state of a projection not copied",
        "stepwise.cpp",
        "if (ending == active) return;",
        "return;",
    ),
    Mutation(
        "product read before it is there",
        "resident.cuh",
        "        sync_block();\n        run_cell(step, group, last, partial.get());",
        "        run_cell(step, group, last, partial.get());",
    ),
    Mutation(
        "words taken before they are there",
        "resident.cuh",
        "if (batch.words[i].w == first_tag_ + uint32_t(turn)) missing &= ~(1u << i);",
        "missing &= ~(1u << i);",
    ),
    Mutation(
        "lost part of the depth",
        "mma.cuh",
        "if (part >= parts) break;",
        "if (part >= parts || part > 0) break;",
    ),
    Mutation(
        "lost tile",
        "resident.cuh",
        "if (t >= part_.tiles) break;",
        "if (t >= part_.tiles - 1) break;",
    ),
    Mutation(
        "lost chunk of the weights",
        "resident.cuh",
        "const bool exists = c < layout.chunks_each &&",
        "const bool exists = c + 1 < layout.chunks_each &&",
    ),
    Mutation(
        "lost weights in shared memory",
        "resident.cuh",
        "i < layout.chunks_shared * each; ++i)",
        "i < layout.chunks_shared * each - 1; ++i)",
    ),
    Mutation(
        "element of another lane",
        "resident.cuh",
        "shuffle(bits, start + i * Math::kPair)",
        "shuffle(bits, start + i)",
    ),
    Mutation(
        "rests of numbers forgotten",
        "mma.cuh",
        "  mma_m16n8k8_tf32(product, a_rest, b_high);\n",
        "",
    ),
    Mutation(
        "peer's words not waited for",
        "resident.cuh",
        "if (!mbarrier_wait_parity_cluster(",
        "if (turn < 0 && !mbarrier_wait_parity_cluster(",
    ),
    Mutation(
        "wrong phase waited for",
        "resident.cuh",
        "barrier(layout, turn, group), turn / 2 % 2)",
        "barrier(layout, turn, group), (turn / 2 + 1) % 2)",
    ),
    Mutation(
        "one operand for two turns",
        "resident.cuh",
        "return ((turn % 2 * layout.groups + group) * layout.group_rows + n)",
        "return ((turn % 1 * layout.groups + group) * layout.group_rows + n)",
    ),
    Mutation(
        "a group's rows taken for another's",
        "resident.cuh",
        "const int n = group * layout.group_rows + item.n,",
        "const int n = group * layout.group_rows * 0 + item.n,",
    ),
    Mutation(
        "segment of the depth forgotten",
        "resident.cuh",
        "part_.place.rank * layout_.block_words + g * layout_.slice_words",
        "part_.place.rank * layout_.block_words",
    ),
    Mutation(
        "shard of the batch forgotten",
        "resident.cuh",
        "return group % plan.shards * plan.rows;",
        "return group % plan.shards * plan.rows * 0;",
    ),
    Mutation(
        "fused product read before it is there",
        "fused.cuh",
        "  sync_block();\n  for (;",
        "  for (;",
    ),
    Mutation(
        "lost chunk of a fused product",
        "fused.cuh",
        "      if (chunk >= chunks_) break;",
        "      if (chunk >= chunks_ - 1) break;",
    ),
    Mutation(
        "rows of a warp taken for another's",
        "fused.cuh",
        "row_ = warp % layout.across * kRows;",
        "row_ = 0;",
    ),
    Mutation(
        "initial state of one operand only",
        "fused.cuh",
        "static_cast<S*>(job.operands[i])[index] = value;",
        "static_cast<S*>(job.operands[i])[index] = i == 0 ? value : S{};",
    ),
    Mutation(
        "weights packed in another order",
        "fused.cuh",
        "(half * 2 + i / 2) * Math::kPair",
        "(half + i / 2 * 2) * Math::kPair",
    ),
    Mutation(
        "gates of a segment packed as the first's",
        "fused.cuh",
        "(segment * H + k) * H + unit",
        "k * H + unit",
    ),
    Mutation(
        "gate of a fused unit taken for the first",
        "fused.cuh",
        "job.layout.element(item.row, g, item.of_layer)",
        "job.layout.element(item.row, 0, item.of_layer)",
    ),
    Mutation(
        "second item of a thread runs on the first's inputs",
        "fused.cuh",
        "if (index >= kThreads) inputs = load(item);",
        "",
    ),
    Mutation(
        "one operand for two steps",
        "stepwise.cpp",
        "return {layout_, weights_, operands_[1], operands_[0]};",
        "return {layout_, weights_, operands_[1], operands_[1]};",
        ("fused",),
    ),
    Mutation(
        "chunk after the first forgets its state",
        "resident.cpp",
        "result.h = begins ?",
        "result.h = true ?",
    ),
]


class Verdict(NamedTuple):
    """Of a process: its exit status, and what it said."""

    code: int | None
    text: str


@pytest.fixture(scope="module")
def verdicts():
    """For no mutation and for each, what verifying it gave: all under way at once, on two cores."""
    with (
        ThreadPoolExecutor(2) as pool,
        TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
        pending = {None: pool.submit(verify, build.build())}
        for number, mutation in enumerate(MUTATIONS):
            pending[mutation] = pool.submit(mutate_and_verify, mutation, Path(folder, str(number)))
        yield pending


def mutate_and_verify(mutation: Mutation, overlay: Path) -> Verdict:
    text = (build.CSRC / "cuda" / mutation.source).read_text(encoding="utf-8")
    assert text.count(mutation.before) == 1
    copy = overlay / "cuda" / mutation.source
    copy.parent.mkdir(parents=True)
    copy.write_text(text.replace(mutation.before, mutation.after), encoding="utf-8")
    library = build.build(overlay, SPARED.get(mutation.source, ()))
    strategies = mutation.strategies or STRATEGIES.get(mutation.source, ("stepwise",))
    return verify(library, *strategies)


def verify(library: Path, *strategies: str) -> Verdict:
    """In a process of its own, which a mistake may crash."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["cuda_emulation.verify"])  # torch is imported once
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=tell, args=(sender, str(library), *strategies))
    process.start()
    sender.close()
    process.join(300)
    process.kill()
    process.join()
    try:
        return Verdict(process.exitcode, receiver.recv())
    except EOFError:
        return Verdict(process.exitcode, "crashed")


def tell(sender: Connection, *words: str) -> None:
    """What the program of these words prints, or how it fails, and its exit status."""
    said = io.StringIO()
    with redirect_stdout(said):
        try:
            code = cuda_emulation.verify.main(*words)
        except Exception:
            code = 2
            traceback.print_exc(file=said)
    sender.send(said.getvalue())
    sys.exit(code)


def test_without_a_mutation_all_is_right(verdicts):
    assert verdicts[None].result() == Verdict(0, "")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_is_caught(mutation, verdicts):
    """By a wrong result, or by what the emulation or the processor ends the program for."""
    verdict = verdicts[mutation].result()
    assert verdict.code != 0, "not caught"
    assert verdict.code != 2, verdict.text
