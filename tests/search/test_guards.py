"""What guards a search against cells full of skip connections."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from fer_nas.artifacts import GenotypeFile
from fer_nas.cli import app
from fer_nas.config import SearchConfig
from fer_nas.search.run import search
from fer_nas.space.decode import count_skips
from fer_nas.space.variants import SPACES
from fer_nas.tasks.cells import CellSearch

Configured = Callable[..., SearchConfig]


@pytest.fixture
def prefers_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """λ starts, and with --arch-learning-rate 0 stays, where every edge prefers its skip connection."""
    place = SPACES["fer"].operations.index("skip_connect")

    def start(self: CellSearch, generator: torch.Generator) -> torch.Tensor:
        arch = torch.zeros(self.layout.size)
        arch[place::8] = torch.linspace(3, 4, len(arch[place::8]))
        return arch

    monkeypatch.setattr(CellSearch, "initial_hyper", start)


@pytest.mark.usefixtures("prefers_skips")
@pytest.mark.parametrize(("most", "left"), [(None, 8), (2, 2)])
def test_skips_are_told_of_once_and_bounded(
    most: int | None, left: int, configured: Configured, cases: Path, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO())
    config = configured(cases / "fer.csv", arch_learning_rate=0.0, max_skips=most)
    run = search(config, tmp_path / "run", console)
    found = GenotypeFile.load(run / "genotype.json").genotype
    assert count_skips(found.normal) == left and count_skips(found.reduce) == 8
    assert [row["skips_normal"] for row in run.metrics()] == [8, 8], "the record has what was found"
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.count("note: epoch 1: 8 of the 8 edges of the normal cell are skip connections") == 1
    assert "epoch 2: 8" not in told


def test_random_cells_read_no_guard() -> None:
    result = CliRunner().invoke(app, ["search", "--method", "random", "--max-skips", "2"])
    assert result.exit_code == 2 and "--max-skips is read by darts-1st and" in result.stderr
