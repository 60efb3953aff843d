"""Triton's kernels by its interpreter, on the CPU in float64; run by test_gpu_form.py in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.func import functional_call

from fer_nas.space import fast_kernels, gpu_check, gpu_depthwise, gpu_points
from fer_nas.space.fast import fast_logits
from fer_nas.space.fast_nodes import NodeSums
from fer_nas.space.gpu_kernels import Parts
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES


def close(found: Tensor, expected: Tensor, where: object) -> None:
    assert found.shape == expected.shape, where
    assert (found - expected).abs().max() < 1e-11 * expected.abs().max(), where


def depthwise() -> None:
    """Odd sides, channels that no number divides, several edges on one picture, both strides."""
    shapes = [(2, 7, 6, 5, 2, 5, 1), (3, 8, 8, 16, 1, 3, 1), (2, 9, 7, 16, 3, 5, 2), (2, 8, 8, 4, 2, 3, 2),
              (1, 3, 3, 4, 1, 5, 1), (2, 8, 7, 4, 3, 5, 2), (1, 20, 20, 12, 2, 3, 1)]  # fmt: skip
    for n, h, w, channels, edges, size, stride in shapes:
        x = torch.randn(n, h, w, channels).double().requires_grad_()
        weight = torch.randn(channels * edges, 1, size, size).double().requires_grad_()
        pictures = x.repeat(1, 1, 1, edges).permute(0, 3, 1, 2)
        out = torch.nn.functional.conv2d(
            pictures, weight, stride=stride, padding=size // 2, groups=channels * edges
        ).permute(0, 2, 3, 1)
        g = torch.randn_like(out).contiguous()
        dx, dw = torch.autograd.grad(out, [x, weight], g)
        here, taps = x.detach(), weight.detach()
        where = (n, h, w, channels, edges, size, stride)
        close(gpu_depthwise.forward(here, taps, stride), out.detach(), where)
        close(gpu_depthwise.input_gradient(g, here, taps, stride), dx, where)
        close(gpu_depthwise.weight_gradient(g, here, size, stride), dw, where)


def points() -> None:
    for rows, edges, channels in [(100, 5, 16), (77, 1, 4), (300, 3, 5), (64, 2, 64), (1000, 4, 20)]:
        d, g, y = torch.randn(3, rows, edges * channels).double()
        p, (a, b, constant) = torch.randn(edges, channels, channels).double(), torch.randn(3, edges * channels).double()
        parts = Parts(d, rows, edges * channels + 7)
        parts.values.fill_(torch.nan)
        found = gpu_points.product(d, p, parts, 3)
        expected = torch.cat([part @ point.t() for part, point in zip(d.chunk(edges, 1), p, strict=True)], 1)
        where = (rows, edges, channels)
        close(found, expected, where)
        sums = parts.values[:, :, 3 : 3 + edges * channels].sum(0)
        close(sums, torch.stack([expected.sum(0), expected.square().sum(0)]), where)
        step = (g * a + y * b + constant).chunk(edges, 1)
        d_expected = torch.cat([s @ point for s, point in zip(step, p, strict=True)], 1)
        for given in (d, None):
            dd, d_points = gpu_points.backward(g, y, given, p, a, b, constant)
            close(dd, d_expected, where)
            assert (d_points is None) == (given is None)
            if d_points is not None:
                close(d_points, torch.stack([s.t() @ x for s, x in zip(step, d.chunk(edges, 1), strict=True)]), where)


def nodes() -> None:
    """Outputs added in one pass against unit by unit, nodes that do not follow each other among them."""
    shape, channels = (2, 7, 6), 4
    pixels, parity_pixels = 2 * 7 * 6, 4 * 2 * 4 * 3
    of_nodes = [((0, 1, 2, 3), False), ((0, 2, 3), True), ((1, 3), False), ((0, 1, 2, 3), True), ((2,), False)]
    units, columns = [], 0
    for into, parity in of_nodes:
        y = torch.randn(parity_pixels if parity else pixels, len(into) * channels).double()
        units.append(SimpleNamespace(y=y, places=into, parity=parity))
        columns += y.shape[1]
    every, row = [node for into, _ in of_nodes for node in into], torch.randn(columns).double()
    a, b = (NodeSums(row, 4, shape, channels) for _ in range(2))
    a._in_one_pass(units, every, row)  # type: ignore[arg-type]
    b._by_unit(units, every, row.view(-1, 1, channels))  # type: ignore[arg-type]
    for node in range(4):
        close(a.finish(node), b.finish(node), node)


def supernets() -> None:
    """Against the plain form, but for the norm's epsilon, which kernels hold in float32."""
    fast_kernels.on_gpu = lambda x: True
    assert fast_kernels.by_triton(torch.ones(1)), "the check at the start of a run"
    few = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    for name, size, operations in (("darts", 7, SPACES["darts"].operations), ("pc-darts", 8, few)):
        space = replace(SPACES[name], operations=operations)
        net = Supernet(space, classes=3, c_in=1, image_size=size, channels=8, layers=1, stem="cifar").double()
        x, weights = 255 * torch.rand(2, 1, size, size).double(), dict(net.named_parameters())
        shape = space.edges, len(space.operations)
        mixtures = {
            kind: torch.softmax(torch.randn(shape).double(), -1).requires_grad_() for kind in ("normal", "reduce")
        }
        plain, fast = functional_call(net, weights, (x, mixtures)), fast_logits(net, weights, mixtures, x)
        g, inputs = torch.randn_like(plain), [*weights.values(), *mixtures.values()]
        a, b = (torch.autograd.grad(out, inputs, g, allow_unused=True) for out in (plain, fast))
        largest = max(x.abs().max() for x in a if x is not None)
        worst = max((x - y).abs().max() / largest for x, y in zip(a, b, strict=True) if x is not None)
        assert (plain - fast).abs().max() < 1e-6 and worst < 1e-6, (name, worst)


if __name__ == "__main__":
    torch.manual_seed(0)
    for part in (depthwise, points, nodes, supernets):
        part()
        print(part.__name__, "agree")
    assert max(gpu_check._differences(torch.device("cpu"))) < 1e-6
