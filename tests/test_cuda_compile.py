"""Claim: nvcc compiles every CUDA source without a warning, and no kernel spills its registers."""

import cuda_compile
import pytest

pytestmark = pytest.mark.skipif(cuda_compile.nvcc() is None, reason="there is no nvcc here")


@pytest.fixture(scope="module")
def kernels():
    return cuda_compile.compile_kernels()


def test_no_kernel_spills(kernels):
    assert len(kernels) > 0
    spilling = {
        (name, capability): usage
        for name, by_capability in kernels.items()
        for capability, usage in by_capability.items()
        if usage.spills or usage.stack
    }
    assert spilling == {}


def test_every_kernel_is_compiled_for_every_capability(kernels):
    for by_capability in kernels.values():
        assert set(by_capability) == set(cuda_compile.capabilities())


def test_the_table_in_the_documentation_is_of_these_kernels(kernels):
    """Written with another nvcc, it may differ in numbers, but not in kernels."""
    written, found = cuda_compile.TABLE.read_text(encoding="utf-8"), cuda_compile.table(kernels)
    if f"nvcc {cuda_compile.release()}\n" in written:
        assert written == found, "write it anew: python tests/cuda_compile.py"
    assert kernels_of(written) == kernels_of(found)


def kernels_of(table: str) -> list[str]:
    return [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]


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
