"""On which frames the detector runs: it is the slowest stage, and faces can be followed in between."""

from __future__ import annotations

import math
from dataclasses import dataclass

FILE_PERIOD = 0.25
"""Files: seconds of the film between two detections, whatever the machine, so that a run can be repeated."""
LONGEST = 0.5
"""Seconds for which a face that enters a live picture may go unseen."""
SHARE = 0.25
"""Share of the time budget that detection gets even where everything else uses it up."""
MEMORY = 0.9
"""Weight of the past in the running means of what the stages cost."""


def file_rhythm(fps: float) -> int:
    """Frames from one detection to the next in a file."""
    return max(1, round(FILE_PERIOD * fps))


@dataclass
class Schedule:
    """Detect on every k-th frame, k = ⌈D / (B − R)⌉: D seconds a detection, R the rest of a frame, B the budget.

    A frame with no face to follow is given to the detector at once (files), or by the same k (live).
    `budget` None: k is `every` for good.
    """

    budget: float | None = None
    every: int = 1
    since: int = 0
    detection: float = 0.0
    rest: float = 0.0

    @property
    def live(self) -> bool:
        return self.budget is not None

    @property
    def last(self) -> bool:
        """Whether the next frame is one to detect on."""
        return self.since >= self.every - 1

    def due(self, following: int) -> bool:
        """Whether to detect on this frame, with `following` faces from the frame before."""
        self.since += 1
        return self.since >= self.every or (not following and not self.live)

    def began(self) -> None:
        """A detection begins on this frame."""
        self.since = 0

    def detected(self, seconds: float) -> None:
        """What a detection took."""
        self.detection = MEMORY * self.detection + (1 - MEMORY) * seconds if self.detection else seconds
        self._adapt()

    def spent(self, seconds: float) -> None:
        """What the rest of a frame took, detection and waiting left out."""
        self.rest = MEMORY * self.rest + (1 - MEMORY) * seconds if self.rest else seconds
        self._adapt()

    def _adapt(self) -> None:
        if self.budget:
            left = max(self.budget - self.rest, SHARE * self.budget)
            self.every = min(max(1, math.ceil(self.detection / left)), max(1, round(LONGEST / self.budget)))
