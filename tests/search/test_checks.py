"""The checks of an epoch: they tell what they should, touch nothing, and trust follows from them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from fer_nas.artifacts import RunFolder
from fer_nas.bilevel.hessian import dominant_eigenvalue
from fer_nas.bilevel.implicit import Neumann
from fer_nas.bilevel.protocol import Hypergradient
from fer_nas.config import SearchConfig
from fer_nas.data.load import load
from fer_nas.errors import InputError
from fer_nas.runtime import generator, load_checkpoint
from fer_nas.search.checks import Checks, compare, curvature
from fer_nas.search.run import Search
from fer_nas.search.start import search
from fer_nas.search.state import State
from fer_nas.search.state import build as build_state

Searched = Callable[..., RunFolder]
Configured = Callable[..., SearchConfig]
CLOCK = ("seconds", "gpu_days", "peak_memory_mib")


pytestmark = pytest.mark.usefixtures("without_pictures")


def state_of(config: SearchConfig) -> State:
    return build_state(config, load(config.data, seed=config.run.seed), torch.device("cpu"))


def examples(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, 1, 16, 16, generator=draw), torch.randint(0, 7, (count,), generator=draw)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "soba"},
        {"method": "darts-stn", "learn_sigma": True, "tune": "dropout,erase"},
    ],
    ids=["soba", "stn"],
)
def test_a_search_that_is_looked_at_goes_the_same_way(
    settings: dict[str, Any], configured: Configured, searched: Searched, cases: Path, tmp_path: Path
) -> None:
    """Bit for bit: weights, λ, what the method carries, and all other figures of the record."""
    settings = settings | {"limit": 24, "batch_size": 6}
    plain, shown = searched(cases / "fer.csv", tmp_path / "plain", **settings), io.StringIO()
    more = {"hessian_iterations": 1, "check_response": True, "check_batches": 2, "terms": 1}
    config = configured(cases / "fer.csv", **settings, **more)
    seen = search(config, tmp_path / "seen", Console(file=shown, width=300))
    mine, theirs = (load_checkpoint(run / "checkpoint.pt") for run in (seen, plain))
    assert torch.equal(mine["arch"], theirs["arch"])
    for part in ("weights", "method"):
        assert all(torch.equal(mine[part][name], value) for name, value in theirs[part].items())
    figures = ("hessian_eigenvalue", "check_cosine", "check_ratio")
    for row, without in zip(seen.metrics(), plain.metrics(), strict=True):
        assert {k: v for k, v in row.items() if k not in (*figures, *CLOCK)} == {
            k: v for k, v in without.items() if k not in CLOCK
        }
        assert row["hessian_eigenvalue"] != 0 and -1 <= row["check_cosine"] <= 1 and row["check_ratio"] > 0
    last = seen.metrics()[-1]
    assert f"∂²/∂λ² {last['hessian_eigenvalue']:.4f}" in shown.getvalue()
    assert f"check cos {last['check_cosine']:.2f}" in shown.getvalue() and "trust" not in shown.getvalue()


def test_what_a_step_draws_stays(configured: Configured, cases: Path) -> None:
    """Operations of GDAS, and what changes images: the task is as it was, and so is the method."""
    config = configured(
        cases / "fer.csv", method="darts-delta-stn", space="gdas", operations="fer", tune="erase", response_start=0.1,
        learn_sigma=True,
    )  # fmt: skip
    state = state_of(config)
    state.task.sample(generator(1))
    before, carried = dict(vars(state.task)), state.method.state()  # type: ignore[attr-defined]
    cosine, _ = compare(state, examples(), examples(), state.inner_step(0.0, 0.0), 1, 0)
    assert cosine is not None and curvature(state, examples(), 1, 0) != 0
    assert before["noise"] is not None and vars(state.task) == before
    after = state.method.state()  # type: ignore[attr-defined]
    random = carried.pop("perturbation_random"), after["perturbation_random"]
    assert torch.equal(*random) and carried == {"fitted": torch.tensor(0)}


def test_a_series_agrees_with_itself(configured: Configured, cases: Path) -> None:
    """The method `implicit` with the same terms is the comparison itself; with more terms it is larger."""
    state = state_of(configured(cases / "fer.csv", method="implicit", terms=3))
    step, batch = state.inner_step(0.0, 0.0), examples()
    cosine, ratio = compare(state, batch, batch, step, 3, 0)
    assert (cosine, ratio) == (pytest.approx(1.0, abs=1e-6), pytest.approx(1.0, abs=1e-5))
    state.method = Neumann(terms=0)
    cosine, ratio = compare(state, batch, batch, step, 3, 0)
    assert cosine is not None and ratio is not None and 0 < ratio < 1


def test_a_response_that_is_none_has_no_cosine(configured: Configured, cases: Path) -> None:
    state = state_of(configured(cases / "fer.csv", method="darts-stn"))  # V = 0
    assert compare(state, examples(), examples(), state.inner_step(0.0, 0.0), 2, 0) == (None, None)
    state = state_of(configured(cases / "fer.csv", method="implicit", terms=1))
    state.set_learning_rate(1e12)
    step = state.inner_step(0.0, 0.0)
    state.method = Neumann(terms=0, scale=0.1)
    assert compare(state, examples(), examples(), step, 8, 0) == (None, None), "a series that diverges"


def test_curvature_is_that_of_the_validation_loss(configured: Configured, cases: Path) -> None:
    """At W(λ) of a best response, whose own λ stays, and of the architecture alone: the same products by hand."""
    chosen = {"method": "darts-stn", "response_start": 0.05, "tune": "dropout"}
    state, plain = (state_of(configured(cases / "fer.csv", form=form, **chosen)) for form in ("fast", "plain"))
    with torch.no_grad():
        state.arch += torch.randn(len(state.arch), generator=generator(1))
    arch, batch, task = state.arch.detach(), examples(), state.task
    response = state.method.respond(arch, arch)  # type: ignore[attr-defined]
    assert task.fast and not plain.task.fast

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return plain.task.outer_loss(task.weights(), torch.cat([logits, arch[-1:]]), batch, response)

    wanted = dominant_eigenvalue(loss, arch[:-1], iterations=3, generator=generator(0, "hessian"))
    assert wanted != 0 and curvature(state, batch, 3, 0) == pytest.approx(wanted, rel=1e-4)
    without = task.weights() | {
        name: torch.zeros_like(w) for name, w in task.weights().items() if name.endswith("_rescale")
    }
    state.accept(without, state.inner_step(0.0, 0.0))
    assert curvature(state, batch, 3, 0) != pytest.approx(wanted, rel=1e-2), "the response counts"


class Scaled:
    """A method whose response is that of the comparison, times a number."""

    needs_response = False

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def hypergradient(self, *arguments: Any) -> Hypergradient:
        found = Neumann(terms=1).hypergradient(*arguments)
        return replace(found, response=self.scale * found.response)


def test_trust_is_the_best_scale_between_none_and_all(configured: Configured, cases: Path) -> None:
    """Against the scale that brings the response nearest to the series; one that points away gets none."""
    config = configured(cases / "fer.csv", method="soba", check_batches=1, trust="check", terms=1, form="plain")
    data = load(config.data, seed=0)
    state, checks = state_of(config), Checks(config, data.train, data.train)
    for scale, wanted in ((4.0, 0.25), (-4.0, 0.0), (0.5, 1.0)):
        state.method = Scaled(scale)  # type: ignore[assignment]
        checks.trust = 1.0
        row = checks.row(state)
        assert row["trust"] == 1.0, "of the steps before"
        assert row["check_ratio"] == pytest.approx(abs(scale), rel=1e-4)
        assert row["check_cosine"] == pytest.approx(scale / abs(scale), abs=1e-4)
        assert checks.trust == pytest.approx(wanted, rel=1e-4)


def test_trust_scales_the_architectures_response_alone(configured: Configured, cases: Path) -> None:
    data = load(configured(cases / "fer.csv").data, seed=0)
    checks = Checks(configured(cases / "fer.csv", method="darts-stn", trust="check"), data.train, data.train)
    found = Hypergradient(direct=torch.ones(4), response=torch.ones(4), loss=torch.zeros(()))
    assert checks.trusted(found, slice(0, 3)) is found
    checks.trust = 0.25
    assert checks.trusted(found, slice(0, 3)).response.tolist() == [0.25, 0.25, 0.25, 1.0]
    assert found.response.tolist() == [1.0] * 4


def test_trust_is_recorded_and_kept(configured: Configured, cases: Path, tmp_path: Path) -> None:
    """An untrained response that is too large: the next epoch's is smaller, and so a run goes on that was stopped."""
    config = configured(
        cases / "fer.csv", method="darts-stn", trust="check", check_batches=1, terms=1, response="published",
        response_start=1.0, limit=24, batch_size=6,
    )  # fmt: skip
    run = search(config, tmp_path / "run", Console(file=io.StringIO()))
    first, second = run.metrics()
    said = [max(0.0, row["check_cosine"] / row["check_ratio"]) for row in (first, second)]
    assert first["trust"] == 1.0 and first["check_ratio"] > 1
    assert second["trust"] == pytest.approx(said[0]) and 0 <= said[0] < 1
    again = Search(config, run, load(config.data, seed=0), Console(file=io.StringIO()))
    again.restore()
    assert again.checks.trust == load_checkpoint(run / "checkpoint.pt")["trust"] == pytest.approx(said[1])


@pytest.mark.parametrize("settings", [{"hessian_iterations": 1}, {"check_response": True}, {"trust": "check"}])
def test_several_processes_cannot(
    settings: dict[str, Any], configured: Configured, cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(cases / "fer.csv", method="soba", **settings)
    data = load(config.data, seed=0)
    monkeypatch.setattr("fer_nas.parallel.count", lambda: 2)
    with pytest.raises(InputError, match="which processes cannot share; leave them out"):
        Checks(config, data.train, data.train)
