"""STN and Δ-STN: hypergradients against closed forms, steps against torch's optimizers, errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.adam import Adam
from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import InnerStep, Params, descend
from fer_nas.bilevel.stn import STN
from fer_nas.errors import FerNasError, InputError
from fer_nas.tasks.quadratic import Quadratic, random_quadratic

DOUBLE = torch.float64


def still(**knobs: Any) -> Perturbation:
    return Perturbation(learn=False, **knobs)


METHODS: dict[str, tuple[Callable[..., STN], float, int]] = {  # with an inner rate that is stable, and steps enough
    "stn": (STN, 0.1, 900),
    "stn in pairs": (lambda **knobs: STN(**knobs | {"perturbation": still(scale=0.5, pairs=True)}), 0.1, 600),
    "delta-stn": (DeltaSTN, 0.2, 200),
    "delta-stn, plain forward": (lambda **knobs: DeltaSTN(linearize=False, **knobs), 0.2, 200),
}


def quadratic(seed: int, **knobs: bool) -> tuple[Quadratic, Tensor, Params]:
    generator = torch.Generator().manual_seed(seed)
    problem = random_quadratic(generator, condition=4.0, hypers=6, **knobs)
    hyper = torch.randn(6, generator=generator, dtype=DOUBLE)
    return problem, hyper, problem.initial_weights(generator, best_response=True)


def relative(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("name", METHODS)
def test_hypergradient_after_convergence(name: str) -> None:
    """20 weights, the inner problem solved by the method's own steps; direct, response and total within 5e-2."""
    make, rate, steps = METHODS[name]
    problem, hyper, weights = quadratic(0)
    method = make(perturbation=still(scale=0.5), outer_noise=False)
    weights, step = method.fit(problem, weights, hyper, [None] * steps, InnerStep(learning_rate=rate, momentum=0.5))
    found = method.hypergradient(problem, weights, hyper, None, None, step)
    direct, response = problem.hypergradient(hyper)
    errors = [
        relative(*pair)
        for pair in ((found.direct, direct), (found.response, response), (found.total, direct + response))
    ]
    assert max(errors) < (5e-2 if name[:3] == "stn" else 5e-3), f"direct, response, total: {errors}"
    assert relative(torch.zeros_like(response), direct + response) > 0.5, "the response takes no part in this test"


@pytest.mark.parametrize("make", [STN, DeltaSTN], ids=["stn", "delta-stn"])
def test_each_path_reaches_hyper_alone(make: Callable[..., STN]) -> None:
    """V = 0: the response is exactly zero and the direct term is not. No direct effect: the reverse."""
    method = make(perturbation=still(), outer_noise=False)
    problem, hyper, weights = quadratic(1, coupled=False)
    found = method.hypergradient(problem, weights, hyper, None, None, InnerStep(learning_rate=0.1))
    assert not found.response.any()
    torch.testing.assert_close(found.direct, problem.direct(weights["w"], hyper))
    assert found.direct.norm() > 0.1

    problem, hyper, weights = quadratic(1, direct=False)
    weights["w_rescale"] = problem.response_matrix()
    found = method.hypergradient(problem, weights, hyper, None, None, InnerStep(learning_rate=0.1))
    assert not found.direct.any()
    w = weights["w"] + (weights["w_rescale"] @ hyper if make is STN else 0)
    torch.testing.assert_close(found.response, weights["w_rescale"].T @ problem.slope(w, hyper))
    assert found.response.norm() > 0.1


def test_stn_steps_are_sgd_on_all_of_phi() -> None:
    problem, hyper, weights = quadratic(2)
    method = STN(perturbation=still(scale=0.3, seed=5))
    fitted, step = method.fit(problem, weights, hyper, [None] * 4, InnerStep(learning_rate=0.03, momentum=0.9))
    fitted, step = method.fit(problem, fitted, hyper, [None] * 2, step)

    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    optimizer = torch.optim.SGD(leaves.values(), lr=0.03, momentum=0.9)
    noise = still(scale=0.3, seed=5)
    for _ in range(6):
        point = hyper + next(noise.draws(hyper, None))
        optimizer.zero_grad()
        problem.inner_loss(leaves, point, None, point).backward()
        optimizer.step()
    for name, leaf in leaves.items():
        torch.testing.assert_close(fitted[name], leaf)
    assert set(step.velocity) == set(weights) and not step.velocity["w"].equal(torch.zeros(20, dtype=DOUBLE))


