"""Δ-STN: a best response around the present λ, learned on the linearized network (Bae and Grosse 2020)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Batch, InnerStep, NetworkTask, Params, Task, gradients
from fer_nas.bilevel.response import split_weights
from fer_nas.bilevel.stn import STN, clipped, general_step, require_response
from fer_nas.errors import InputError


@dataclass(kw_only=True)
class DeltaSTN(STN):
    """W(λ) = W_elem + (V(λ − λ₀)) ⊙row W_hyper, λ₀ the present λ, at which the network is W_elem alone.

    A batch makes two steps: W_elem and b_elem at λ₀, without noise; then V, C, W_hyper and b_hyper at λ₀+ε, W_elem held
    fixed, on the network linearized in the weights, f(λ₀) + J·(W(λ₀+ε) − W_elem), whose data path is at λ₀+ε.
    """

    linearize: bool = True
    """As published, by a forward-mode product. Without it the plain network at λ₀+ε: cheaper, and bounded where a
    normalization bounds the network; the linearized one is not (clip φ's gradient, or use Adam)."""
    every: int = 1
    """Batches for each step of V, C, W_hyper and b_hyper, which has most of the price; W_elem steps on each."""
    images: Callable[[], Batch] | None = None
    """Draws the batch of such a step; without it that of W_elem's. More images, less noise, at their price."""
    fitted: int = field(default=0, init=False)
    """Batches so far."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every < 1:
            raise InputError(f"DeltaSTN: every is {self.every}; it must be at least 1")

    def respond(self, point: Tensor, center: Tensor) -> Tensor:
        if self.features:
            return self.features(point) - self.features(center)
        return point - center

    def fit(
        self, task: Task, weights: Params, hyper: Tensor, batches: Iterable[Batch], step: InnerStep
    ) -> tuple[Params, InnerStep]:
        require_response(weights, self)
        if self.linearize and not hasattr(task, "outputs"):
            raise InputError(
                f"Δ-STN linearizes the network, and {type(task).__name__} has no outputs(); give it outputs and "
                "inner_criterion (bilevel.protocol.NetworkTask), or choose linearize=False"
            )
        center, losses = hyper.detach(), []
        for batch in batches:
            general, response = split_weights(weights)
            here = {name: w.detach().requires_grad_(name in general) for name, w in weights.items()}
            loss = task.inner_loss(here, center, batch)  # r = 0
            slope, _ = gradients(loss, {name: here[name] for name in general})
            moved, step = general_step(general, clipped(slope, self.gradient_clip), step)
            losses.append(loss.detach())
            if self.fitted % self.every == 0:
                drawn = self.images() if self.images else batch
                slope, around = self.perturbed_slope(task, weights | moved, response, center, drawn)
                response, step = self.response_step(response, slope, step)
                losses.append(around)
            self.fitted += 1
            weights = {**weights, **moved, **response}
        self.finish(losses)
        return weights, step

    def state(self) -> dict[str, Tensor]:
        return super().state() | {"fitted": torch.tensor(self.fitted)}

    def load_state(self, saved: dict[str, Tensor]) -> None:
        super().load_state(saved)
        self.fitted = int(saved["fitted"])

    def inner_loss(self, task: Task, weights: Params, point: Tensor, center: Tensor, batch: Batch) -> Tensor:
        response = self.respond(point, center)
        if not self.linearize:
            return task.inner_loss(weights, point, batch, response)
        network = cast(NetworkTask, task)
        outputs, change = forward_product(
            lambda r: network.outputs(weights, point, batch, r), torch.zeros_like(response), response
        )
        return network.inner_criterion(outputs + change, weights, point, batch, response)


def forward_product(function: Callable[[Tensor], Tensor], at: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(f(at), ∂f/∂at · direction) in one forward pass; both can be differentiated again."""
    with warnings.catch_warnings():
        # The first jvp of a process loads rules that torch still compiles by means it has deprecated (2.14).
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        value, change = torch.func.jvp(function, (at,), (direction,))  # type: ignore[misc]
    return value, change
