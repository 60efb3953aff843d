"""What is kept in the repository: the rooms that the layout names, and no runs, data or large files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {".ci", "app", "benchmarks", "datasets", "docs", "exports", "fer_nas", "tests"}
LARGEST = 3_000_000
"""Bytes of the largest file that may be kept."""


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip(f"git does not read this checkout: {listed.stderr.strip()[:100]}")
    return [Path(name) for name in listed.stdout.split("\0") if name]


def test_no_folder_beside_the_rooms(tracked: list[Path]) -> None:
    assert {path.parts[0] for path in tracked if len(path.parts) > 1} == ROOMS


def test_no_runs_no_data_nothing_large(tracked: list[Path]) -> None:
    runs = [path for path in tracked if path.suffix in {".pt", ".safetensors"} or path.name == "metrics.jsonl"]
    assert not runs
    assert [path for path in tracked if path.parts[0] == "datasets"] == [Path("datasets/README.md")]
    large = [path for path in tracked if (ROOT / path).exists() and (ROOT / path).stat().st_size > LARGEST]
    assert not large
