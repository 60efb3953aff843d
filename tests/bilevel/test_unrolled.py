"""Back-propagation through the last inner steps against autograd through all of them at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.protocol import InnerStep, Params
from fer_nas.bilevel.unrolled import Unrolled
from fer_nas.errors import FerNasError, InputError

Batch = tuple[Tensor, Tensor]


class Regression:
    """Two layers of tanh; λ are the logits of the inputs' weights and a ridge; optional dropout on the inputs."""

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout = dropout

    def predict(self, weights: Params, hyper: Tensor, x_BF: Tensor) -> Tensor:
        return torch.tanh((x_BF * hyper[:-1].exp()) @ weights["in"]) @ weights["out"]

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        x, y = batch
        x = torch.nn.functional.dropout(x, self.dropout)
        ridge = sum((w * w).sum() for w in weights.values()) * hyper[-1].exp()
        return (self.predict(weights, hyper, x) - y).square().mean() + 0.01 * ridge

    def outer_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        x, y = batch
        return (self.predict(weights, hyper, x) - y).square().mean()


def problem() -> tuple[Params, Tensor, list[Batch]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {"in": normal(4, 6), "out": normal(6, 1)}, 0.1 * normal(5), [(normal(9, 4), normal(9, 1)) for _ in range(8)]


def by_autograd(
    task: Regression, weights: Params, hyper: Tensor, batches: list[Batch], val: Batch, step: InnerStep, last: int
) -> Tensor:
    """dL_val/dλ through the last steps with one graph over all of them; momentum written out."""
    point = hyper.clone().requires_grad_()
    velocity = {name: step.velocity.get(name, torch.zeros_like(w)) for name, w in weights.items()}
    weights = {name: w.clone().requires_grad_() for name, w in weights.items()}
    for number, batch in enumerate(batches):
        if number == len(batches) - last:
            weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
            velocity = {name: v.detach() for name, v in velocity.items()}
        slopes = torch.autograd.grad(task.inner_loss(weights, point, batch), list(weights.values()), create_graph=True)
        for (name, w), slope in zip(list(weights.items()), slopes, strict=True):
            velocity[name] = step.momentum * velocity[name] + slope + step.weight_decay * w
            weights[name] = w - step.learning_rate * velocity[name]
    return torch.autograd.grad(task.outer_loss(weights, point, val), point)[0]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("last", [1, 3, None])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_against_autograd(momentum: float, last: int | None, dropout: float) -> None:
    weights, hyper, (val, *batches) = problem()
    velocity = {name: 0.1 * torch.ones_like(w) for name, w in weights.items()} if momentum else {}
    step = InnerStep(learning_rate=0.05, momentum=momentum, weight_decay=0.01, velocity=velocity)
    task, method = Regression(dropout), Unrolled(last=last)
    torch.manual_seed(1)
    ended, after = method.fit(task, weights, hyper, batches, step)
    state = torch.get_rng_state()
    found = method.hypergradient(task, ended, hyper, None, val, after)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    truth = by_autograd(task, weights, hyper, batches, val, step, last or len(batches))
    assert torch.allclose(found.total, truth, rtol=1e-10, atol=1e-13)
    assert found.response.norm() > 1e-3 * found.direct.norm()


def test_a_second_fit_forgets_the_first() -> None:
    weights, hyper, (val, *batches) = problem()
    task, method, fresh = Regression(), Unrolled(), Unrolled()
    step = InnerStep(learning_rate=0.05, momentum=0.9)
    weights, step = method.fit(task, weights, hyper, batches[:4], step)
    ended, _ = method.fit(task, weights, hyper, batches[4:], step)
    fresh.fit(task, weights, hyper, batches[4:], step)
    pair = [m.hypergradient(task, ended, hyper, None, val, step).total for m in (method, fresh)]
    assert torch.equal(*pair)


def test_no_steps_to_go_back_through() -> None:
    weights, hyper, (val, *_) = problem()
    with pytest.raises(FerNasError, match="fit"):
        Unrolled().hypergradient(Regression(), weights, hyper, None, val, InnerStep(learning_rate=0.1))
    with pytest.raises(InputError, match="at least 1"):
        Unrolled(last=0)
