"""Whether the kernels in Triton give on this GPU what torch's operations give: compilers and GPUs differ.

Looked at once a run, in float32 against torch in float64, at a size of a few thousand numbers. Kernels that fail or are
off are not taken; torch's operations then do their work.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_nas.space import gpu_depthwise, gpu_kernels, gpu_points, gpu_terms

TOLERANCE = 1e-5  # of the norm; float32 is below 1e-6, one product of TF32 near 3e-4
CHANNELS, EDGES, SIDE = 16, 2, 9


@cache
def agree(device: torch.device) -> bool:
    try:
        with torch.enable_grad():  # asked for within a function of autograd
            worst = max(_differences(device))
    except Exception as error:  # what a compiler raises is not known beforehand
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"runs without Triton's kernels, which is slower: {reason}", stacklevel=2)
        return False
    if worst < TOLERANCE:
        return True
    warnings.warn(f"runs without Triton's kernels, which is slower: here they are off by {worst:.1g}", stacklevel=2)
    return False


def _differences(device: torch.device) -> Iterator[float]:
    """‖found − expected‖ / ‖expected‖ of each."""
    draw = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw).to(device)

    x, columns = drawn(2, SIDE, SIDE, CHANNELS), EDGES * CHANNELS
    for size in (3, 5):
        for stride in (1, 2):
            weight, wide = drawn(columns, 1, size, size), x.double().repeat(1, 1, 1, EDGES)
            leaves = wide.permute(0, 3, 1, 2).requires_grad_(), weight.double().requires_grad_()
            out = F.conv2d(*leaves, stride=stride, padding=size // 2, groups=columns)
            slope = drawn(*out.shape)
            dx, dw = torch.autograd.grad(out, leaves, slope.double())
            g = slope.permute(0, 2, 3, 1).contiguous()
            yield _off(gpu_depthwise.forward(x, weight, stride), out.detach().permute(0, 2, 3, 1))
            over_edges = dx.unflatten(1, (EDGES, CHANNELS)).sum(1).permute(0, 2, 3, 1)
            yield _off(gpu_depthwise.input_gradient(g, x, weight, stride), over_edges)
            yield _off(gpu_depthwise.weight_gradient(g, x, size, stride), dw)
    d, g, y = drawn(3, 300, columns)
    points, (a, b, constant) = drawn(EDGES, CHANNELS, CHANNELS), drawn(3, columns)
    parts = gpu_kernels.Parts(d, len(d), columns)
    pairs = list(zip(d.double().chunk(EDGES, 1), points.double(), strict=True))
    expected = torch.cat([part @ point.t() for part, point in pairs], 1)
    yield _off(gpu_points.product(d, points, parts, 0), expected)
    yield _off(parts.values.sum(0), torch.stack([expected.sum(0), expected.square().sum(0)]))
    step = (g.double() * a + y.double() * b + constant).chunk(EDGES, 1)
    dd, d_points = gpu_points.backward(g, y, d, points, a, b, constant)
    yield _off(dd, torch.cat([s @ point for s, (_, point) in zip(step, pairs, strict=True)], 1))
    assert d_points is not None
    yield _off(d_points, torch.stack([s.t() @ part for s, (part, _) in zip(step, pairs, strict=True)]))
    parts.add(g, y, 0)
    yield _off(parts.values.sum(0), torch.stack([g.double().sum(0), (g.double() * y).sum(0)]))
    yield _off(gpu_kernels.combined(g, y, a, b, constant), torch.cat(step, 1))
    yield _off(gpu_kernels.scaled(y, a, b, relu=True), torch.relu(y.double() * a + b))
    sums, row = drawn(3, 2 * SIDE * SIDE, CHANNELS), drawn(2 * columns)
    picture = drawn(2, SIDE, SIDE, columns)
    outputs = picture.view(-1, columns), _parities(picture)
    terms = [gpu_terms.Term(y, place * columns, 1, EDGES, place == 1) for place, y in enumerate(outputs)]
    twice = (picture.double() * (row[:columns] + row[columns:].double())).view(-1, EDGES, CHANNELS).transpose(0, 1)
    expected = sums.double()
    expected[1:] += twice
    gpu_terms.add(sums, terms, row, (2, SIDE, SIDE))
    yield _off(sums, expected)


def _parities(x_NHWC: Tensor) -> Tensor:
    """Pixels of even and odd rows and columns one behind the other, (M, C), zeros where a side is odd."""
    n, h, w, c = x_NHWC.shape
    found = x_NHWC.new_zeros(2, 2, n, (h + 1) // 2, (w + 1) // 2, c)
    for row in (0, 1):
        for column in (0, 1):
            part = x_NHWC[:, row::2, column::2]
            found[row, column, :, : part.shape[1], : part.shape[2]] = part
    return found.view(-1, c)


def _off(found: Tensor, expected: Tensor) -> float:
    """Infinite where one of them is no number."""
    off = ((found.double() - expected).norm() / expected.norm()).item()
    return off if off == off else float("inf")
