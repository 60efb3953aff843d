"""What is known of one face in one frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNSURE = "unsure"
"""The label of a face whose largest probability is below the threshold."""


@dataclass(frozen=True, kw_only=True)
class Face:
    """`face` counts from 0 at the left of the frame; `box` is (x, y, w, h); `probabilities` by class.

    `label` is a class or UNSURE, `guess` the class that an unsure face comes closest to; `uncorrected`
    are the probabilities before a prior or baseline changed them.
    """

    face: int
    track: int
    box: tuple[int, int, int, int]
    score: float
    label: str
    probabilities: np.ndarray
    uncorrected: np.ndarray | None = None
    guess: str | None = None

    @property
    def shown(self) -> str:
        """The label for people: an unsure face's is its guess with a question mark."""
        return f"{self.guess}?" if self.label == UNSURE and self.guess else self.label

    @property
    def confidence(self) -> float:
        return float(self.probabilities.max())
