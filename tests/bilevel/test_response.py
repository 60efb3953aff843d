"""Best-response layers: the formula, its two forms, parameter counts, derivatives, swapping, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import conv2d

from fer_nas.bilevel.delta_stn import forward_product
from fer_nas.bilevel.response import (
    BestResponse,
    best_response,
    folded,
    plain_weights,
    response_layers,
    split_weights,
    with_response,
)
from fer_nas.errors import InputError
from fer_nas.space.operations import DilatedDepthwise, Pointwise

N = 3
LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 5), (3, 4)),
    "linear without bias": (lambda: nn.Linear(4, 5, bias=False), (3, 4)),
    "linear over positions": (lambda: nn.Linear(4, 5), (3, 2, 4)),
    "conv": (lambda: nn.Conv2d(2, 3, 3), (3, 2, 5, 5)),
    "conv, stride and padding": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (3, 2, 5, 4)),
    "conv, dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=2, padding=2, bias=False), (3, 2, 5, 5)),
    "conv, groups": (lambda: nn.Conv2d(4, 6, (3, 1), stride=(1, 2), groups=2), (3, 4, 4, 4)),
    "conv, padding by name": (lambda: nn.Conv2d(2, 3, 3, padding="same", bias=False), (3, 2, 4, 4)),
    "conv, reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (3, 2, 4, 4)),
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1, bias=False), (3, 3, 4, 4)),
    "sliced 1×1": (lambda: Pointwise(3, 2, stride=2), (3, 3, 5, 4)),
    "dilated in another way": (lambda: DilatedDepthwise(2, 3, 1), (3, 2, 5, 4)),
    "dilated, stride 2": (lambda: DilatedDepthwise(2, 3, 2), (3, 2, 6, 6)),
}


def layer_and_input(name: str) -> tuple[nn.Module, BestResponse, Tensor]:
    """The plain layer, the best response around it with V, C ~ N(0, 1), and an input; all float64."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    plain = make().double()
    layer = best_response(plain, N, rescale_std=1.0)
    assert isinstance(layer, BestResponse)
    return plain, layer, torch.randn(shape, dtype=torch.float64)


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", LAYERS)
def test_per_example_equals_per_batch_and_the_formula(name: str) -> None:
    plain, layer, x = layer_and_input(name)
    weights, r = parameters(layer), torch.randn(N, dtype=torch.float64)
    batch = with_response(layer, weights, r, x)
    example = with_response(layer, weights, r.expand(len(x), N), x)
    torch.testing.assert_close(example, batch, rtol=1e-10, atol=1e-10)

    by_hand = copy.deepcopy(plain)
    for kind in ("weight", "bias") if plain.bias is not None else ("weight",):
        elem, hyper, rescale = (weights[f"{kind}_{leaf}"] for leaf in ("elem", "hyper", "rescale"))
        rows = [e + (v @ r) * h for e, v, h in zip(elem, rescale, hyper, strict=True)]
        setattr(by_hand, kind, nn.Parameter(torch.stack(rows)))
    torch.testing.assert_close(batch, by_hand(x), rtol=1e-10, atol=1e-10)
    assert (batch - plain(x)).abs().max() > 0.1, "the response takes no part in this test"

    each = torch.randn(len(x), N, dtype=torch.float64)
    apart = torch.cat([with_response(layer, weights, row, image[None]) for row, image in zip(each, x, strict=True)])
    torch.testing.assert_close(with_response(layer, weights, each, x), apart, rtol=1e-10, atol=1e-10)


