"""Moving average of a network while it trains."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage:
    """Exponential moving average of weights and norm statistics: a ← d·a + (1 − d)·w at step t.

    d = min(decay, (1 + t)/(10 + t)), so that the first steps are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay, self.steps = copy.deepcopy(network).requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        floats = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floats], [theirs for _, theirs in floats], 1 - decay)
