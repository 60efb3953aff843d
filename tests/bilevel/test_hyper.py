"""λ's layout and its typed parts; the perturbation and its σ."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.hyper import HyperLayout, Part, bounded, integer, logits, positive, softplus_inverse
from fer_nas.bilevel.perturbation import Perturbation, entropy
from fer_nas.errors import FerNasError, InputError

LAYOUT = HyperLayout(
    {
        "arch": (2, 3),
        "dropout": bounded(0.0, 0.95, start=0.05, shape=(3,)),
        "decay": positive(start=1e-4),
        "holes": integer(0, 4, start=1),
    }
)


def test_parts_stand_in_their_order() -> None:
    assert LAYOUT.size == 6 + 3 + 1 + 1
    vector = torch.arange(11.0, requires_grad=True)
    parts = LAYOUT.split(vector)
    assert parts["arch"].tolist() == [[0, 1, 2], [3, 4, 5]] and parts["dropout"].tolist() == [6, 7, 8]
    assert parts["decay"].shape == () and parts["holes"].item() == 10
    (parts["arch"].sum() + 2 * parts["decay"]).backward()
    assert vector.grad is not None and vector.grad.tolist() == [1] * 6 + [0] * 3 + [2, 0]
    each = LAYOUT.values(torch.zeros(5, 11))
    assert {name: tuple(v.shape) for name, v in each.items()} == {
        "arch": (5, 2, 3),
        "dropout": (5, 3),
        "decay": (5,),
        "holes": (5,),
    }


def test_starts_and_inverses() -> None:
    values = LAYOUT.readable(LAYOUT.initial(torch.float64))
    assert values["arch"] == [[0.0] * 3] * 2
    assert values["dropout"] == pytest.approx([0.05] * 3) and values["decay"] == pytest.approx(1e-4)
    assert values["holes"] == 1
    given = {"dropout": [0.1, 0.5, 0.94], "decay": 3.0, "holes": 4, "arch": torch.full((2, 3), 0.5)}
    found = LAYOUT.readable(LAYOUT.vector(given, torch.float64))
    assert found["dropout"] == pytest.approx(given["dropout"]) and found["decay"] == pytest.approx(3.0)
    assert found["holes"] == 4 and found["arch"] == [[0.5] * 3] * 2
    for wrong in ({"dropout": 0.96}, {"dropout": 0.0}, {"decay": -1.0}, {"holes": 5}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} = .* outside its range"):
            LAYOUT.vector(wrong)
    with pytest.raises(InputError, match="'cutout'"):
        LAYOUT.vector({"cutout": 1})


def test_formulas() -> None:
    u = torch.linspace(-30, 30, 301, dtype=torch.float64)
    rate = bounded(0.2, 0.7, start=0.3).value(u)
    torch.testing.assert_close(rate, 0.2 + 0.5 / (1 + torch.exp(-u)))
    torch.testing.assert_close(positive(start=2.0, low=1.0).value(u), 1 + torch.log1p(torch.exp(u)))
    torch.testing.assert_close(softplus_inverse(torch.nn.functional.softplus(u[u > -20])), u[u > -20])
    holes = integer(1, 4, start=2).value(u)
    assert holes.min() == 1 and holes.max() == 4 and torch.equal(holes, holes.round())
    assert set(holes.tolist()) == {1, 2, 3, 4}


def test_gradient_of_a_whole_number_is_the_unfloored_one() -> None:
    u = torch.tensor([-1.0, 0.3, 2.0], dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad(integer(0, 4, start=1).value(u).sum(), u)
    (smooth,) = torch.autograd.grad((5 * torch.sigmoid(u)).sum(), u)
    assert torch.equal(whole, smooth)


@pytest.mark.parametrize("low,high", [(0, 1), (0, 4), (3, 24)])
def test_a_whole_number_starts_in_the_middle_of_its_step(low: int, high: int) -> None:
    for start in range(low, high + 1):
        part = integer(low, high, start=start)
        free = part.free(torch.tensor(float(start)))
        for near in (-0.01, 0.0, 0.01):
            assert part.value(free + near).item() == start


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (bounded(0.5, 0.5, start=0.5), "range 0.5 to 0.5"),
        (bounded(1.0, 0.0, start=0.5), "range 1 to 0"),
        (bounded(0.0, math.inf, start=0.5), "finite high"),
        (bounded(0.0, 0.95, start=0.95), "strictly within 0 to 0.95"),
        (bounded(0.0, 0.95, start=-0.1), "starts at -0.1"),
        (bounded(0.0, 1.0, start=math.nan), "finite number"),
        (positive(start=0.0), "strictly within"),
        (positive(start=1.0, low=-math.inf), "finite low"),
        (integer(0, 4, start=5), "within 0 to 4"),
        (Part(kind="integer", low=0, high=2.5, start=1), "whole number"),
        (logits(0, 8), "every side"),
        (Part(kind="ordinal"), "known: logits, bounded"),
    ],
)
def test_ranges_that_cannot_be(part: Part, message: str) -> None:
    with pytest.raises(InputError, match=f"hyperparameter 'rate'.*{message}"):
        HyperLayout({"rate": part})


def test_no_hyperparameters_and_a_vector_of_another_size() -> None:
    with pytest.raises(InputError, match="n = 0"):
        HyperLayout({})
    with pytest.raises(InputError, match=r"\(3,\) for 11 hyperparameters"):
        LAYOUT.split(torch.zeros(3))


# The perturbation


def test_entropy() -> None:
    scale = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    exact = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), scale).entropy().sum()
    torch.testing.assert_close(entropy(scale), exact)


@pytest.mark.parametrize("per", ["batch", "example"])
def test_draws(per: str) -> None:
    hyper, batch = torch.zeros(4), (torch.zeros(2000, 1), None)
    noise = Perturbation(scale=0.3, per=per, pairs=True, seed=1)
    first, second = noise.draws(hyper, batch)
    assert torch.equal(first, -second) and first.shape == ((4,) if per == "batch" else (2000, 4))
    many = torch.cat([next(noise.draws(hyper, batch)).view(-1, 4) for _ in range(2000 if per == "batch" else 1)])
    assert many.std().item() == pytest.approx(0.3, rel=0.05) and abs(many.mean().item()) < 0.02


def test_a_pair_sees_the_same_random_numbers() -> None:
    """Dropout masks of ε and −ε are drawn from the same state; the next pair's from another."""
    masks = [torch.rand(3) for _ in range(2) for _ in Perturbation(pairs=True).draws(torch.zeros(1), None)]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[0], masks[2])


