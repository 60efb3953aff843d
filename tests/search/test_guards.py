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
from fer_nas.data.load import load
from fer_nas.runtime import generator, load_checkpoint
from fer_nas.search.guards import StableRanking
from fer_nas.search.run import Search
from fer_nas.search.start import resume, search
from fer_nas.search.state import build as build_state
from fer_nas.space.decode import LEARNED, count_skips
from fer_nas.space.operations import AUXILIARY, OPERATIONS
from fer_nas.space.variants import SPACES
from fer_nas.tasks.cells import CellSearch

Configured = Callable[..., SearchConfig]


def quiet() -> Console:
    return Console(file=io.StringIO())


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


def test_ends_when_the_order_is_stable(configured: Configured, cases: Path, tmp_path: Path) -> None:
    """λ's rate is so small that nothing changes its place. Epoch 1 is the warm-up, 2 the first look."""
    console = Console(file=io.StringIO())
    config = configured(
        cases / "fer.csv", epochs=9, warmup_epochs=1, stable_epochs=2, arch_learning_rate=1e-9, arch_weight_decay=0.0
    )
    run = search(config, tmp_path / "run", console)
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4]
    assert (run / "curves.png").exists() and GenotypeFile.load(run / "genotype.json").source["epochs"] == 4
    why = "note: this search ended with epoch 4 of 9: the order of the convolutions has not changed for 2 epochs"
    assert why in console.file.getvalue()  # type: ignore[attr-defined]
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    again = Console(file=io.StringIO())
    resume(run.path, again)
    assert why in again.file.getvalue()  # type: ignore[attr-defined]
    assert {path.name: path.read_bytes() for path in run.path.iterdir()} == before


def test_a_change_of_place_counts_anew() -> None:
    space = SPACES["fer"]
    orders = [[4, 5, 6, 7], [4, 5, 6, 7], [5, 4, 6, 7], [5, 4, 6, 7], [5, 4, 6, 7]]
    stable, counts = StableRanking(2), []
    for epoch, order in enumerate(orders):
        mixture = torch.full((14, 8), 0.1)
        mixture[:, :4] = torch.rand(14, 4, generator=torch.Generator().manual_seed(epoch))  # what has no weights
        mixture[:, order] = torch.tensor([0.4, 0.3, 0.2, 0.1])
        stable.look({"normal": mixture, "reduce": mixture}, space)
        counts.append((stable.count, stable.reached))
    assert counts == [(0, False), (1, False), (0, False), (1, False), (2, True)]
    again = StableRanking(2)
    again.load_state(stable.state())
    assert again.reached and again.last == stable.last
    never = StableRanking(0)
    never.load_state(stable.state())
    assert not never.reached


def test_what_has_weights_in_every_place() -> None:
    for name, make in OPERATIONS.items():
        assert (name in LEARNED) == (sum(p.numel() for p in make(4, 1, False).parameters()) > 0), name


@pytest.mark.parametrize(
    ("method", "space"),
    [
        ("darts-2nd", "fer"),
        ("soba", "pc-darts"),
        ("darts-stn", "gdas"),
        ("implicit", "p-darts"),
        ("darts-1st", "i-darts"),
    ],
)
def test_an_auxiliary_skip_beside_every_mixture(method: str, space: str, configured: Configured, cases: Path) -> None:
    """λ keeps its size and moves; both forms are one function; with β = 0 the loss is that of the mixture alone."""
    draw = torch.Generator().manual_seed(1)
    batch = 255 * torch.rand(6, 1, 16, 16, generator=draw), torch.randint(0, 7, (6,), generator=draw)
    settings = {"space": space, "operations": "fer", "method": method, "terms": 1, "auxiliary_skip": 1.0, "epochs": 3}
    states = {
        form: build_state(config, load(config.data, seed=0), torch.device("cpu"))
        for form in ("auto", "plain")
        for config in [configured(cases / "fer.csv", form=form, **settings)]
    }
    losses = {}
    for form, state in states.items():
        task = state.task
        assert task.layout.size == 2 * 14 * (9 if space == "pc-darts" else 8)
        task.sample(generator(3))
        for beta in (0.0, 0.8):
            task.auxiliary = beta
            losses[form, beta] = task.inner_loss(task.weights(), state.arch, batch).item()
        found = state.method.hypergradient(task, task.weights(), state.arch, batch, batch, state.inner_step(0.9, 3e-4))
        assert found.total.isfinite().all() and found.total.abs().max() > 0
    for beta in (0.0, 0.8):
        assert losses["auto", beta] == pytest.approx(losses["plain", beta], rel=1e-3)
    assert abs(losses["plain", 0.8] - losses["plain", 0.0]) > 1e-4


def test_the_auxiliary_weight_falls_to_zero(
    configured: Configured, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    row = Search.row
    monkeypatch.setattr(Search, "row", lambda self: (seen.append(self.state.task.auxiliary), row(self))[1])
    run = search(configured(cases / "fer.csv", epochs=3, auxiliary_skip=0.6), tmp_path / "run", quiet())
    assert seen == pytest.approx([0.6, 0.3, 0.0])
    names = load_checkpoint(run / "checkpoint.pt")["weights"]
    assert sum(AUXILIARY in name for name in names) == 2 * 8, "reductions of their own"
