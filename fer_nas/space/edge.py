"""How an edge of the supernet uses the weights of its operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fer_nas.space.disturb import Disturbance
from fer_nas.space.operations import AUXILIARY, make_operation


class FullEdge(nn.Module):
    """DARTS: every operation runs on all channels, and their outputs add up with the mixture's weights."""

    def __init__(self, operations: tuple[str, ...], channels: int, stride: int) -> None:
        super().__init__()
        self.names, self.stride = operations, stride
        # `none` adds nothing: it takes part in the softmax and needs no arithmetic.
        self.operations = nn.ModuleDict(
            {name: make_operation(name, channels, stride) for name in operations if name != "none"}
        )

    def forward(
        self,
        x_BCHW: Tensor,
        weights_O: Tensor,
        active: Sequence[bool] | None = None,
        disturb: Disturbance | None = None,
    ) -> Tensor:
        """active: which operations run; the others are left out as if their weight were zero.

        disturb: drop-path on all operations but an identity, as in the derived network, and dropout on an identity.
        """
        kept = None if disturb is None else disturb.paths(x_BCHW)
        terms = []
        for place, name in enumerate(self.names):
            if name not in self.operations or not (active is None or active[place]):
                continue
            operation, weight = self.operations[name], weights_O[place]
            out, identity = operation(x_BCHW), isinstance(operation, nn.Identity)
            if kept is not None and not identity:
                weight = weight * kept
            if identity and name != AUXILIARY and disturb is not None and disturb.skips is not None:
                out = disturb.skips(out)
            terms.append(weight * out)
        if not terms:
            return torch.zeros_like(x_BCHW[..., :: self.stride, :: self.stride])
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total


SHARES = 4  # K of Xu et al. 2020 on CIFAR-10


class PartialEdge(FullEdge):
    """PC-DARTS (Xu et al. 2020): operations run on the first C/K channels, the others pass by, and all are shuffled.

    With stride 2 the others are max-pooled, 2×2. They pass with the sum of the mixture's weights: 1 for a softmax, the
    edge's own weight where edges are weighted too.
    """

    places: Tensor

    def __init__(self, operations: tuple[str, ...], channels: int, stride: int) -> None:
        self.inner = max(1, channels // SHARES)
        super().__init__(operations, self.inner, stride)
        self.order = shuffled(channels, self.inner)
        self.register_buffer("places", torch.tensor(self.order), persistent=False)

    def forward(
        self,
        x_BCHW: Tensor,
        weights_O: Tensor,
        active: Sequence[bool] | None = None,
        disturb: Disturbance | None = None,
    ) -> Tensor:
        mixed = super().forward(x_BCHW[:, : self.inner], weights_O, active, disturb)
        rest = x_BCHW[:, self.inner :]
        if self.stride == 2:
            rest = nn.functional.max_pool2d(rest, 2, ceil_mode=True)
        if active is not None:  # what passes by does so with the weights of what runs
            weights_O = weights_O[torch.tensor(active, device=weights_O.device)]
        return torch.cat([mixed, weights_O.sum() * rest], dim=1).index_select(1, self.places)


def shuffled(channels: int, inner: int) -> list[int]:
    """Groups of `inner` channels dealt out one by one: the first of each, the second of each, …"""
    return [c for start in range(inner) for c in range(start, channels, inner)]
