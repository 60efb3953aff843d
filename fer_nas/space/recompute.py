"""Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): a cell keeps what it reads, and computes the rest anew
when its gradient is asked for. Less memory for one more forward pass. The fast form has the same (`fast_cell.py`)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from fer_nas.space.disturb import Disturbance
from fer_nas.space.relax import Active


def recomputed(
    cell: nn.Module,
    s0: Tensor,
    s1: Tensor,
    mixture_EO: Tensor,
    active: Active | None = None,
    disturb: Disturbance | None = None,
) -> Tensor:
    """cell(s0, s1, …) with the weights that it has now and the same random numbers both times."""
    names, weights = zip(*cell.named_parameters(), strict=True)
    before = None if disturb is None else disturb.copy()
    given = [disturb]

    def run(s0: Tensor, s1: Tensor, mixture_EO: Tensor, *weights: Tensor) -> Tensor:
        drawn = given.pop() if given else before and before.copy()
        return functional_call(cell, dict(zip(names, weights, strict=True)), (s0, s1, mixture_EO, active, drawn))

    out: Tensor = checkpoint(run, s0, s1, mixture_EO, *weights, use_reentrant=False, preserve_rng_state=False)
    return out