def test_sigma_descends_its_objective() -> None:
    """E_ε[½ a (λ+ε)²] − τ·H is smallest at σ = √(τ/a), whatever λ is."""
    noise = Perturbation(scale=1.0, entropy_weight=0.5, learning_rate=0.02, pairs=True, seed=0)
    hyper, a = torch.tensor([3.0, -1.0, 0.0], dtype=torch.float64), torch.tensor([2.0, 8.0, 50.0], dtype=torch.float64)
    late = []
    for _ in range(1500):
        sigma = noise.sigma(hyper)
        noise.learn_from(sum(a * (hyper + e) * e / sigma for e in noise.draws(hyper, None)) / 2)  # type: ignore[arg-type]
        late.append(noise.sigma(hyper))
    torch.testing.assert_close(torch.stack(late[-500:]).mean(0), (0.5 / a).sqrt(), rtol=0.1, atol=0.0)


def test_sigma_steps_as_rmsprop() -> None:
    noise = Perturbation(scale=0.7, entropy_weight=0.1, learning_rate=0.03)
    hyper = torch.zeros(3, dtype=torch.float64)
    noise.sigma(hyper)
    assert noise.free is not None
    free = noise.free.clone().requires_grad_()
    optimizer = torch.optim.RMSprop([free], lr=0.03)
    for _ in range(5):
        slope = torch.randn(3, dtype=torch.float64)
        noise.learn_from(slope)
        sigma = torch.nn.functional.softplus(free)
        optimizer.zero_grad()
        ((slope * sigma).sum() - 0.1 * entropy(sigma)).backward()
        optimizer.step()
    torch.testing.assert_close(noise.free, free.detach())


def test_state_goes_on_where_it_was() -> None:
    def go(noise: Perturbation, steps: int) -> list[Tensor]:
        seen = []
        for _ in range(steps):
            seen.append(next(noise.draws(torch.zeros(2), None)))
            noise.learn_from(seen[-1])
        return seen

    noise = Perturbation(seed=3)
    go(noise, 3)
    saved = noise.state()
    wanted = go(noise, 3)
    other = Perturbation(seed=99)
    other.load_state(saved)
    assert all(torch.equal(a, b) for a, b in zip(go(other, 3), wanted, strict=True))
    still = Perturbation(learn=False, scale=0.5)
    go(still, 3)
    assert still.sigma(torch.zeros(2)).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"scale": 0.0}, "scale is 0"),
        ({"scale": math.nan}, "scale is nan"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"entropy_weight": -1.0}, "entropy weight"),
        ({"per": "epoch"}, "not per 'epoch'"),
    ],
)
def test_knobs_that_cannot_be(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(FerNasError, match=message):
        Perturbation(**knobs)


def test_per_example_needs_examples() -> None:
    with pytest.raises(InputError, match="examples first"):
        next(Perturbation(per="example").draws(torch.zeros(2), None))
    noise = Perturbation()
    noise.sigma(torch.zeros(2))
    with pytest.raises(InputError, match="serves one λ"):
        noise.sigma(torch.zeros(3))
