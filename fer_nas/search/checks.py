"""What a search looks at once an epoch, on request: L_val's curvature in λ, and the response against a Neumann series.

Neither touches what the search goes on with: what a method carries is put back, and random numbers come from generators
of their own. Trust is the one way back: a factor on the response of the next epoch's steps.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fer_nas import parallel
from fer_nas.bilevel.hessian import dominant_eigenvalue
from fer_nas.bilevel.implicit import Neumann
from fer_nas.bilevel.protocol import Batch, Hypergradient, InnerStep, Params, Stateful
from fer_nas.bilevel.stn import STN
from fer_nas.config import SearchConfig
from fer_nas.data import batches
from fer_nas.data.split import Split
from fer_nas.errors import FerNasError, InputError
from fer_nas.progress import Columns, number
from fer_nas.runtime import generator
from fer_nas.search.record import share
from fer_nas.search.state import State
from fer_nas.tasks.cells import CellSearch


class Checks:
    """train, val: the halves of the training images for w and for λ."""

    def __init__(self, config: SearchConfig, train: Split, val: Split) -> None:
        self.config, self.splits = config, {"weights": train, "arch": val}
        chosen = config.checks
        self.trusting = chosen.trust == "check"
        self.responds = chosen.check_response or self.trusting
        self.trust = 1.0
        if parallel.count() > 1 and (self.responds or chosen.hessian_iterations):
            raise InputError(
                "--hessian-iterations, --check-response and --trust differentiate the network twice, which processes "
                "cannot share; leave them out, or run without torchrun"
            )

    @property
    def columns(self) -> Columns:
        """Of the table of epochs."""
        shown: Columns = {}
        if self.config.checks.hessian_iterations:
            shown["hessian_eigenvalue"] = ("∂²/∂λ²", number)
        if self.responds:
            shown |= {"check_cosine": ("check cos", share), "check_ratio": ("|resp|/|check|", share)}
        if self.trusting:
            shown["trust"] = ("trust", share)
        return shown

    def batch(self, name: str, count: int) -> tuple[Tensor, Tensor]:
        """`count` images of a half, drawn and changed as the search's are; the same in every epoch."""
        draw = generator(self.config.run.seed, "check", name)
        augment = None if self.config.tuning.tune else self.config.augment
        return next(batches.epoch(self.splits[name], count, generator=draw, augment=augment))

    def trusted(self, found: Hypergradient, architecture: slice) -> Hypergradient:
        """The hypergradient with its response by the architecture times the trust factor."""
        if self.trust == 1.0:
            return found
        response = found.response.clone()
        response[architecture] *= self.trust
        return replace(found, response=response)

    def row(self, state: State) -> dict[str, Any]:
        """An epoch's figures; the trust factor is the one that its steps had, and is set for the next."""
        chosen, run, found = self.config.checks, self.config.run, dict[str, Any]()
        if chosen.hessian_iterations:
            found["hessian_eigenvalue"] = curvature(
                state, self.batch("arch", run.batch_size), chosen.hessian_iterations, run.seed
            )
        if self.responds:
            count = chosen.check_batches * run.batch_size
            both = self.batch("weights", count), self.batch("arch", count)
            weights = self.config.weights
            step = state.inner_step(weights.momentum, weights.weight_decay)
            cosine, ratio = compare(state, *both, step, self.config.response.terms, run.seed)
            found |= {"check_cosine": cosine, "check_ratio": ratio}
            if self.trusting:
                found["trust"] = self.trust
                if cosine is not None and ratio is not None:
                    self.trust = min(1.0, max(0.0, cosine / ratio))  # ⟨r, n⟩/|r|²
        return found


def drawn(state: State, draw: torch.Generator | None) -> CellSearch:
    """The task with what a step draws, the search's own left as it is."""
    task = copy.copy(state.task)
    task.sample(draw)
    return task


def plain_form(task: CellSearch, state: State) -> tuple[CellSearch, Params]:
    """The task in the plain form without best responses, and the weights that the network has at the present λ."""
    plain, arch = copy.copy(task), state.arch.detach()
    response = state.method.respond(arch, arch) if isinstance(state.method, STN) else None
    weights = task.plain(task.weights(), response)
    plain.learner, plain.packed, plain.fast, plain.replay = None, None, False, None
    plain.recompute = False  # what is differentiated twice keeps all of it anyway
    return plain, {name: w.detach() for name, w in weights.items()}


def curvature(state: State, batch: Batch, iterations: int, seed: int) -> float:
    """The dominant eigenvalue of ∂²L_val/∂λ² over the architecture, the weights fixed (Zela et al. 2020)."""
    task, weights = plain_form(drawn(state, None), state)
    arch = state.arch.detach()
    behind = arch[task.architecture.stop :]

    def loss(point: Tensor) -> Tensor:
        return task.outer_loss(weights, torch.cat([point, behind]), batch)

    draw = generator(seed, "hessian")
    return dominant_eigenvalue(loss, arch[task.architecture], iterations=iterations, generator=draw)


def compare(
    state: State, train: Batch, val: Batch, step: InnerStep, terms: int, seed: int
) -> tuple[float | None, float | None]:
    """(cosine, |response|/|Neumann's|) over the architecture, of the method's response and a Neumann series' at W(λ).

    None where one of them is zero or the series has no finite answer.
    """
    method, arch, own = state.method, state.arch.detach(), drawn(state, generator(seed, "check"))
    task, weights = plain_form(own, state)
    kept = method.state() if isinstance(method, Stateful) else {}
    mine = method.hypergradient(own, own.weights(), arch, train, val, step)  # type: ignore[arg-type]
    if isinstance(method, Stateful):
        method.load_state(kept)
    try:
        series = Neumann(terms=terms).hypergradient(task, weights, arch, train, val, step)  # type: ignore[arg-type]
    except FerNasError:
        return None, None
    r, n = (found.response[task.architecture].double() for found in (mine, series))
    sizes = r.norm().item(), n.norm().item()
    if not min(sizes) > 0:
        return None, None
    return (r @ n).item() / (sizes[0] * sizes[1]), sizes[0] / sizes[1]
