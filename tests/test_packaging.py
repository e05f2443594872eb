"""What a user gets: a package that says what is wrong with it, and archives that lack nothing."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".*_cache", ".venv", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.pyd"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources with nothing built in it."""
    return Path(shutil.copytree(ROOT, tmp_path / "checkout", ignore=NOT_SOURCES))


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs this interpreter in `folder`, with the package of that folder before any other."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_the_extension_the_import_says_how_to_build_it(checkout: Path) -> None:
    result = python(checkout, "-c", "import rnnkern")
    assert result.returncode == 1
    last = result.stderr[result.stderr.rindex("\nImportError: ") :]
    assert "rnnkern._C" in last
    assert "pip install" in last
    assert "torch" in last


def test_the_sdist_has_every_source(checkout: Path) -> None:
    result = python(checkout, "setup.py", "-q", "sdist", "--formats=tar", "--dist-dir=out")
    assert result.returncode == 0, result.stderr
    (archive,) = (checkout / "out").iterdir()
    with tarfile.open(archive) as tar:
        packed = {member.name.partition("/")[2] for member in tar if member.isfile()}
    here = {
        path.relative_to(ROOT).as_posix()
        for folder in ("csrc", "rnnkern")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in {".so", ".pyd", ".pyc"}
    }
    here |= {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
    here |= {path.name for path in ROOT.glob("requirements-*.txt")}
    assert here - packed == set()


def test_a_wheel_has_the_package_and_nothing_else(checkout: Path) -> None:
    result = python(checkout, "setup.py", "-q", "build_py", "--build-lib=out")
    assert result.returncode == 0, result.stderr
    out = checkout / "out"
    built = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    package = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "*.pyi", "py.typed")
        for path in (ROOT / "rnnkern").rglob(pattern)
    }
    assert built == package
