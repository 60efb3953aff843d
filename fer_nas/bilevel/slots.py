"""W(r) and b(r) of all best-response layers at once, by their formula, without calling a module.

Calling hundreds of modules for their weights takes longer than a small network's own pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fer_nas.bilevel.protocol import Params

Reads = slice | tuple[slice, ...]
"""Which inputs of r a layer sees: a stretch of them, or several stretches."""


def seen_by(reads: Reads, response: Tensor) -> Tensor:
    """The part of r (…, n) that a layer reads."""
    if isinstance(reads, slice):
        return response[..., reads]
    return torch.cat([response[..., part] for part in reads], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One weight or bias of a best-response layer: its plain name, and the names that its parts have."""

    name: str
    elem: str
    rescale: str
    hyper: str
    reads: Reads
    size: int  # of r


_SLOTS: WeakKeyDictionary[nn.Module, list[Slot] | None] = WeakKeyDictionary()


def slots(module: nn.Module, layers: Callable[[nn.Module], Iterable[tuple[str, Any]]]) -> list[Slot] | None:
    """A network's slots, gone through for once; None where a layer or a weight of it has two names.

    layers: the best-response layers of a network by name.
    """
    if module not in _SLOTS:
        tied = any(
            len(list(every(remove_duplicate=False))) > len(list(every()))
            for every in (module.named_modules, module.named_parameters)
        )
        found = []
        for name, layer in layers(module):
            stem = f"{name}." if name else ""
            for kind in ("weight", "bias") if layer.bias_elem is not None else ("weight",):
                whole = f"{stem}{kind}"
                found.append(
                    Slot(
                        name=whole, elem=f"{whole}_elem", rescale=f"{whole}_rescale", hyper=f"{whole}_hyper",
                        reads=layer.reads, size=layer.response_size,
                    )
                )  # fmt: skip
        _SLOTS[module] = None if tied else found
    return _SLOTS[module]


def written(slots: list[Slot], weights: Params, response: Tensor | None) -> Params:
    """W(r), b(r) by their plain names, at r (n,); None is r = 0."""
    if response is None:
        return {slot.name: weights[slot.elem] for slot in slots}
    seen: dict[Any, Tensor] = {}
    found = {}
    for slot in slots:
        stretches = (slot.reads,) if isinstance(slot.reads, slice) else slot.reads
        key = tuple((stretch.start, stretch.stop) for stretch in stretches)
        if key not in seen:
            seen[key] = seen_by(slot.reads, response)
        elem = weights[slot.elem]
        scale = (weights[slot.rescale] @ seen[key]).view(-1, *[1] * (elem.dim() - 1))
        found[slot.name] = torch.addcmul(elem, scale, weights[slot.hyper])
    return found
