"""Architecture search as a bilevel problem: λ are the logits of the cells' operations, w the supernet's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fer_nas import parallel
from fer_nas.bilevel.hyper import HyperLayout
from fer_nas.bilevel.protocol import Params
from fer_nas.errors import InputError
from fer_nas.space.fast import fast_logits, has_fast_form
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SearchSpace

ARCH_INIT_STD = 1e-3  # Liu et al. 2019
Examples = tuple[Tensor, Tensor]


class CellSearch:
    """Implements bilevel.protocol.Task.

    A batch is (images float (B, C, S, S) in 0 to 255, targets: classes (B,) or distributions (B, K)).
    """

    def __init__(self, supernet: Supernet, space: SearchSpace, form: str = "plain") -> None:
        """form: plain, or fast, which can be differentiated once; auto is fast where the space has such a form."""
        self.supernet = supernet
        self.space = space
        # Processes that share a batch need the norms of the plain form.
        self.fast = form != "plain" and has_fast_form(supernet) and parallel.count() == 1
        if form == "fast" and not self.fast:
            raise InputError(f"--form fast: the space {space.name} has no fast form; use --form plain")
        shape = (space.edges, len(space.operations))
        self.layout = HyperLayout({"normal": shape, "reduce": shape})

    def initial_hyper(self, generator: torch.Generator) -> Tensor:
        """λ ~ 1e-3·N(0, 1), drawn on the CPU."""
        return ARCH_INIT_STD * torch.randn(self.layout.size, generator=generator)

    def weights(self) -> Params:
        """The supernet's own parameters by name."""
        return dict(self.supernet.named_parameters())

    def mixtures(self, hyper: Tensor) -> dict[str, Tensor]:
        return {name: self.space.relax(part) for name, part in self.layout.split(hyper).items()}

    def logits(self, weights: Params, hyper: Tensor, images: Tensor) -> Tensor:
        if self.fast:
            return fast_logits(self.supernet, weights, self.mixtures(hyper), images)
        return functional_call(self.supernet, weights, (images, self.mixtures(hyper)))

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None) -> Tensor:
        """Cross-entropy. Both levels share it; they differ in the half of the training images a batch comes from."""
        images, targets = batch
        weights, (hyper,) = parallel.replicated(weights, hyper)
        loss = nn.functional.cross_entropy(self.logits(weights, hyper, images), targets)
        return parallel.shared_mean(loss, len(images))

    outer_loss = inner_loss
