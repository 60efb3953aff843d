"""Stages of P-DARTS: what the settings make, which operations stay, and a search that goes through them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.config import SearchConfig
from fer_nas.data.load import load
from fer_nas.errors import InputError
from fer_nas.presets import SEARCH_PRESETS
from fer_nas.runtime import generator, load_checkpoint
from fer_nas.search.methods import METHODS
from fer_nas.search.stages import FEWEST, max_skips, plan, strongest
from fer_nas.search.start import search
from fer_nas.search.state import State
from fer_nas.search.state import build as build_state
from fer_nas.settings import build, override, search_config
from fer_nas.space.decode import count_skips
from fer_nas.space.disturb import Disturbance, SkipDropout
from fer_nas.space.edge import FullEdge
from fer_nas.space.operations import AUXILIARY
from fer_nas.space.variants import SPACES

Searched = Callable[..., RunFolder]
Configured = Callable[..., SearchConfig]


def staged(**settings: object) -> SearchConfig:
    return override(SearchConfig(), {"space": "p-darts", "epochs": 75} | settings)


def test_published_stages() -> None:
    """Chen et al. 2019, as --preset paper --space p-darts sets them."""
    config = search_config("paper", {"space": "p-darts"})
    assert (config.run.epochs, config.run.batch_size, config.arch.arch_learning_rate) == (75, 96, 6e-4)
    stages = plan(config)
    assert [(s.first, s.last, s.layers, s.operations, s.warmup, s.skip_dropout) for s in stages] == [
        (1, 25, 5, 8, 10, 0.0), (26, 50, 11, 5, 10, 0.4), (51, 75, 17, 3, 10, 0.7),
    ]  # fmt: skip
    assert max_skips(config) == 2 and max_skips(override(config, {"max_skips": 5})) == 5
    last = stages[2]
    assert [last.learns(epoch) for epoch in (51, 60, 61, 75)] == [False, False, True, True]
    assert (last.dropout(51), last.dropout(75)) == (0.7, pytest.approx(0.7 / 25))
    rates = [last.learning_rate(epoch, 0.025, 0.0) for epoch in (51, 75)]
    assert rates[0] == 0.025 and rates[1] < 1e-3 and last.passed(75) == 1.0


def test_other_spaces_have_one_stage() -> None:
    config = build(SearchConfig, SEARCH_PRESETS, "cpu", {})
    (only,) = plan(config)
    assert (only.first, only.last, only.layers, only.operations, only.warmup) == (1, 8, 3, 8, 1)
    assert plan(override(config, {"epochs": 1}))[0].warmup == 0 and max_skips(config) is None


def test_epochs_are_shared_out() -> None:
    for epochs, lengths in ((3, [1, 1, 1]), (8, [3, 2, 3]), (10, [3, 4, 3])):
        stages = plan(staged(epochs=epochs))
        assert [s.last - s.first + 1 for s in stages] == lengths
        assert [s.first for s in stages] == [1, *(s.last + 1 for s in stages[:-1])] and stages[-1].last == epochs
        assert all(s.learns(s.last) for s in stages), "λ moves in each"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage_layers": "5,11"}, r"name 2, 3 and 3 stages; give one number for each stage in all three"),
        ({"stage_layers": "5,x,17"}, r"--stage-layers is '5,x,17'; give whole numbers"),
        ({"stage_layers": "5,1.5,17"}, r"--stage-layers is '5,1.5,17'; give whole numbers"),
        ({"stage_layers": "0,1,2"}, r"every stage needs at least one cell"),
        ({"stage_operations": "8,9,3"}, r"begin with 8, all operations of the space"),
        ({"stage_operations": "8,5,2"}, r"end with at least 3"),
        ({"operations": "auto-fernet"}, r"begin with 11, all operations of the space"),
        ({"skip_dropout": "0,0.5,1"}, r"--skip-dropout is 0,0.5,1; every rate lies in \[0, 1\)"),
        ({"skip_dropout": "0,nan,0"}, r"give finite numbers"),
        ({"epochs": 2}, r"--epochs is 2, for all stages together; 3 stages need an epoch each"),
    ],
)
def test_settings_that_make_no_stages(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(staged(**settings))


def test_settings_that_stages_do_not_read() -> None:
    for name, instead in (("layers", "--stage-layers"), ("warmup_epochs", "--stage-warmup")):
        with pytest.raises(InputError, match=f"is not read by p-darts; give {instead}"):
            search_config("cpu", {"space": "p-darts", name: 3})
        search_config("cpu", {name: 3})
    with pytest.raises(InputError, match="--stage-layers is read by p-darts only"):
        search_config("cpu", {"stage_layers": "1,2,3"})
    for preset in ("tiny", "cpu"):
        plan(search_config(preset, {"space": "p-darts"}))
    assert search_config("cpu", {"space": "pc-darts"}).run.batch_size == 32
    assert search_config("paper", {"space": "pc-darts", "epochs": 7}).run == replace(
        SearchConfig().run, batch_size=256, epochs=7
    )


def test_the_strongest_operations_stay() -> None:
    mixture = torch.tensor([[0.3, 0.1, 0.3, 0.3], [0.1, 0.2, 0.3, 0.4]])
    first = strongest({"normal": mixture}, None, 3)
    assert first["normal"].tolist() == [[True, False, True, True], [False, True, True, True]]
    again = strongest({"normal": mixture.flip(1)}, first, 2)
    assert again["normal"].tolist() == [[True, False, False, True], [False, True, True, False]]
    assert FEWEST == 3


SMALL = {
    "space": "p-darts", "operations": "fer", "stage_layers": "1,1", "stage_operations": "8,3", "skip_dropout": "0,0.5",
    "stage_warmup": 0, "terms": 1, "arch_learning_rate": 3e-2, "limit": 30,
}  # fmt: skip
"""Two stages of an epoch each; the second one with dropout."""


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.make])
def test_every_method_goes_through_the_stages(method: str, searched: Searched, cases: Path, tmp_path: Path) -> None:
    run = searched(cases / "fer.csv", tmp_path / "run", method=method, **SMALL)
    saved = load_checkpoint(run / "checkpoint.pt")
    kept = saved["kept"]
    assert all(part.shape == (14, 8) and (part.sum(1) == 3).all() for part in kept.values())
    first, last = run.metrics()
    for kind, part in kept.items():
        before, after = (torch.tensor(row["mixtures"][kind]) for row in (first, last))
        assert (before > 0).all() and torch.equal(after > 0, part)
        if kind == "reduce" or METHODS[method].response:  # the one cell reduces: what is left are its strongest
            weakest, left_out = before.masked_fill(~part, 1).min(1).values, before.masked_fill(part, 0).max(1).values
            assert (weakest >= left_out - 1e-5).all()
    arch = saved["arch"]
    start = 1e-3 * torch.randn(len(arch), generator=generator(0, "arch", 1))
    moved = (arch - start).view(2, 14, 8)
    assert moved[1][kept["reduce"]].abs().max() > 1e-2, "λ of the last stage has moved"
    edges = {(int(w[3]), w[5]) for name in saved["weights"] if len(w := name.split(".")) > 6 and w[2] == "edges"}
    names = SPACES["fer"].operations
    assert edges, "operations that have weights"
    assert all(kept["reduce"][edge, names.index(name)] for edge, name in edges), "what was dropped is not there"
    assert count_skips(GenotypeFile.load(run / "genotype.json").genotype.normal) <= 2


def test_a_search_stopped_in_its_second_stage_goes_on(
    searched: Searched, interrupted: Searched, cases: Path, tmp_path: Path
) -> None:
    """With another supernet than the first, and dropout, bit for bit."""
    straight = searched(cases / "fer.csv", tmp_path / "straight", method="soba", **SMALL)
    mine, theirs = (load_checkpoint(run / "checkpoint.pt") for run in (interrupted(method="soba", **SMALL), straight))
    assert torch.equal(mine["arch"], theirs["arch"]) and mine["weights"].keys() == theirs["weights"].keys()
    assert all(torch.equal(mine["weights"][name], value) for name, value in theirs["weights"].items())


def state_of(config: SearchConfig, **where: object) -> State:
    return build_state(config, load(config.data, seed=0), torch.device("cpu"), **where)  # type: ignore[arg-type]


def test_a_stage_has_its_own_supernet(configured: Configured, cases: Path) -> None:
    config = configured(cases / "fer.csv", **SMALL | {"stage_layers": "1,3"})
    kept = strongest({kind: torch.rand(14, 8) for kind in ("normal", "reduce")}, None, 3)
    first, second = state_of(config), state_of(config, number=1, kept=kept)
    assert (len(first.task.supernet.cells), len(second.task.supernet.cells)) == (1, 3)
    assert first.task.fast and not second.task.fast, "dropout needs the plain form"
    assert not torch.equal(first.arch, second.arch)
    for kind, part in second.task.mixtures(second.arch).items():
        torch.testing.assert_close(part.sum(1), torch.ones(14))
        assert torch.equal(part > 0, kept[kind])
    without = override(config, {"skip_dropout": "0,0"})
    fast, plain = (state_of(override(without, {"form": form}), number=1, kept=kept).task for form in ("fast", "plain"))
    assert fast.fast and not plain.fast
    images, labels = 255 * torch.rand(6, 1, 16, 16), torch.randint(0, 7, (6,))
    losses = [task.inner_loss(plain.weights(), second.arch, (images, labels)) for task in (fast, plain)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="--form fast: it has no dropout of skip connections"):
        state_of(override(config, {"form": "fast"}))


def test_dropout_of_skip_connections(configured: Configured, cases: Path) -> None:
    """The same numbers for all losses of a step, others in the next, none in validation; its mean is 1."""
    task = state_of(configured(cases / "fer.csv", form="plain")).task
    arch, batch = torch.zeros(task.layout.size), (255 * torch.rand(6, 1, 16, 16), torch.randint(0, 7, (6,)))

    def loss() -> float:
        return task.inner_loss(task.weights(), arch, batch).item()

    plain = loss()
    task.skip_dropout = 0.5
    task.sample(generator(1))
    first = loss()
    assert first == loss() != plain
    task.sample(generator(2))
    assert loss() != first
    task.sample(None)
    assert loss() == plain
    x = SkipDropout(0.3, 5)(torch.ones(50_000))
    assert x.mean().item() == pytest.approx(1, abs=0.02)
    assert (x == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    edge = FullEdge(("none", "skip_connect", AUXILIARY), 2, 1)
    out = edge(torch.ones(4, 2, 9, 9), torch.tensor([0.0, 1.0, 3.0]), None, Disturbance(skips=SkipDropout(0.5, 0)))
    assert set(out.unique().tolist()) == {3.0, 5.0}, "the auxiliary skip connection stays"


def test_the_stages_are_told_of(configured: Configured, cases: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    search(configured(cases / "fer.csv", **SMALL), tmp_path / "run", console)
    assert "stage 2 of 2: 1 cell, 3 operations of each edge" in console.file.getvalue()  # type: ignore[attr-defined]
