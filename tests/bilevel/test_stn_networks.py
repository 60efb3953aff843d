"""STN and Δ-STN on a small network: both gradient paths, λ for each example, σ, features, bounds, state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import Hypergradient, InnerStep, Params
from fer_nas.bilevel.response import best_response, split_weights, with_response
from fer_nas.bilevel.stn import STN
from fer_nas.errors import InputError

DOUBLE = torch.float64


def still(**knobs: Any) -> Perturbation:
    return Perturbation(learn=False, **knobs)


@dataclass
class Classes:
    """A small network: λ₁ scales the input (data path), λ is what the layers respond to. A batch is (x, classes)."""

    network: nn.Module

    def outputs(self, weights: Params, hyper: Tensor, batch: Any, response: Tensor | None = None) -> Tensor:
        return with_response(self.network, weights, response, batch[0] * torch.exp(hyper[..., 0]).view(-1, 1, 1, 1))

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: Any, response: Tensor | None = None
    ) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch[1])

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Any, response: Tensor | None = None) -> Tensor:
        return self.inner_criterion(self.outputs(weights, hyper, batch, response), weights, hyper, batch, response)

    outer_loss = inner_loss


def classes(seed: int) -> tuple[Classes, Params, Tensor, tuple[Tensor, Tensor]]:
    """V, C ~ N(0, 1), so that the response is large; float64."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4)).double()
    tuned = best_response(net, 2, rescale_std=1.0)
    weights = {name: p.detach() for name, p in tuned.named_parameters()}
    batch = torch.randn(6, 1, 5, 5, dtype=DOUBLE), torch.randint(0, 4, (6,))
    return Classes(tuned), weights, 0.3 * torch.randn(2, dtype=DOUBLE), batch


