"""Power iteration against the whole Hessian in float64."""

from __future__ import annotations

import pytest
import torch

from fer_nas.bilevel.hessian import dominant_eigenvalue
from fer_nas.space.edge import PartialEdge
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SearchSpace
from fer_nas.tasks.cells import CellSearch


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("values", [(3.0, 1.0, -2.0), (1.0, -5.0, 0.5), (0.0, 0.0, 0.0)])
def test_of_a_quadratic(values: tuple[float, ...]) -> None:
    """The largest modulus with its sign; none of what has no curvature."""
    basis, _ = torch.linalg.qr(torch.randn(3, 3, generator=draw(), dtype=torch.float64))
    matrix = basis @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ basis.T
    point = torch.randn(3, generator=draw(1), dtype=torch.float64)
    found = dominant_eigenvalue(lambda x: x @ matrix @ x / 2, point, iterations=60, generator=draw(2))
    assert found == pytest.approx(max(values, key=abs), rel=1e-9, abs=1e-12)


def test_of_a_function_without_curvature() -> None:
    assert dominant_eigenvalue(lambda x: x.sum(), torch.ones(2), iterations=3, generator=draw()) == 0.0


@pytest.mark.parametrize("partial", [False, True])
def test_of_a_supernet_in_lambda(partial: bool) -> None:
    """λ away from its start, where all logits are alike, against torch's own Hessian of all of λ."""
    torch.manual_seed(0)
    operations = ("none", "max_pool_3x3", "skip_connect", "conv_3x3")
    if partial:
        space = SearchSpace(name="x", operations=operations, nodes=1, edge=PartialEdge, weighs_edges=True)
    else:
        space = SearchSpace(name="x", operations=operations, nodes=1)
    net = Supernet(space, classes=3, c_in=1, image_size=8, channels=4, layers=2, stem="cifar").double()
    task = CellSearch(net, space)
    hyper = torch.randn(task.layout.size, generator=draw(3), dtype=torch.float64)
    batch = 255 * torch.rand(6, 1, 8, 8, generator=draw(4)), torch.randint(0, 3, (6,), generator=draw(5))
    weights = {name: w.detach() for name, w in task.weights().items()}

    def loss(point: torch.Tensor) -> torch.Tensor:
        return task.outer_loss(weights, point, batch)

    whole = torch.autograd.functional.hessian(loss, hyper)
    values = torch.linalg.eigvalsh(whole)
    wanted = values[values.abs().argmax()].item()
    assert dominant_eigenvalue(loss, hyper, iterations=300, generator=draw()) == pytest.approx(wanted, rel=1e-6)