def test_the_two_forms_agree_in_float32() -> None:
    torch.manual_seed(0)
    layer = best_response(nn.Conv2d(8, 16, 3, padding=1), 6, rescale_std=0.1)
    x, r, weights = torch.randn(32, 8, 12, 12), torch.randn(6), parameters(layer)
    batch, example = with_response(layer, weights, r, x), with_response(layer, weights, r.expand(32, 6), x)
    torch.testing.assert_close(example, batch, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_parameter_count(name: str) -> None:
    plain, layer, _ = layer_and_input(name)
    d_out, d_in = len(plain.weight), plain.weight[0].numel()
    wanted = d_out * (2 * d_in + N) + (d_out * (2 + N) if plain.bias is not None else 0)
    assert sum(p.numel() for p in layer.parameters()) == wanted
    general, response = split_weights(dict(layer.named_parameters()))
    assert sum(p.numel() for p in general.values()) == sum(p.numel() for p in plain.parameters())
    assert len(general) + len(response) == len(list(layer.parameters()))


@pytest.mark.parametrize("per_example", [False, True], ids=["batch", "example"])
@pytest.mark.parametrize("name", LAYERS)
def test_derivatives(name: str, per_example: bool) -> None:
    """∂/∂(W_elem, W_hyper, V, b_elem, b_hyper, C, r, x) by finite differences."""
    _, layer, x = layer_and_input(name)
    weights = parameters(layer)
    r = torch.randn((len(x), N) if per_example else (N,), dtype=torch.float64)

    def run(r: Tensor, x: Tensor, *values: Tensor) -> Tensor:
        return with_response(layer, dict(zip(weights, values, strict=True)), r, x)

    inputs = [t.clone().requires_grad_() for t in (r, x, *weights.values())]
    assert gradcheck(run, inputs, fast_mode=True, check_undefined_grad=False)


@pytest.mark.parametrize("per_example", [False, True], ids=["batch", "example"])
def test_second_and_forward_derivatives_through_a_network(per_example: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).double()
    tuned = best_response(net, N, rescale_std=1.0)
    weights, x = parameters(tuned), torch.randn(3, 1, 4, 4, dtype=torch.float64)
    r = torch.randn((3, N) if per_example else (N,), dtype=torch.float64)

    def run(r: Tensor, *values: Tensor) -> Tensor:
        return with_response(tuned, dict(zip(weights, values, strict=True)), r, x)

    inputs = [t.clone().requires_grad_() for t in (r, *weights.values())]
    assert gradgradcheck(run, inputs, fast_mode=True, check_undefined_grad=False)
    direction = torch.randn_like(r)
    values = list(weights.values())
    _, change = forward_product(lambda r: run(r, *values), r, direction)
    sides = [run(r + s * 1e-6 * direction, *values) for s in (1, -1)]
    torch.testing.assert_close(change, (sides[0] - sides[1]) / 2e-6, rtol=1e-6, atol=1e-8)


class Nested(nn.Module):
    """A layer that two places share, one inside a list, a norm, and a loose parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList([nn.Linear(4, 4), nn.BatchNorm1d(4)])
        self.again = self.first[0]
        self.out = nn.Sequential(nn.ReLU(), nn.Linear(4, 2, bias=False))
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(self.first[1](self.first[0](x)))) * self.scale


def test_a_whole_network() -> None:
    torch.manual_seed(0)
    net = Nested().double()
    before = {name: w.clone() for name, w in net.state_dict().items()}
    tuned = best_response(net, N, rescale_std=0.0)
    assert tuned.again is tuned.first[0] and isinstance(tuned.again, nn.Linear)
    assert [name for name, _ in response_layers(tuned)] == ["first.0", "out.1"]
    assert not list(response_layers(net)) and all(torch.equal(before[n], w) for n, w in net.state_dict().items())

    x, r = torch.randn(5, 4, dtype=torch.float64), torch.randn(N, dtype=torch.float64)
    weights = dict(tuned.named_parameters())
    for at in (None, r):  # V = 0: the network begins as the plain one, whatever λ is
        torch.testing.assert_close(with_response(tuned, weights, at, x), net(x), rtol=0, atol=0)
    found = torch.autograd.grad(with_response(tuned, weights, r, x).square().sum(), list(weights.values()))
    slope = dict(zip(weights, found, strict=True))
    assert slope["first.0.weight_rescale"].any() and slope["out.1.weight_rescale"].any()

    moved = {name: w + 0.3 * torch.randn_like(w) for name, w in weights.items()}
    wanted = with_response(tuned, moved, r, x)
    plain = plain_weights(tuned, moved, r)
    assert set(plain) == {name for name, _ in net.named_parameters()}
    torch.testing.assert_close(with_response(net, plain, None, x), wanted)
    state = {name: w.clone() for name, w in tuned.state_dict().items()}
    torch.testing.assert_close(with_response(tuned, state, None, x), net(x))  # both names of the shared layer
    assert all(torch.equal(state[name], w) for name, w in tuned.named_parameters()), "a call left its weights"
    tuned.load_state_dict(moved, strict=False)
    assert torch.equal(dict(response_layers(tuned))["out.1"].response, torch.zeros(N)), "a call left its response"
    flat = folded(tuned, r)
    assert {type(m) for m in flat.modules()} == {type(m) for m in net.modules()}
    assert flat.again is flat.first[0] and {n for n, _ in flat.named_parameters()} == set(plain)
    torch.testing.assert_close(flat(x), wanted)


def test_tied_weights_stay_tied() -> None:
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    tuned = best_response(net, 2, rescale_std=1.0)
    assert tuned[1].weight_elem is tuned[0].weight_elem and tuned[1].weight_hyper is not tuned[0].weight_hyper
    r, x = torch.randn(2), torch.randn(4, 3)
    weights = dict(tuned.named_parameters())
    torch.testing.assert_close(torch.func.functional_call(net, {"0.weight": weights["0.weight_elem"]}, (x,)), tuned(x))
    plain = plain_weights(tuned, weights, r)
    wanted = x @ plain["0.weight"].T @ plain["1.weight"].T
    torch.testing.assert_close(with_response(tuned, weights, r, x), wanted)


def test_layers_that_read_a_part_of_the_response() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tuned = best_response(net, 5, rescale_std=1.0, reads=lambda name: slice(0, 2) if name == "0" else slice(2, 5))
    assert tuned[0].weight_rescale.shape == (2, 2) and tuned[1].weight_rescale.shape == (2, 3)
    weights, x, r = dict(tuned.named_parameters()), torch.randn(3, 2), torch.randn(5)
    wanted = x
    for i, part in ((0, r[:2]), (1, r[2:])):
        layer = tuned[i]
        weight = layer.weight_elem + (layer.weight_rescale @ part)[:, None] * layer.weight_hyper
        wanted = wanted @ weight.T + layer.bias_elem + layer.bias_rescale @ part * layer.bias_hyper
    torch.testing.assert_close(with_response(tuned, weights, r, x), wanted)
    torch.testing.assert_close(with_response(tuned, weights, r.expand(3, 5), x), wanted)
    torch.testing.assert_close(folded(tuned, r)(x), wanted)


def test_layers_that_read_two_stretches_of_the_response() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    torch.manual_seed(0)
    tuned = best_response(net, 6, rescale_std=1.0, reads=lambda name: (slice(0, 2), slice(5, 6)))
    weights, x, r = dict(tuned.named_parameters()), torch.randn(3, 2), torch.randn(6)
    assert tuned[0].weight_rescale.shape == (2, 3)
    wanted = with_response(tuned, weights, r, x)
    torch.testing.assert_close(folded(tuned, r)(x), wanted)
    torch.testing.assert_close(with_response(tuned, weights, r.expand(3, 6), x), wanted)
    for place, reads in enumerate([True, True, False, False, False, True]):
        changed = r.clone()
        changed[place] += 1
        assert torch.equal(with_response(tuned, weights, changed, x), wanted) != reads


@pytest.mark.parametrize("start", ["uniform", "zero", "copy"])
def test_starts(start: str) -> None:
    net = nn.Sequential(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 4, 1))
    tuned = best_response(net, 50, hyper=start, rescale_std=0.1, generator=torch.Generator().manual_seed(1))
    again = best_response(net, 50, hyper=start, rescale_std=0.1, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(tuned.parameters(), again.parameters(), strict=True))
    layer = tuned[0]
    assert layer.weight_elem.equal(net[0].weight) and layer.bias_elem.equal(net[0].bias)
    assert layer.weight_rescale.std().item() == pytest.approx(0.1, rel=0.1)
    bound = (8 * 9) ** -0.5
    if start == "uniform":
        assert layer.weight_hyper.abs().max() <= bound
        assert layer.weight_hyper.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    else:
        assert layer.weight_hyper.equal(net[0].weight if start == "copy" else torch.zeros_like(net[0].weight))
    fresh = best_response(net, 50, keep=False)[0].weight_elem
    assert not fresh.equal(net[0].weight) and fresh.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_weight_is_what_the_layer_computes_with() -> None:
    """A fused form or a penalty that reads conv.weight sees W(r)."""
    layer = best_response(nn.Conv2d(2, 3, 3, bias=False), N, rescale_std=1.0)

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layer

        def forward(self, x: Tensor) -> Tensor:
            return conv2d(x, self.conv.weight) - self.conv(x)

    reader, x, r = Reader(), torch.randn(2, 2, 5, 5), torch.randn(N)
    weights = dict(reader.named_parameters())
    assert with_response(reader, weights, r, x).abs().max() < 1e-6
    with pytest.raises(InputError, match="no one weight"):
        with_response(reader, weights, r.expand(2, N), x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "n, the number of inputs"),
        ({"n": 2.0}, "whole number"),
        ({"hyper": "ones"}, "uniform, zero, copy"),
        ({"rescale_std": -1.0}, "standard deviation"),
        ({"hyper": "zero", "rescale_std": 0.0}, "no gradient"),
        ({"reads": lambda name: slice(5, 9)}, "none of the 3 inputs"),
        ({"module": nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))}, "nothing in it can respond"),
        ({"module": best_response(nn.Linear(2, 2), 1)}, "already"),
        ({"module": nn.Sequential(nn.LazyLinear(3))}, "lazy"),
        ({"module": nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))}, "parametrizations"),
    ],
)
def test_what_cannot_be_swapped(change: dict[str, Any], message: str) -> None:
    given = {"module": nn.Linear(2, 2), "n": 3} | change
    module, n = given.pop("module"), given.pop("n")
    with pytest.raises(InputError, match=message):
        best_response(module, n, **given)


def test_responses_of_the_wrong_shape() -> None:
    layer = best_response(nn.Linear(2, 2), N)
    weights = dict(layer.named_parameters())
    with pytest.raises(InputError, match="read 3 inputs"):
        with_response(layer, weights, torch.zeros(4), torch.zeros(5, 2))
    with pytest.raises(InputError, match="4 response vectors for an input of 5 rows"):
        with_response(layer, weights, torch.zeros(4, N), torch.zeros(5, 2))
