"""The baseline of every search: cells drawn uniformly, without any training."""

from __future__ import annotations

import torch

from fer_nas.artifacts import Edge, Genotype
from fer_nas.space.variants import SearchSpace


def draw_cell(space: SearchSpace, draw: torch.Generator) -> tuple[Edge, ...]:
    """For each node two of its possible inputs, each pair as likely, and for each an operation other than `none`."""
    operations = [name for name in space.operations if name != "none"]
    edges: list[Edge] = []
    for node in range(space.nodes):
        for source in torch.randperm(2 + node, generator=draw)[:2].sort().values.tolist():
            chosen = int(torch.randint(len(operations), (), generator=draw))
            edges.append((operations[chosen], source))
    return tuple(edges)


def draw_genotype(space: SearchSpace, draw: torch.Generator) -> Genotype:
    concat = tuple(range(2, 2 + space.nodes))
    normal, reduce = draw_cell(space, draw), draw_cell(space, draw)
    return Genotype(normal=normal, normal_concat=concat, reduce=reduce, reduce_concat=concat)
