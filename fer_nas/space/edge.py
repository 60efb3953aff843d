"""How an edge of the supernet uses the weights of its operations."""

from __future__ import annotations

from torch import Tensor, nn

from fer_nas.space.operations import OPERATIONS


class FullEdge(nn.Module):
    """DARTS: every operation runs on all channels, and their outputs add up with the mixture's weights."""

    def __init__(self, operations: tuple[str, ...], channels: int, stride: int) -> None:
        super().__init__()
        self.names = operations
        # `none` adds nothing: it takes part in the softmax and needs no arithmetic.
        self.operations = nn.ModuleDict(
            {name: OPERATIONS[name](channels, stride, False) for name in operations if name != "none"}
        )

    def forward(self, x_BCHW: Tensor, weights_O: Tensor) -> Tensor:
        terms = [
            weights_O[place] * self.operations[name](x_BCHW) for place, name in enumerate(self.names) if name != "none"
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
