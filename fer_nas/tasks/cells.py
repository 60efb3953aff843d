"""Architecture search as a bilevel problem: λ are the logits of the cells' operations, w the supernet's weights.

λ acts twice: in the mixtures of operations (`hyper`), and, where the supernet's layers are best responses, in the
weights W(r) that the network runs with (`response`). W(r) is formed once a step, and both forms of the network take it.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fer_nas import parallel
from fer_nas.bilevel.hyper import HyperLayout
from fer_nas.bilevel.protocol import Params
from fer_nas.bilevel.response import best_response, plain_weights
from fer_nas.errors import InputError
from fer_nas.space.fast import fast_logits, has_fast_form
from fer_nas.space.relax import edge_weights, sample
from fer_nas.space.supernet import Active, Supernet
from fer_nas.space.variants import KINDS, SearchSpace

ARCH_INIT_STD = 1e-3  # Liu et al. 2019
Examples = tuple[Tensor, Tensor]


class CellSearch:
    """Implements bilevel.protocol.NetworkTask.

    A batch is (images float (B, C, S, S) in 0 to 255, targets: classes (B,) or distributions (B, K)).
    """

    def __init__(
        self, supernet: Supernet, space: SearchSpace, form: str = "plain", *, learner: nn.Module | None = None
    ) -> None:
        """form: plain, or fast, which can be differentiated once; auto is fast where the space has such a form.

        learner: the supernet with best-response layers (see `responsive`), whose weights are then w; the supernet
        itself gives only its shape.
        """
        self.supernet, self.learner = supernet, learner
        self.space = space
        # Processes that share a batch need the norms of the plain form.
        self.fast = form != "plain" and has_fast_form(supernet) and parallel.count() == 1
        if form == "fast" and not self.fast:
            raise InputError(f"--form fast: the space {space.name} has no fast form; use --form plain")
        self.layout = HyperLayout(dict(space.parts()))
        self.noise: Tensor | None = None  # of what is sampled in this step, of λ's size
        self.temperature = 1.0

    def initial_hyper(self, generator: torch.Generator) -> Tensor:
        """λ ~ 1e-3·N(0, 1), drawn on the CPU."""
        return ARCH_INIT_STD * torch.randn(self.layout.size, generator=generator)

    def weights(self) -> Params:
        """The parameters by name, those of the best responses among them."""
        return dict((self.learner or self.supernet).named_parameters())

    def mixtures(self, hyper: Tensor) -> dict[str, Tensor]:
        """What λ stands for: weights of all operations, also where a step samples them."""
        return self.space.mixtures(self.layout.split(hyper))

    def sample(self, generator: torch.Generator | None) -> None:
        """The operations of one step, the same for every loss in it; None: the most probable ones."""
        if self.space.samples:
            uniform = None if generator is None else torch.rand(self.layout.size, generator=generator)
            self.noise = None if uniform is None else -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))

    def used(self, hyper: Tensor) -> tuple[dict[str, Tensor], dict[str, Active] | None]:
        """The weights that the network runs with, and which operations run."""
        if not self.space.samples:
            return self.mixtures(hyper), None
        noise = None if self.noise is None else self.layout.split(self.noise.to(hyper))
        drawn = {
            kind: sample(part, None if noise is None else noise[kind], self.temperature)
            for kind, part in self.layout.split(hyper).items()
        }
        return {kind: weights for kind, (weights, _) in drawn.items()}, {
            kind: runs.tolist() for kind, (_, runs) in drawn.items()
        }

    def features(self, hyper: Tensor) -> Tensor:
        """What each part of λ stands for, as one vector of λ's size: a best response can read it instead of logits."""
        parts = self.layout.split(hyper)
        return torch.cat(
            [
                (self.space.relax(part) if name in KINDS else edge_weights(part)).flatten()
                for name, part in parts.items()
            ]
        )

    def logits(self, weights: Params, hyper: Tensor, images: Tensor, response: Tensor | None = None) -> Tensor:
        """(B, K); `response` (n,) is what the best-response layers read, None their r = 0."""
        if self.learner is not None:
            weights = plain_weights(self.learner, weights, response)
        mixtures, active = self.used(hyper)
        if self.fast:
            return fast_logits(self.supernet, weights, mixtures, images, active)
        return functional_call(self.supernet, weights, (images, mixtures, active))

    def outputs(self, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None) -> Tensor:
        return self.logits(weights, hyper, batch[0], response)

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None
    ) -> Tensor:
        images, targets = batch
        return parallel.shared_mean(nn.functional.cross_entropy(outputs, targets), len(images))

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None) -> Tensor:
        """Cross-entropy. Both levels share it; they differ in the half of the training images a batch comes from."""
        if response is None:
            weights, (hyper,) = parallel.replicated(weights, hyper)
        else:
            weights, (hyper, response) = parallel.replicated(weights, hyper, response)
        outputs = self.outputs(weights, hyper, batch, response)
        return self.inner_criterion(outputs, weights, hyper, batch, response)

    outer_loss = inner_loss


def responsive(
    supernet: Supernet, layout: HyperLayout, *, by_cell: bool, rescale_std: float, generator: torch.Generator
) -> nn.Module:
    """The supernet with every convolution and the classifier as best responses in λ, at the supernet's weights.

    by_cell: a cell's layers read the logits of its own kind of cell; stem and classifier read all.
    """
    bounds: dict[str, slice] = {}
    place = 0
    for name, part in layout.typed.items():
        kind, end = name.removesuffix("_edges"), place + prod(part.shape)
        bounds[kind] = slice(bounds[kind].start if kind in bounds else place, end)
        place = end

    def reads(name: str) -> slice:
        words = name.split(".")
        return bounds[supernet.kinds[int(words[1])]] if by_cell and words[0] == "cells" else slice(None)

    return best_response(
        supernet, layout.size, hyper="uniform", rescale_std=rescale_std, reads=reads, generator=generator
    )
