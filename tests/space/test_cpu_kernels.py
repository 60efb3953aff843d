"""Numba's kernels of the fast form: against the formulas in float64, in place where they say so, and done without."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from fer_nas.space import cpu_kernels, fast_kernels
from fer_nas.space.fast_norms import EPS, Norm, Sums

SIZES = [(1, 1), (7, 3), (64, 16), (1000, 24), (129, 600), (4096, 16)]
"""Single numbers, odd sides, whole stretches and a rest, columns beyond a stretch."""
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}

both = pytest.mark.parametrize("dtype", list(TOLERANCE))
sizes = pytest.mark.parametrize(("rows", "columns"), SIZES)


def drawn(count: int, rows: int, columns: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(rows + columns)
    return [torch.randn(rows, columns, dtype=dtype) for _ in range(count)]


def close(found: Tensor, expected: Tensor, size: Tensor, dtype: torch.dtype) -> bool:
    """Within the precision of the numbers whose size is `size`."""
    return bool(((found.double() - expected).abs() <= TOLERANCE[dtype] * size.double()).all())


def measured(ys: list[Tensor], pixels: int, coefficient: Tensor | None = None, channels: int = 1) -> Norm:
    sums = Sums(ys[0], pixels, sum(y.shape[1] for y in ys))
    for y in ys:
        sums.take(y)
    return Norm.measured(sums, pixels, coefficient, channels)


@both
@sizes
def test_sums(rows: int, columns: int, dtype: torch.dtype) -> None:
    x, y = drawn(2, rows, columns, dtype)
    found, product = cpu_kernels.sums(x, y), x.double() * y.double()
    assert found.dtype == torch.float64
    assert close(found[0], x.double().sum(0), x.abs().sum(0), dtype)
    assert close(found[1], product.sum(0), product.abs().sum(0), dtype)
    assert torch.equal(found, cpu_kernels.sums(x, y))  # the same numbers every time


@both
@sizes
def test_scaled(rows: int, columns: int, dtype: torch.dtype) -> None:
    (y,), (row, bias) = drawn(1, rows, columns, dtype), torch.randn(2, columns, dtype=dtype)
    expected, size = y.double() * row + bias, y.abs() * row.abs() + bias.abs()
    assert close(cpu_kernels.scaled(y, row, bias), expected, size, dtype)
    out = torch.empty_like(y)
    assert cpu_kernels.scaled(y, row, bias, relu=True, out=out) is out
    assert close(out, expected.clamp_min(0), size, dtype)


@both
@pytest.mark.parametrize("weighted", [False, True])
def test_norm(weighted: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two matrices side by side, against torch's operations in float64."""
    ys, coefficient = drawn(2, 60, 6, dtype), torch.rand(4, dtype=dtype) if weighted else None
    found = measured(ys, 60, coefficient, 3)
    monkeypatch.setattr(fast_kernels, "cpu_kernels", None)
    wide = [y.double() for y in ys]
    expected = measured(wide, 60, None if coefficient is None else coefficient.double(), 3)
    for name in ("mean", "scale", "row", "bias"):
        value = getattr(expected, name)
        assert close(getattr(found, name), value, value.abs() + 1, dtype), name


@both
@sizes
@pytest.mark.parametrize("behind_relu", [False, True])
def test_backward(
    rows: int, columns: int, behind_relu: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a norm's last columns, against torch's operations in float64; in y's memory, and g's where ReLU is undone."""
    (y, g, z), vectors = drawn(3, rows, columns, dtype), torch.rand(4, 2 + columns, dtype=dtype)
    relu, before = torch.relu(z) if behind_relu else None, g.clone()
    wide, as_wide = [x.double().clone() for x in (g, y)], Norm(*vectors.double(), rows)
    slope, found = Norm(*vectors, rows).backward(g, y, 2, relu)
    assert found is y
    assert torch.equal(g, torch.where(z > 0, before, 0) if behind_relu else before)
    monkeypatch.setattr(fast_kernels, "cpu_kernels", None)
    expected = as_wide.backward(*wide, 2, None if relu is None else relu.double())
    size = rows * (1 + y.abs().max() + before.abs().max()).square()
    for mine, other in zip((slope, found), expected, strict=True):
        assert close(mine, other, size.expand_as(other), dtype)
    assert not behind_relu or torch.equal(as_wide.slope(g.double(), wide[1], 2), expected[0])


def test_a_column_without_spread() -> None:
    """Its variance is zero, whatever rounding says: the scale is that of eps alone."""
    norm = measured([torch.full((50, 2), 1000.1)], 50)
    assert torch.allclose(norm.scale, torch.tensor(EPS).rsqrt(), rtol=1e-3)


def test_when_they_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads, served in ((1, True), (2, True), (3, False)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert fast_kernels.by_numba(torch.ones(1)) is served


def test_without_numba() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch\n"
        "from fer_nas.space import fast_kernels, fast_norms\n"
        "print(fast_kernels.by_numba(torch.ones(1)), len(fast_norms.standardize(torch.rand(4, 2))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "2"]


def test_nowhere_to_keep_what_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cpu_kernels.numba.njit

    def njit(**options: object) -> object:
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(cpu_kernels.numba, "njit", njit)
    assert cpu_kernels.compiled(lambda x: x + 1)(2) == 3


@both
@pytest.mark.parametrize("rows", [1, 9, 256])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_add_scaled(count: int, rows: int, dtype: torch.dtype) -> None:
    """Of matrices as wide as the sum, and of the middle of a wide one."""
    for wide in (False, True):
        to, *ys = drawn(1 + count, rows, 12 if wide else 4, dtype)
        to, row, first = to[:, :4].contiguous(), torch.randn(count, 4, dtype=dtype), 4 if wide else 0
        parts = [y[:, first : first + 4].double() for y in ys]
        expected = to.double() + sum(y * r for y, r in zip(parts, row, strict=True))
        size = to.abs() + sum(y.abs() * r.abs() for y, r in zip(parts, row, strict=True))
        cpu_kernels.add_scaled(to, [(y, first, r) for y, r in zip(ys, row, strict=True)])
        assert close(to, expected, size, dtype)
