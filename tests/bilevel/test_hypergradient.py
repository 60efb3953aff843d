"""Hypergradients against closed forms, exact autograd and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.first_order import FirstOrder
from fer_nas.bilevel.methods import METHODS, find_method
from fer_nas.bilevel.protocol import InnerStep, Params, Task, gradients
from fer_nas.bilevel.unrolled import SecondOrder
from fer_nas.errors import InputError
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES
from fer_nas.tasks.cells import CellSearch


class Scalar:
    """L_val = a·w − 2a + 1, L_train = w² − 2aw + a² (Liu et al. 2019, figure 2); λ is a, shape (1,)."""

    def inner_loss(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        w, a = weights["w"], hyper[0]
        return w * w - 2 * a * w + a * a

    def outer_loss(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        w, a = weights["w"], hyper[0]
        return a * w - 2 * a + 1


@pytest.mark.parametrize(("rate", "total"), [(0.0, 0.0), (0.5, 2.0)])
def test_second_order_on_the_scalar_problem(rate: float, total: float) -> None:
    """Case C24: at a = w = 2 the gradient is w' − 2 + 2ξa: 0 without a step ahead, +2 with ξ = 0.5."""
    weights = {"w": torch.tensor(2.0, dtype=torch.float64)}
    found = SecondOrder().hypergradient(
        Scalar(), weights, torch.tensor([2.0], dtype=torch.float64), None, None, InnerStep(learning_rate=rate)
    )
    assert found.total.item() == pytest.approx(total, abs=1e-9)


def test_second_order_descends_to_the_optimum() -> None:
    """With ξ = 0.5 descent reaches a = w = 1; first order does not (Liu et al. 2019, figure 2)."""
    ends = {}
    for name, method in (("2nd", SecondOrder()), ("1st", FirstOrder())):
        w, a = torch.tensor(-2.0, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
        for _ in range(300):
            found = method.hypergradient(Scalar(), {"w": w}, a, None, None, InnerStep(learning_rate=0.5))
            a = a - 0.1 * found.total
            w = w - 0.5 * (2 * w - 2 * a[0])
        ends[name] = (a.item(), w.item())
    assert ends["2nd"] == pytest.approx((1.0, 1.0), abs=1e-3)
    assert abs(ends["1st"][0] - 1.0) > 0.5


def small_search(seed: int) -> tuple[CellSearch, Params, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A 2-cell supernet in float64 with λ away from zero, and two batches."""
    torch.manual_seed(seed)
    space = SPACES["darts"]
    supernet = Supernet(space, classes=3, c_in=1, image_size=16, channels=4, layers=2).double()
    task = CellSearch(supernet, space)
    hyper = 0.5 * torch.randn(task.layout.size, dtype=torch.float64)
    batches = [(255 * torch.rand(8, 1, 16, 16, dtype=torch.float64), torch.randint(0, 3, (8,))) for _ in range(2)]
    return task, {n: w.detach() for n, w in task.weights().items()}, hyper, batches[0], batches[1]


def exact(task: Task, weights: Params, hyper: Tensor, train: object, val: object, step: InnerStep) -> Tensor:
    """The whole derivative of L_val(w'(λ), λ) by reverse-mode autograd through the unrolled step."""
    point = hyper.clone().requires_grad_()
    here = {name: w.clone().requires_grad_() for name, w in weights.items()}
    slope, _ = gradients(task.inner_loss(here, point, train), here, create_graph=True)
    loss = task.outer_loss(step.ahead(here, slope), point, val)
    return torch.autograd.grad(loss, point)[0]


def objective(task: Task, weights: Params, hyper: Tensor, train: object, val: object, step: InnerStep) -> float:
    here = {name: w.clone().requires_grad_() for name, w in weights.items()}
    slope, _ = gradients(task.inner_loss(here, hyper, train), here)
    with torch.no_grad():
        return task.outer_loss(step.ahead(here, slope), hyper, val).item()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_second_order_on_a_supernet(momentum: float) -> None:
    """The radius is so small that no ReLU and no maximum changes its branch between the two sides.

    At the published radius of 0.01 they do: on this untrained network the response then has a cosine of about 0.3.
    """
    task, weights, hyper, train, val = small_search(0)
    velocity = {name: 0.01 * torch.randn_like(w) for name, w in weights.items()}
    step = InnerStep(learning_rate=0.1, momentum=momentum, weight_decay=3e-4, velocity=velocity)
    found = SecondOrder(radius=1e-6).hypergradient(task, weights, hyper, train, val, step)
    truth = exact(task, weights, hyper, train, val, step)
    cosine = torch.nn.functional.cosine_similarity(found.total, truth, dim=0).item()
    response = torch.nn.functional.cosine_similarity(found.response, truth - found.direct, dim=0).item()
    assert cosine >= 0.999, f"cosine of the total {cosine}"
    assert response >= 0.999, f"cosine of the response alone {response}"
    assert found.response.norm() > 1e-3 * found.direct.norm(), "the response takes no part in this test"

    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = torch.randn(len(hyper), generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        sides = [objective(task, weights, hyper + s * 1e-7 * direction, train, val, step) for s in (1, -1)]
        numeric = (sides[0] - sides[1]) / 2e-7
        assert (found.total @ direction).item() == pytest.approx(numeric, rel=1e-3, abs=1e-6)


def test_first_order_is_the_direct_term_alone() -> None:
    task, weights, hyper, train, val = small_search(1)
    found = FirstOrder().hypergradient(task, weights, hyper, train, val, InnerStep(learning_rate=0.1))
    still = SecondOrder().hypergradient(task, weights, hyper, train, val, InnerStep(learning_rate=0.0))
    assert torch.allclose(found.direct, still.direct, rtol=1e-9, atol=1e-12)
    assert not found.response.any()
    assert found.direct.norm() > 0


SHORT = {"neumann": {"terms": 1}, "conjugate-gradient": {"iterations": 1}}


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if not row.make().needs_response])
def test_a_method_leaves_weights_and_hyper_as_they_were(name: str) -> None:
    task, weights, hyper, train, val = small_search(2)
    method, hyper_before = METHODS[name].make(**SHORT.get(name, {})), hyper.clone()
    weights, step = method.fit(task, weights, hyper, [train], InnerStep(learning_rate=0.1))
    before = {n: w.clone() for n, w in weights.items()}
    found = method.hypergradient(task, weights, hyper, train, val, step)
    assert torch.equal(hyper_before, hyper)
    assert all(torch.equal(before[n], w) for n, w in weights.items())
    assert found.total.shape == hyper.shape
    assert torch.isfinite(found.total).all()
    assert found.total.any()


def test_unknown_method() -> None:
    with pytest.raises(InputError, match="darts-1st"):
        find_method("darts-3rd")
