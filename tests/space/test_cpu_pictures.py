"""Numba's kernels on pictures: against torch's operations, even and odd sides."""

from __future__ import annotations

import pytest
import torch

from fer_nas.space import cpu_pictures, fast_convs, fast_kernels, fast_layout

SIZES = [(2, 4, 6, 3), (1, 5, 8, 1), (3, 7, 7, 4), (2, 1, 1, 2)]

sizes = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(autouse=True)
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are compared with is torch's."""
    monkeypatch.setattr(fast_kernels, "THREADS", 0)
    torch.manual_seed(0)


@sizes
def test_parities(size: tuple[int, int, int, int]) -> None:
    x = torch.randn(size)
    found = cpu_pictures.to_parities(x)
    assert torch.equal(found, fast_layout.to_parities(x))
    to = torch.zeros(size)
    cpu_pictures.add_from_parities(to, found)
    assert torch.equal(to, x)


@sizes
def test_some_columns_of_parities_are_added(size: tuple[int, int, int, int]) -> None:
    n, h, w, c = size
    parts, row, to = torch.randn(4 * n * (-(-h // 2)) * (-(-w // 2)), 3 * c), torch.randn(c), torch.randn(size)
    picture = parts[:, c : 2 * c].reshape(4 * n, -(-h // 2), -(-w // 2), c)
    expected = to + row * fast_layout.from_parities(picture, h, w)
    cpu_pictures.add_from_parities(to, parts, c, row)
    torch.testing.assert_close(to, expected)


@sizes
def test_columns_of_zeros(size: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = fast_layout.nchw(torch.randn(size))
    expected = fast_convs._between_columns(x)
    monkeypatch.setattr(fast_kernels, "THREADS", 2)
    for found, other in zip(fast_convs._between_columns(x), expected, strict=True):
        assert torch.equal(found, other) and found.is_contiguous(memory_format=torch.channels_last)
