"""Claim: nvcc compiles every CUDA source without a warning, and no kernel spills its registers.

For every compute capability of the table that takes minutes: RNNKERN_TEST_LARGE=1 asks for it.
"""

import os

import cuda_compile
import pytest

pytestmark = pytest.mark.skipif(cuda_compile.nvcc() is None, reason="there is no nvcc here")


@pytest.fixture(scope="module")
def capabilities():
    everything = os.environ.get("RNNKERN_TEST_LARGE") == "1"
    return cuda_compile.capabilities() if everything else cuda_compile.OFTEN


@pytest.fixture(scope="module")
def kernels(capabilities):
    return cuda_compile.compile_kernels(capabilities)


def test_no_kernel_spills(kernels):
    assert len(kernels) > 0
    assert cuda_compile.spilling(kernels) == {}


def test_every_kernel_is_compiled_for_every_capability(kernels, capabilities):
    for by_capability in kernels.values():
        assert set(by_capability) == set(capabilities)


def test_the_table_in_the_documentation_is_of_these_kernels(kernels, capabilities):
    """Written with another nvcc, it may differ in numbers, but not in kernels."""
    text = cuda_compile.TABLE.read_text(encoding="utf-8")
    written = {name: dict(zip(header(text), cells, strict=True)) for name, *cells in rows(text)}
    assert list(written) == [f"`{name}`" for name in kernels]
    if f"nvcc {cuda_compile.release()}\n" not in text:
        return
    if set(capabilities) == set(cuda_compile.capabilities()):
        assert text == cuda_compile.table(kernels), "write it anew: python tests/cuda_compile.py"
    for name, by_capability in kernels.items():
        found = {cuda_compile.version(c): cuda_compile.cell(by_capability[c]) for c in capabilities}
        said = {version: written[f"`{name}`"][version] for version in found}
        assert said == found, "write it anew: python tests/cuda_compile.py"


def header(table: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith("| kernel "))
    return line.strip("| ").split(" | ")[1:]


def rows(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("source", cuda_compile.host_sources(), ids=lambda path: path.stem)
def test_host_sources_compile(source):
    cuda_compile.check_host_source(source)


def test_a_spill_would_be_seen():
    log = (
        "ptxas info    : Compiling entry function '_ZN7rnnkern4cuda1kILi3EEEvi' for 'sm_90'\n"
        "ptxas info    : Function properties for _ZN7rnnkern4cuda1kILi3EEEvi\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 384 bytes smem\n"
    )
    usage = cuda_compile.Usage(registers=255, shared=384, stack=8, spills=16)
    assert cuda_compile.parse(log) == [("k<3>", "90", usage)]
    assert cuda_compile.spilling({"k<3>": {"90": usage}}) == {("k<3>", "90"): usage}
