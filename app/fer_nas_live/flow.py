"""Where a face has moved since the last frame: pyramidal Lucas–Kanade optical flow of a grid of points.

The median of the points' shifts moves the box and the median of their distances' ratios scales it, as in
Kalal, Mikolajczyk, Matas 2010 (median flow), with their forward-backward check.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

Box = tuple[float, float, float, float]
SIDE = 5
"""Points per side of the grid, over the middle of the box."""
INNER = 0.7
"""Share of the box's sides that the grid covers: its rim is background."""
BACK = 1.0
"""Pixels of the small frame by which a point may miss its start when it is followed back."""
ENOUGH = 0.4
"""Least share of a box's points that must pass the check."""
MARGIN, LEAST = 40, 48
"""Pixels of the small frame around a face's points, as far as four levels of 11×11 windows find a point; and the least
side of what is searched."""
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 10, 0.03)
_GRID = (np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, SIDE)] * 2), -1).reshape(-1, 2) * INNER).astype(np.float32)

_PAIRS = np.stack(np.triu_indices(SIDE * SIDE, 1))[:, ::3]
"""Pairs of points whose distances tell the scale: a third of all, spread over the grid."""


class Flow:
    """Follows boxes from frame to frame; `look` must see every frame, in order."""

    def __init__(self, side: int) -> None:
        """side: frames are shrunk to this longer side, in pixels, before they are compared."""
        self.side = side
        self._before: np.ndarray | None = None
        self._now: np.ndarray | None = None
        self._scale = np.ones(2, np.float32)

    def look(self, frame: np.ndarray) -> bool:
        """Take in the next (H,W,3) BGR frame; False where one of another size begins anew."""
        height, width = frame.shape[:2]
        shrink = min(1.0, self.side / max(height, width))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        small = frame if shrink == 1 else cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
        self._before, self._now = self._now, cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        self._scale = np.array([size[0] / width, size[1] / height], np.float32)
        if self._before is not None and self._before.shape != self._now.shape:
            self._before = None
        return self._before is not None

    @property
    def picture(self) -> np.ndarray:
        """The frame of the last look, small and grey."""
        assert self._now is not None
        return self._now

    def through(self, pictures: Sequence[np.ndarray], box: Box) -> Box | None:
        """A box of the first of these `picture`s, followed to the last; None where it was lost on the way."""
        found: Box | None = box
        for before, now in pairwise(pictures):
            if found is not None:
                (found,) = self._follow(before, now, [found])
        return found

    def follow(self, boxes: Sequence[Box]) -> list[Box | None]:
        """Each box of the frame before, in this one; None where its points were lost."""
        if self._before is None or self._now is None or not boxes:
            return [None] * len(boxes)
        return self._follow(self._before, self._now, boxes)

    def _follow(self, before: np.ndarray, now: np.ndarray, boxes: Sequence[Box]) -> list[Box | None]:
        corners_N4 = np.array(boxes, np.float32)
        middles_N2 = (corners_N4[:, :2] + corners_N4[:, 2:] / 2) * self._scale
        sides_N2 = corners_N4[:, 2:] * self._scale
        points_NP2 = middles_N2[:, None] + _GRID * sides_N2[:, None]
        corner, before, now = _around(points_NP2, before, now)
        points_NP2 = points_NP2 - corner
        start = points_NP2.reshape(-1, 1, 2)
        there, found = _flow(before, now, start)
        back, returned = _flow(now, before, there)
        miss = np.abs(back - start).max(-1).ravel()
        good_NP = ((found.ravel() == 1) & (returned.ravel() == 1) & (miss <= BACK)).reshape(len(boxes), -1)
        return [
            self._moved(box, points, after, good)
            for box, points, after, good in zip(
                boxes, points_NP2, there.reshape(len(boxes), -1, 2), good_NP, strict=True
            )
        ]

    def _moved(self, box: Box, before_P2: np.ndarray, after_P2: np.ndarray, good_P: np.ndarray) -> Box | None:
        if good_P.mean() < ENOUGH:
            return None
        shift = _median((after_P2 - before_P2)[good_P]) / self._scale
        one, other = _PAIRS[:, good_P[_PAIRS].all(0)]
        far, now = (np.hypot(*(p[one] - p[other]).T) for p in (before_P2, after_P2))
        scale = min(1.25, max(0.8, float(_median(now / far)))) if len(one) else 1.0
        x, y, w, h = box
        middle = np.array([x + w / 2, y + h / 2]) + shift
        left, top = middle - np.array([w, h]) * scale / 2
        return float(left), float(top), w * scale, h * scale


def _around(points_NP2: np.ndarray, *pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The part of two pictures that the points lie in, MARGIN wider, and its upper left corner: less to build pyramids
    of."""
    height, width = pictures[0].shape
    left, top = np.clip(points_NP2.min((0, 1)).astype(int) - MARGIN, 0, [max(0, width - LEAST), max(0, height - LEAST)])
    right, bottom = np.maximum(points_NP2.max((0, 1)).astype(int) + MARGIN, [left + LEAST, top + LEAST])
    before, now = (picture[top:bottom, left:right] for picture in pictures)
    return np.array([left, top], np.float32), before, now


def _median(values_M: np.ndarray) -> np.ndarray:
    """The upper median along the first axis; np.median takes several times as long for so few values."""
    return np.sort(values_M, axis=0)[len(values_M) // 2]


def _flow(one: np.ndarray, other: np.ndarray, points_M12: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the points of one grey picture are in the other, and 1 for each that was found."""
    start = points_M12.astype(np.float32)
    there, found, _ = cv2.calcOpticalFlowPyrLK(one, other, start, start.copy(), None, None, (11, 11), 3, _STOP)
    return np.asarray(there), np.asarray(found)
