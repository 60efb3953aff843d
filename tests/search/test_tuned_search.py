"""A search with --tune: values move inside their bounds, are told, survive a stop, and become a recipe."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.config import TUNABLE, SearchConfig
from fer_nas.data.load import load
from fer_nas.errors import InputError
from fer_nas.runtime import load_checkpoint
from fer_nas.search.start import search
from fer_nas.search.state import State
from fer_nas.search.state import build as build_state

Searched = Callable[..., RunFolder]
Configured = Callable[..., SearchConfig]
FAST = ",".join(name for name in TUNABLE if name != "drop_path")


pytestmark = pytest.mark.usefixtures("without_pictures")


def state_of(config: SearchConfig) -> State:
    return build_state(config, load(config.data, seed=config.run.seed), torch.device("cpu"))


OWN = {"method": "darts-stn", "tune": FAST}
PUBLISHED = {"method": "darts-delta-stn", "tune": ",".join(TUNABLE), "response": "published"}


@pytest.mark.parametrize("settings", [OWN, PUBLISHED], ids=["own", "published"])
def test_values_move_are_told_and_become_the_recipe(
    settings: dict[str, Any], configured: Configured, cases: Path, tmp_path: Path
) -> None:
    shown = io.StringIO()
    config = configured(cases / "fer.csv", tune_rate=0.05, limit=24, batch_size=6, **settings)
    run = search(config, tmp_path / "run", Console(file=shown, width=300))
    names = [name for name in TUNABLE if name in settings["tune"].split(",")]
    rows = [row["tuned"] for row in run.metrics()]
    start = state_of(config).task.values(state_of(config).arch)
    assert [list(row) for row in rows] == [names] * 2
    for name in names:
        low, high = TUNABLE[name]
        path = [start[name], *(row[name] for row in rows)]
        assert all(low < value < high for value in path) and len(set(path)) == 3, (name, path)
        assert f"{name} {rows[-1][name]:.4f}" in shown.getvalue()
    assert GenotypeFile.load(run / "genotype.json").recipe == rows[-1]


def test_without_it_nothing_is_told(searched: Searched, cases: Path, tmp_path: Path) -> None:
    run = searched(cases / "fer.csv", tmp_path / "run", method="darts-stn")
    assert "tuned" not in run.metrics()[-1] and GenotypeFile.load(run / "genotype.json").recipe == {}


def test_a_stopped_search_ends_the_same(searched: Searched, interrupted: Searched, cases: Path, tmp_path: Path) -> None:
    settings = {"method": "darts-stn", "tune": "dropout,erase,rotate,label_smoothing", "learn_sigma": True,
                "limit": 24, "batch_size": 6}  # fmt: skip
    straight = searched(cases / "fer.csv", tmp_path / "straight", **settings)
    stopped = interrupted(**settings)
    mine, theirs = (load_checkpoint(run / "checkpoint.pt") for run in (stopped, straight))
    assert torch.equal(mine["arch"], theirs["arch"])
    for part in ("weights", "method"):
        assert all(torch.equal(mine[part][name], value) for name, value in theirs[part].items())
    assert stopped.metrics()[-1]["tuned"] == straight.metrics()[-1]["tuned"]


def test_the_architecture_keeps_its_optimizer(configured: Configured, cases: Path) -> None:
    """Adam's first step is as long as its rate: each part's own; weight decay is the architecture's alone."""
    config = configured(
        cases / "fer.csv", method="darts-stn", tune="dropout,erase", arch_learning_rate=0.02, tune_rate=0.3,
        arch_weight_decay=0.5,
    )  # fmt: skip
    state = state_of(config)
    before, total = state.arch.detach().clone(), torch.ones(len(state.arch))
    state.move(total)
    moved = before - state.arch.detach()
    torch.testing.assert_close(moved[:-2], torch.full((len(total) - 2,), 0.02), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(moved[-2:], torch.tensor([0.3, 0.3]))
    assert [group["weight_decay"] for group in state.arch_optimizer.param_groups] == [0.5, 0.0]
    assert state.method.perturbation.sigma(state.arch).tolist()[-3:] == pytest.approx([0.1, 0.5, 0.5])  # type: ignore[attr-defined]


def test_the_response_of_the_tuned_is_not_bounded(configured: Configured, cases: Path) -> None:
    """Its direct term is zero: the bound on the response is for the architecture alone."""
    config = configured(
        cases / "fer.csv", method="darts-stn", tune="dropout,erase", response_start=1.0, response_clip=0.01
    )
    state = state_of(config)
    draw = torch.Generator().manual_seed(1)
    batch = 255 * torch.rand(8, 1, 16, 16, generator=draw), torch.randint(0, 7, (8,), generator=draw)
    found = state.method.hypergradient(
        state.task, state.task.weights(), state.arch, batch, batch, state.inner_step(0.9, 0.0)
    )
    bound = 0.01 * found.direct[:-2].norm()
    assert not found.direct[-2:].any() and found.response[-2:].abs().min() > 0
    torch.testing.assert_close(found.response[:-2].norm(), bound)


def test_stages_go_on_with_the_values(searched: Searched, cases: Path, tmp_path: Path) -> None:
    run = searched(
        cases / "fer.csv", tmp_path / "run", method="darts-stn", space="p-darts", operations="fer", epochs=3,
        stage_layers="1,1,1", tune="dropout", tune_rate=0.05,
    )  # fmt: skip
    path = [row["tuned"]["dropout"] for row in run.metrics()]
    start = 0.05 * TUNABLE["dropout"][1]
    steps = [abs(b - a) for a, b in zip([start, *path], path, strict=False)]
    assert 0 < max(steps) < 0.02, path  # each epoch at most two steps of 0.05, before the bound's slope
    assert abs(path[-1] - start) > 0


@pytest.mark.parametrize("method", ["darts-1st", "darts-2nd", "implicit", "soba"])
def test_methods_that_cannot(method: str, configured: Configured, cases: Path) -> None:
    with pytest.raises(InputError, match=f"--tune: {method} has no gradient of hyperparameters"):
        state_of(configured(cases / "fer.csv", method=method, tune="dropout"))


def test_forms_that_cannot(configured: Configured, cases: Path) -> None:
    for tune, fast in (("dropout", True), ("dropout,drop_path", False)):
        assert state_of(configured(cases / "fer.csv", method="darts-stn", tune=tune)).task.fast == fast
    with pytest.raises(InputError, match="--form fast: it has no drop-path"):
        state_of(configured(cases / "fer.csv", method="darts-stn", tune="drop_path", form="fast"))
