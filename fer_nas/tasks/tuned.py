"""Training hyperparameters that stand in a search's λ beside the architecture, and what they do to a training step.

They act in L_train alone, as numbers: dropout before the classifier and drop-path on the edges (space/disturb.py), the
augmentation of the images, the smoothing of the labels. L_val is read on the images as they are and without any of
them, so ∂L_val/∂λ along the data path is zero here, and their hypergradient is the response's: what W(λ) does to L_val.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fer_nas.bilevel.hyper import Part, bounded
from fer_nas.config import TUNABLE, AugmentConfig
from fer_nas.data.augment import augment
from fer_nas.errors import InputError
from fer_nas.space.disturb import Disturbance

NETWORK = ("dropout", "drop_path")
LABELS = "label_smoothing"
EDGE = 0.05
"""Values start at least this share of their range inside it: nearer to a bound the sigmoid hardly moves. The published
dropout rates start there too (MacKay et al. 2019)."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """names: of the parts of λ, from TUNABLE. augment: the changes of images, of which λ's take the place."""

    names: tuple[str, ...]
    augment: AugmentConfig

    def parts(self) -> dict[str, Part]:
        """Every value bounded, starting at its setting where a search has one, else low; strictly inside."""
        found = {}
        for name in self.names:
            low, high = TUNABLE[name]
            setting = float(getattr(self.augment, name, low))
            if not low <= setting <= high:
                raise InputError(f"--{name} is {setting:g}; --tune {name} searches {low:g} to {high:g}")
            margin = EDGE * (high - low)
            found[name] = bounded(low, high, start=min(max(setting, low + margin), high - margin))
        return found

    def images(self, images: Tensor, values: dict[str, float], draw: torch.Generator) -> Tensor:
        """A training batch changed as `augment` and the values say, float32 in 0 to 255."""
        own: dict[str, Any] = {name: value for name, value in values.items() if name not in (*NETWORK, LABELS)}
        return augment(images, replace(self.augment, **own), draw)

    def disturbance(self, values: dict[str, float], draw: torch.Generator) -> Disturbance | None:
        if not set(NETWORK) & set(values):
            return None
        return Disturbance(generator=draw, dropout=values.get("dropout", 0.0), drop_path=values.get("drop_path", 0.0))
