"""What is known of one face in one frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Face:
    """`face` counts from 0 at the left of the frame; `box` is (x, y, w, h); `probabilities` by class."""

    face: int
    track: int
    box: tuple[int, int, int, int]
    score: float
    label: str
    probabilities: np.ndarray

    @property
    def confidence(self) -> float:
        return float(self.probabilities.max())
