"""Kernels that do not run, or are off, are not taken, and it is said why."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

gpu_check = pytest.importorskip("fer_nas.space.gpu_check", reason="Triton is not there for this system")


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    gpu_check.agree.cache_clear()
    yield
    gpu_check.agree.cache_clear()


@pytest.mark.parametrize(
    ("differences", "told"),
    [([1e-7, 2e-4], "here they are off by 0.0002"), ([float("inf")], "off by inf"), (RuntimeError("no\nmore"), "no$")],
)
def test_kernels_that_fail(differences: object, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(device: torch.device) -> Iterator[float]:
        if isinstance(differences, RuntimeError):
            raise differences
        yield from differences  # type: ignore[misc]

    monkeypatch.setattr(gpu_check, "_differences", found)
    with pytest.warns(UserWarning, match=f"runs without Triton's kernels, which is slower: .*{told}"):
        assert not gpu_check.agree(torch.device("cpu"))
    assert not gpu_check.agree(torch.device("cpu"))  # told once


def test_kernels_that_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "_differences", lambda device: iter([1e-7]))
    with torch.no_grad():
        assert gpu_check.agree(torch.device("cpu"))


def test_what_is_no_number_is_infinitely_off() -> None:
    one = torch.ones(2)
    assert gpu_check._off(torch.tensor([1.0, float("nan")]), one) == float("inf")
    assert gpu_check._off(one, one) == 0
