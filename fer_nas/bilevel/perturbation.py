"""ε ~ N(0, diag σ²) around λ, and σ learned with it (MacKay et al. 2019, section 3.3).

σ = softplus(free),   minimize E_ε[L_val(λ+ε, w(λ+ε))] − τ·H,   H = Σ log(σ√(2πe))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fer_nas.bilevel.hyper import softplus_inverse
from fer_nas.bilevel.protocol import Batch
from fer_nas.errors import InputError

RMSPROP_DECAY, RMSPROP_EPSILON = 0.99, 1e-8  # as torch.optim.RMSprop, which the authors used


def entropy(scale: Tensor) -> Tensor:
    """H of N(0, diag σ²) in nats, a scalar."""
    return torch.log(scale * math.sqrt(2 * math.pi * math.e)).sum()


def batch_size(batch: Batch) -> int:
    """Length of the batch's first tensor; InputError where there is none."""
    first = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
    if not isinstance(first, Tensor) or first.dim() == 0:
        raise InputError("λ per example needs batches of tensors, examples first; perturb per batch instead")
    return len(first)


@dataclass(kw_only=True)
class Perturbation:
    """Draws ε, and moves σ. Its state is `free`, the running square of its gradient and the generator's."""

    scale: float | Tensor = 1.0
    """σ at the start, the same for every entry of λ; or (n,), one for each."""
    learn: bool = True
    """σ by its own gradient. Published; where the entropy weight outgrows the loss it only grows, so watch it."""
    learning_rate: float | Tensor = 0.01
    """RMSprop's, for σ, as published; or (n,)."""
    entropy_weight: float = 1e-3
    """τ: what keeps σ from shrinking to a point, where no response could be learned."""
    per: str = "batch"
    """`batch`: one ε, W(λ) is formed once. `example`: one ε each, less noise in φ's gradient, two convolutions."""
    pairs: bool = False
    """ε and −ε on the same batch: cancels what does not depend on λ in φ's gradient, for twice the time."""
    seed: int = 0

    free: Tensor | None = field(default=None, init=False)
    square: Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.per not in ("batch", "example"):
            raise InputError(f"λ can be perturbed per batch or per example, not per {self.per!r}")
        for name in ("scale", "learning_rate"):
            value = torch.as_tensor(getattr(self, name), dtype=torch.float64)
            if not ((value > 0) & (value < math.inf)).all():
                raise InputError(f"the perturbation's {name} is {value.tolist()}; it must be above 0")
        if not 0 <= self.entropy_weight < math.inf:
            raise InputError(f"the entropy weight is {self.entropy_weight}; it must be 0 or more")
        self.generator = torch.Generator().manual_seed(self.seed)

    def sigma(self, hyper: Tensor) -> Tensor:
        """σ, of λ's shape (n,)."""
        if self.free is None:
            start = softplus_inverse(torch.as_tensor(self.scale, dtype=torch.float64)).to(hyper)
            self.free = start.expand(hyper.shape).clone() if start.dim() == 0 else start.clone()
            self.square = torch.zeros_like(self.free)
        if self.free.shape != hyper.shape:
            raise InputError(f"σ has shape {tuple(self.free.shape)} and λ {tuple(hyper.shape)}; a method serves one λ")
        return softplus(self.free)

    def draws(self, hyper: Tensor, batch: Batch) -> Iterator[Tensor]:
        """ε of shape (n,), or (B, n) per example; and −ε after it where they come in pairs.

        What is drawn from torch's global generator after ε, such as dropout masks, is drawn again after −ε.
        """
        sigma = self.sigma(hyper)
        shape = hyper.shape if self.per == "batch" else (batch_size(batch), *hyper.shape)
        # On the CPU, so that one seed gives one search on every device.
        noise = torch.randn(shape, generator=self.generator, dtype=hyper.dtype)
        epsilon = sigma * noise.to(hyper.device)
        if not self.pairs:
            yield epsilon
            return
        device = torch.cuda if hyper.is_cuda else torch
        state = device.get_rng_state()
        yield epsilon
        device.set_rng_state(state)
        yield -epsilon

    @property
    def count(self) -> int:
        return 2 if self.pairs else 1

    @torch.no_grad()
    def learn_from(self, slope: Tensor) -> None:
        """One RMSprop step of σ: slope is ∂E[L_val]/∂σ = Σ ∂L_val/∂(λ+ε) ⊙ ε/σ, of shape (n,)."""
        if not self.learn or self.free is None or self.square is None:
            return
        sigma = softplus(self.free)
        gradient = (slope - self.entropy_weight / sigma) * torch.sigmoid(self.free)
        self.square = RMSPROP_DECAY * self.square + (1 - RMSPROP_DECAY) * gradient**2
        rate = torch.as_tensor(self.learning_rate).to(self.free)
        self.free = self.free - rate * gradient / (self.square.sqrt() + RMSPROP_EPSILON)

    def state(self) -> dict[str, Tensor]:
        saved = {"perturbation_random": self.generator.get_state()}
        if self.free is not None and self.square is not None:
            saved |= {"perturbation_free": self.free.clone(), "perturbation_square": self.square.clone()}
        return saved

    def load_state(self, saved: dict[str, Tensor]) -> None:
        self.generator.set_state(saved["perturbation_random"].cpu())
        self.free = saved["perturbation_free"].clone() if "perturbation_free" in saved else None
        self.square = saved["perturbation_square"].clone() if "perturbation_square" in saved else None
