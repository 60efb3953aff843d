"""A network's weights as few long vectors: what goes over all weights is one operation then, and not a thousand.

`packed` holds what a plain network has; where there are best responses, `packed_hyper` and `packed_rescale` hold what
only these read, so that `bilevel.response.split_weights` tells them apart by their names as ever. The network's own
parameters become views of the vectors.

Best-response weights stand by the inputs that they read and by their fan-in, so that all rows of one kind are a matrix:
W(r) takes a handful of operations instead of several for each layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from fer_nas.bilevel.protocol import Params
from fer_nas.bilevel.response import response_layers
from fer_nas.bilevel.slots import Reads, Slot, seen_by, slots

ALIGNED = 4
"""Some kernels of a GPU read four numbers at once, and fail where a weight does not begin with such four."""

GENERAL, HYPER, RESCALE = "packed", "packed_hyper", "packed_rescale"


@dataclass(frozen=True)
class Place:
    """A tensor's shape, and the order of its dimensions in memory (channels-last is no contiguous order)."""

    shape: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> Place:
        shape, strides = tuple(tensor.shape), tensor.stride()
        return cls(shape, tuple(sorted(range(len(shape)), key=lambda side: (-strides[side], -shape[side]))))

    @property
    def size(self) -> int:
        return prod(self.shape)

    def vector(self, tensor: Tensor) -> Tensor:
        return tensor.permute(self.order).reshape(-1)

    def picture(self, vector: Tensor) -> Tensor:
        """The tensor as a view of its numbers, (size,)."""
        if self.order == tuple(range(len(self.order))):
            return vector.view(self.shape)
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        return vector.view([self.shape[side] for side in self.order]).permute(back)


@dataclass(frozen=True)
class Block:
    """Best-response weights that read the same inputs and have one fan-in: rows of a matrix."""

    reads: Reads
    fan_in: int
    slots: tuple[Slot, ...]
    rows: tuple[int, ...]  # of each slot


class Packed:
    """How a network's weights lie in its vectors; `weights` are these."""

    def __init__(self, network: nn.Module) -> None:
        own = dict(network.named_parameters())
        found = slots(network, response_layers)
        assert found is not None, "a supernet shares no weights"
        self.blocks = _blocks(found, own)
        in_blocks = [slot for block in self.blocks for slot in block.slots]
        hyper, rescale = ([getattr(slot, part) for slot in in_blocks] for part in ("hyper", "rescale"))
        elem = [slot.elem for slot in in_blocks]
        taken = {*elem, *hyper, *rescale}
        self.rest = [name for name in own if name not in taken]
        self.names = {GENERAL: elem + self.rest} | ({HYPER: hyper, RESCALE: rescale} if in_blocks else {})
        self.places = {name: Place.of(own[name]) for names in self.names.values() for name in names}
        for slot in in_blocks:  # one order for both, whose numbers meet
            self.places[slot.hyper] = self.places[slot.elem]
        self.weights: Params = {}
        for vector, names in self.names.items():
            with torch.no_grad():
                whole = torch.cat([self.places[name].vector(own[name]) for name in names])
            self.weights[vector] = nn.Parameter(whole)
            for name, piece in zip(names, whole.split([self.places[name].size for name in names]), strict=True):
                own[name].data = self.places[name].picture(piece)

    def _apart(self, vector: Tensor, names: Sequence[str], start: int = 0) -> Params:
        """By name, as views; start: where in the memory of a network's weights the vector begins."""
        places = [self.places[name] for name in names]
        found: Params = {}
        for name, place, piece in zip(names, places, vector.split([place.size for place in places]), strict=True):
            found[name] = place.picture(piece if start % ALIGNED == 0 else piece.clone())
            start += place.size
        return found

    def named(self, weights: Params) -> Params:
        """The vectors' numbers by the network's own names."""
        return {k: w for vector, names in self.names.items() for k, w in self._apart(weights[vector], names).items()}

    def plain(self, weights: Params, response: Tensor | None) -> Params:
        """The weights of a plain network by their names, at r (n,); None is r = 0."""
        general = weights[GENERAL]
        if not self.blocks:
            return self._apart(general, self.rest)
        sizes = [sum(block.rows) * block.fan_in for block in self.blocks]
        *wholes, rest = general.split([*sizes, general.numel() - sum(sizes)])
        starts = [sum(sizes[:place]) for place in range(len(sizes) + 1)]
        if response is not None:
            hypers = weights[HYPER].split(sizes)
            scales = self._scales(weights[RESCALE], response)
            wholes = [
                torch.addcmul(elem.view(-1, block.fan_in), scale[:, None], hyper.view(-1, block.fan_in)).view(-1)
                for block, elem, scale, hyper in zip(self.blocks, wholes, scales, hypers, strict=True)
            ]
            starts[:-1] = [0] * len(sizes)
        found: Params = {}
        for block, whole, start in zip(self.blocks, wholes, starts, strict=False):
            by_elem = self._apart(whole, [slot.elem for slot in block.slots], start)
            found.update(zip((slot.name for slot in block.slots), by_elem.values(), strict=True))
        return found | self._apart(rest, self.rest, starts[-1])

    def _scales(self, rescale: Tensor, response: Tensor) -> list[Tensor]:
        """V r of each block's rows. Blocks of the same inputs stand together and are one product."""
        counts = [sum(block.rows) for block in self.blocks]
        seen = {_key(block.reads): seen_by(block.reads, response) for block in self.blocks}
        groups = list(seen)
        rows = [sum(c for c, b in zip(counts, self.blocks, strict=True) if _key(b.reads) == key) for key in groups]
        sizes = [count * len(seen[key]) for key, count in zip(groups, rows, strict=True)]
        found: list[Tensor] = []
        for key, piece in zip(groups, rescale.split(sizes), strict=True):
            scale = piece.view(-1, len(seen[key])) @ seen[key]
            found += scale.split([c for c, b in zip(counts, self.blocks, strict=True) if _key(b.reads) == key])
        return found


def _key(reads: Reads) -> tuple[tuple[int | None, int | None], ...]:
    return tuple((part.start, part.stop) for part in ((reads,) if isinstance(reads, slice) else reads))


def _blocks(found: Iterable[Slot], own: Mapping[str, Tensor]) -> list[Block]:
    """By what they read and by fan-in, each in the order of their first."""
    groups: dict[object, dict[int, list[Slot]]] = {}
    for slot in found:
        fan_in = own[slot.elem].numel() // len(own[slot.elem])
        groups.setdefault(_key(slot.reads), {}).setdefault(fan_in, []).append(slot)
    return [
        Block(same[0].reads, fan_in, tuple(same), tuple(len(own[slot.elem]) for slot in same))
        for by_size in groups.values()
        for fan_in, same in by_size.items()
    ]
