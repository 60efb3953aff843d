"""The forward pass of a cell in the fast form; fast_cell.py tells how it works."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from fer_nas.space import fast_convs as convs
from fer_nas.space import fast_kernels as kernels
from fer_nas.space import fast_lanes as lanes
from fer_nas.space import fast_layout as layout
from fer_nas.space import fast_norms as norms
from fer_nas.space.fast_nodes import NodeSums
from fer_nas.space.fast_partial import PassBy
from fer_nas.space.fast_plan import (
    DILATED,
    SEPARABLE,
    SKIPS,
    CellFormPlan,
    Dense,
    Depthwise,
    Pointwise,
    Saved,
    SourcePlan,
    Unit,
    Weights,
    edge_weight,
    places,
)

CHUNK_BYTES = 2**20  # edges go side by side up to this size of their outputs, on a CPU; on a GPU all of a source do


def _chunks(ends: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(ends[i : i + size]) for i in range(0, len(ends), size)]


class CellForward:
    """One forward pass of a cell; holds what its backward needs."""

    def __init__(self, plan: CellFormPlan, weights: Weights, mixture: Tensor, out_shape: tuple[int, int, int]) -> None:
        self.plan, self.weights, self.mixture = plan, weights, mixture
        self.shape = out_shape  # N, H, W of the nodes
        self.pixels = out_shape[0] * out_shape[1] * out_shape[2]
        self.odd = bool(out_shape[1] % 2 or out_shape[2] % 2)
        self.saved: list[Saved | None] = []
        self.column = {name: o for o, name in enumerate(plan.operations)}
        self.mask: Tensor | None = None
        self.forks = lanes.wanted(mixture)
        self.by = None if plan.order is None else PassBy(plan.order, plan.channels, mixture)
        self.d_weights: Weights = {}

    # --- forward

    def forward(self, x0: Tensor, x1: Tensor, keep: bool, with_weights: bool) -> Tensor:
        plan = self.plan
        self.with_weights = with_weights
        self.nodes = NodeSums(x0, plan.nodes, self.shape, plan.channels)
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
        del self.nodes
        return torch.cat(states[2:], dim=3)

    def finish_node(self, node: int) -> Tensor:
        total = self.nodes.finish(node)
        return total if self.by is None else self.by.join(total, node)

    def source_forward(self, x: Tensor, source: SourcePlan) -> Saved:
        saved = Saved(x, torch.relu(x))
        planned = self.depthwise_plan(saved, source)
        first_sums, sums = self.room_for_sums(x, source, SEPARABLE), self.room_for_sums(x, source, self.normed(source))
        fork = lanes.Fork(x, self.forks)
        with fork.lane("pools"):
            self.pools_and_skips(saved, source)
        for name, chunk, stride, picture, parity in planned:
            with fork.lane(name):
                into = sums if name in DILATED else first_sums
                unit = self.depthwise_unit(source, name, ("1.weight", "2.weight"), chunk, stride, picture, parity, into)
            (saved.units if name in DILATED else saved.first).append(unit)
        with fork.lane("pointwise"):
            self.pointwise(saved, source, sums)
            self.dense(saved, source, sums)
        fork.join()
        if saved.first:
            self.second_stage(saved, source, first_sums, sums)
        self.plain(saved, source)
        if saved.units:
            self.add_units(saved, source, sums)
        return saved

    def normed(self, source: SourcePlan) -> tuple[str, ...]:
        """Operations whose outputs are units of a source."""
        return (*SEPARABLE, *DILATED, "conv_1x1", "conv_3x3", *(SKIPS if source.stride == 2 else ()))

    def room_for_sums(self, like: Tensor, source: SourcePlan, names: Sequence[str]) -> norms.Sums:
        n, h, w = self.shape
        rows = 4 * n * ((h + 1) // 2) * ((w + 1) // 2) if self.odd else self.pixels  # as parities
        edges = sum(len(source.active.get(name, ())) for name in names)
        return norms.Sums(like, rows, edges * self.plan.channels)

    def entry(self, edge: int, operation: str) -> int:
        """Where the mixture's weight of an operation stands in the flattened (E, O)."""
        return edge * len(self.plan.operations) + self.column[operation]

    def jobs(self, units: Sequence[Unit], source: SourcePlan) -> tuple[Tensor, list[int]]:
        """Entry of the mixture and node of every C columns of the units."""
        jobs = [(*source.edges[place], unit.operation) for unit in units for place in unit.places]
        entries = tuple(self.entry(edge, operation) for edge, _, operation in jobs)
        return places(entries, self.mixture.device), [node for _, node, _ in jobs]

    def add_units(self, saved: Saved, source: SourcePlan, sums: norms.Sums) -> None:
        entries, nodes = self.jobs(saved.units, source)
        coefficient = self.mixture.reshape(-1).index_select(0, entries)
        saved.norm = norms.Norm.measured(sums, self.pixels, coefficient, self.plan.channels)
        self.nodes.add(saved.units, nodes, saved.norm)

    def pools_and_skips(self, saved: Saved, source: SourcePlan) -> None:
        names = [name for name in ("max_pool_3x3", "avg_pool_3x3") if source.active.get(name)]
        if source.stride == 1:
            names += [name for name in SKIPS if source.active.get(name)]
        if not names:
            return
        x, channels = saved.x, self.plan.channels
        values = x.new_empty(len(names), self.pixels, channels)
        for row, name in zip(values, names, strict=True):
            if name in SKIPS:
                row.copy_(layout.matrix(x))
                continue
            if name == "max_pool_3x3":
                pooled, saved.pool_where = convs.max_pool(x, source.stride)
            else:
                pooled = convs.avg_pool(x, source.stride)
            _, saved.pool_norm[name] = norms.standardize(layout.matrix(pooled), out=row)
        edges = [edge for edge, _ in source.edges]
        entries = tuple(self.entry(edge, name) for edge in edges for name in names)
        mix = self.mixture.reshape(-1).index_select(0, places(entries, x.device)).view(len(edges), len(names))
        for column, name in enumerate(names):
            for place in range(len(edges)):
                if place not in source.active[name]:
                    mix[place, column] = 0
        first = source.edges[0][1]
        flat = self.nodes.sums[first : first + len(edges)].view(len(edges), -1)
        flat.addmm_(mix, values.view(len(names), -1))
        saved.linear, saved.linear_values, saved.linear_mix = names, values, mix

    def depthwise_plan(self, saved: Saved, source: SourcePlan) -> list[tuple[str, tuple[int, ...], int, Tensor, bool]]:
        """What goes together: operation, places of its edges, stride, the picture that it reads (for all of them side
        by side), and whether that is its parities."""
        x, channels = saved.relu, self.plan.channels
        fitting = max(1, CHUNK_BYTES // (self.pixels * channels * x.element_size()))
        together = len(source.edges) if kernels.on_gpu(x) else fitting
        dilated: Tensor | None = None
        side_x: dict[tuple[int, int], Tensor] = {}
        found = []
        for name in (*SEPARABLE, *DILATED):
            for chunk in _chunks(source.active.get(name, ()), together):
                stride, picture, parity = source.stride, x, False
                if name in DILATED:
                    parity, stride = stride == 1, 1
                    if dilated is None:
                        dilated = layout.to_parities(x) if parity else x[:, ::2, ::2].contiguous()
                        if parity and self.odd:
                            self.parity_mask(x)  # before there are lanes
                    picture = dilated
                key = (picture.data_ptr(), len(chunk))
                if key not in side_x:
                    side_x[key] = convs.beside(picture, len(chunk))
                found.append((name, chunk, stride, side_x[key], parity))
        return found

    def second_stage(self, saved: Saved, source: SourcePlan, first_sums: norms.Sums, sums: norms.Sums) -> None:
        """Of separable convolutions: from the norms of the first."""
        saved.first_norm = norm = norms.Norm.measured(first_sums, self.pixels)
        fork, start = lanes.Fork(saved.x, self.forks), 0
        for unit in saved.first:
            y = layout.some(unit.y)
            part = slice(start, start + y.shape[1])
            start = part.stop
            with fork.lane(unit.operation):
                z = norms.scaled(y, norm.row[part], norm.bias[part], relu=True).view(*self.shape, -1)
                name, leaves = unit.operation, ("5.weight", "6.weight")
                second = self.depthwise_unit(source, name, leaves, unit.places, 1, z, False, sums)
            saved.units.append(second)
        fork.join()

    def depthwise_unit(
        self, source: SourcePlan, name: str, leaves: tuple[str, str], chunk: tuple[int, ...], stride: int, x: Tensor,
        parity: bool, sums: norms.Sums,
    ) -> Depthwise:  # fmt: skip
        channels = self.plan.channels
        edges = [source.edges[place][0] for place in chunk]
        taps = [self.weights[edge_weight(edge, name, leaves[0])] for edge in edges]
        points = [self.weights[edge_weight(edge, name, leaves[1])].view(channels, channels) for edge in edges]
        kernel = taps[0] if len(chunk) == 1 else torch.cat(taps)
        d = convs.depthwise(x, kernel, stride)
        if parity and self.odd:
            d.mul_(self.parity_mask(d))
        d = layout.matrix(d)
        stack = torch.stack(points) if kernels.by_points(d, channels) else None
        if stack is None:
            y = convs.products(d, points)
            sums.take(y)
        else:
            y = sums.product(d, stack)
        kept = d if self.with_weights else None
        return Depthwise(name, leaves, chunk, stride, x, kernel, points, stack, parity, kept, y)

    def parity_mask(self, like: Tensor) -> Tensor:
        """One where a pixel of the parities is a pixel of the picture, (4·N, h, w, 1)."""
        if self.mask is None:
            self.mask = layout.to_parities(like.new_ones(*self.shape, 1))
        return self.mask

    def pointwise(self, saved: Saved, source: SourcePlan, sums: norms.Sums) -> None:
        found: list[tuple[str, list[str], list[Tensor]]] = []
        x, channels = saved.relu, self.plan.channels
        if source.active.get("conv_1x1"):
            found.append(("conv_1x1", ["1.weight"], [layout.matrix(x if source.stride == 1 else x[:, ::2, ::2])]))
        if source.stride == 2:
            for name in (name for name in SKIPS if source.active.get(name)):
                found.append((name, ["even.weight", "odd.weight"], [layout.matrix(p) for p in layout.halves(x)]))
        for name, leaves, inputs in found:
            for place in source.active[name]:
                edge = source.edges[place][0]
                points = [self.weights[edge_weight(edge, name, leaf)].flatten(1) for leaf in leaves]
                y = x.new_empty(self.pixels, channels)
                start = 0
                for d, point in zip(inputs, points, strict=True):
                    torch.mm(d, point.t(), out=y[:, start : start + len(point)])
                    start += len(point)
                sums.take(y)
                saved.units.append(Pointwise(name, (place,), inputs, [points], y))

    def dense(self, saved: Saved, source: SourcePlan, sums: norms.Sums) -> None:
        for place in source.active.get("conv_3x3", ()):
            weight = self.weights[edge_weight(source.edges[place][0], "conv_3x3", "1.weight")]
            out = F.conv2d(layout.nchw(saved.relu), weight, stride=source.stride, padding=1)
            y = layout.matrix(layout.nhwc(out))
            sums.take(y)
            saved.units.append(Dense("conv_3x3", (place,), weight, y))

    def plain(self, saved: Saved, source: SourcePlan) -> None:
        """Operations without a fast form run by their module, recorded for autograd."""
        for name, ends in source.active.items():
            for place in ends:
                edge, node = source.edges[place]
                module = self.plan.modules.get(f"{edge}/{name}")
                if module is None:
                    continue
                with torch.enable_grad():
                    leaf = layout.nchw(saved.x).clone().requires_grad_()
                    leaves = [edge_weight(edge, name, item) for item, _ in module.named_parameters()]
                    inside = [self.weights[item].detach().requires_grad_(self.with_weights) for item in leaves]
                    named = {item: w for (item, _), w in zip(module.named_parameters(), inside, strict=True)}
                    out = functional_call(module, named, (leaf,))
                value = out.detach().permute(0, 2, 3, 1)
                self.nodes.sums[node].view(*self.shape, -1).addcmul_(value, self.mixture[edge, self.column[name]])
                saved.plain.append((place, name, leaf, out, leaves, inside))
