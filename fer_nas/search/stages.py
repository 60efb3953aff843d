"""The stages of a search: P-DARTS's supernets grow deeper over fewer operations; every other search has one stage.

Chen et al. 2019: at the end of a stage each edge keeps the operations with the largest share of its mixture, and a new,
deeper supernet starts over them, its weights and λ anew. Shapes: E edges of a cell, O operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fer_nas.config import SearchConfig
from fer_nas.errors import InputError
from fer_nas.runtime import cosine
from fer_nas.space.variants import find_space

FEWEST = 3
"""Operations of an edge: beside `none` and a skip connection there is always one more."""
SKIPS = 2
"""Most skip connections of the normal cell that P-DARTS finds, where --max-skips says nothing."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """first, last: epochs, counted from 1. layers: cells. operations: of each edge. warmup: first epochs with λ frozen.

    skip_dropout: behind skip connections in the stage's first epoch.
    """

    first: int
    last: int
    layers: int
    operations: int
    warmup: int
    skip_dropout: float = 0.0

    def __str__(self) -> str:
        return f"{self.layers} cell{'s' if self.layers > 1 else ''}, {self.operations} operations of each edge"

    def done(self, epoch: int) -> float:
        """Share of the stage that lies before this epoch: 0 in the first one."""
        return (epoch - self.first) / (self.last - self.first + 1)

    def passed(self, epoch: int) -> float:
        """The same from 0 in the first epoch to 1 in the last one."""
        return (epoch - self.first) / max(1, self.last - self.first)

    def learning_rate(self, epoch: int, first: float, last: float) -> float:
        """Of the weights: a cosine over the stage."""
        return cosine(first, last, self.done(epoch))

    def dropout(self, epoch: int) -> float:
        """Behind skip connections, falling linearly to 0 with the end of the stage."""
        return self.skip_dropout * (1 - self.done(epoch))

    def learns(self, epoch: int) -> bool:
        """Whether λ moves in this epoch."""
        return epoch - self.first >= self.warmup


def plan(config: SearchConfig) -> tuple[Stage, ...]:
    """The stages of a search, one where the space has no schedule; InputError for settings that make none."""
    arch, epochs = config.arch, config.run.epochs
    space = find_space(arch.space, arch.operations)
    count = len(space.operations)
    if not space.staged:
        # A preset's warm-up must not swallow a search of fewer epochs: λ would stay at its random start.
        warmup = min(arch.warmup_epochs, epochs - 1)
        return (Stage(first=1, last=epochs, layers=config.network.layers, operations=count, warmup=warmup),)
    layers = [int(value) for value in _numbers("--stage-layers", arch.stage_layers, whole=True)]
    kept = [int(value) for value in _numbers("--stage-operations", arch.stage_operations, whole=True)]
    dropout = _numbers("--skip-dropout", arch.skip_dropout)
    if not len(layers) == len(kept) == len(dropout):
        raise InputError(
            f"--stage-layers, --stage-operations and --skip-dropout name {len(layers)}, {len(kept)} and "
            f"{len(dropout)} stages; give one number for each stage in all three"
        )
    if min(layers) < 1:
        raise InputError(f"--stage-layers is {arch.stage_layers}; every stage needs at least one cell")
    if kept[0] != count or kept != sorted(kept, reverse=True) or kept[-1] < FEWEST:
        raise InputError(
            f"--stage-operations is {arch.stage_operations}; the numbers begin with {count}, all operations of the "
            f"space, fall or stay, and end with at least {FEWEST}"
        )
    if not all(0 <= rate < 1 for rate in dropout):
        raise InputError(f"--skip-dropout is {arch.skip_dropout}; every rate lies in [0, 1)")
    if epochs < len(layers):
        raise InputError(f"--epochs is {epochs}, for all stages together; {len(layers)} stages need an epoch each")
    ends = [round(epochs * (number + 1) / len(layers)) for number in range(len(layers))]
    return tuple(
        Stage(
            first=before + 1,
            last=end,
            layers=layers[number],
            operations=kept[number],
            warmup=min(arch.stage_warmup, end - before - 1),
            skip_dropout=dropout[number],
        )
        for number, (before, end) in enumerate(zip([0, *ends], ends, strict=False))
    )


def _numbers(option: str, text: str, whole: bool = False) -> list[float]:
    try:
        found = [float(int(word) if whole else float(word)) for word in text.split(",")]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise InputError(f"{option} is {text!r}; give {kind}, one for each stage, with commas") from None
    if not all(math.isfinite(value) for value in found):
        raise InputError(f"{option} is {text!r}; give finite numbers")
    return found


def max_skips(config: SearchConfig) -> int | None:
    """Most skip connections of the normal cell: --max-skips, or what the space's paper has."""
    staged = find_space(config.arch.space).staged
    return SKIPS if config.arch.max_skips is None and staged else config.arch.max_skips


def warmup_notes(config: SearchConfig) -> list[str]:
    """What is said where the warm-up is shorter than wished."""
    stages, arch = plan(config), config.arch
    wished = arch.stage_warmup if find_space(arch.space).staged else arch.warmup_epochs
    short = min(stages, key=lambda stage: stage.warmup)
    if short.warmup >= wished:
        return []
    epochs = short.last - short.first + 1
    return [
        f"note: λ is frozen for {short.warmup} of {epochs} epochs; a warm-up of {wished} would leave it none to move in"
    ]


def strongest(mixtures: dict[str, Tensor], kept: dict[str, Tensor] | None, count: int) -> dict[str, Tensor]:
    """By kind of cell (E, O) bool: on each edge the `count` operations with the largest share among those kept, of
    equal ones the earlier."""
    return {kind: _strongest(part, None if kept is None else kept[kind], count) for kind, part in mixtures.items()}


def _strongest(mixture_EO: Tensor, kept_EO: Tensor | None, count: int) -> Tensor:
    rows = []
    for edge, weights in enumerate(mixture_EO.detach().cpu().tolist()):
        there = [o for o in range(len(weights)) if kept_EO is None or bool(kept_EO[edge, o])]
        chosen = set(sorted(there, key=lambda o: -weights[o])[:count])
        rows.append([o in chosen for o in range(len(weights))])
    return torch.tensor(rows)
