"""A user's own network and losses as a bilevel problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from fer_nas.bilevel.hyper import HyperLayout
from fer_nas.bilevel.protocol import Batch, Params
from fer_nas.bilevel.response import best_response, folded, plain_weights, response_layers, with_response

Loss = Callable[[Callable[..., Any], dict[str, Tensor], Batch], Tensor]
"""(network, value, batch) → mean loss: call network(…) as the module itself; value["name"] is a part of λ."""


@dataclass
class SelfTuning:
    """Implements bilevel.protocol.Task. A plain network becomes a best response with the published start.

    Give best_response(network, layout.size, …) for another start. train_loss sees the network in training mode,
    val_loss in eval mode; both get λ's constrained values by name.
    """

    network: nn.Module
    layout: HyperLayout
    train_loss: Loss
    val_loss: Loss

    def __post_init__(self) -> None:
        if next(response_layers(self.network), None) is None:
            self.network = best_response(self.network, self.layout.size)

    def weights(self) -> Params:
        return {name: w.detach() for name, w in self.network.named_parameters()}

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        self.network.train()
        network = partial(with_response, self.network, weights, response)
        return self.train_loss(network, self.layout.values(hyper), batch)

    def outer_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        self.network.eval()
        network = partial(with_response, self.network, weights, response)
        return self.val_loss(network, self.layout.values(hyper), batch)

    def plain(self, weights: Params, response: Tensor | None = None) -> nn.Module:
        """The trained network as an ordinary module, in eval mode: at λ for STN, at None (r = 0) for Δ-STN."""
        module = folded(self.network)
        module.load_state_dict(plain_weights(self.network, weights, response), strict=False)
        return module.eval()
