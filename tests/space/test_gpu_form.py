"""What the fast form does differently on a GPU. Without one: Triton's interpreter runs its kernels on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fer_nas.space import fast_convs, fast_kernels


@pytest.mark.slow
def test_kernels_agree_with_torch() -> None:
    pytest.importorskip("triton", reason="Triton is not there for this system")
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "interpreted.py"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:4] == [f"{part} agree" for part in ("depthwise", "points", "nodes", "supernets")]


SHARED_KIB = {75: 64, 86: 99, 90: 227}
"""Most shared memory of a program, by compute capability (CUDA C++ Programming Guide)."""


@pytest.mark.slow
def test_kernels_compile_for_gpus_and_fit(tmp_path: Path) -> None:
    """Of three generations: 2080 Ti, 30xx and 40xx, H100."""
    pytest.importorskip("triton", reason="Triton is not there for this system")
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "compiled.py", *map(str, SHARED_KIB)],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    kernels = fast_kernels
    own = {
        name
        for module in (kernels.gpu_kernels, kernels.gpu_depthwise, kernels.gpu_points, kernels.gpu_terms)
        for name, kernel in vars(module).items()
        if type(kernel).__name__ == "JITFunction"
    }
    inlined = {"_add_parts", "_column", "_term"}  # parts of kernels
    assert {row["kernel"] for row in rows} == own - inlined
    for capability, kib in SHARED_KIB.items():
        needs = {row["shared"]: row for row in rows if row["capability"] == capability}
        assert max(needs) <= kib * 1024, needs[max(needs)]


def test_edges_side_by_side_in_one_product() -> None:
    torch.manual_seed(0)
    d, points = torch.randn(50, 12).double(), list(torch.randn(3, 4, 4).double())
    expected = torch.cat([part @ point.t() for part, point in zip(d.split(4, 1), points, strict=True)], 1)
    found = fast_convs.by_edge(d, 3, torch.stack([point.t() for point in points]))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(fast_convs.products(d, points), expected)


def test_gradients_of_edges_from_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    d, g = torch.randn(2, 50, 12).double()
    expected = [a.t() @ b for a, b in zip(g.split(4, 1), d.split(4, 1), strict=True)]
    on_gpu = fast_kernels.on_gpu
    for there in (on_gpu, lambda x: True):
        monkeypatch.setattr(fast_kernels, "on_gpu", there)
        torch.testing.assert_close(fast_convs.point_gradients(g, d, 3), expected)


@pytest.mark.parametrize("side", [4, 8, 12])
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_gradient_of_a_wide_kernel_taken_apart(side: int, stride: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, side, side, 3).double(), torch.randn(3, 1, 5, 5).double()
    g = torch.randn(2, side // stride, side // stride, 3).double()
    _, found = fast_convs.depthwise_backward(g, x, weight, stride, True)
    leaf = weight.clone().requires_grad_()
    (expected,) = torch.autograd.grad(fast_convs.depthwise(x, leaf, stride), leaf, g)
    torch.testing.assert_close(found, expected)


def test_the_faster_way_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed at a key's first call alone, and not while a graph is recorded."""
    times = {"slow": 2.0, "quick": 1.0}
    timed: list[str] = []

    def milliseconds(way: object) -> float:
        name = way()  # type: ignore[operator]
        if name == "fails":
            raise RuntimeError("out of resource: shared memory")
        timed.append(name)
        return times[name]

    recording = False
    monkeypatch.setattr(fast_convs, "_milliseconds", milliseconds)
    monkeypatch.setattr(fast_convs, "_FASTEST", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)
    ways = (lambda: "fails"), (lambda: "slow"), (lambda: "quick")
    assert [fast_convs.fastest("a", *ways), fast_convs.fastest("a", *ways)] == ["quick", "quick"]
    assert timed == ["slow", "quick"]
    recording = True
    assert fast_convs.fastest("b", *ways) == "fails" and fast_convs.fastest("a", *ways) == "quick"
    assert timed == ["slow", "quick"]


def shares(height: int, width: int, stride: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(torch.ones(1, 1, height, width), 3, stride, 1, count_include_pad=True)


def test_average_pool_counts_pixels_of_the_image_alone() -> None:
    x = torch.ones(1, 5, 4, 2)
    assert torch.allclose(fast_convs.avg_pool(x, 1), x)
    assert torch.allclose(fast_convs.avg_pool(x, 2), torch.ones(1, 3, 2, 2))
    assert shares(5, 4, 1).min() < 1  # which the usual count would not give
