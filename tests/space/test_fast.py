"""The fast form against the plain form in float64: outputs and gradients, every operation, stride, size and space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fer_nas.bilevel.methods import find_method
from fer_nas.bilevel.protocol import InnerStep
from fer_nas.bilevel.response import best_response, plain_weights, with_response
from fer_nas.errors import InputError
from fer_nas.space import fast_convs
from fer_nas.space.edge import PartialEdge
from fer_nas.space.fast import fast_logits
from fer_nas.space.operations import OPERATIONS, FactorizedReduce
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES, SearchSpace
from fer_nas.tasks.cells import CellSearch

TOLERANCE = 1e-9


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max().clamp_min(1e-300)).item()


def supernet(space: SearchSpace, *, size: int = 8, channels: int = 4, layers: int = 2, stem: str = "cifar") -> Supernet:
    torch.manual_seed(0)
    net = Supernet(space, classes=3, c_in=1, image_size=size, channels=channels, layers=layers, stem=stem)
    return net.double()


def random_mixtures(space: SearchSpace) -> dict[str, Tensor]:
    shape = (space.edges, len(space.operations))
    return {
        name: torch.softmax(torch.randn(shape, dtype=torch.float64), -1).requires_grad_()
        for name in ("normal", "reduce")
    }


def compare(net: Supernet, space: SearchSpace, size: int, images: int = 2) -> None:
    """Outputs, and gradients by every weight and mixture, of both forms."""
    x = 255 * torch.rand(images, 1, size, size, dtype=torch.float64)
    weights, mixtures = dict(net.named_parameters()), random_mixtures(space)
    inputs = {**weights, **mixtures}
    plain, fast = functional_call(net, weights, (x, mixtures)), fast_logits(net, weights, mixtures, x)
    assert difference(fast, plain) < TOLERANCE
    g = torch.randn_like(plain)
    slopes = [torch.autograd.grad(out, list(inputs.values()), g, allow_unused=True) for out in (plain, fast)]
    for name, expected, found in zip(inputs, *slopes, strict=True):
        assert (expected is None) == (found is None), name
        if expected is not None and found is not None:
            assert found.shape == expected.shape
            # Where BatchNorm hides a scale the exact gradient is zero, and both forms give rounding.
            assert difference(found, expected) < TOLERANCE or max(found.abs().max(), expected.abs().max()) < 1e-12, name
    # Of λ alone, as in its step: nothing then goes back to the stem.
    still = {name: w.detach() for name, w in weights.items()}
    alone = torch.autograd.grad(fast_logits(net, still, mixtures, x), list(mixtures.values()), g, allow_unused=True)
    for name, found in zip(mixtures, alone, strict=True):
        expected = slopes[0][list(inputs).index(name)]
        assert (expected is None) == (found is None), name
        assert expected is None or found is None or difference(found, expected) < TOLERANCE, name


FULL = ("darts", "auto-fernet", "fer")
"""Spaces that differ in their operations; the others differ in how λ acts, and in PartialEdge, which stands below."""


@pytest.mark.parametrize(("size", "channels", "stem"), [(8, 4, "cifar"), (9, 3, "cifar"), (33, 2, "imagenet")])
@pytest.mark.parametrize("space", FULL)
def test_equals_the_plain_form(space: str, size: int, channels: int, stem: str) -> None:
    """Normal and reduction cells, even and odd sides and channels, a first cell behind a reducing stem."""
    layers = 1 if stem == "imagenet" else 3
    net = supernet(SPACES[space], size=size, channels=channels, layers=layers, stem=stem)
    compare(net, SPACES[space], size)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "none"])
def test_each_operation_alone(name: str) -> None:
    space = SearchSpace(name="one", operations=("none", name), nodes=2)
    for size in (6, 7):
        compare(supernet(space, size=size, channels=3), space, size)


PARTIAL = SearchSpace(name="partial", operations=SPACES["auto-fernet"].operations, nodes=3, edge=PartialEdge)


@pytest.mark.parametrize(("size", "channels", "stem"), [(8, 8, "cifar"), (9, 10, "cifar"), (33, 8, "imagenet")])
def test_partial_channels(size: int, channels: int, stem: str) -> None:
    """All operations on a quarter of the channels, both strides, sides and channels that do not divide."""
    compare(
        supernet(PARTIAL, size=size, channels=channels, layers=3 if stem == "cifar" else 1, stem=stem), PARTIAL, size
    )


def test_partial_edge_by_hand() -> None:
    """One operation that copies: the first quarter comes with its weight, the rest with the weights' sum."""
    edge = PartialEdge(("none", "skip_connect"), 8, 1)
    x, weights = torch.randn(1, 8, 3, 3), torch.tensor([0.25, 0.5])
    out = edge(x, weights)
    source = [0, 2, 4, 6, 1, 3, 5, 7]
    for place, channel in enumerate(source):
        assert torch.allclose(out[:, place], (0.5 if channel < 2 else 0.75) * x[:, channel])
    halved = PartialEdge(("none", "max_pool_3x3"), 8, 2)(torch.arange(72.0).view(1, 8, 3, 3), weights)
    assert halved.shape == (1, 8, 2, 2)
    assert torch.equal(halved[0, 1], 0.75 * torch.tensor([[22.0, 23.0], [25.0, 26.0]]))  # channel 2: 18 to 26


