"""Conjugate gradients and the Neumann series against torch.linalg.solve."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.linear_solve import conjugate_gradient, neumann


def system(size: int, condition: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A, b, x of A x = b: eigenvalues of A from 1/condition to 1."""
    generator = torch.Generator().manual_seed(size)
    axes, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    values = torch.logspace(0, 1, size, base=1 / condition, dtype=torch.float64)
    matrix = axes @ torch.diag(values) @ axes.T
    b = torch.randn(size, generator=generator, dtype=torch.float64)
    return matrix.to(dtype), b.to(dtype), torch.linalg.solve(matrix, b)


def error(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize(
    ("size", "condition", "dtype", "bound"),
    [
        (1, 1.0, torch.float64, 1e-14),
        (20, 10.0, torch.float64, 1e-11),
        (20, 1e4, torch.float64, 1e-8),
        (200, 100.0, torch.float64, 1e-11),
        (20, 10.0, torch.float32, 1e-4),
    ],
)
def test_conjugate_gradient(size: int, condition: float, dtype: torch.dtype, bound: float) -> None:
    matrix, b, truth = system(size, condition, dtype)
    found = conjugate_gradient(lambda v: matrix @ v, b, iterations=2 * size)
    assert found.dtype == dtype
    assert error(found, truth) < bound


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1.0, 1e8, 1e150])
def test_conjugate_gradient_stops_by_the_relative_residual(scale: float) -> None:
    """The answer is as good for a tiny b as for a large one; an absolute tolerance would return 0 for the tiny one."""
    matrix, b, truth = system(20, 10.0)
    found = conjugate_gradient(lambda v: matrix @ v, scale * b, iterations=40)
    assert error(found / scale, truth) < 1e-11


def test_conjugate_gradient_uses_no_more_products_than_it_needs() -> None:
    matrix, b, truth = system(20, 10.0)
    calls: list[Tensor] = []

    def matvec(v: Tensor) -> Tensor:
        calls.append(v)
        return matrix @ v

    loose = conjugate_gradient(matvec, b, tolerance=1e-3)
    assert 0 < len(calls) < 20
    assert (b - matrix @ loose).norm() <= 1e-3 * b.norm()
    assert error(loose, truth) > 1e-9
    calls.clear()
    conjugate_gradient(matvec, b, iterations=3)
    assert len(calls) == 3
    calls.clear()
    assert not conjugate_gradient(matvec, torch.zeros_like(b)).any()
    assert not calls


def test_conjugate_gradient_where_the_matrix_is_not_positive_definite() -> None:
    """It ends with what it has, at the first direction with b itself: an ascent direction is never returned."""
    b = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.equal(conjugate_gradient(lambda v: -v, b), b)
    matrix = torch.diag(torch.tensor([3.0, 1.0, -0.1], dtype=torch.float64))
    found = conjugate_gradient(lambda v: matrix @ v, b)
    assert found.isfinite().all()
    assert found @ b > 0


@pytest.mark.parametrize("terms", [0, 1, 5, 50])
def test_neumann_is_its_series(terms: int) -> None:
    matrix, b, _ = system(20, 10.0)
    step = torch.eye(20, dtype=torch.float64) - 1.5 * matrix
    series = 1.5 * sum(torch.linalg.matrix_power(step, i) for i in range(terms + 1)) @ b
    assert error(neumann(lambda v: matrix @ v, b, terms=terms, scale=1.5), series) < 1e-13


def test_neumann_converges_to_the_solution() -> None:
    matrix, b, truth = system(20, 10.0)
    errors = [error(neumann(lambda v: matrix @ v, b, terms=terms, scale=1.0), truth) for terms in (10, 50, 300)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]
    assert errors[2] < 1e-11
