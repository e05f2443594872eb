"""What the grid asks of a device, and the GPU that answers."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.profiler import ProfilerActivity, profile

Run = Callable[[], Any]


class Device(Protocol):
    """Runs work and tells how long it took."""

    @property
    def name(self) -> str:
        """As torch.device takes it."""
        ...

    def finish(self) -> None:
        """Wait for what was started; raises RuntimeError where it failed."""
        ...

    def seconds(self, run: Run, calls: int) -> float:
        """How long a call takes, of so many in a row that start on an idle device."""
        ...

    def graphed(self, run: Run) -> Run:
        """The same work recorded once and replayed; returns the same tensors at every call."""
        ...

    def kernels(self, run: Run) -> list[str]:
        """Names of the kernels that it runs, those that take longest first."""
        ...


class Gpu:
    """PyTorch's current GPU and stream."""

    name = "cuda"

    def finish(self) -> None:
        torch.cuda.synchronize()

    def seconds(self, run: Run, calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.finish()
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls

    def graphed(self, run: Run) -> Run:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = run()

        def replay() -> Any:
            graph.replay()
            return results

        return replay

    def kernels(self, run: Run) -> list[str]:
        run()
        self.finish()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            run()
            self.finish()
        events = [event for event in found.key_averages() if event.device_type.name == "CUDA"]
        events.sort(key=lambda event: event.self_device_time_total, reverse=True)
        return [event.key for event in events]
