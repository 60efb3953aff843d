"""The tuning problems: masks, losses, and which way λ is reached, against closed forms and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.hyper import HyperLayout, bounded, integer, positive
from fer_nas.bilevel.protocol import InnerStep
from fer_nas.bilevel.response import best_response, plain_weights
from fer_nas.bilevel.unrolled import Unrolled
from fer_nas.tasks.tuning import Batch, Tuning, layer_names, smoothed_cross_entropy, squared_norms
from fer_nas.tasks.tuning_networks import Cnn, Mlp, cutout, dropout, undisturbed

SIDE, CLASSES, COUNT = 8, 3, 12
ALL = {
    "dropout.input": bounded(0.0, 0.95, start=0.3),
    "cutout.holes": integer(0, 4, start=2),
    "cutout.length": integer(0, 5, start=3),
    "decay.layers.0": positive(start=0.1),
    "decay.layers.1": positive(start=0.2),
    "decay.layers.2": positive(start=0.3),
    "smoothing": bounded(0.0, 0.5, start=0.1),
    "pixels": bounded(0.0, 2.0, start=1.0, shape=(SIDE, SIDE)),
    "examples": bounded(0.0, 1.0, start=0.5, shape=(COUNT,)),
}
MASKS = ("dropout", "cutout")


def make(*names: str, response: bool = False) -> tuple[Tuning, Tensor, Batch]:
    """An MLP on random 8×8 images in float64, with the parts of λ whose names begin so."""
    torch.manual_seed(0)
    network = Mlp((1, SIDE, SIDE), CLASSES, 0.01, [100.0], [50.0]).double()
    layout = HyperLayout({name: part for name, part in ALL.items() if name.startswith(names)})
    if response:
        network = best_response(network, layout.size, rescale_std=0.3)
    images = torch.randint(0, 256, (COUNT, 1, SIDE, SIDE)).double()
    batch = Batch(images, torch.arange(COUNT) % CLASSES, torch.randperm(COUNT))
    return Tuning(network, Mlp.places, layout), layout.initial(torch.float64), batch


def test_published_networks() -> None:
    """784-1200-1200-10, and 32 and 64 channels of 5×5 with linear layers behind them."""
    mlp = Mlp((1, 28, 28), 10, 1.0, [0.0], [1.0])
    assert sum(p.numel() for p in mlp.parameters()) == 784 * 1200 + 1200 + 1200 * 1200 + 1200 + 1200 * 10 + 10
    cnn = Cnn((1, 28, 28), 10, 1.0, [0.0], [1.0])
    convolutions = 25 * 32 + 32 + 25 * 32 * 64 + 64
    assert sum(p.numel() for p in cnn.parameters()) == convolutions + 64 * 7 * 7 * 128 + 128 + 1280 + 10


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 48, 48), (1, 33, 41)])
def test_networks_take_any_size(shape: tuple[int, int, int]) -> None:
    for kind in (Mlp, Cnn):
        network = kind(shape, 7, 0.1, [100.0] * shape[0], [50.0] * shape[0])
        seen = []

        def note(x: Tensor, place: int, seen: list[int] = seen) -> Tensor:
            seen.append(place)
            return x

        assert network(torch.rand(2, *shape), note).shape == (2, 7)
        assert seen == list(range(len(kind.places)))


def test_dropout_share_and_mean() -> None:
    x = torch.ones(4, 50, 100, dtype=torch.float64)
    rates = torch.tensor([0.0, 0.2, 0.5, 0.9], dtype=torch.float64)
    out = dropout(x, rates, torch.Generator().manual_seed(0))
    assert torch.equal(out[0], x[0])
    assert (out == 0).double().mean((1, 2)).tolist() == pytest.approx(rates.tolist(), abs=0.03)
    assert set(out[1].unique().tolist()) == {0.0, 1 / 0.8}
    one = dropout(x, torch.tensor(0.5), torch.Generator().manual_seed(0))
    assert torch.equal(one[2], out[2])  # the same draw, shared or per image


def test_cutout_counts_and_sizes() -> None:
    x = torch.ones(300, 2, 20, 20)
    still = cutout(x, torch.tensor(0.0), torch.tensor(6.0), 4)
    assert torch.equal(still, x)
    assert torch.equal(cutout(x, torch.tensor(2.0), torch.tensor(0.0), 4), x)
    one = cutout(x, torch.tensor(1.0), torch.tensor(6.0), 4, torch.Generator().manual_seed(1))
    area = (one[:, 0] == 0).sum((1, 2))
    assert area.max() == 36 and area.min() >= 9  # a quarter of it at a corner
    assert torch.equal(one[:, 0], one[:, 1])
    holes = torch.tensor([0.0, 1.0, 4.0]).repeat_interleave(100)
    mixed = (cutout(x, holes, torch.full((300,), 3.0), 4)[:, 0] == 0).sum((1, 2)).double().view(3, 100)
    assert mixed[0].max() == 0 and mixed[1].max() == 9
    assert 2.5 < mixed[2].mean() / mixed[1].mean() < 4.2  # overlaps
    assert mixed[2].max() <= 36


def test_masks_come_from_the_global_generator() -> None:
    """So that a method which repeats a step, as unrolling does, repeats its masks."""
    task, hyper, batch = make(*MASKS)
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(task.inner_loss(task.weights(), hyper, batch).item())
    assert losses[0] == losses[1] != losses[2]


def test_outer_loss_is_undisturbed() -> None:
    task, hyper, batch = make(*MASKS, "decay", "smoothing", "examples")
    first = task.outer_loss(task.weights(), hyper, batch)
    logits = task.network(batch.images, undisturbed)
    assert first.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, batch.targets).item(), rel=1e-12)
    assert first == task.outer_loss(task.weights(), hyper + 1, batch)


def test_smoothing_is_that_of_torch_and_differentiable() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 1, 0])
    found = smoothed_cross_entropy(logits, targets, torch.tensor(0.3, dtype=torch.float64)).mean()
    wanted = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.3)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    hot = torch.nn.functional.one_hot(targets, 4).double()
    assert torch.allclose(
        smoothed_cross_entropy(logits, hot, None), smoothed_cross_entropy(logits, targets, None), rtol=1e-12
    )
    amount = torch.full((6,), 0.2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, s: smoothed_cross_entropy(z, targets, s), (logits, amount))


def test_gradient_of_decay_and_example_weights_in_closed_form() -> None:
    """∂L/∂u = σ(u)·‖W‖²/2 for a decay softplus(u), and s(1 − s)·CE_i/B for an example's weight s = σ(u)."""
    task, hyper, batch = make("decay", "examples")
    point = hyper.clone().requires_grad_()
    (slope,) = torch.autograd.grad(task.inner_loss(task.weights(), point, batch), [point])
    weights, parts = task.weights(), task.layout.split(slope)
    for name in layer_names(task.network):
        free = task.layout.split(hyper)[f"decay.{name}"]
        wanted = torch.sigmoid(free) * weights[f"{name}.weight"].square().sum() / 2
        assert parts[f"decay.{name}"].item() == pytest.approx(wanted.item(), rel=1e-10)
    each = torch.nn.functional.cross_entropy(task.network(batch.images, undisturbed), batch.targets, reduction="none")
    wanted = torch.zeros(COUNT, dtype=torch.float64).index_put((batch.rows,), 0.25 * each / COUNT)
    assert torch.allclose(parts["examples"], wanted, rtol=1e-10)