def test_the_linearized_loss() -> None:
    """f + J·r by central differences, its data path at λ+ε; and its gradient reaches V and W_hyper only."""
    task, weights, hyper, batch = classes(0)
    method, point = DeltaSTN(), hyper + torch.tensor([0.2, -0.4], dtype=DOUBLE)
    response = point - hyper
    f = [task.outputs(weights, point, batch, s * response) for s in (0.0, 1e-5, -1e-5)]
    wanted = nn.functional.cross_entropy(f[0] + (f[1] - f[2]) / 2e-5, batch[1])
    found = method.inner_loss(task, weights, point, hyper, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
    plain = DeltaSTN(linearize=False).inner_loss(task, weights, point, hyper, batch)
    assert abs(plain - wanted) > 1e-3, "the network is so linear that this test shows nothing"

    learned = split_weights(weights)[1]
    slope, _ = DeltaSTN(perturbation=still(scale=0.3, seed=1)).perturbed_slope(task, weights, learned, hyper, batch)
    epsilon = next(still(scale=0.3, seed=1).draws(hyper, batch))
    for name in learned:
        direction = torch.randn_like(weights[name])
        sides = [
            method.inner_loss(task, weights | {name: weights[name] + s * direction}, hyper + epsilon, hyper, batch)
            for s in (1e-6, -1e-6)
        ]
        numeric = ((sides[0] - sides[1]) / 2e-6).item()
        assert (slope[name] * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("make", [STN, DeltaSTN], ids=["stn", "delta-stn"])
def test_per_example_is_the_mean_of_single_examples(make: Callable[..., STN]) -> None:
    task, weights, hyper, batch = classes(1)
    step = InnerStep(learning_rate=0.1)
    together = make(perturbation=still(per="example", scale=0.5)).hypergradient(task, weights, hyper, None, batch, step)

    class Given(Perturbation):
        """Deals out the rows that a perturbation per example draws."""

        def draws(self, hyper: Tensor, batch: Any) -> Any:
            yield rows.pop(0)

    rows = list(next(still(per="example", scale=0.5).draws(hyper, batch)))
    method = make(perturbation=Given(learn=False))
    singles: list[Hypergradient] = [
        method.hypergradient(task, weights, hyper, None, (batch[0][i : i + 1], batch[1][i : i + 1]), step)
        for i in range(6)
    ]
    for part in ("direct", "response", "loss"):
        mean = torch.stack([getattr(single, part) for single in singles]).mean(0)
        torch.testing.assert_close(getattr(together, part), mean)
        assert mean.abs().max() > 1e-3
    fitted, _ = make(perturbation=still(per="example")).fit(task, weights, hyper, [batch], step)
    assert all(not fitted[name].equal(w) for name, w in weights.items())


@pytest.mark.parametrize("per", ["batch", "example"])
def test_sigma_learns_from_both_paths(per: str) -> None:
    """The slope handed to σ is ∂L_val(λ + σz, w_φ(λ + σz))/∂σ by autograd."""
    seen: list[Tensor] = []

    class Listening(Perturbation):
        def learn_from(self, slope: Tensor) -> None:
            seen.append(slope)
            super().learn_from(slope)

    task, weights, hyper, batch = classes(2)
    method = STN(perturbation=Listening(scale=0.4, per=per, seed=7))
    method.hypergradient(task, weights, hyper, None, batch, InnerStep(learning_rate=0.1))
    z = next(still(scale=0.4, per=per, seed=7).draws(hyper, batch)) / 0.4
    sigma = torch.full((2,), 0.4, dtype=DOUBLE, requires_grad=True)
    point = hyper + sigma * z
    task.outer_loss(weights, point, batch, point).backward()
    torch.testing.assert_close(seen[0], sigma.grad)
    assert (method.perturbation.sigma(hyper) != 0.4).all()


def test_features_are_what_the_layers_read() -> None:
    """A softmax of λ does not see a shift, so neither does the response; Δ-STN reads its distance from the centre."""
    task, weights, hyper, batch = classes(3)
    step = InnerStep(learning_rate=0.1)
    for make in (STN, DeltaSTN):
        method = make(perturbation=still(), outer_noise=False, features=lambda h: 8 * h.softmax(-1))
        found = method.hypergradient(task, weights, hyper, None, batch, step)
        assert abs(found.response.sum()) < 1e-12 < found.response.norm()
    assert method.respond(hyper + 1, hyper).abs().max() < 1e-12
    fitted, _ = method.fit(task, weights, hyper, [batch], step)
    assert not fitted["0.weight_rescale"].equal(weights["0.weight_rescale"])


@pytest.mark.parametrize("knobs", [{}, {"adam_rate": 0.01}], ids=["sgd", "adam"])
@pytest.mark.parametrize("make", [STN, DeltaSTN], ids=["stn", "delta-stn"])
def test_state_goes_on_where_it_was(make: Callable[..., STN], knobs: dict[str, float]) -> None:
    def go(method: STN, weights: Params, step: InnerStep) -> tuple[Params, InnerStep, Tensor]:
        for _ in range(2):
            weights, step = method.fit(task, weights, hyper, [batch, batch], step)
            total = method.hypergradient(task, weights, hyper, batch, batch, step).total
        return weights, step, total

    task, weights, hyper, batch = classes(4)
    method = make(**knobs)
    middle, step, _ = go(method, weights, InnerStep(learning_rate=0.02, momentum=0.9))
    saved = {name: value.clone() for name, value in method.state().items()}
    wanted, _, total = go(method, middle, step)
    again = make(**knobs)
    again.load_state(saved)
    found, _, total_again = go(again, middle, step)
    assert torch.equal(total, total_again) and all(torch.equal(wanted[n], w) for n, w in found.items())


def test_scale_and_rate_of_each_entry() -> None:
    """ε and σ's steps have each entry's own size; one number is the same number for all."""
    hyper, each = torch.zeros(3), torch.tensor([0.1, 0.5, 2.0])
    many, one = (Perturbation(scale=scale, seed=4) for scale in (each, 0.5))
    torch.testing.assert_close(many.sigma(hyper), each)
    drawn = [next(noise.draws(hyper, None)) for noise in (many, one)]
    torch.testing.assert_close(drawn[0] / drawn[1], each / 0.5)
    moving = Perturbation(scale=0.5, learning_rate=torch.tensor([0.01, 0.02, 0.0001]), entropy_weight=0.0)
    before = moving.sigma(hyper)
    moving.learn_from(torch.ones(3))
    moves = before - moving.sigma(hyper)
    torch.testing.assert_close(moves[1] / moves[0], torch.tensor(2.0), rtol=0.05, atol=0.0)
    assert 0 < moves[2] < moves[0] / 50
    with pytest.raises(InputError, match=r"scale is \[1.0, 0.0\]"):
        Perturbation(scale=torch.tensor([1.0, 0.0]))


def test_the_bound_on_a_part_of_the_response() -> None:
    task, weights, hyper, batch = classes(5)
    step = InnerStep(learning_rate=1.0)
    free, held = (
        STN(perturbation=still(), outer_noise=False, **knobs).hypergradient(task, weights, hyper, None, batch, step)
        for knobs in ({}, {"clip": 1e-3, "clip_part": slice(0, 1)})
    )
    torch.testing.assert_close(held.response[0].abs(), 1e-3 * free.direct[0].abs())
    assert free.response[1] != 0 and torch.equal(held.response[1:], free.response[1:])


def test_limits() -> None:
    task, weights, hyper, batch = classes(5)
    step = InnerStep(learning_rate=1.0)
    free = STN(perturbation=still(), outer_noise=False).hypergradient(task, weights, hyper, None, batch, step)
    bound = 0.5 * (free.response.norm() / free.direct.norm()).item()
    held = STN(perturbation=still(), outer_noise=False, clip=bound)
    found = held.hypergradient(task, weights, hyper, None, batch, step)
    torch.testing.assert_close(found.response, 0.5 * free.response)
    torch.testing.assert_close(found.direct, free.direct)
    for make in (STN, DeltaSTN):
        fitted, _ = make(perturbation=still(), gradient_clip=1e-3).fit(task, weights, hyper, [batch], step)
        for part in split_weights({name: fitted[name] - w for name, w in weights.items()}):
            assert 0 < torch.stack([move.norm() for move in part.values()]).norm() < 1.001e-3
