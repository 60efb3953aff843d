"""The nodes of a cell in the fast form: sums to which operations add, and their gradients; fast_cell.py tells the rest.

Shapes: M = N·H·W pixels, C channels; outputs of operations (M, k·C) with k edges side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fer_nas.space import fast_kernels as kernels
from fer_nas.space import fast_layout as layout
from fer_nas.space.fast_norms import Norm
from fer_nas.space.fast_plan import Unit, places


class NodeSums:
    def __init__(self, like: Tensor, nodes: int, shape: tuple[int, int, int], channels: int) -> None:
        n, h, w = self.shape = shape
        self.channels = channels
        self.sums = like.new_zeros(nodes, n * h * w, channels)
        self.bias = like.new_zeros(nodes, channels)
        self.parities: Tensor | None = None  # what comes as the parities of pictures, (nodes, 4·N, h, w, C)

    def finish(self, node: int) -> Tensor:
        """A node to which nothing is added any more, (N, H, W, C)."""
        total = self.sums[node].add_(self.bias[node]).view(*self.shape, -1)
        if self.parities is not None:
            layout.add_from_parities(total, self.parities[node])
        return total

    def add(self, units: Sequence[Unit], nodes: list[int], norm: Norm) -> None:
        """The units' outputs normed and times their coefficients; nodes: of every C columns."""
        channels = self.channels
        self.bias.index_add_(0, places(tuple(nodes), norm.row.device), norm.bias.view(-1, channels))
        if kernels.by_numba(norm.row):
            self._by_node(units, nodes, norm.row.view(-1, channels))
        elif kernels.by_triton(norm.row):
            self._in_one_pass(units, nodes, norm.row)
        else:
            self._by_unit(units, nodes, norm.row.view(-1, 1, channels))

    def _by_unit(self, units: Sequence[Unit], nodes: list[int], rows: Tensor) -> None:
        job = 0
        for unit in units:
            count = len(unit.places)
            into = nodes[job : job + count]
            parts = layout.some(unit.y).view(-1, count, self.channels).transpose(0, 1)
            targets = self._targets(unit.parity)
            if into == list(range(into[0], into[0] + count)):
                targets[into[0] : into[0] + count].addcmul_(parts, rows[job : job + count])
            else:
                for i, node in enumerate(into):
                    targets[node].addcmul_(parts[i], rows[job + i])
            job += count

    def _targets(self, parity: bool) -> Tensor:
        """What the outputs of operations are added to, (nodes, M, C)."""
        if not parity:
            return self.sums
        if self.parities is None:
            n, h, w = self.shape
            self.parities = self.sums.new_zeros(len(self.sums), 4 * n, (h + 1) // 2, (w + 1) // 2, self.channels)
        return self.parities.view(len(self.sums), -1, self.channels)

    def _in_one_pass(self, units: Sequence[Unit], nodes: list[int], row: Tensor) -> None:
        """On a GPU; consecutive nodes together."""
        found, job, channels = [], 0, self.channels
        for unit in units:
            y, begin = layout.some(unit.y), 0
            own = nodes[job : job + len(unit.places)]
            while begin < len(own):
                end = begin + 1
                while end < len(own) and own[end] == own[end - 1] + 1:
                    end += 1
                columns = y[:, begin * channels : end * channels]
                found.append(
                    kernels.gpu_terms.Term(columns, (job + begin) * channels, own[begin], end - begin, unit.parity)
                )
                begin = end
            job += len(own)
        kernels.gpu_terms.add(self.sums, found, row, self.shape)

    def _by_node(self, units: Sequence[Unit], nodes: list[int], rows: Tensor) -> None:
        """On a CPU, a node at a time."""
        terms: dict[tuple[bool, int], list[tuple[Tensor, int, Tensor]]] = {}
        jobs = zip(nodes, rows.unbind(), strict=True)
        for unit in units:
            for i in range(len(unit.places)):
                node, row = next(jobs)
                terms.setdefault((unit.parity, node), []).append((layout.some(unit.y), i * len(row), row))
        for (parity, node), found in terms.items():
            if not parity:
                kernels.cpu_kernels.add_scaled(self.sums[node], found)
                continue
            picture = self.sums[node].view(*self.shape, -1)
            for y, first, row in found:
                kernels.cpu_pictures.add_from_parities(picture, y, first, row)


class NodeGradients:
    """Gradients of all nodes, g (nodes, M, C), and what units read of them. Sources are walked backwards, so that the
    nodes of a source's edges are complete."""

    def __init__(self, g: Tensor, shape: tuple[int, int, int]) -> None:
        self.g, self.shape = g, shape
        self.parities: dict[int, Tensor] = {}
        self.side: dict[tuple[bool, tuple[int, ...]], Tensor] = {}

    def next_source(self) -> None:
        self.side.clear()

    def beside(self, nodes: tuple[int, ...], parity: bool) -> Tensor:
        """Those of some nodes side by side, (M, k·C), as the parities of their pictures where these are asked for."""
        if parity:
            for node in nodes:
                if node not in self.parities:
                    self.parities[node] = layout.matrix(layout.to_parities(self.g[node].view(*self.shape, -1)))
        found = [self.parities[node] if parity else self.g[node] for node in nodes]
        if len(nodes) == 1:
            return found[0]
        if (parity, nodes) not in self.side:
            self.side[parity, nodes] = torch.cat(found, dim=1)
        return self.side[parity, nodes]
