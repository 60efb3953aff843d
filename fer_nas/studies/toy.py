"""Every method on the toy problem: λ steps and seconds to the optimum, trajectories, robustness to the two rates."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fer_nas.bilevel.methods import find_method
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import InnerStep, Params
from fer_nas.errors import FerNasError
from fer_nas.tasks.toy import Toy

INNER_RATE = 0.1  # of the published comparison; the outer rate is chosen at it
INNER_RATES = (0.05, 0.1, 0.13, 0.2, 0.5)
OUTER_RATES = tuple(10 ** (k / 6) for k in range(-18, 7))  # 0.001 to 10, six a decade
NEAR = 1e-2  # ‖λ‖₂ that counts as the optimum
HOLD = 10  # λ steps in a row that it must be near
FAR = 10.0  # |λ| from which it is lost
BASIN = 1.75  # of the optimum: beyond it, along either axis, L_val falls towards another minimum
LIMITS = {1: 300, 5: 100, 100: 40}  # inner steps a λ step → most λ steps
DRAWS = 3  # runs of a method with noise in it at each pair of rates


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A row of the table: a method, its inner steps a λ step, its knobs (a function makes a fresh one a run)."""

    name: str
    method: str
    inner_steps: int
    knobs: dict[str, Any] = field(default_factory=dict)
    best_response: bool = False


# σ stays 1, and the λ step is taken at λ itself: with noise in it λ cannot come to rest.
_STILL = {"outer_noise": False, "perturbation": lambda: Perturbation(learn=False)}
# The toy has no direct term, to which the carried adjoint's response could be clipped.
_SOBA = {"clip": None, "damping": 0.0, "rate": 1.0, "outer_mean": 0.0, "response_mean": 0.0}
CONTENDERS = (
    Contender(name="first order", method="darts-1st", inner_steps=1),
    Contender(name="second order, T = K = 1", method="darts-2nd", inner_steps=1),
    Contender(name="second order, T = 5", method="darts-2nd", inner_steps=5),
    Contender(name="full, T = K = 100", method="unrolled", inner_steps=100),
    Contender(name="truncated, T = 100, K = 1", method="unrolled", inner_steps=100, knobs={"last": 1}),
    Contender(name="Neumann, 20 terms, T = 100", method="neumann", inner_steps=100, knobs={"terms": 20}),
    Contender(name="conjugate gradient, T = 100", method="conjugate-gradient", inner_steps=100),
    Contender(name="carried adjoint, T = 1", method="soba", inner_steps=1, knobs=_SOBA),
    Contender(name="carried adjoint, T = 5", method="soba", inner_steps=5, knobs=_SOBA),
    Contender(name="STN, T = 5", method="stn", inner_steps=5, knobs=_STILL, best_response=True),
    Contender(name="Δ-STN, T = 5", method="delta-stn", inner_steps=5, knobs=_STILL, best_response=True),
    Contender(name="STN as published, T = 5", method="stn", inner_steps=5, best_response=True),
    Contender(name="Δ-STN as published, T = 5", method="delta-stn", inner_steps=5, best_response=True),
)
PUBLISHED = ("first order", "second order, T = K = 1", "full, T = K = 100", "truncated, T = 100, K = 1")


@dataclass(frozen=True, kw_only=True)
class Runs:
    """P runs side by side.

    path: λ from the start on, (N+1, P, 2). first: the first λ step near the optimum, through which it may only pass;
    settled: the first from which it stays there for HOLD steps; 0 where there is none, each (P,).
    lost: left |λ| < 10 or ended beyond the basin of the optimum, (P,). seconds: CPU time until all had settled.
    """

    path: Tensor
    first: Tensor
    settled: Tensor
    lost: Tensor
    seconds: float


def run(contender: Contender, inner_rate: float, outer_rates: tuple[float, ...]) -> Runs:
    """λ from (1, 1), w from (2, 2) and warm from λ step to λ step; `inner_steps` of w, then λ by gradient descent.

    The P runs are copies in one problem, which do not act on one another: a lost one is put back to its start.
    """
    task, rates = Toy(len(outer_rates)), torch.tensor(outer_rates, dtype=torch.float64)[:, None]
    knobs = {name: knob() if callable(knob) else knob for name, knob in contender.knobs.items()}
    method = find_method(contender.method).make(**knobs)
    weights, hyper = task.initial_weights(contender.best_response), task.initial_hyper()
    start, step = weights, InnerStep(learning_rate=inner_rate)
    path = [hyper.view(-1, 2)]
    alive = torch.ones(len(rates), dtype=torch.bool)
    held, first, settled = (torch.zeros(len(rates), dtype=torch.int64) for _ in range(3))
    batches, limit = [None] * contender.inner_steps, LIMITS[contender.inner_steps]
    began = time.process_time()
    for number in range(1, limit + HOLD):
        try:
            weights, step = method.fit(task, weights, hyper, batches, step)
            gradient = method.hypergradient(task, weights, hyper, None, None, step).total
        except FerNasError:  # a loss that is not finite, of any copy
            alive[:] = False
            break
        rows = hyper.view(-1, 2) - rates * gradient.view(-1, 2)
        alive &= (rows.abs().amax(1) < FAR) & (_largest(weights) < FAR**3)
        hyper = torch.where(alive[:, None], rows, path[0]).view(-1)
        weights = {name: torch.where(_over(alive, w), w.detach(), start[name]) for name, w in weights.items()}
        path.append(torch.where(alive[:, None], rows, torch.nan))
        near = alive & (rows.norm(dim=1) < NEAR)
        held = torch.where(near, held + 1, 0)
        first = torch.where(near & (first == 0), number, first)
        settled = torch.where((held == HOLD) & (settled == 0), number - HOLD + 1, settled)
        if ((settled > 0) | ~alive).all():
            break
    beyond = hyper.view(-1, 2).abs().amax(1) > BASIN
    return Runs(
        path=torch.stack(path),
        first=torch.where(first > limit, 0, first),
        settled=settled,
        lost=(settled == 0) & (~alive | beyond),
        seconds=time.process_time() - began,
    )


