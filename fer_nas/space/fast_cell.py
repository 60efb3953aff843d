"""One mixed cell of the supernet as a single differentiable function, forward and backward.

The work goes by source, a state and all edges that leave it: ReLU, pools and their norms once for each state, depthwise
convolutions of several edges in one call where they are small, and no BatchNorm as an operation of its own: the outputs
of all operations stay as they are, their sums and sums of squares give every norm at once (`fast_kernels.Norm`), and
norm and mixture weight are one scale by column with which an output is added to its node. Backward is written out.

Shapes: N images, H × W pixels, C channels; M = N·H·W; states are (N, H, W, C), outputs of operations (M, k·C) with k
edges side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from fer_nas.space import fast_kernels as k
from fer_nas.space.fast_partial import PassBy

SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5")
DILATED = ("dil_conv_3x3", "dil_conv_5x5")
CHUNK_BYTES = 2**20  # edges go side by side up to this size of their outputs

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class SourcePlan:
    """The edges that leave one state: (edge of the cell, node it ends in), and the operations that run on each."""

    stride: int
    edges: tuple[tuple[int, int], ...]
    active: dict[str, tuple[int, ...]]  # operation → places in `edges`


@dataclass(frozen=True)
class CellFormPlan:
    operations: tuple[str, ...]
    nodes: int
    channels: int
    sources: tuple[SourcePlan, ...]
    names: tuple[str, ...]  # of the weights below the cell, in the order in which they are passed
    modules: dict[str, nn.Module]  # operations that run by their plain module: "edge/operation"
    order: tuple[int, ...] | None = None  # partial channels: the shuffle of a node's channels; `channels` then operate


@dataclass
class Depthwise:
    """A depthwise convolution and the 1×1 convolution behind it for some edges of a source.

    `parity`: the input is the parities of a picture (dilation 2).
    """

    operation: str
    leaves: tuple[str, str]  # of the two weights
    places: tuple[int, ...]
    stride: int
    x: Tensor  # (N, H, W, k·C)
    kernel: Tensor  # (k·C, 1, size, size)
    points: list[Tensor]  # (C, C) each
    parity: bool = False
    middle: Tensor | None = None  # (M, k·C)
    y: Tensor | None = None  # (M, k·C)


@dataclass
class Pointwise:
    """1×1 convolutions of ReLU(x): conv_1x1, or both halves of a factorized reduction."""

    operation: str
    places: tuple[int, ...]
    inputs: list[Tensor]  # (M, C) each; two for a factorized reduction
    points: list[list[Tensor]]  # by edge and input, (R, C)
    y: Tensor | None = None
    parity: bool = False


@dataclass
class Dense:
    """3×3 convolutions of ReLU(x)."""

    operation: str
    places: tuple[int, ...]
    weight: Tensor
    y: Tensor | None = None
    parity: bool = False


Unit = Depthwise | Pointwise | Dense


@dataclass
class Saved:
    """What a source's backward needs."""

    x: Tensor
    relu: Tensor
    first: list[Depthwise] = field(default_factory=list)  # first stages of separable convolutions
    first_norm: k.Norm | None = None
    units: list[Unit] = field(default_factory=list)
    norm: k.Norm | None = None
    linear: list[str] = field(default_factory=list)
    linear_values: Tensor | None = None
    linear_mix: Tensor | None = None
    pool_norm: dict[str, k.Norm] = field(default_factory=dict)
    pool_where: Tensor | None = None
    plain: list[tuple[int, str, Tensor, Tensor, list[str], list[Tensor]]] = field(default_factory=list)


def edge_weight(edge: int, operation: str, leaf: str) -> str:
    return f"edges.{edge}.operations.{operation}.{leaf}"


