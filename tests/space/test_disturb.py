"""Dropout and drop-path in the supernet: what they zero, what they keep, and that both forms share the dropout."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from fer_nas.space.disturb import Disturbance
from fer_nas.space.edge import FullEdge, PartialEdge
from fer_nas.space.fast import fast_logits
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES

OPERATIONS = ("none", "skip_connect", "conv_1x1")


def disturbance(**rates: float) -> Disturbance:
    return Disturbance(generator=torch.Generator().manual_seed(3), **rates)


@pytest.mark.parametrize(("chosen", "spared"), [("skip_connect", True), ("conv_1x1", False)])
def test_drop_path_spares_an_identity_alone(chosen: str, spared: bool) -> None:
    """Whole examples are zero in about `rate` of the cases, the others are scaled up: the mean stays."""
    edge, x = FullEdge(OPERATIONS, 2, 1), torch.randn(400, 2, 3, 3)
    weights = torch.tensor([float(name == chosen) for name in OPERATIONS])
    plain, found = edge(x, weights), edge(x, weights, None, disturbance(drop_path=0.3))
    if spared:
        assert torch.equal(found, plain)
        return
    factors = (found / plain).flatten(1)
    assert torch.isclose(factors, factors[:, :1], rtol=1e-4, atol=1e-6).all()
    zero = factors[:, 0] == 0
    assert 0.2 < zero.float().mean() < 0.4  # 0.3, standard deviation 0.023
    assert torch.allclose(factors[~zero, 0], torch.tensor(1 / 0.7))


def test_what_passes_by_a_partial_edge_is_not_dropped() -> None:
    edge, x = PartialEdge(("none", "conv_1x1"), 8, 1), torch.randn(50, 8, 3, 3)
    weights = torch.tensor([0.5, 0.5])
    plain, found = edge(x, weights), edge(x, weights, None, disturbance(drop_path=0.5))
    changed = [bool((plain[:, c] - found[:, c]).abs().max() > 0) for c in range(8)]
    assert changed == [place in (0, 4) for place in range(8)]


@pytest.fixture(scope="module")
def net() -> Supernet:
    torch.manual_seed(0)
    return Supernet(SPACES["fer"], classes=3, c_in=1, image_size=8, channels=4, layers=2, stem="cifar").double()


def test_both_forms_drop_the_same_features(net: Supernet) -> None:
    x, weights = 255 * torch.rand(4, 1, 8, 8, dtype=torch.float64), dict(net.named_parameters())
    mixtures = {kind: torch.full((14, 8), 1 / 8, dtype=torch.float64) for kind in ("normal", "reduce")}
    plain = functional_call(net, weights, (x, mixtures, None, disturbance(dropout=0.5)))
    fast = fast_logits(net, weights, mixtures, x, None, disturbance(dropout=0.5))
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-12)
    assert (plain - functional_call(net, weights, (x, mixtures))).abs().max() > 1e-3
    still = functional_call(net, weights, (x, mixtures, None, disturbance()))
    assert torch.equal(still, functional_call(net, weights, (x, mixtures)))


def test_every_edge_draws_its_own_paths(net: Supernet) -> None:
    """One factor for each example and edge; examples and edges fall alone."""
    x = 255 * torch.rand(6, 1, 8, 8, dtype=torch.float64)
    kept: list[torch.Tensor] = []

    class Watched(Disturbance):
        def paths(self, x_BCHW: torch.Tensor) -> torch.Tensor | None:
            kept.append(super().paths(x_BCHW).flatten())  # type: ignore[union-attr]
            return kept[-1].view(-1, 1, 1, 1)

    mixtures = {kind: torch.full((14, 8), 1 / 8, dtype=torch.float64) for kind in ("normal", "reduce")}
    net(x, mixtures, None, Watched(generator=torch.Generator().manual_seed(0), drop_path=0.5))
    assert len(kept) == 14 * len(net.cells) and len({tuple(part.tolist()) for part in kept}) > 14
    assert all(set(part.tolist()) <= {0.0, 2.0} for part in kept)
