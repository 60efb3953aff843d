"""How far each method's hypergradient is from a closed form: a random quadratic problem, 20 weights, 12 λ, float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from fer_nas.bilevel.methods import find_method
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import InnerStep
from fer_nas.tasks.quadratic import random_quadratic

SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A method with its inner steps before the hypergradient; G's eigenvalues lie from 0.1 to 1.

    calls: hypergradients at one λ, of which the last counts. bound: largest relative error that is right; None where
    the method is biased by its nature. A knob that is a function makes a fresh one a run.
    """

    name: str
    method: str
    knobs: dict[str, Any]
    bound: float | None
    steps: int = 200
    rate: float = 1.0
    momentum: float = 0.0
    calls: int = 1
    best_response: bool = False


_UNBIASED = {"damping": 0.0, "clip": None, "rate": 1.0}
_STILL = {"outer_noise": False, "perturbation": lambda: Perturbation(scale=0.5, learn=False)}
ESTIMATORS = (
    Estimator(name="first order", method="darts-1st", knobs={}, bound=None),
    Estimator(name="second order, ξ = 1", method="darts-2nd", knobs={}, bound=None),
    Estimator(name="unrolled, T = K = 200", method="unrolled", knobs={}, bound=1e-6),
    Estimator(name="unrolled, T = 200, K = 50", method="unrolled", knobs={"last": 50}, bound=5e-2),
    Estimator(name="Neumann, 20 terms", method="neumann", knobs={"terms": 20}, bound=0.2),
    Estimator(name="Neumann, 200 terms", method="neumann", knobs={"terms": 200}, bound=1e-6),
    Estimator(name="conjugate gradient", method="conjugate-gradient", knobs={"iterations": 40}, bound=1e-6),
    Estimator(name="carried adjoint, 100 calls", method="soba", knobs=_UNBIASED, bound=5e-2, calls=100),
    Estimator(name="STN, 3000 steps", method="stn", knobs=_STILL, bound=5e-2, steps=3000, rate=0.05, momentum=0.5,
              best_response=True),
    Estimator(name="Δ-STN, 400 steps", method="delta-stn", knobs=_STILL, bound=5e-2, steps=400, rate=0.2, momentum=0.5,
              best_response=True),
)  # fmt: skip


@dataclass(frozen=True)
class Errors:
    """Relative errors ‖found − truth‖₂/‖truth‖₂ of the direct term, the response and their sum."""

    direct: float
    response: float
    total: float


def measure(estimator: Estimator, seed: int, weight_decay: float = 0.0) -> Errors:
    generator = torch.Generator().manual_seed(seed)
    task = random_quadratic(generator)
    hyper = torch.randn(task.A.shape[1], generator=generator, dtype=torch.float64)
    weights = task.initial_weights(generator, estimator.best_response)
    knobs = {name: knob() if callable(knob) else knob for name, knob in estimator.knobs.items()}
    method = find_method(estimator.method).make(**knobs)
    step = InnerStep(learning_rate=estimator.rate, momentum=estimator.momentum, weight_decay=weight_decay)
    weights, step = method.fit(task, weights, hyper, [None] * estimator.steps, step)
    for _ in range(estimator.calls):
        found = method.hypergradient(task, weights, hyper, None, None, step)
    direct, response = task.hypergradient(hyper, weight_decay)
    return Errors(
        _relative(found.direct, direct),
        _relative(found.response, response),
        _relative(found.total, direct + response),
    )


def _relative(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).norm() / truth.norm()).item()


def study(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Per estimator the median and the largest error of response and total over SEEDS, as plain values."""
    rows = []
    say(f"hypergradients of {len(ESTIMATORS)} methods against a closed form, {len(SEEDS)} seeds")
    for estimator in ESTIMATORS:
        errors = [measure(estimator, seed) for seed in SEEDS]
        parts = {part: [getattr(error, part) for error in errors] for part in ("response", "total")}
        spread = {part: {"median": median(values), "largest": max(values)} for part, values in parts.items()}
        rows.append({"name": estimator.name, "method": estimator.method, **spread})
    return rows