def _chunks(places: Sequence[int], bytes_each: int) -> list[tuple[int, ...]]:
    size = max(1, CHUNK_BYTES // bytes_each)
    return [tuple(places[i : i + size]) for i in range(0, len(places), size)]


class CellPass:
    """One forward pass of a cell and its backward; holds what lies between them."""

    def __init__(self, plan: CellFormPlan, weights: Weights, mixture: Tensor, out_shape: tuple[int, int, int]) -> None:
        self.plan, self.weights, self.mixture = plan, weights, mixture
        self.shape = out_shape  # N, H, W of the nodes
        self.pixels = out_shape[0] * out_shape[1] * out_shape[2]
        self.odd = bool(out_shape[1] % 2 or out_shape[2] % 2)
        self.saved: list[Saved | None] = []
        self.column = {name: o for o, name in enumerate(plan.operations)}
        self.mask: Tensor | None = None
        self.by = None if plan.order is None else PassBy(plan.order, plan.channels, mixture)
        self.d_weights: Weights = {}

    # --- forward

    def forward(self, x0: Tensor, x1: Tensor, keep: bool, with_weights: bool) -> Tensor:
        plan = self.plan
        self.with_weights = with_weights
        self.acc = x0.new_zeros(plan.nodes, self.pixels, plan.channels)
        self.parity_acc: Tensor | None = None
        self.bias = x0.new_zeros(plan.nodes, plan.channels)
        states = [x0, x1]
        for source in range(1 + plan.nodes):
            if source >= 2:
                states.append(self.finish_node(source - 2))
            state = states[source] if self.by is None else self.by.operated(states[source])
            saved = self.source_forward(state, plan.sources[source])
            if self.by is not None:
                self.by.add(states[source], plan.sources[source], plan.nodes, keep)
            if keep:
                self.saved.append(saved)
        states.append(self.finish_node(plan.nodes - 1))
        del self.acc, self.parity_acc, self.bias
        return torch.cat(states[2:], dim=3)

    def finish_node(self, node: int) -> Tensor:
        n, h, w = self.shape
        total = self.acc[node].add_(self.bias[node]).view(n, h, w, -1)
        if self.parity_acc is not None:
            total.add_(k.from_parities(self.parity_acc[node], h, w))
        return total if self.by is None else self.by.join(total, node)

    def source_forward(self, x: Tensor, source: SourcePlan) -> Saved:
        saved = Saved(x, torch.relu(x))
        self.pools_and_skips(saved, source)
        self.depthwise(saved, source)
        self.pointwise(saved, source)
        self.dense(saved, source)
        self.plain(saved, source)
        if saved.units:
            self.add_units(saved, source)
        return saved

    def statistics(self, ys: list[Tensor], coefficient: Tensor | None) -> k.Norm:
        """The norms of all columns of `ys` in one; coefficient: one for each C columns."""
        columns = sum(y.shape[1] for y in ys)
        total, squares = ys[0].new_empty(2, columns)
        scratch = torch.empty_like(max(ys, key=Tensor.numel))
        start = 0
        for y in ys:
            part = slice(start, start + y.shape[1])
            k.add_squares(y, total[part], squares[part], scratch.view(-1)[: y.numel()])
            start = part.stop
        if coefficient is None:
            by_column = total.new_ones(columns)
        else:
            by_column = coefficient.repeat_interleave(self.plan.channels)
        return k.Norm.of(total, squares, by_column, self.pixels)

    def jobs(self, units: Sequence[Unit], source: SourcePlan) -> tuple[list[int], list[int], list[int]]:
        """Edge, column of the mixture and node of every C columns of the units."""
        jobs = [(source.edges[place], self.column[unit.operation]) for unit in units for place in unit.places]
        return [edge for (edge, _), _ in jobs], [column for _, column in jobs], [node for (_, node), _ in jobs]

    def add_units(self, saved: Saved, source: SourcePlan) -> None:
        edges, columns, nodes = self.jobs(saved.units, source)
        saved.norm = norm = self.statistics([k.some(u.y) for u in saved.units], self.mixture[edges, columns])
        channels, job = self.plan.channels, 0
        rows = norm.row.view(-1, channels)
        for unit in saved.units:
            y = k.some(unit.y)
            for i in range(len(unit.places)):
                self.target(nodes[job], unit.parity).addcmul_(y[:, i * channels : (i + 1) * channels], rows[job])
                job += 1
        self.bias.index_add_(0, torch.tensor(nodes, device=rows.device), norm.bias.view(-1, channels))

    def target(self, node: int, parity: bool) -> Tensor:
        if not parity:
            return self.acc[node]
        if self.parity_acc is None:
            n, h, w = self.shape
            self.parity_acc = self.acc.new_zeros(self.plan.nodes, 4 * n, (h + 1) // 2, (w + 1) // 2, self.plan.channels)
        return k.matrix(self.parity_acc[node])

    def pools_and_skips(self, saved: Saved, source: SourcePlan) -> None:
        names = [name for name in ("max_pool_3x3", "avg_pool_3x3") if source.active.get(name)]
        if source.stride == 1 and source.active.get("skip_connect"):
            names.append("skip_connect")
        if not names:
            return
        x, channels = saved.x, self.plan.channels
        values = x.new_empty(len(names), self.pixels, channels)
        for row, name in zip(values, names, strict=True):
            if name == "skip_connect":
                row.copy_(k.matrix(x))
                continue
            if name == "max_pool_3x3":
                pooled, saved.pool_where = k.max_pool(x, source.stride)
            else:
                pooled = k.avg_pool(x, source.stride)
            _, saved.pool_norm[name] = k.standardize(k.matrix(pooled), out=row)
        edges = [edge for edge, _ in source.edges]
        mix = self.mixture[edges][:, [self.column[name] for name in names]]
        for column, name in enumerate(names):
            if len(source.active[name]) < len(edges):
                mix[[place for place in range(len(edges)) if place not in source.active[name]], column] = 0
        first = source.edges[0][1]
        flat = self.acc[first : first + len(edges)].view(len(edges), -1)
        flat.addmm_(mix, values.view(len(names), -1))
        saved.linear, saved.linear_values, saved.linear_mix = names, values, mix

    def depthwise(self, saved: Saved, source: SourcePlan) -> None:
        x, channels = saved.relu, self.plan.channels
        bytes_each = self.pixels * channels * x.element_size()
        dilated: Tensor | None = None
        for name in (*SEPARABLE, *DILATED):
            for chunk in _chunks(source.active.get(name, ()), bytes_each):
                stride, picture, parity = source.stride, x, False
                if name in DILATED:
                    parity, stride = stride == 1, 1
                    if dilated is None:
                        dilated = k.to_parities(x) if parity else x[:, ::2, ::2].contiguous()
                    picture = dilated
                unit = self.depthwise_unit(source, name, ("1.weight", "2.weight"), chunk, stride, picture, parity)
                (saved.units if name in DILATED else saved.first).append(unit)
        if saved.first:
            ys = [k.some(unit.y) for unit in saved.first]
            saved.first_norm = norm = self.statistics(ys, None)
            start = 0
            for unit, y in zip(saved.first, ys, strict=True):
                part = slice(start, start + y.shape[1])
                start = part.stop
                z = torch.addcmul(norm.bias[part], y, norm.row[part]).relu_().view(*self.shape, -1)
                saved.units.append(
                    self.depthwise_unit(source, unit.operation, ("5.weight", "6.weight"), unit.places, 1, z, False)
                )

    def depthwise_unit(
        self, source: SourcePlan, name: str, leaves: tuple[str, str], chunk: tuple[int, ...], stride: int, x: Tensor,
        parity: bool,
    ) -> Depthwise:  # fmt: skip
        channels = self.plan.channels
        edges = [source.edges[place][0] for place in chunk]
        kernels = [self.weights[edge_weight(edge, name, leaves[0])] for edge in edges]
        points = [self.weights[edge_weight(edge, name, leaves[1])].view(channels, channels) for edge in edges]
        kernel = kernels[0] if len(chunk) == 1 else torch.cat(kernels)
        if x.shape[3] != kernel.shape[0]:
            x = k.repeat_channels(x, len(chunk))
        d = k.depthwise(x, kernel, stride)
        if parity and self.odd:
            d.mul_(self.parity_mask(d))
        d = k.matrix(d)
        y = k.products(d, points)
        return Depthwise(name, leaves, chunk, stride, x, kernel, points, parity, d if self.with_weights else None, y)

    def parity_mask(self, like: Tensor) -> Tensor:
        """One where a pixel of the parities is a pixel of the picture, (4·N, h, w, 1)."""
        if self.mask is None:
            self.mask = k.to_parities(like.new_ones(*self.shape, 1))
        return self.mask

    def pointwise(self, saved: Saved, source: SourcePlan) -> None:
        found: list[tuple[str, list[str], list[Tensor]]] = []
        x, channels = saved.relu, self.plan.channels
        if source.active.get("conv_1x1"):
            found.append(("conv_1x1", ["1.weight"], [k.matrix(x if source.stride == 1 else x[:, ::2, ::2])]))
        if source.stride == 2 and source.active.get("skip_connect"):
            found.append(("skip_connect", ["even.weight", "odd.weight"], [k.matrix(p) for p in k.halves(x)]))
        for name, leaves, inputs in found:
            for place in source.active[name]:
                edge = source.edges[place][0]
                points = [self.weights[edge_weight(edge, name, leaf)].flatten(1) for leaf in leaves]
                y = x.new_empty(self.pixels, channels)
                start = 0
                for d, point in zip(inputs, points, strict=True):
                    torch.mm(d, point.t(), out=y[:, start : start + len(point)])
                    start += len(point)
                saved.units.append(Pointwise(name, (place,), inputs, [points], y))

    def dense(self, saved: Saved, source: SourcePlan) -> None:
        for place in source.active.get("conv_3x3", ()):
            weight = self.weights[edge_weight(source.edges[place][0], "conv_3x3", "1.weight")]
            out = F.conv2d(k.nchw(saved.relu), weight, stride=source.stride, padding=1)
            saved.units.append(Dense("conv_3x3", (place,), weight, k.matrix(k.nhwc(out))))

    def plain(self, saved: Saved, source: SourcePlan) -> None:
        """Operations without a fast form run by their module, recorded for autograd."""
        for name, places in source.active.items():
            for place in places:
                edge, node = source.edges[place]
                module = self.plan.modules.get(f"{edge}/{name}")
                if module is None:
                    continue
                with torch.enable_grad():
                    leaf = k.nchw(saved.x).clone().requires_grad_()
                    leaves = [edge_weight(edge, name, item) for item, _ in module.named_parameters()]
                    inside = [self.weights[item].detach().requires_grad_(self.with_weights) for item in leaves]
                    named = {item: w for (item, _), w in zip(module.named_parameters(), inside, strict=True)}
                    out = functional_call(module, named, (leaf,))
                value = out.detach().permute(0, 2, 3, 1)
                self.acc[node].view(*self.shape, -1).addcmul_(value, self.mixture[edge, self.column[name]])
                saved.plain.append((place, name, leaf, out, leaves, inside))

    # --- backward

    def backward(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Weights]:
        if not self.saved:
            raise RuntimeError("the fast form goes backward once: what lay between is freed on the way")
        plan, channels = self.plan, self.plan.channels
        self.g = g.reshape(self.pixels, plan.nodes, -1).transpose(0, 1).contiguous()
        if self.by is not None:
            self.g = self.by.begin_backward(self.g)
        self.total = self.g.new_empty(plan.nodes, channels)
        self.parity_g: dict[int, Tensor] = {}
        self.side_g: dict[tuple[Any, ...], Tensor] = {}
        self.d_mixture = torch.zeros_like(self.mixture)
        found: list[Tensor] = []
        for source in reversed(range(1 + plan.nodes)):
            # Sources are walked backwards: when one is reached, its nodes' gradients are complete.
            if source >= 1:
                torch.sum(self.g[source - 1], 0, out=self.total[source - 1])
            saved = self.saved.pop()
            assert saved is not None
            self.side_g.clear()
            dx = self.source_backward(saved, plan.sources[source])
            if self.by is not None:
                dx = self.by.backward(plan.sources[source], dx, self.d_mixture)
            if source >= 2:
                step = k.matrix(dx)
                self.g[source - 2].add_(step if self.by is None else self.by.add_gradient(source - 2, step))
            else:
                found.append(dx)
        return found[1], found[0], self.d_mixture, self.d_weights

    def gradient(self, unit: Unit, source: SourcePlan) -> Tensor:
        """Gradients of the unit's nodes side by side, (M, k·C)."""
        nodes = [source.edges[place][1] for place in unit.places]
        if unit.parity:
            for node in nodes:
                if node not in self.parity_g:
                    self.parity_g[node] = k.matrix(k.to_parities(self.g[node].view(*self.shape, -1)))
        found = [self.parity_g[node] if unit.parity else self.g[node] for node in nodes]
        if len(nodes) == 1:
            return found[0]
        key = (unit.parity, *nodes)
        if key not in self.side_g:
            self.side_g[key] = torch.cat(found, dim=1)
        return self.side_g[key]

    def source_backward(self, saved: Saved, source: SourcePlan) -> Tensor:
        self.d_relu = torch.zeros_like(saved.relu)
        self.d_dilated: Tensor | None = None
        if saved.units:
            self.units_backward(saved, source)
        if self.d_dilated is not None:
            if source.stride == 1:
                self.d_relu.add_(k.from_parities(self.d_dilated, *saved.relu.shape[1:3]))
            else:
                self.d_relu[:, ::2, ::2].add_(self.d_dilated)
        dx = torch.ops.aten.threshold_backward(self.d_relu, saved.relu, 0)
        del self.d_relu, self.d_dilated
        if saved.linear:
            self.linear_backward(saved, source, dx)
        for place, name, leaf, out, leaves, inside in saved.plain:
            edge, node = source.edges[place]
            g = self.g[node].view(*self.shape, -1).permute(0, 3, 1, 2)
            self.d_mixture[edge, self.column[name]] += (g * out.detach()).sum()
            wanted = [leaf, *(inside if self.with_weights else [])]
            grads = torch.autograd.grad(out, wanted, g * self.mixture[edge, self.column[name]])
            dx.add_(grads[0].permute(0, 2, 3, 1))
            self.d_weights.update(zip(leaves, grads[1:], strict=False))
        return dx

    def units_backward(self, saved: Saved, source: SourcePlan) -> None:
        """Through the norms and the mixture of all units, then through each of them; separable ones go on inwards."""
        norm, channels = k.some(saved.norm), self.plan.channels
        edges, columns, nodes = self.jobs(saved.units, source)
        cross = torch.empty_like(norm.row)
        scratch = torch.empty_like(max((k.some(unit.y) for unit in saved.units), key=Tensor.numel)).view(-1)
        start = 0
        for unit in saved.units:
            y = k.some(unit.y)
            part = slice(start, start + y.shape[1])
            start = part.stop
            product = torch.mul(self.gradient(unit, source), y, out=scratch[: y.numel()].view_as(y))
            torch.sum(product, 0, out=cross[part])
        slope, by_y, constant = norm.backward(self.total[nodes].view(-1), cross)
        self.d_mixture.index_put_(
            (torch.tensor(edges, device=slope.device), torch.tensor(columns, device=slope.device)),
            slope.view(-1, channels).sum(1),
            accumulate=True,
        )
        inner: list[Tensor] = []
        start = 0
        for unit in saved.units:
            y = k.some(unit.y)
            part = slice(start, start + y.shape[1])
            start = part.stop
            g = torch.addcmul(constant[part], self.gradient(unit, source), norm.row[part]).addcmul_(y, by_y[part])
            unit.y = None
            if isinstance(unit, Dense):
                self.dense_backward(unit, source, saved, g)
            elif isinstance(unit, Pointwise):
                self.pointwise_backward(unit, source, g)
            else:
                dx = self.depthwise_backward(unit, source, g)
                if unit.operation in SEPARABLE:
                    inner.append(k.matrix(torch.ops.aten.threshold_backward(dx, unit.x, 0)))
                else:
                    dx = k.sum_channels(dx, len(unit.places))
                    self.d_dilated = dx if self.d_dilated is None else self.d_dilated.add_(dx)
        if inner:
            self.inner_backward(saved, source, inner)

    def inner_backward(self, saved: Saved, source: SourcePlan, gradients: list[Tensor]) -> None:
        """First stages of the separable convolutions, from the gradients behind their norms."""
        norm = k.some(saved.first_norm)
        total, cross = torch.empty_like(norm.row), torch.empty_like(norm.row)
        parts, start = [], 0
        for unit, g in zip(saved.first, gradients, strict=True):
            parts.append(slice(start, start + g.shape[1]))
            start = parts[-1].stop
            torch.sum(g, 0, out=total[parts[-1]])
            torch.sum(g * k.some(unit.y), 0, out=cross[parts[-1]])
        _, by_y, constant = norm.backward(total, cross)
        for unit, g, part in zip(saved.first, gradients, parts, strict=True):
            step = torch.addcmul(constant[part], g, norm.row[part]).addcmul_(k.some(unit.y), by_y[part])
            unit.y = None
            dx = self.depthwise_backward(unit, source, step)
            self.d_relu.add_(k.sum_channels(dx, len(unit.places)))

    def depthwise_backward(self, unit: Depthwise, source: SourcePlan, g: Tensor) -> Tensor:
        channels = self.plan.channels
        edges = [source.edges[place][0] for place in unit.places]
        if self.with_weights:
            middle = k.some(unit.middle)
            for i, edge in enumerate(edges):
                part = slice(i * channels, (i + 1) * channels)
                d_point = torch.mm(g[:, part].t(), middle[:, part])
                self.d_weights[edge_weight(edge, unit.operation, unit.leaves[1])] = d_point[:, :, None, None]
        d = k.products_backward(g, unit.points)
        height = -(-unit.x.shape[1] // unit.stride)
        d = d.view(unit.x.shape[0], height, -1, g.shape[1])
        if unit.parity and self.odd:
            d.mul_(self.parity_mask(d))
        dx, d_kernel = k.depthwise_backward(d, unit.x, unit.kernel, unit.stride, self.with_weights)
        if d_kernel is not None:
            for edge, part in zip(edges, d_kernel.split(channels), strict=True):
                self.d_weights[edge_weight(edge, unit.operation, unit.leaves[0])] = part
        return dx

    def pointwise_backward(self, unit: Pointwise, source: SourcePlan, g: Tensor) -> None:
        edge = source.edges[unit.places[0]][0]
        leaves = ["1.weight"] if len(unit.inputs) == 1 else ["even.weight", "odd.weight"]
        start = 0
        for i, (leaf, d, point) in enumerate(zip(leaves, unit.inputs, unit.points[0], strict=True)):
            own = g[:, start : start + len(point)]
            start += len(point)
            if self.with_weights:
                self.d_weights[edge_weight(edge, unit.operation, leaf)] = torch.mm(own.t(), d)[:, :, None, None]
            picture = torch.mm(own, point).view(*self.shape, -1)
            if source.stride == 1:
                self.d_relu.add_(picture)
            else:
                view = self.d_relu[:, i::2, i::2]
                view.add_(picture[:, : view.shape[1], : view.shape[2]])

    def dense_backward(self, unit: Dense, source: SourcePlan, saved: Saved, g: Tensor) -> None:
        dx, dw, _ = k.conv_backward(
            k.nchw(g.view(*self.shape, -1)), k.nchw(saved.relu), unit.weight, source.stride, (1, 1), 1,
            [True, self.with_weights, False],
        )  # fmt: skip
        self.d_relu.add_(dx.permute(0, 2, 3, 1))
        if self.with_weights:
            self.d_weights[edge_weight(source.edges[unit.places[0]][0], unit.operation, "1.weight")] = dw

    def linear_backward(self, saved: Saved, source: SourcePlan, dx: Tensor) -> None:
        values, mix = k.some(saved.linear_values), k.some(saved.linear_mix)
        first, names = source.edges[0][1], saved.linear
        g = self.g[first : first + len(source.edges)].view(len(source.edges), -1)
        d_mix = torch.mm(g, values.view(len(names), -1).t())
        d_values = torch.mm(mix.t(), g).view_as(values)
        for column, name in enumerate(names):
            for place in source.active[name]:
                self.d_mixture[source.edges[place][0], self.column[name]] += d_mix[place, column]
            if name == "skip_connect":
                dx.add_(d_values[column].view_as(dx))
                continue
            step = k.standardize_backward(d_values[column], values[column], saved.pool_norm[name])
            picture = step.view(*self.shape, -1)
            if name == "max_pool_3x3":
                dx.add_(k.max_pool_backward(picture, saved.x, k.some(saved.pool_where), source.stride))
            else:
                dx.add_(k.avg_pool_backward(picture, saved.x, source.stride))


class FastCell(torch.autograd.Function):
    """apply(plan, keep, x0, x1, mixture, *weights) → (N, H, W, nodes·C); differentiable once, where `keep` is set."""

    @staticmethod
    def forward(
        ctx: Any, plan: CellFormPlan, keep: bool, x0: Tensor, x1: Tensor, mixture: Tensor, *weights: Tensor
    ) -> Tensor:
        n, h, w, _ = x0.shape
        stride = plan.sources[0].stride
        named = dict(zip(plan.names, weights, strict=True))
        cell = CellPass(plan, named, mixture, (n, -(-h // stride), -(-w // stride)))
        out = cell.forward(x0, x1, keep, keep and any(ctx.needs_input_grad[5:]))
        if keep:
            ctx.cell = cell
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        cell: CellPass = ctx.cell
        d0, d1, d_mixture, d_weights = cell.backward(g)
        return None, None, d0, d1, d_mixture, *(d_weights.get(name) for name in cell.plan.names)
