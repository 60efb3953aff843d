"""λ → genotype: the discretization of Liu et al. 2019, section 2.4."""

from __future__ import annotations

from torch import Tensor

from fer_nas.artifacts import Edge, Genotype
from fer_nas.space.variants import SearchSpace


def decode_cell(mixture_EO: Tensor, space: SearchSpace) -> tuple[Edge, ...]:
    """On each node the two incoming edges with the largest weight of an operation other than `none`, with that one.

    Equal weights go to the earlier edge and the earlier operation, so the result is determined.
    """
    weights = mixture_EO.detach().cpu().tolist()
    allowed = [place for place, name in enumerate(space.operations) if name != "none"]
    chosen: list[Edge] = []
    first = 0
    for node in range(space.nodes):
        best: list[tuple[float, int, int]] = []
        for source in range(2 + node):
            row = weights[first + source]
            place = max(allowed, key=lambda o: row[o])
            best.append((-row[place], source, place))
        for _, source, place in sorted(sorted(best)[:2], key=lambda item: item[1]):
            chosen.append((space.operations[place], source))
        first += 2 + node
    return tuple(chosen)


def decode(mixtures: dict[str, Tensor], space: SearchSpace) -> Genotype:
    concat = tuple(range(2, 2 + space.nodes))
    return Genotype(
        normal=decode_cell(mixtures["normal"], space),
        normal_concat=concat,
        reduce=decode_cell(mixtures["reduce"], space),
        reduce_concat=concat,
    )


def count_skips(edges: tuple[Edge, ...]) -> int:
    """Skip connections of a decoded cell: a cell full of them is the known failure of differentiable search."""
    return sum(op == "skip_connect" for op, _ in edges)
