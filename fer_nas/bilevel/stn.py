"""Self-Tuning Networks: the weights learn how they follow λ (MacKay et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fer_nas.bilevel.adam import Adam
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import Batch, Hypergradient, InnerStep, Params, Task, gradients
from fer_nas.bilevel.response import split_weights
from fer_nas.errors import FerNasError, InputError


@dataclass(kw_only=True)
class STN:
    """φ, the best response's parameters, minimizes E_ε[L_train(λ+ε, w_φ(λ+ε))]; λ then descends
    E_ε[L_val(λ+ε, w_φ(λ+ε))] − τ·H, whose derivative along the data path is the direct term, and along the weights'
    path the response. σ takes its own step within `hypergradient`. The defaults are the published method.
    """

    perturbation: Perturbation = field(default_factory=Perturbation)
    """How ε is drawn, and whether σ is learned."""
    outer_noise: bool = True
    """ε in the λ step too, from which σ learns; without it the hypergradient is taken at λ itself, with less noise."""
    features: Callable[[Tensor], Tensor] | None = None
    """λ → what the best-response layers read instead of it; a softmax forgets shifts of an edge's logits."""
    adam_rate: float | None = None
    """Adam at this rate for V, C, W_hyper, b_hyper: near convergence their gradients are too small for w's SGD."""
    gradient_clip: float | None = None
    """Largest norm of φ's gradient in a step; a large ε makes a rare step that undoes a hundred others."""
    clip: float | None = None
    """Largest norm of the response as a share of the direct term's: an untrained response points anywhere."""
    clip_part: slice = field(default_factory=lambda: slice(None))
    """The entries of λ that `clip` bounds, by their own direct term. What L_val does not read has none, and must stay
    out: a bound on it would leave nothing."""
    needs_response = True

    def __post_init__(self) -> None:
        for name in ("adam_rate", "gradient_clip", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{type(self).__name__}: {name} is {value}; it must be above 0, or None for none")
        if self.perturbation.learn and not self.outer_noise:
            raise InputError(f"{type(self).__name__}: σ learns from ε in the λ step; turn outer_noise on or learn off")
        self._adam = Adam(rate=self.adam_rate) if self.adam_rate else None
        self.loss: Tensor | None = None  # mean L_train over the last `fit`, at λ+ε

    def respond(self, point: Tensor, center: Tensor) -> Tensor:
        """What the best-response layers read at λ = point; `center` is the present λ."""
        del center
        return self.features(point) if self.features else point

    def fit(
        self, task: Task, weights: Params, hyper: Tensor, batches: Iterable[Batch], step: InnerStep
    ) -> tuple[Params, InnerStep]:
        """One step on φ a batch. Weight decay is for W_elem and b_elem: on the others it would only shrink ∂w/∂λ."""
        require_response(weights, self)
        losses = []
        for batch in batches:
            slope, loss = self.perturbed_slope(task, weights, weights, hyper.detach(), batch)
            general, response = split_weights(weights)
            moved, step = general_step(general, slope, step)
            more, step = self.response_step(response, slope, step)
            weights = {**weights, **moved, **more}
            losses.append(loss)
        self.finish(losses)
        return weights, step

    def finish(self, losses: list[Tensor]) -> None:
        require_finite(losses, "training", self)
        self.loss = torch.stack(losses).mean() if losses else None

    def perturbed_slope(
        self, task: Task, weights: Params, learning: Params, center: Tensor, batch: Batch
    ) -> tuple[Params, Tensor]:
        """∂/∂learning (some of the weights) of the inner loss at λ+ε, clipped, and the loss."""
        slope: list[Tensor] = []
        mean = torch.zeros((), device=center.device, dtype=center.dtype)
        for epsilon in self.perturbation.draws(center, batch):
            here = {name: w.detach().requires_grad_(name in learning) for name, w in weights.items()}
            loss = self.inner_loss(task, here, center + epsilon, center, batch)
            found, _ = gradients(loss, {name: here[name] for name in learning})
            part = torch._foreach_div(list(found.values()), self.perturbation.count)
            slope = list(torch._foreach_add(slope, part) if slope else part)
            mean = mean + loss.detach() / self.perturbation.count
        return clipped(dict(zip(learning, slope, strict=True)), self.gradient_clip), mean

    def inner_loss(self, task: Task, weights: Params, point: Tensor, center: Tensor, batch: Batch) -> Tensor:
        return task.inner_loss(weights, point, batch, self.respond(point, center))

    def response_step(self, response: Params, slope: Params, step: InnerStep) -> tuple[Params, InnerStep]:
        """V, C, W_hyper, b_hyper a step on, by Adam or by w's own optimizer without its decay."""
        if self._adam:
            return self._adam.take(response, slope), step
        moved, after = replace(step, weight_decay=0.0).take(response, slope)
        return moved, replace(step, velocity=step.velocity | after.velocity)

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        del train, step
        require_response(weights, self)
        center, count = hyper.detach(), self.perturbation.count if self.outer_noise else 1
        here = {name: w.detach() for name, w in weights.items()}
        sigma = self.perturbation.sigma(center)
        direct, response, slope = (torch.zeros_like(center) for _ in range(3))
        mean = torch.zeros((), device=center.device, dtype=center.dtype)
        for epsilon in self.perturbation.draws(center, val) if self.outer_noise else [torch.zeros_like(center)]:
            # Two leaves of one value: what λ does by itself, and what it does through the weights.
            point, through = ((center + epsilon).requires_grad_() for _ in range(2))
            loss = task.outer_loss(here, point, val, self.respond(through, center))
            if not loss.requires_grad:
                raise InputError(
                    f"L_val of {type(task).__name__} reads neither λ nor the response; hand the response to the "
                    "network by fer_nas.bilevel.response.with_response"
                )
            _, found = gradients(loss, {}, point, through)
            direct += rows_summed(found[0], center) / count
            response += rows_summed(found[1], center) / count
            slope += rows_summed((found[0] + found[1]) * epsilon, center) / sigma / count
            mean = mean + loss.detach() / count
        require_finite([mean, direct, response], "validation", self)
        self.perturbation.learn_from(slope)
        if self.clip is not None:
            bound, part = self.clip * direct[self.clip_part].norm(), response[self.clip_part]
            part.mul_((bound / part.norm().clamp_min(torch.finfo(bound.dtype).tiny)).clamp_max(1))
        return Hypergradient(direct=direct, response=response, loss=mean)

    def state(self) -> dict[str, Tensor]:
        moments = self._adam.moments if self._adam else {}
        return self.perturbation.state() | {f"adam.{name}": moment for name, moment in moments.items()}

    def load_state(self, saved: dict[str, Tensor]) -> None:
        self.perturbation.load_state(saved)
        if self._adam:
            names = [name for name in saved if name.startswith("adam.")]
            self._adam.moments = {name.removeprefix("adam."): saved[name] for name in names}


def general_step(general: Params, slope: Params, step: InnerStep) -> tuple[Params, InnerStep]:
    """W_elem, b_elem and what has no response a step on; the others' momentum buffers stay."""
    moved, after = step.take(general, slope)
    return moved, replace(step, velocity=step.velocity | after.velocity)


def rows_summed(gradient: Tensor, like: Tensor) -> Tensor:
    """A gradient of λ per example (B, n) as that of the one λ (n,); losses are means over the examples."""
    return gradient.sum(0) if gradient.dim() > like.dim() else gradient


def clipped(slope: Params, limit: float | None) -> Params:
    """The gradient at a norm of at most `limit`."""
    if limit is None:
        return slope
    norm = torch.stack(torch._foreach_norm(list(slope.values()))).norm()
    share = (limit / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1)
    return dict(zip(slope, torch._foreach_mul(list(slope.values()), share), strict=True))


def require_response(weights: Params, method: object) -> None:
    if not split_weights(weights)[1]:
        raise InputError(
            f"{type(method).__name__} learns a best response, and these weights have none; build the network by "
            "fer_nas.bilevel.response.best_response(network, n)"
        )


def require_finite(values: list[Tensor], which: str, method: object) -> None:
    """FerNasError where one of them is NaN or infinite; looked at once for many, as it waits for the device."""
    if values and not torch.isfinite(torch.cat([v.detach().reshape(-1) for v in values])).all():
        raise FerNasError(
            f"the {which} loss of {type(method).__name__} is not finite; lower the learning rate or the "
            "perturbation's scale, or clip φ's gradient (gradient_clip)"
        )
