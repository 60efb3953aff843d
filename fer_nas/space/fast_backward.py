"""The backward pass of a cell in the fast form; fast_cell.py tells how it works."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from fer_nas.space import fast_convs as convs
from fer_nas.space import fast_kernels as kernels
from fer_nas.space import fast_lanes as lanes
from fer_nas.space import fast_layout as layout
from fer_nas.space import fast_norms as norms
from fer_nas.space.fast_forward import CellForward
from fer_nas.space.fast_nodes import NodeGradients
from fer_nas.space.fast_plan import (
    SEPARABLE,
    SKIPS,
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

Some = TypeVar("Some", bound=Unit)


def begins(units: Sequence[Some]) -> Iterator[tuple[Some, int]]:
    """Each unit and its first column in the norm of all."""
    columns = 0
    for unit in units:
        at, columns = columns, columns + layout.some(unit.y).shape[1]
        yield unit, at


class CellPass(CellForward):
    """One forward pass of a cell and its backward."""

    def backward(self, g: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor, Tensor, Weights]:
        """wanted: whether the gradients of x0 and x1 are; where they are not, zeros come back in their place."""
        if not self.saved:
            raise RuntimeError("the fast form goes backward once: what lay between is freed on the way")
        plan = self.plan
        by_node = g.reshape(self.pixels, plan.nodes, -1).transpose(0, 1).contiguous()
        self.gradients = NodeGradients(by_node if self.by is None else self.by.begin_backward(by_node), self.shape)
        self.d_mixture = torch.zeros_like(self.mixture)
        found: list[Tensor] = []
        for source in reversed(range(1 + plan.nodes)):
            # Sources are walked backwards: when one is reached, its nodes' gradients are complete.
            saved = self.saved.pop()
            assert saved is not None
            self.gradients.next_source()
            inwards = self.with_weights or source >= 2 or wanted[source]
            if inwards:
                dx = self.source_backward(saved, plan.sources[source])
            else:
                dx = torch.zeros_like(saved.x)
                self.mixture_backward(saved, plan.sources[source])
            if self.by is not None:
                dx = self.by.backward(plan.sources[source], dx, self.d_mixture)
            if source >= 2:
                step = layout.matrix(dx)
                self.gradients.g[source - 2].add_(step if self.by is None else self.by.add_gradient(source - 2, step))
            else:
                found.append(dx)
        return found[1], found[0], self.d_mixture, self.d_weights

    def gradient(self, unit: Unit, source: SourcePlan) -> Tensor:
        """Gradients of the unit's nodes side by side, (M, k·C)."""
        return self.gradients.beside(tuple(source.edges[place][1] for place in unit.places), unit.parity)

    def mixture_backward(self, saved: Saved, source: SourcePlan) -> None:
        """The mixture's gradient alone, of a source that nothing before it learns from."""
        if saved.units:
            norm = layout.some(saved.norm)
            self.to_mixture(
                saved,
                source,
                [norm.slope(self.gradient(u, source), layout.some(u.y), at) for u, at in begins(saved.units)],
            )
        if saved.linear:
            self.linear_mixture_backward(saved, source)
        for place, name, _, out, _, _ in saved.plain:
            self.plain_mixture_backward(source, place, name, out)

    def plain_mixture_backward(self, source: SourcePlan, place: int, name: str, out: Tensor) -> Tensor:
        """The same of an operation that ran by its module; returns the gradient of its output."""
        edge, node = source.edges[place]
        g = self.gradients.g[node].view(*self.shape, -1).permute(0, 3, 1, 2)
        self.d_mixture[edge, self.column[name]] += (g * out.detach()).sum()
        return g * self.mixture[edge, self.column[name]]

    def source_backward(self, saved: Saved, source: SourcePlan) -> Tensor:
        self.d_relu: Tensor | None = None
        self.d_dilated: Tensor | None = None
        if self.forks:  # what lanes share is there before them
            for unit in saved.units:
                self.gradient(unit, source)
        self.fork = lanes.Fork(saved.x, self.forks)
        slopes = self.units_backward(saved, source)
        through: Tensor | None = None
        if saved.linear:
            with self.fork.lane("pools"):
                through = self.linear_backward(saved, source)
        self.fork.join()
        if slopes:
            self.to_mixture(saved, source, slopes)
        if self.d_dilated is not None:
            if source.stride == 1:
                layout.add_from_parities(self.of_relu(saved), self.d_dilated)
            else:
                self.of_relu(saved)[:, ::2, ::2].add_(self.d_dilated)
        dx = torch.ops.aten.threshold_backward(self.of_relu(saved), saved.relu, 0)
        del self.d_relu, self.d_dilated, self.fork
        if through is not None:
            dx.add_(through)
        for place, name, leaf, out, leaves, inside in saved.plain:
            g = self.plain_mixture_backward(source, place, name, out)
            grads = torch.autograd.grad(out, [leaf, *(inside if self.with_weights else [])], g)
            dx.add_(grads[0].permute(0, 2, 3, 1))
            self.d_weights.update(zip(leaves, grads[1:], strict=False))
        return dx

    def to_relu(self, step: Tensor) -> None:
        """Add to the gradient of ReLU(x), which takes the memory of the first step, (N, H, W, C)."""

        def add() -> None:
            self.d_relu = step.contiguous() if self.d_relu is None else self.d_relu.add_(step)

        self.fork.after(add)

    def to_dilated(self, step: Tensor) -> None:
        """The same of what dilated convolutions read."""

        def add() -> None:
            self.d_dilated = step if self.d_dilated is None else self.d_dilated.add_(step)

        self.fork.after(add)

    def of_relu(self, saved: Saved) -> Tensor:
        """The gradient of ReLU(x), zeros before the first step."""
        if self.d_relu is None:
            self.d_relu = torch.zeros_like(saved.relu)
        return self.d_relu

    def to_mixture(self, saved: Saved, source: SourcePlan, slopes: list[Tensor]) -> None:
        """The mixture's gradient from its coefficients', by column, of all units."""
        entries, _ = self.jobs(saved.units, source)
        by_job = torch.cat(slopes).view(-1, self.plan.channels).sum(1)
        self.d_mixture.view(-1).index_add_(0, entries, by_job)

    def units_backward(self, saved: Saved, source: SourcePlan) -> list[Tensor]:
        """Unit by unit, while its gradient is in the cache: through norm and mixture, through the unit, and separable
        convolutions on through their first stage. Returns the gradients of the mixture's coefficients by column."""
        first = list(begins(saved.first))
        slopes: list[Tensor] = []
        for unit, at in begins(saved.units):
            with self.fork.lane(unit.operation):
                g, norm = self.gradient(unit, source), layout.some(saved.norm)
                if isinstance(unit, Depthwise):
                    slope, dx = self.depthwise_backward(unit, source, norm, at, g)
                    if unit.operation in SEPARABLE:
                        # On through the first stage, from the gradient of what ReLU gave the second.
                        stage, begin = first.pop(0)
                        g, relu = layout.matrix(dx), layout.matrix(unit.x)
                        norm = layout.some(saved.first_norm)
                        _, dx = self.depthwise_backward(stage, source, norm, begin, g, relu)
                        self.to_relu(self.over_edges(dx))
                    else:
                        self.to_dilated(self.over_edges(dx))
                else:
                    slope, g = norm.backward(g, layout.some(unit.y), at)
                    unit.y = None
                    if isinstance(unit, Dense):
                        self.dense_backward(unit, source, saved, g)
                    else:
                        self.pointwise_backward(unit, source, saved, g)
                slopes.append(slope)
        return slopes

    def over_edges(self, dx: Tensor) -> Tensor:
        """The gradient of what several edges read, (N, H, W, C), from theirs side by side or their sum."""
        return layout.sum_channels(dx, dx.shape[3] // self.plan.channels)

    def depthwise_backward(
        self, unit: Depthwise, source: SourcePlan, norm: norms.Norm, at: int, g: Tensor, relu: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """From the gradient of a unit's normed output, or of that behind ReLU: the coefficient's by column, and its
        picture's, (N, H, W, …). at: the norm's column that the unit begins with."""
        edges, y = [source.edges[place][0] for place in unit.places], layout.some(unit.y)
        d_points: Iterable[Tensor] | None = None
        if unit.stack is not None:
            slope, d, d_points = norm.through(g, y, at, unit.middle, unit.stack, relu)
        else:
            slope, g = norm.backward(g, y, at, relu)
            if self.with_weights:
                d_points = convs.point_gradients(g, layout.some(unit.middle), len(edges))
            d = convs.products_backward(g, unit.points)
        unit.y = None
        if d_points is not None:
            for edge, d_point in zip(edges, d_points, strict=True):
                self.d_weights[edge_weight(edge, unit.operation, unit.leaves[1])] = d_point[:, :, None, None]
        height = -(-unit.x.shape[1] // unit.stride)
        d = d.view(unit.x.shape[0], height, -1, d.shape[1])
        if unit.parity and self.odd:
            d.mul_(self.parity_mask(d))
        dx, d_kernel = convs.depthwise_backward(d, unit.x, unit.kernel, unit.stride, self.with_weights)
        if d_kernel is not None:
            for edge, part in zip(edges, d_kernel.chunk(len(edges)), strict=True):
                self.d_weights[edge_weight(edge, unit.operation, unit.leaves[0])] = part
        return slope, dx

    def pointwise_backward(self, unit: Pointwise, source: SourcePlan, saved: Saved, g: Tensor) -> None:
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
                self.to_relu(picture)
            else:
                self.fork.after(partial(self.to_half, saved, i, picture))

    def to_half(self, saved: Saved, start: int, step: Tensor) -> None:
        """Add to every second pixel of ReLU(x)'s gradient."""
        view = self.of_relu(saved)[:, start::2, start::2]
        view.add_(step[:, : view.shape[1], : view.shape[2]])

    def dense_backward(self, unit: Dense, source: SourcePlan, saved: Saved, g: Tensor) -> None:
        dx, dw, _ = convs.conv_backward(
            layout.nchw(g.view(*self.shape, -1)), layout.nchw(saved.relu), unit.weight, source.stride, (1, 1), 1,
            [True, self.with_weights, False],
        )  # fmt: skip
        self.to_relu(dx.permute(0, 2, 3, 1))
        if self.with_weights:
            self.d_weights[edge_weight(source.edges[unit.places[0]][0], unit.operation, "1.weight")] = dw

    def linear_slopes(self, g: Tensor, values: Tensor) -> Tensor:
        """g (E, M·C) times values (P, M·C), turned: (E, P). On a GPU image by image: one product of a long sum and a
        small result would occupy a hundredth of it."""
        if not kernels.on_gpu(g):
            return torch.mm(g, values.t())
        images = self.shape[0]
        left = g.view(len(g), images, -1).transpose(0, 1)
        right = values.view(len(values), images, -1).permute(1, 2, 0)
        return torch.bmm(left, right).sum(0)

    def linear_mixture_backward(self, saved: Saved, source: SourcePlan) -> Tensor:
        """The mixture's gradient by what was added as it is; returns the gradients of the source's nodes, (E, M·C)."""
        values, names = layout.some(saved.linear_values), saved.linear
        first = source.edges[0][1]
        g = self.gradients.g[first : first + len(source.edges)].view(len(source.edges), -1)
        d_mix = self.linear_slopes(g, values.view(len(names), -1))
        ran = [(place, column) for column, name in enumerate(names) for place in source.active[name]]
        entries = tuple(self.entry(source.edges[place][0], names[column]) for place, column in ran)
        taken = tuple(place * len(names) + column for place, column in ran)
        values_of = d_mix.view(-1).index_select(0, places(taken, d_mix.device))
        self.d_mixture.view(-1).index_add_(0, places(entries, d_mix.device), values_of)
        return g

    def linear_backward(self, saved: Saved, source: SourcePlan) -> Tensor:
        """The source's gradient by its pools and skip connections."""
        values, mix, names = layout.some(saved.linear_values), layout.some(saved.linear_mix), saved.linear
        g = self.linear_mixture_backward(saved, source)
        d_values = torch.mm(mix.t(), g).view_as(values)
        total: Tensor | None = None
        for column, name in enumerate(names):
            if name in SKIPS:
                step = d_values[column].view_as(saved.x)
            else:
                by_norm = norms.standardize_backward(d_values[column], values[column], saved.pool_norm[name])
                picture = by_norm.view(*self.shape, -1)
                if name == "max_pool_3x3":
                    step = convs.max_pool_backward(picture, saved.x, layout.some(saved.pool_where), source.stride)
                else:
                    step = convs.avg_pool_backward(picture, saved.x, source.stride)
            total = step if total is None else total.add_(step)
        return layout.some(total)
