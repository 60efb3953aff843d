"""--auxiliary-skip: a skip connection on every edge beside those that λ weighs (Chu et al. 2021)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fer_nas.space.edge import FullEdge, PartialEdge
from fer_nas.space.fast import fast_logits
from fer_nas.space.operations import AUXILIARY, FactorizedReduce
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES

BETA = 0.7


def test_an_edge_by_hand() -> None:
    """β·x is added to the mixture, and behind stride 2 β times a factorized reduction with weights of its own."""
    torch.manual_seed(0)
    operations = ("none", "max_pool_3x3", "skip_connect")
    weights = torch.tensor([0.2, 0.3, 0.5])
    x = torch.randn(2, 4, 6, 6)
    for stride in (1, 2):
        edge = FullEdge((*operations, AUXILIARY), 4, stride)
        out = edge(x, torch.cat([weights, torch.tensor([BETA])]))
        pooled, skipped, auxiliary = (edge.operations[name](x) for name in ("max_pool_3x3", "skip_connect", AUXILIARY))
        torch.testing.assert_close(out, 0.3 * pooled + 0.5 * skipped + BETA * auxiliary)
        assert isinstance(edge.operations[AUXILIARY], FactorizedReduce if stride == 2 else torch.nn.Identity)
        if stride == 1:
            torch.testing.assert_close(auxiliary, x)
        else:
            assert not torch.equal(auxiliary, skipped), "weights of its own"


def test_channels_that_pass_by_are_skipped_too() -> None:
    edge = PartialEdge(("none", "skip_connect", AUXILIARY), 8, 1)
    x = torch.randn(1, 8, 3, 3)
    out = edge(x, torch.tensor([0.25, 0.5, BETA]))
    source = [0, 2, 4, 6, 1, 3, 5, 7]
    for place, channel in enumerate(source):
        torch.testing.assert_close(out[:, place], (0.5 + BETA if channel < 2 else 0.75 + BETA) * x[:, channel])


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("name", "size", "channels"), [("fer", 9, 3), ("auto-fernet", 8, 4), ("pc-darts", 8, 8)])
def test_both_forms_are_one_function(name: str, size: int, channels: int, sampled: bool) -> None:
    """Outputs and gradients by weights and λ's part of the mixtures in float64; where edges run one operation too."""
    torch.manual_seed(0)
    space = replace(SPACES[name], auxiliary=True)
    net = Supernet(space, classes=3, c_in=1, image_size=size, channels=channels, layers=3, stem="cifar").double()
    shape = (space.edges, len(space.operations))
    own = {kind: torch.softmax(torch.randn(shape).double(), -1).requires_grad_() for kind in ("normal", "reduce")}
    mixtures = {kind: torch.cat([part, part.new_full((shape[0], 1), BETA)], 1) for kind, part in own.items()}
    active = None
    if sampled:
        runs = torch.nn.functional.one_hot(torch.randint(shape[1], shape[:1]), shape[1] + 1).bool()
        runs[:, -1] = True
        active = {kind: runs.tolist() for kind in own}
    images = 255 * torch.rand(2, 1, size, size, dtype=torch.float64)
    weights = dict(net.named_parameters())
    inputs = {**weights, **own}
    outputs = [
        functional_call(net, weights, (images, mixtures, active)),
        fast_logits(net, weights, mixtures, images, active),
    ]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-11)
    g = torch.randn_like(outputs[0])
    plain, fast = (torch.autograd.grad(out, list(inputs.values()), g, allow_unused=True) for out in outputs)

    def value(slope: Tensor | None, like: Tensor) -> Tensor:
        return torch.zeros_like(like) if slope is None else slope

    for key, a, b in zip(inputs, plain, fast, strict=True):
        torch.testing.assert_close(value(b, inputs[key]), value(a, inputs[key]), rtol=1e-7, atol=1e-9, msg=key)
    reductions = [key for key in weights if f".{AUXILIARY}." in key]
    assert len(reductions) == 2 * 2 * 8, "two reduction cells, eight edges of stride 2 each, two convolutions"
    slopes = dict(zip(inputs, fast, strict=True))
    assert all(slopes[key] is not None and slopes[key].abs().max() > 0 for key in reductions)
