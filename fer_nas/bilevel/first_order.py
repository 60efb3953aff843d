"""DARTS, first order: the response of the weights is left out (Liu et al. 2019, ξ = 0)."""

from __future__ import annotations

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Batch, Hypergradient, InnerStep, Params, Task, descend


class FirstOrder:
    needs_response = False
    fit = staticmethod(descend)

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        del train, step
        point = hyper.detach().requires_grad_()
        # Detached weights: no gradient of them is computed, which saves a third of the backward pass.
        loss = task.outer_loss({name: w.detach() for name, w in weights.items()}, point, val)
        if loss.requires_grad:
            (direct,) = torch.autograd.grad(loss, [point])
        else:  # λ has no direct effect on L_val
            direct = torch.zeros_like(point)
        return Hypergradient(direct=direct, response=torch.zeros_like(direct), loss=loss.detach())
