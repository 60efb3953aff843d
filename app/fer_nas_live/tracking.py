"""Which face of this frame is which of the last, and probabilities smoothed over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Box = tuple[float, float, float, float]
SAME_FACE = 0.3
"""Least overlap (intersection over union) between a face's boxes in two frames."""
FORGET_AFTER = 1.0
"""Seconds for which a face that is not seen keeps its id."""
HELD = 0.1
"""A smoothed label gives way when another class's probability is larger by this much."""
SURE_AGAIN = 0.1
"""A label that became unsure comes back at the threshold plus this much, or halfway from it to 1 if that is closer."""


@dataclass
class Track:
    """A face followed over frames: its last box, its smoothed probabilities, when it was first and last seen, and when
    it was last classified.

    `score` is the detector's last one, `missed` how many detections in a row should have found it and did not,
    `label` the index of the class that is shown, `sure_of` of the one that last was above the threshold, `sure` whether
    it is; `rest` and `rests` sum up
    its face at rest (correction.py).
    """

    id: int
    box: Box
    probabilities: np.ndarray
    since: float
    seen: float
    classified: float
    score: float = 1.0
    missed: int = 0
    label: int = 0
    sure: bool = True
    sure_of: int = 0
    rest: np.ndarray | None = None
    rests: int = 0


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

    def match(self, boxes: Sequence[Box], time: float, places: Mapping[int, Box] | None = None) -> list[Track | None]:
        """The known face of each box at `time`, the pairs that overlap most first; None for a new one.

        places: track → its box, where the boxes are of an earlier frame; the last box for those that it leaves out.
        """
        self.tracks = [track for track in self.tracks if time - track.seen <= FORGET_AFTER]
        there = [(places or {}).get(track.id, track.box) for track in self.tracks]
        pairs = [(overlap(place, box), t, b) for t, place in enumerate(there) for b, box in enumerate(boxes)]
        pairs = sorted((pair for pair in pairs if pair[0] >= SAME_FACE), key=lambda pair: (-pair[0], pair[2], pair[1]))
        found: list[Track | None] = [None] * len(boxes)
        taken: set[int] = set()
        for _, t, b in pairs:
            if found[b] is None and t not in taken:
                found[b] = self.tracks[t]
                taken.add(t)
        return found

    def update(
        self,
        boxes: Sequence[Box],
        probabilities_NK: Sequence[np.ndarray | None],
        time: float,
        known: Sequence[Track | None] | None = None,
    ) -> list[Track]:
        """The tracks of one frame's faces, in the order of `boxes`; `time` in seconds.

        probabilities_NK: None for a known face that was not classified on this frame.
        known: whose box each is, where that is settled; without it they are matched by overlap.
        """
        known = self.match(boxes, time) if known is None else known
        current = []
        for box, new, track in zip(boxes, probabilities_NK, known, strict=True):
            if track is None:
                assert new is not None
                best = int(np.argmax(new))
                track = Track(self.next_id, box, new.copy(), time, time, time, label=best, sure_of=best)
                self.next_id += 1
                self.tracks.append(track)
            else:
                if new is not None:
                    share = 1.0
                    if self.smoothing > 0:
                        share = 1 - math.exp(-max(0.0, time - track.classified) / self.smoothing)
                    track.probabilities = track.probabilities + share * (new - track.probabilities)
                    track.classified = time
                track.box, track.seen = box, time
            current.append(track)
        return current

    def choose(self, track: Track, probabilities_K: np.ndarray) -> int:
        """The class to show: the most probable one, or with smoothing the last one while it is within HELD of it."""
        best = int(np.argmax(probabilities_K))
        if not self.smoothing or probabilities_K[best] - probabilities_K[track.label] > HELD:
            track.label = best
        return track.label

    def is_sure(self, track: Track, largest: float, threshold: float) -> bool:
        """Whether a face whose largest probability is `largest` is shown with its label, not as unsure.

        Never below the threshold; with smoothing a class that became unsure must rise SURE_AGAIN above it, and another
        class need not, so that a change of expression is shown as soon as without this.
        """
        needed = threshold
        if self.smoothing and not track.sure and track.label == track.sure_of:
            needed += min(SURE_AGAIN, (1 - threshold) / 2)
        track.sure = largest >= needed
        if track.sure:
            track.sure_of = track.label
        return track.sure

    def forget(self) -> None:
        """Start afresh, as between two unrelated pictures; ids go on counting."""
        self.tracks = []