def _over(alive: Tensor, like: Tensor) -> Tensor:
    return alive.view(-1, *[1] * (like.dim() - 1))


def _largest(weights: Params) -> Tensor:
    """Largest |entry| of each copy, (P,); infinite where one is not a number."""
    return torch.stack([w.detach().flatten(1).abs().amax(1) for w in weights.values()]).amax(0).nan_to_num(torch.inf)


def study(contenders: tuple[Contender, ...], say: Callable[[str], None]) -> dict[str, Any]:
    """The table, the trajectories and the map as plain values (JSON): every contender at every pair of rates."""
    began, rows = time.monotonic(), []
    for contender in contenders:
        say(f"{contender.name}: {len(INNER_RATES)} inner rates × {len(OUTER_RATES)} outer rates")
        rows.append(examine(contender))
    settings = {"inner_rate": INNER_RATE, "inner_rates": INNER_RATES, "outer_rates": OUTER_RATES}
    rules = {"near": NEAR, "hold": HOLD, "limits": LIMITS, "draws": DRAWS}
    return {**settings, **rules, "rows": rows, "wall_seconds": time.monotonic() - began}


def examine(contender: Contender) -> dict[str, Any]:
    """One contender: the map, and at INNER_RATE the outer rate with the fewest λ steps.

    A method with noise settles where all its draws do, in the steps of the slowest.
    """
    draws = DRAWS if contender.best_response else 1
    grid = {rate: run(contender, rate, OUTER_RATES * draws) for rate in INNER_RATES}
    settled, lost = {}, {}
    for rate, runs in grid.items():
        table = runs.settled.view(draws, -1)
        settled[rate] = torch.where((table > 0).all(0), table.amax(0), 0).tolist()
        lost[rate] = runs.lost.view(draws, -1).any(0).tolist()
    at_rate = grid[INNER_RATE]
    here = settled[INNER_RATE]
    best = min((steps, k) for k, steps in enumerate(here) if steps)[1] if any(here) else None
    shown = best if best is not None else _calmest(at_rate)
    alone = run(contender, INNER_RATE, (OUTER_RATES[shown],))
    per_step = alone.seconds / (len(alone.path) - 1)
    return {
        "name": contender.name,
        "method": contender.method,
        "inner_steps": contender.inner_steps,
        "outer_rate": None if best is None else OUTER_RATES[best],
        "steps": None if best is None else here[best],
        "seconds": None if best is None else here[best] * per_step,
        "seconds_per_step": per_step,
        "moved": (at_rate.path - at_rate.path[0]).nan_to_num().abs().amax().item(),
        "path": at_rate.path[:, shown].tolist(),
        "settled": [settled[rate] for rate in INNER_RATES],
        "lost": [lost[rate] for rate in INNER_RATES],
        "share": sum(steps > 0 for row in settled.values() for steps in row) / len(settled) / len(OUTER_RATES),
        "kept_at": [] if best is None else [rate for rate in INNER_RATES if settled[rate][best]],
        "rates_for_all": sum(all(row[k] for row in settled.values()) for k in range(len(OUTER_RATES))),
        "first_near": min((int(n) for n in at_rate.first if n), default=None),
    }


def _calmest(runs: Runs) -> int:
    """Of runs of which none settles the one that ends nearest to the optimum."""
    return int(runs.path[-1, : len(OUTER_RATES)].norm(dim=1).nan_to_num(torch.inf).argmin())


def findings(result: dict[str, Any]) -> list[str]:
    """What was published of this problem, and whether it is seen here: one line each."""
    rows = {row["name"]: row for row in result["rows"]}
    first, second, full, truncated = (rows[name] for name in PUBLISHED)
    order, passing = (
        [row[key] or float("inf") for row in (full, truncated, second)] for key in ("steps", "first_near")
    )
    lines = [
        f"first order never moves: {_seen(first['moved'] == 0)}, largest move of λ {first['moved']:g}",
        f"λ steps full < truncated < second order: {_seen(order == sorted(set(order)))}, {_chain(order)}; until λ "
        f"first passes through, at whichever outer rate: {_chain(passing)}; published 3 < 9 < 24",
    ]
    at_published = [0.13 in row["kept_at"] for row in (second, truncated, full)]
    lines.append(
        "second order loses the optimum at the inner rate 0.13, each method at its outer rate of 0.1, where truncated "
        f"and full keep it: {_seen(at_published == [False, True, True])}"
    )
    for row in (second, truncated):
        missed = [rate for rate in result["inner_rates"] if rate not in row["kept_at"]]
        if row["steps"] and missed:
            keep = [other["name"] for other in result["rows"] if set(missed) <= set(other["kept_at"])]
            lines.append(
                f"{row['name']}, at the outer rate {row['outer_rate']:.3g}, misses it at the inner rates "
                f"{' '.join(map(str, missed))}; at all of these keep it, at outer rates of theirs: "
                f"{'; '.join(keep) or 'none'}"
            )
    return lines


def _chain(steps: list[float]) -> str:
    return " ".join(str(n) for n in steps)


def _seen(yes: bool) -> str:
    return "seen" if yes else "not seen"