@pytest.mark.parametrize("space", FULL)
def test_by_torch_s_operations_alone(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Numba, and with more threads than its kernels beat."""
    monkeypatch.setattr("fer_nas.space.fast_kernels.THREADS", 0)
    compare(supernet(SPACES[space], size=9, channels=3, layers=3), SPACES[space], 9)


@pytest.mark.parametrize("limit", [1, 2**30])
def test_edges_side_by_side_or_alone(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_nas.space.fast_forward.CHUNK_BYTES", limit)
    compare(supernet(SPACES["darts"], channels=10, layers=1), SPACES["darts"], 8)


def test_weights_are_arguments() -> None:
    """A step aside from the parameters, as a finite difference or a best response makes it, with its gradient."""
    space = SPACES["fer"]
    net, mixtures = supernet(space), random_mixtures(space)
    x = 255 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    aside = {name: w.detach() + scale * torch.randn_like(w) for name, w in net.named_parameters()}
    plain, fast = functional_call(net, aside, (x, mixtures)), fast_logits(net, aside, mixtures, x)
    assert difference(fast, plain) < TOLERANCE
    slopes = [torch.autograd.grad(out.square().sum(), scale, retain_graph=True)[0] for out in (plain, fast)]
    assert difference(slopes[1], slopes[0]) < TOLERANCE


@pytest.mark.parametrize("space", FULL)
def test_best_response_weights(space: str) -> None:
    """W(r) with its row scales: the fast form at W(r) against the best-response layers' own forward, and gradients by
    the general weights, W_hyper, V and r. A kernel sees only W(r), so r per example (B, n) needs the plain form."""
    net, mixtures = supernet(SPACES[space], channels=3, layers=2), random_mixtures(SPACES[space])
    learner = best_response(net, 5, rescale_std=0.5)
    x = 255 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    response = torch.randn(5, dtype=torch.float64, requires_grad=True)
    weights = dict(learner.named_parameters())
    plain = with_response(learner, weights, response, x, mixtures)
    fast = fast_logits(net, plain_weights(learner, weights, response), mixtures, x)
    assert difference(fast, plain) < TOLERANCE
    inputs = {**weights, **mixtures, "response": response}
    g = torch.randn_like(plain)
    slopes = [torch.autograd.grad(out, list(inputs.values()), g, allow_unused=True) for out in (plain, fast)]
    reached = 0
    for name, expected, found in zip(inputs, *slopes, strict=True):
        assert (expected is None) == (found is None), name
        if expected is not None and found is not None:
            largest = max(found.abs().max(), expected.abs().max())
            assert difference(found, expected) < TOLERANCE or largest < 1e-12, name
            reached += bool(largest >= 1e-12) and name.endswith(("_hyper", "_rescale", "response"))
    assert reached > 10


def test_without_weight_gradients_none_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACES["darts"]
    net, mixtures = supernet(space, channels=2, layers=1), random_mixtures(space)
    weights = {name: w.detach() for name, w in net.named_parameters()}
    asked: list[bool] = []
    real = fast_convs.depthwise_backward

    def spy(g: Tensor, x: Tensor, weight: Tensor, stride: int, with_weight: bool) -> tuple[Tensor, Tensor | None]:
        asked.append(with_weight)
        return real(g, x, weight, stride, with_weight)

    monkeypatch.setattr(fast_convs, "depthwise_backward", spy)
    fast_logits(net, weights, mixtures, torch.rand(2, 1, 8, 8, dtype=torch.float64)).sum().backward()
    assert asked and not any(asked)
    assert mixtures["normal"].grad is not None or mixtures["reduce"].grad is not None


@pytest.mark.parametrize("row", [*(SPACES[name] for name in FULL), PARTIAL], ids=lambda row: row.name)
def test_operations_left_out_are_those_of_weight_zero(row: SearchSpace) -> None:
    net = supernet(row, layers=3)
    x = 255 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    active = {name: (torch.rand(row.edges, len(row.operations)) < 0.5).tolist() for name in ("normal", "reduce")}
    mixtures = {name: part.detach() for name, part in random_mixtures(row).items()}
    masked = {
        name: (part * torch.tensor(active[name], dtype=part.dtype)).requires_grad_() for name, part in mixtures.items()
    }
    plain = functional_call(net, dict(net.named_parameters()), (x, masked))
    kept = {name: part.clone().requires_grad_() for name, part in mixtures.items()}
    fast = fast_logits(net, dict(net.named_parameters()), kept, x, active)
    assert difference(fast, plain) < TOLERANCE
    g = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, list(masked.values()), g)
    found = torch.autograd.grad(fast, list(kept.values()), g)
    for name, a, b in zip(kept, expected, found, strict=True):
        where = torch.tensor(active[name])
        assert difference(b[where], a[where]) < TOLERANCE
        assert not b[~where].any()


@pytest.mark.parametrize("method", ["darts-1st", "darts-2nd"])
def test_ten_steps_end_in_the_same_place(method: str) -> None:
    """λ by Adam and w by SGD, ten steps from one seed in both forms, float64: λ and w to rounding.

    1e-6 leaves room for what ten steps make of a last digit (a max-pool's ties, Adam's division by small gradients).
    """
    ends = []
    for form in ("plain", "fast"):
        space = SearchSpace(name="small", operations=SPACES["fer"].operations, nodes=2)
        net = supernet(space, layers=2, channels=2)
        task = CellSearch(net, space, form)
        arch = task.initial_hyper(torch.Generator().manual_seed(1)).double().requires_grad_()
        adam = torch.optim.Adam([arch], 1e-2, betas=(0.5, 0.999))
        sgd = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=3e-4)
        generator = torch.Generator().manual_seed(2)
        chosen = find_method(method).make()
        for _ in range(10):
            train, val = (
                (
                    255 * torch.rand(4, 1, 8, 8, generator=generator, dtype=torch.float64),
                    torch.randint(3, (4,), generator=generator),
                )
                for _ in range(2)
            )
            weights = task.weights()
            step = InnerStep(learning_rate=0.05, weight_decay=3e-4)
            arch.grad = chosen.hypergradient(task, weights, arch, train, val, step).total
            adam.step()
            sgd.zero_grad()
            task.inner_loss(weights, arch.detach(), train).backward()
            sgd.step()
        ends.append((arch.detach(), net.state_dict()))
    (arch_plain, plain), (arch_fast, fast) = ends
    # Adam's first steps have the size of its rate whatever the gradient's, so λ has moved by about 0.1.
    assert difference(arch_fast, arch_plain) < 1e-6
    assert plain.keys() == fast.keys()
    for name, w in plain.items():
        assert difference(fast[name], w) < 1e-6, name


def test_checkpoints_are_interchangeable_and_validation_keeps_nothing() -> None:
    """Both forms read the same parameters; without gradients no tensor of the forward pass stays alive."""
    space = SPACES["fer"]
    net = supernet(space, layers=1)
    plain, fast = CellSearch(net, space, "plain"), CellSearch(net, space, "auto")
    assert fast.fast and not plain.fast
    arch = fast.initial_hyper(torch.Generator().manual_seed(0)).double()
    x = 255 * torch.rand(2, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert difference(fast.logits(fast.weights(), arch, x), plain.logits(plain.weights(), arch, x)) < TOLERANCE


def test_second_derivatives_are_refused() -> None:
    space = SPACES["fer"]
    net, mixtures = supernet(space, layers=1, channels=2), random_mixtures(space)
    loss = fast_logits(net, dict(net.named_parameters()), mixtures, torch.rand(2, 1, 8, 8, dtype=torch.float64)).sum()
    slope = torch.autograd.grad(loss, list(mixtures.values()), create_graph=True, allow_unused=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(s.square().sum() for s in slope if s is not None).backward()  # type: ignore[union-attr]


def test_a_space_without_a_fast_form() -> None:
    class OtherEdge(torch.nn.Module):
        def __init__(self, operations: tuple[str, ...], channels: int, stride: int) -> None:
            super().__init__()
            self.one = FactorizedReduce(channels, channels, False) if stride == 2 else torch.nn.Identity()

        def forward(self, x: Tensor, weights: Tensor) -> Tensor:
            return weights.sum() * self.one(x)

    space = SearchSpace(name="other", operations=("none", "skip_connect"), edge=OtherEdge)
    net = supernet(space)
    assert not CellSearch(net, space, "auto").fast
    with pytest.raises(InputError, match="--form fast: the space other has no fast form"):
        CellSearch(net, space, "fast")


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 7), (3, 3)])
def test_depthwise_gradients(kernel: int, stride: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, height, width, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    out = fast_convs.depthwise(x, weight, stride)
    g = torch.randn_like(out)
    expected = torch.autograd.grad(out, [x, weight], g)
    found = fast_convs.depthwise_backward(g, x.detach(), weight.detach(), stride, True)
    for a, b in zip(expected, found, strict=True):
        assert b is not None and difference(b, a) < 1e-12
