"""Which face of this frame is which of the last, and probabilities smoothed over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Box = tuple[int, int, int, int]
SAME_FACE = 0.3
"""Least overlap (intersection over union) between a face's boxes in two frames."""
FORGET_AFTER = 1.0
"""Seconds for which a face that is not seen keeps its id."""


@dataclass
class Track:
    """A face followed over frames: its last box, its smoothed probabilities and when it was last seen."""

    id: int
    box: Box
    probabilities: np.ndarray
    seen: float


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes (x, y, w, h)."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (a[2] * a[3] + b[2] * b[3] - both)


@dataclass
class Tracker:
    """Greedy matching by overlap; new faces get the next id, from left to right, starting at 1.

    Probabilities follow p ← p + (1 − exp(−Δt/τ))·(new − p) with τ = `smoothing` seconds; 0: no smoothing.
    """

    smoothing: float = 0.0
    tracks: list[Track] = field(default_factory=list)
    next_id: int = 1

    def update(self, boxes: Sequence[Box], probabilities_NK: np.ndarray, time: float) -> list[Track]:
        """The tracks of one frame's faces, in the order of `boxes`; `time` in seconds."""
        self.tracks = [track for track in self.tracks if time - track.seen <= FORGET_AFTER]
        pairs = [(overlap(track.box, box), t, b) for t, track in enumerate(self.tracks) for b, box in enumerate(boxes)]
        pairs = sorted((pair for pair in pairs if pair[0] >= SAME_FACE), key=lambda pair: (-pair[0], pair[2], pair[1]))
        match: dict[int, int] = {}
        taken: set[int] = set()
        for _, t, b in pairs:
            if b not in match and t not in taken:
                match[b] = t
                taken.add(t)
        current = []
        for b, box in enumerate(boxes):
            if b in match:
                track = self.tracks[match[b]]
                share = 1.0
                if self.smoothing > 0:
                    share = 1 - math.exp(-max(0.0, time - track.seen) / self.smoothing)
                track.probabilities = track.probabilities + share * (probabilities_NK[b] - track.probabilities)
                track.box, track.seen = box, time
            else:
                track = Track(self.next_id, box, probabilities_NK[b].copy(), time)
                self.next_id += 1
                self.tracks.append(track)
            current.append(track)
        return current

    def forget(self) -> None:
        """Start afresh, as between two unrelated pictures; ids go on counting."""
        self.tracks = []
