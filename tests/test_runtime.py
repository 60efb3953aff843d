"""What every long command needs."""

from __future__ import annotations

import gc

import pytest
import torch

from fer_nas import runtime


def test_many_steps_are_exact_and_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    products, draw = torch.backends.mkldnn.matmul, torch.Generator().manual_seed(0)  # type: ignore[attr-defined]
    before = products.fp32_precision, gc.get_freeze_count()
    a, b = torch.randn(4096, 32, generator=draw), torch.randn(32, 32, generator=draw)
    true = a.double() @ b.double()
    with pytest.raises(KeyError), runtime.many_steps():
        assert gc.get_freeze_count() > before[1] + 1000
        found = (a @ b).double()
        assert (found - true).norm() < 1e-6 * true.norm()
        raise KeyError
    assert (products.fp32_precision, gc.get_freeze_count()) == before
    monkeypatch.setattr(runtime, "onednn_products", lambda: False)
    with runtime.many_steps():
        assert products.fp32_precision == before[0]


def test_products_that_a_user_has_set_stay() -> None:
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        with runtime.many_steps():
            assert products.fp32_precision == "ieee"
    finally:
        products.fp32_precision = before


@pytest.mark.parametrize(("gain", "taken"), [(0.0, True), (1e9, False)])
def test_products_that_are_not_faster_are_not_taken(gain: float, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "GAIN", gain)
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = torch.get_num_threads(), products.fp32_precision
    assert runtime.onednn_products.__wrapped__() is taken
    assert (torch.get_num_threads(), products.fp32_precision) == before


def test_inexact_products_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that multiplies tiles of bfloat16."""
    real = torch.Tensor.__matmul__

    def rough(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return real(a.bfloat16(), b.bfloat16()).to(a.dtype) if a.dtype == torch.float32 else real(a, b)

    monkeypatch.setattr(runtime, "GAIN", 0.0)
    monkeypatch.setattr(torch.Tensor, "__matmul__", rough)
    assert not runtime.onednn_products.__wrapped__()
