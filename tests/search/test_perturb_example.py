"""Another λ for every example: the network is that of the batch's λ where all rows are alike, and searches use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer_nas.artifacts import RunFolder
from fer_nas.config import SearchConfig
from fer_nas.data.load import load
from fer_nas.errors import InputError
from fer_nas.runtime import generator, load_checkpoint
from fer_nas.search.state import State
from fer_nas.search.state import build as build_state
from fer_nas.tasks.cells import CellSearch

Configured = Callable[..., SearchConfig]


def state_of(config: SearchConfig) -> State:
    return build_state(config, load(config.data, seed=config.run.seed), torch.device("cpu"))


@pytest.fixture
def task(configured: Configured, cases: Path) -> CellSearch:
    """In float64, with a response that matters."""
    config = configured(cases / "fer.csv", method="darts-stn", perturb="example", response_start=0.3)
    return state_of(config).task


def drawn(task: CellSearch) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    assert task.learner is not None
    draw = generator(0, "rows")
    weights = {name: w.detach().double() for name, w in task.weights().items()}
    task.learner.double()
    images = 255 * torch.rand(6, 1, 12, 12, generator=draw, dtype=torch.float64)
    hyper = torch.randn(task.layout.size, generator=draw, dtype=torch.float64)
    return weights, images, hyper, torch.randint(3, (6,), generator=draw)


def test_alike_rows_are_the_batch_form(task: CellSearch) -> None:
    weights, images, hyper, _ = drawn(task)
    batch = task.logits(weights, hyper, images, task.features(hyper))
    rows = hyper.expand(6, -1)
    assert torch.allclose(task.features(rows), task.features(hyper).expand(6, -1))
    assert torch.allclose(task.logits(weights, rows, images, task.features(rows)), batch, rtol=1e-9, atol=1e-12)


def test_the_slope_of_each_row_is_that_of_differences(task: CellSearch) -> None:
    weights, images, hyper, labels = drawn(task)
    rows = hyper + 0.3 * torch.randn(6, len(hyper), generator=generator(1, "rows"), dtype=torch.float64)

    def loss(point: torch.Tensor) -> torch.Tensor:
        logits = task.logits(weights, point, images, task.features(point))
        return torch.nn.functional.cross_entropy(logits, labels)

    point = rows.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(point), point)
    along = torch.randn(rows.shape, generator=generator(2, "rows"), dtype=torch.float64)
    for row in range(6):
        only = torch.zeros_like(rows)
        only[row] = along[row]
        found = (loss(rows + 1e-6 * only) - loss(rows - 1e-6 * only)) / 2e-6
        assert found.item() == pytest.approx((slope * only).sum().item(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(
    ("method", "response"), [("darts-stn", "own"), ("darts-stn", "published"), ("darts-delta-stn", "published")]
)
def test_a_search_moves(
    method: str, response: str, searched: Callable[..., RunFolder], cases: Path, tmp_path: Path
) -> None:
    run = searched(cases / "fer.csv", tmp_path / "run", method=method, response=response, perturb="example")
    arch = load_checkpoint(run / "checkpoint.pt")["arch"]
    assert (arch - 1e-3 * torch.randn(len(arch), generator=generator(0, "arch"))).abs().max() > 1e-3
    assert run.metrics()[-1]["response_ratio"] > 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"space": "pc-darts"}, "the space pc-darts"),
        ({"space": "gdas"}, "the space gdas"),
        ({"space": "i-darts"}, "the space i-darts"),
        ({"tune": "dropout"}, "--tune"),
        ({"auxiliary_skip": 0.5}, "--auxiliary-skip"),
        ({"form": "fast"}, "--form fast"),
    ],
)
def test_what_has_one_mixture_for_all_is_refused(
    settings: dict[str, object], reason: str, configured: Configured, cases: Path
) -> None:
    config = configured(cases / "fer.csv", method="darts-stn", perturb="example", **settings)
    with pytest.raises(InputError, match=reason):
        state_of(config)
