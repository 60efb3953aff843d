"""The carried adjoint: what it keeps, how it is bounded, that a checkpoint holds all of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.protocol import InnerStep, Stateful
from fer_nas.bilevel.soba import CarriedAdjoint
from fer_nas.errors import FerNasError, InputError
from fer_nas.tasks.quadratic import Quadratic, random_quadratic

STEP = InnerStep(learning_rate=1.0)


def converged(seed: int = 0, direct: bool = True) -> tuple[Quadratic, dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    task = random_quadratic(generator, direct=direct)
    hyper = torch.randn(task.A.shape[1], generator=generator, dtype=torch.float64)
    return task, {"w": task.best_response(hyper)}, hyper


def relative(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


def test_it_begins_as_first_order_and_learns_the_response() -> None:
    task, weights, hyper = converged()
    method = CarriedAdjoint(damping=0.0, clip=None, rate=1.0)
    found = [method.hypergradient(task, weights, hyper, None, None, STEP) for _ in range(120)]
    truth = task.hypergradient(hyper)[1]
    assert not found[0].response.any()
    errors = [relative(found[n].response, truth) for n in (5, 20, 60, 119)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_it_follows_a_moving_problem() -> None:
    """w and λ descend while q is carried, one step each: L_val falls, and q keeps up with the hypergradient."""
    task, weights, hyper = converged(1, direct=False)
    method = CarriedAdjoint(damping=0.0, clip=None, rate=1.0, outer_mean=0.0, response_mean=0.0)
    start, losses = task.hypergradient(hyper)[1], []
    step = InnerStep(learning_rate=1.0)
    for _ in range(200):
        weights, step = method.fit(task, weights, hyper, [None], step)
        found = method.hypergradient(task, weights, hyper, None, None, step)
        truth = task.hypergradient(hyper)[1]
        hyper = hyper - 0.01 * found.total
        losses.append(found.loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert truth.norm() < 0.1 * start.norm()
    assert (found.total - truth).norm() < 0.05 * start.norm()


@pytest.mark.parametrize("damping", [0.5, 1.0])
def test_damping_solves_the_damped_system(damping: float) -> None:
    task, weights, hyper = converged(2)
    method = CarriedAdjoint(damping=damping, clip=None, rate=0.5)
    for _ in range(200):
        found = method.hypergradient(task, weights, hyper, None, None, STEP)
    matrix = task.G + damping * torch.eye(20, dtype=torch.float64)
    slope = task.slope(weights["w"], hyper)
    assert relative(found.response, task.A.T @ task.G @ torch.linalg.solve(matrix, slope)) < 1e-6


@pytest.mark.parametrize("settings", [{}, {"exact": False}, {"every": 3}, {"clip": 0.1}])
def test_a_restored_one_goes_on_bit_for_bit(settings: dict[str, Any]) -> None:
    task, weights, hyper = converged(3)
    whole, broken = CarriedAdjoint(**settings), CarriedAdjoint(**settings)
    assert isinstance(broken, Stateful)
    assert broken.state() == {}
    for number in range(9):
        at = hyper + number / 10
        expected = whole.hypergradient(task, weights, at, None, None, STEP)
        found = broken.hypergradient(task, weights, at, None, None, STEP)
        assert torch.equal(expected.total, found.total)
        saved = {name: value.clone() for name, value in broken.state().items()}
        broken = CarriedAdjoint(**settings)
        broken.load_state(saved)


def test_clip_bounds_the_response_by_the_direct_term() -> None:
    task, weights, hyper = converged(4)
    free, bounded = CarriedAdjoint(clip=None, rate=0.5), CarriedAdjoint(clip=0.1, rate=0.5)
    for _ in range(50):
        loose, tight = (m.hypergradient(task, weights, hyper, None, None, STEP) for m in (free, bounded))
    assert loose.response.norm() > 0.2 * loose.direct.norm()
    assert tight.response.norm().item() == pytest.approx(0.1 * tight.direct.norm().item(), rel=1e-12)
    assert torch.nn.functional.cosine_similarity(loose.response, tight.response, dim=0) > 1 - 1e-12


def test_finite_differences_are_the_exact_products_on_a_quadratic() -> None:
    task, weights, hyper = converged(5)
    exact, finite = CarriedAdjoint(clip=None), CarriedAdjoint(clip=None, exact=False)
    for _ in range(20):
        pair = [m.hypergradient(task, weights, hyper, None, None, STEP).response for m in (exact, finite)]
    assert relative(*pair) < 1e-9


def test_every_skips_the_products_between() -> None:
    task, weights, hyper = converged(6)
    method = CarriedAdjoint(every=3, clip=None)
    found = [method.hypergradient(task, weights, hyper, None, None, STEP).response for _ in range(7)]
    same = [torch.equal(a, b) for a, b in itertools.pairwise(found)]
    assert same == [True, True, False, True, True, False]


@pytest.mark.parametrize("knob", [{"rate": -1.0}, {"damping": -0.1}, {"outer_mean": 1.5}, {"every": 0}])
def test_impossible_knobs(knob: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(knob))):
        CarriedAdjoint(**knob)


def test_damping_bounds_an_adjoint_whose_rate_is_too_large() -> None:
    """(H + μ)⁻¹ is at most 1/μ: ‖q‖ ≤ ‖ḡ‖/μ, and without the bound the same rate runs away."""
    task, weights, hyper = converged(7)
    bounded, free = CarriedAdjoint(rate=50.0, damping=0.5, clip=None), CarriedAdjoint(rate=50.0, damping=0.0, clip=None)
    for _ in range(5):
        for method in (bounded, free):
            method.hypergradient(task, weights, hyper, None, None, STEP)
    limit = bounded.carried["outer"].norm() / 0.5
    assert bounded.carried["adjoint"].norm() <= limit * (1 + 1e-9) < free.carried["adjoint"].norm()


def test_the_rate_follows_the_weights_own() -> None:
    task, weights, hyper = converged(7)
    step = InnerStep(learning_rate=0.3, momentum=0.5)
    found = [
        CarriedAdjoint(rate=rate).hypergradient(task, weights, hyper, None, None, step).response for rate in (None, 0.2)
    ]
    assert torch.equal(*found)


def test_an_adjoint_that_runs_away_says_so() -> None:
    task, weights, hyper = converged(7)
    method = CarriedAdjoint(rate=1e30, damping=0.0, clip=None)
    with pytest.raises(FerNasError, match="lower its rate"):
        for _ in range(50):
            method.hypergradient(task, weights, hyper, None, None, STEP)