@pytest.mark.parametrize("response", [False, True])
def test_through_masks_only_a_response_reaches_dropout(response: bool) -> None:
    task, hyper, batch = make(*MASKS, response=response)
    point = hyper.clone().requires_grad_()
    inner = task.inner_loss(task.weights(), point, batch, point if response else None)
    found = torch.autograd.grad(inner, [point], allow_unused=True)[0]
    assert (found is not None and bool((found != 0).all())) == response


def test_only_pixels_reach_the_outer_loss_directly() -> None:
    for names, reached in (((*MASKS, "decay", "smoothing", "examples"), False), (("pixels",), True)):
        task, hyper, batch = make(*names)
        point = hyper.clone().requires_grad_()
        (found,) = torch.autograd.grad(
            task.outer_loss(task.weights(), point, batch), [point], allow_unused=True, materialize_grads=True
        )
        assert bool((found != 0).any()) == reached


def test_norms_of_a_best_response() -> None:
    """The rows' products give ‖W(r)‖² of the weights written out, for one r and for one per image."""
    task, hyper, _ = make("decay", "smoothing", response=True)
    rows = hyper + torch.randn(5, len(hyper), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    many = squared_norms(task.network, task.weights(), rows)
    none = squared_norms(task.network, task.weights(), None)
    for index, row in enumerate(rows):
        plain = plain_weights(task.network, task.weights(), row)
        one = squared_norms(task.network, task.weights(), row)
        for name in layer_names(task.network):
            wanted = plain[f"{name}.weight"].square().sum().item()
            assert one[name].item() == pytest.approx(wanted, rel=1e-10)
            assert many[name][index].item() == pytest.approx(wanted, rel=1e-10)
            assert none[name].item() == task.weights()[f"{name}.weight_elem"].square().sum().item()


@pytest.mark.parametrize("names", [("decay", "smoothing"), ("pixels",), ("examples",)])
def test_one_lambda_for_all_or_one_each(names: tuple[str, ...]) -> None:
    task, hyper, batch = make(*names, response=True)
    each = hyper.expand(COUNT, -1)
    for loss in (task.inner_loss, task.outer_loss):
        shared = loss(task.weights(), hyper, batch, hyper)
        assert loss(task.weights(), each, batch, each).item() == pytest.approx(shared.item(), rel=1e-10)


def test_unrolled_hypergradient_is_the_slope_of_training() -> None:
    """Back through three SGD steps, against retraining at λ ± δ (central differences, float64)."""
    task, hyper, batch = make("decay", "smoothing", "pixels")
    step, steps = InnerStep(learning_rate=0.05, momentum=0.9), [batch] * 3
    method = Unrolled()

    def retrained(point: Tensor) -> Tensor:
        weights, _ = Unrolled().fit(task, task.weights(), point, steps, step)
        return task.outer_loss(weights, point, batch).detach()

    weights, after = method.fit(task, task.weights(), hyper, steps, step)
    found = method.hypergradient(task, weights, hyper, batch, batch, after).total
    for place in (0, 2, 3, 4, 30):
        delta = torch.zeros_like(hyper)
        delta[place] = 1e-4
        slope = (retrained(hyper + delta) - retrained(hyper - delta)) / 2e-4
        assert found[place].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-10)
