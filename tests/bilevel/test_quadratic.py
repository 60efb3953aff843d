"""Every method's hypergradient against a closed form: quadratic losses, random SPD G, 20 dimensions, float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.implicit import ConjugateGradient, Neumann
from fer_nas.bilevel.methods import find_method
from fer_nas.bilevel.protocol import Hypergradient, InnerStep, Method, Params
from fer_nas.bilevel.soba import CarriedAdjoint
from fer_nas.bilevel.unrolled import SecondOrder, Unrolled
from fer_nas.errors import FerNasError
from fer_nas.studies.closed_form import ESTIMATORS, Estimator, measure
from fer_nas.tasks.quadratic import Quadratic, random_quadratic

STEPS = 150  # inner steps; G's eigenvalues lie from 0.1 to 1, so at rate 1 the error shrinks by 0.9 a step
UNBIASED = {"damping": 0.0, "clip": None, "rate": 1.0, "outer_mean": 0.0, "response_mean": 0.0}


def problem(seed: int, **settings: bool) -> tuple[Quadratic, Params, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    task = random_quadratic(generator, **settings)
    hyper = torch.randn(task.A.shape[1], generator=generator, dtype=torch.float64)
    return task, task.initial_weights(generator), hyper


def estimate(method: Method, task: Quadratic, weights: Params, hyper: Tensor, rounds: int = 1) -> Hypergradient:
    """The hypergradient after STEPS inner steps, the `rounds`th at the same λ."""
    weights, step = method.fit(task, weights, hyper, [None] * STEPS, InnerStep(learning_rate=1.0))
    for _ in range(rounds - 1):
        method.hypergradient(task, weights, hyper, None, None, step)
    return method.hypergradient(task, weights, hyper, None, None, step)


def relative(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.bound], ids=lambda estimator: estimator.name)
def test_hypergradient_of_the_closed_form(estimator: Estimator) -> None:
    found = measure(estimator, 0)
    assert estimator.bound
    assert max(found.response, found.total) < estimator.bound
    assert found.direct < (5e-2 if estimator.best_response else 1e-6)


@pytest.mark.parametrize("name", ["unrolled, T = K = 200", "Neumann, 200 terms", "conjugate gradient"])
def test_weight_decay_belongs_to_the_inner_problem(name: str) -> None:
    (estimator,) = (e for e in ESTIMATORS if e.name == name)
    assert measure(estimator, 1, weight_decay=0.05).total < 1e-6


def test_what_is_left_out_matters_in_this_table() -> None:
    """Without the response, or with one step's, the hypergradient is wrong by more than a tenth."""
    biased = [measure(e, seed) for e in ESTIMATORS if not e.bound for seed in range(3)]
    assert len(biased) == 6
    assert min(error.total for error in biased) > 0.1


def test_the_closed_form_itself() -> None:
    """∂L_val(λ, w*(λ))/∂λ by autograd through the solution of the inner problem."""
    task, _, hyper = problem(7)
    point = hyper.clone().requires_grad_()
    w = torch.linalg.solve(task.G, task.G @ (task.A @ point + task.c))
    (truth,) = torch.autograd.grad(task.outer_loss({"w": w}, point, None), point)
    assert relative(sum(task.hypergradient(hyper)), truth) < 1e-12  # type: ignore[arg-type]
    slope = torch.autograd.functional.jacobian(lambda w: task.inner_loss({"w": w}, hyper, None), w.detach())
    assert slope.norm() < 1e-12


@pytest.mark.parametrize("exact", [False, True])
def test_second_order_has_its_own_biased_value(exact: bool) -> None:
    """∂L_val/∂λ(w') + ξAᵀG ∂L_val/∂w(w'), w' = w − ξ(G(w − Aλ − c) + m·v + d·w): not the hypergradient."""
    task, weights, hyper = problem(3)
    w, velocity = weights["w"], torch.ones_like(weights["w"])
    step = InnerStep(learning_rate=0.1, momentum=0.9, weight_decay=0.05, velocity={"w": velocity})
    ahead = w - 0.1 * (task.G @ (w - task.A @ hyper - task.c) + 0.9 * velocity + 0.05 * w)
    found = SecondOrder(exact=exact).hypergradient(task, weights, hyper, None, None, step)
    assert relative(found.direct, task.direct(ahead, hyper)) < 1e-9
    assert relative(found.response, 0.1 * task.A.T @ task.G @ task.slope(ahead, hyper)) < 1e-9
    converged = {"w": task.best_response(hyper)}
    at_rest = SecondOrder(exact=exact).hypergradient(task, converged, hyper, None, None, InnerStep(learning_rate=0.1))
    assert relative(at_rest.response, task.hypergradient(hyper)[1]) > 0.5, "one step is far from the whole response"


ALL = {
    "darts-2nd": SecondOrder,
    "unrolled": Unrolled,
    "neumann": Neumann,
    "conjugate-gradient": ConjugateGradient,
    "soba": lambda: CarriedAdjoint(**UNBIASED),
}


@pytest.mark.parametrize("name", ["darts-1st", *ALL])
def test_direct_term_where_the_weights_do_not_follow(name: str) -> None:
    """A = 0: the response is exactly zero, and the direct term still reaches λ."""
    task, weights, hyper = problem(4, coupled=False)
    make = ALL.get(name, find_method(name).make)
    found = estimate(make(), task, weights, hyper, rounds=3)
    assert not found.response.any()
    assert relative(found.total, task.direct(task.best_response(hyper), hyper)) < 1e-6
    assert found.direct.norm() > 1


@pytest.mark.parametrize("name", ["darts-1st", *ALL])
def test_response_where_the_loss_does_not_read_the_hyperparameters(name: str) -> None:
    """B = 0, κ = 0: the direct term is exactly zero, and the response still reaches λ (but first order has none)."""
    task, weights, hyper = problem(5, direct=False)
    make = ALL.get(name, find_method(name).make)
    found = estimate(make(), task, weights, hyper, rounds=3)
    assert not found.direct.any()
    if name == "darts-1st":
        assert not found.total.any()
    else:
        assert found.response @ task.hypergradient(hyper)[1] > 0
        assert found.response.norm() > 0.1


def test_an_implicit_method_that_diverges_says_so() -> None:
    task, weights, hyper = problem(6)
    with pytest.raises(FerNasError, match="no finite answer"):
        estimate(Neumann(terms=60, scale=1e8), task, weights, hyper)