def test_delta_stn_trains_the_general_weights_as_a_plain_network() -> None:
    problem, hyper, weights = quadratic(3)
    step = InnerStep(learning_rate=0.05, momentum=0.9, weight_decay=0.1)
    plain, _ = descend(problem, {"w": weights["w"]}, hyper, [None] * 5, step)
    fitted, _ = DeltaSTN(perturbation=still()).fit(problem, weights, hyper, [None] * 5, step)
    torch.testing.assert_close(fitted["w"], plain["w"], rtol=0, atol=0)
    assert fitted["w_rescale"].any()


@pytest.mark.parametrize("every", [2, 3])
def test_a_response_step_every_so_many_batches(every: int) -> None:
    """Over E batches one response step, at the first of them; W_elem steps on each."""
    problem, hyper, weights = quadratic(3)
    step = InnerStep(learning_rate=0.05, momentum=0.9)
    plain, _ = descend(problem, {"w": weights["w"]}, hyper, [None] * 5, step)
    seldom = DeltaSTN(perturbation=still(), every=every)
    fitted, _ = seldom.fit(problem, weights, hyper, [None] * 5, step)
    torch.testing.assert_close(fitted["w"], plain["w"], rtol=0, atol=0)
    by_hand, batches = DeltaSTN(perturbation=still()), range(5)
    found, moved = dict(weights), step
    for number in batches:
        if number % every == 0:
            found, moved = by_hand.fit(problem, found, hyper, [None], moved)
        else:
            general, stepped = descend(problem, {"w": found["w"]}, hyper, [None], moved)
            found, moved = found | general, replace(stepped, velocity=moved.velocity | stepped.velocity)
    assert all(torch.allclose(fitted[name], found[name]) for name in weights)
    again = DeltaSTN(perturbation=still(), every=every)
    again.load_state(seldom.state())
    assert again.fitted == 5 and not torch.equal(fitted["w_rescale"], weights["w_rescale"])


@pytest.mark.parametrize("beta", [0.9, 0.99])
def test_adam_is_torchs(beta: float) -> None:
    torch.manual_seed(0)
    weights = {"a": torch.randn(3, 2, dtype=DOUBLE), "b": torch.randn(4, dtype=DOUBLE)}
    leaves = [w.clone().requires_grad_() for w in weights.values()]
    ours, theirs = Adam(rate=0.01, beta=beta), torch.optim.Adam(leaves, lr=0.01, betas=(beta, 0.999))
    for _ in range(6):
        slope = {name: torch.randn_like(w) for name, w in weights.items()}
        weights = ours.take(weights, slope)
        for leaf, g in zip(leaves, slope.values(), strict=True):
            leaf.grad = g
        theirs.step()
    for w, leaf in zip(weights.values(), leaves, strict=True):
        torch.testing.assert_close(w, leaf)


@pytest.mark.parametrize("make", [STN, DeltaSTN], ids=["stn", "delta-stn"])
def test_what_goes_wrong_is_said(make: Callable[..., STN]) -> None:
    problem, hyper, weights = quadratic(6)
    method, step = make(), InnerStep(learning_rate=0.1)
    for call in (
        lambda: method.fit(problem, {"w": weights["w"]}, hyper, [None], step),
        lambda: method.hypergradient(problem, {"w": weights["w"]}, hyper, None, None, step),
    ):
        with pytest.raises(InputError, match="best_response"):
            call()
    broken = weights | {"w": weights["w"] * torch.nan}
    with pytest.raises(FerNasError, match=r"training loss of .* is not finite; lower"):
        method.fit(problem, broken, hyper, [None], step)
    with pytest.raises(FerNasError, match="validation loss"):
        method.hypergradient(problem, broken, hyper, None, None, step)
    with pytest.raises(FerNasError, match="not finite"):
        method.fit(problem, weights, hyper, [None] * 60, InnerStep(learning_rate=1e30))
    for knobs, message in (
        ({"clip": 0.0}, "clip is 0"),
        ({"adam_rate": -1.0}, "adam_rate is -1"),
        ({"gradient_clip": torch.nan}, "gradient_clip is nan"),
        ({"outer_noise": False}, "σ learns from ε"),
    ):
        with pytest.raises(InputError, match=message):
            make(**knobs)


def test_a_task_that_cannot_be_linearized() -> None:
    class Losses:
        def inner_loss(self, weights: Params, hyper: Tensor, batch: Any, response: Tensor | None = None) -> Tensor:
            return (weights["w"].sum() + weights["w_rescale"].sum()) * hyper.sum()

        outer_loss = inner_loss

    _, hyper, weights = quadratic(7)
    step = InnerStep(learning_rate=0.1)
    with pytest.raises(InputError, match="Losses has no outputs"):
        DeltaSTN().fit(Losses(), weights, hyper, [None], step)
    DeltaSTN(linearize=False).fit(Losses(), weights, hyper, [None], step)
