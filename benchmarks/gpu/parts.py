"""What the parts of the check are given, and what they give back."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from .commands import NotCompiled

PRIMITIVES, MICRO = "primitives", "micro"
WIDTH = 118
"""Of a line of the short table."""


@dataclass
class Outcome:
    """What a part has found."""

    lines: list[str] = field(default_factory=list)
    """For the short table at the end."""
    failures: list[str] = field(default_factory=list)
    """What is wrong, in a few words each; none where the part has passed."""


@dataclass(frozen=True)
class Context:
    """Where a part runs."""

    folder: Path
    """For its logs and whatever else it writes."""
    out: Path | None
    """Where files go besides that are to be kept."""
    gpu: str
    """Its name."""
    programs: dict[str, Future[Path]]
    """Compiled in the meantime, by name."""

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def program(self, name: str) -> Path:
        """Waits for the compiler; raises NotCompiled."""
        if name not in self.programs:
            raise NotCompiled(f"{name} was not asked for")
        return self.programs[name].result()
