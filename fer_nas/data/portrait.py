"""One drawn face: polygons and lines in head coordinates, placed by a rotation, scale and perspective.

Points are complex numbers x + iy: x to the right, y down, the head reaches from y = −1 (crown) to 1 (chin). A
rotation, scale and shift is then one multiplication and one addition.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.complex128]


@dataclass(frozen=True)
class Expression:
    """Where the movable parts of a face stand, in head coordinates; the defaults are a face at rest."""

    brow_inner: float = 0.0  # raised by
    brow_outer: float = 0.0
    brow_arch: float = 0.05  # height of the bow between the ends
    brow_gap: float = 0.16  # distance of the inner end from the middle of the face
    eye_open: float = 0.10  # upper lid above the eye's axis
    lid_lower: float = 0.06  # lower lid below it
    mouth_width: float = 0.31  # half of it
    corner: float = 0.0  # mouth corners raised by
    jaw: float = 0.0  # height of the open mouth
    upper_lip: float = 0.0  # upper lip raised by
    sneer: float = 0.0  # one side of it raised more by
    lips: float = 0.06  # thickness of a lip
    teeth: float = 0.0  # share of the open mouth
    wrinkle: float = 0.0  # darkness of the lines across the nose
    frown: float = 0.0  # of those between the brows
    fold: float = 0.2  # of those from nose to mouth corners
    forehead: float = 0.0  # of those on the forehead


_SUBPIXEL_BITS = 4
_T = np.linspace(0, 1, 7)
_BOW = 4j * _T * (1 - _T)
_TAPER = 1j * (1 - 0.5 * _T)
_CIRCLE = np.exp(1j * np.linspace(0, 2 * np.pi, 25))
_COSINE, _SINE = _CIRCLE.real.copy(), 1j * _CIRCLE.imag
_ARC = np.linspace(0, 1, 17)
_ALONG = -np.cos(np.linspace(0, np.pi, 15))  # from corner to corner of an eye or mouth, denser at the corners
_DOWN_PARABOLA = 1j * (1 - _ALONG**2)
_DOWN_ELLIPSE = 1j * np.sqrt(1 - _ALONG**2)
_CUPID = _DOWN_ELLIPSE * (1 - 0.35 * np.exp(-((_ALONG / 0.18) ** 2)))  # the upper lip's bow
_SNEER = _DOWN_ELLIPSE * np.exp(-(((_ALONG - 0.55) / 0.35) ** 2))  # one side of it
_EYE_WIDTH = 0.19
_VISIBLE = 0.25  # lines in the skin fainter than this are left out


class Strokes:
    """What is to be drawn, in order: (points, tone, width), filled where the width is 0."""

    def __init__(self) -> None:
        self.rows: list[tuple[Points, int, float]] = []
        self.offset = 0j  # the features of a turned head, moved against its outline

    def fill(self, points: Points, tone: float) -> None:
        self.rows.append((points + self.offset, round(tone), 0.0))

    def line(self, points: Points, width: float, tone: float) -> None:
        self.rows.append((points + self.offset, round(tone), width))

    def between(self, upper: Points, lower: Points, tone: float) -> None:
        """The area between two curves that run the same way."""
        self.fill(np.concatenate((upper, lower[::-1])), tone)

    def render(self, image: NDArray[np.uint8], place: complex, middle: complex, lean: complex) -> None:
        """Draw on `image`: head point z lies at middle + place·z / (1 + lean·z), a scalar product below."""
        z = np.concatenate([points for points, _, _ in self.rows])
        z = middle + place * z / (1 + lean.real * z.real + lean.imag * z.imag)
        placed = np.rint(z.view(np.float64) * (1 << _SUBPIXEL_BITS)).astype(np.int32).reshape(-1, 2)
        start = 0
        for points, tone, width in self.rows:
            part = [placed[start : start + len(points)]]
            start += len(points)
            if width:
                thickness = max(1, round(width * abs(place)))
                cv2.polylines(image, part, False, tone, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
            else:
                cv2.fillPoly(image, part, tone, cv2.LINE_AA, _SUBPIXEL_BITS)


def _curve(start: complex, end: complex, bow: float) -> Points:
    """Points from start to end, bent upwards by `bow` in the middle."""
    return start + (end - start) * _T - bow * _BOW


def _ellipse(centre: complex, wide: float, tall: float) -> Points:
    return wide * _COSINE + (tall * _SINE + centre)


def portrait(face: Expression, rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """One face without light and grain: uint8 (size, size), drawn larger and shrunk."""
    side = size * max(3, -(-96 // size))
    turn = np.radians(min(max(rng.normal(0, 5.5), -15), 15))
    place = complex(side * rng.uniform(0.38, 0.48) * np.exp(1j * turn))
    middle = side * complex(0.5 + rng.uniform(-0.05, 0.05), 0.5 + rng.uniform(-0.05, 0.05))
    lean = complex(rng.normal(0, 0.04), rng.normal(0, 0.04))
    skin = rng.uniform(105, 215)
    hair = rng.uniform(15, 90) if rng.random() < 0.75 else rng.uniform(120, 190)
    strokes = Strokes()
    _head(strokes, rng, skin, hair)
    strokes.offset = complex(min(max(2 * lean.real + rng.normal(0, 0.03), -0.15), 0.15), lean.imag)
    _features(strokes, face, rng, skin, hair)
    image = np.full((side, side), round(rng.uniform(20, 220)), np.uint8)
    strokes.render(image, place, middle, lean)
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _head(strokes: Strokes, rng: np.random.Generator, skin: float, hair: float) -> None:
    """Hair behind, shoulders, neck, ears, the face's oval, hair in front."""
    wide, taper = rng.uniform(0.70, 0.80), rng.uniform(0.12, 0.32)
    style = rng.integers(4)  # 0 is bald, 3 long hair
    if style == 3:
        strokes.fill(_ellipse(0.15j, wide + rng.uniform(0.1, 0.25), 1.22), hair)
    strokes.fill(_ellipse(1.75j, 1.35, 0.7), rng.uniform(20, 200))
    strokes.fill(np.array([-0.36 + 0.5j, 0.36 + 0.5j, 0.42 + 1.3j, -0.42 + 1.3j]), skin * 0.72)
    for side in (-1, 1):
        strokes.fill(_ellipse(side * (wide - 0.01) + 0.05j, 0.10, 0.20), skin * 0.85)
    outline = _ellipse(0j, wide, 1)
    strokes.fill(outline.real * (1 - taper * np.maximum(outline.imag, 0) ** 2) + 1j * outline.imag, skin)
    if style:
        height, drop, tilt = rng.uniform(0.58, 0.75), rng.uniform(0.05, 0.35), rng.normal(0, 0.08)
        left, right = -np.arcsin((-height + drop - tilt) / 1.1), -np.arcsin((-height + drop + tilt) / 1.1)
        angle = np.pi + left + (np.pi - left - right) * _ARC
        top = (wide + 0.04) * np.cos(angle) + 1.08j * np.sin(angle)
        share = 1 - 2 * _ARC[1:-1]
        x = np.where(share > 0, share * top[-1].real, -share * top[0].real)
        line = x + 1j * (-height + drop * share**2 + tilt * share)
        strokes.fill(np.concatenate((top, line)), hair)


def _features(strokes: Strokes, face: Expression, rng: np.random.Generator, skin: float, hair: float) -> None:
    eye_x, eye_y, brow_y = rng.uniform(0.33, 0.39), rng.normal(-0.12, 0.015), -0.36
    nose_y, mouth_y = rng.normal(0.26, 0.015), rng.normal(0.56, 0.02)
    if rng.random() < 0.15:  # a beard
        strokes.fill(_ellipse(0.42j, 0.52, 0.55)[:13], skin * rng.uniform(0.62, 0.85))
    if face.forehead > _VISIBLE:
        for height in (-0.60j, -0.69j):
            strokes.line(_curve(-0.3 + height, 0.3 + height, 0.03), 0.025, skin * (1 - 0.3 * face.forehead))
    for side in (-1.0, 1.0):
        _eye(strokes, face, rng, complex(side * eye_x, eye_y), skin)
        _brow(strokes, face, rng, side, eye_x, brow_y, min(hair, skin * 0.6))
        if face.frown > _VISIBLE:
            upright = _curve(side * 0.05 - 0.4j, side * 0.06 - 0.2j, 0)
            strokes.line(upright, 0.03, skin * (1 - 0.4 * face.frown))
        if face.fold > _VISIBLE:
            start = complex(side * 0.2, nose_y - 0.04)
            end = complex(side * (face.mouth_width + 0.1), mouth_y - 0.05)
            strokes.line(_curve(start, end, 0.05), 0.03, skin * (1 - 0.35 * face.fold))
    strokes.line(_curve(0.05 - 0.12j, complex(0.11, nose_y - 0.03), 0), 0.03, skin * 0.82)
    strokes.line(_curve(complex(-0.15, nose_y), complex(0.15, nose_y), -0.05), 0.035, skin * 0.62)
    if face.wrinkle > _VISIBLE:
        for height in (-0.12j, -0.04j):
            strokes.line(_curve(-0.12 + height, 0.12 + height, -0.04), 0.03, skin * (1 - 0.4 * face.wrinkle))
    _mouth(strokes, face, rng, mouth_y, skin)
    if rng.random() < 0.18:  # glasses
        tone, wide, tall = rng.uniform(10, 60), rng.uniform(0.24, 0.28), rng.uniform(0.19, 0.24)
        for side in (-1, 1):
            strokes.line(_ellipse(complex(side * eye_x, eye_y), wide, tall), 0.035, tone)
        strokes.line(_curve(complex(wide - eye_x, eye_y), complex(eye_x - wide, eye_y), 0.03), 0.035, tone)


def _eye(strokes: Strokes, face: Expression, rng: np.random.Generator, centre: complex, skin: float) -> None:
    """Socket, white, iris cut off by the lids, lids: parabolas."""
    line = centre + _EYE_WIDTH * _ALONG
    open_by, low_by = face.eye_open * rng.normal(1, 0.05), face.lid_lower * rng.normal(1, 0.05)
    upper, lower = line - open_by * _DOWN_PARABOLA, line + low_by * _DOWN_PARABOLA
    strokes.fill(_ellipse(centre, 0.24, 0.17), skin * 0.86)
    strokes.between(upper, lower, 232)
    iris = _ellipse(rng.normal(0, 0.02) - 0.02j, 0.085, 0.095)
    bow = 1 - (iris.real / _EYE_WIDTH) ** 2
    seen = np.minimum(np.maximum(iris.imag, -open_by * bow), low_by * bow)
    strokes.fill(centre + iris.real + 1j * seen, 25)
    strokes.line(upper, 0.035, 30)
    strokes.line(lower, 0.015, skin * 0.55)


def _brow(
    strokes: Strokes,
    face: Expression,
    rng: np.random.Generator,
    side: float,
    eye_x: float,
    y: float,
    tone: float,
) -> None:
    inner = complex(side * face.brow_gap, y - face.brow_inner + rng.normal(0, 0.01))
    outer = complex(side * (eye_x + 0.22), y - face.brow_outer + rng.normal(0, 0.01))
    curve = _curve(inner, outer, face.brow_arch)
    half = rng.uniform(0.03, 0.045) * _TAPER
    strokes.between(curve - half, curve + half, tone)


def _mouth(strokes: Strokes, face: Expression, rng: np.random.Generator, y: float, skin: float) -> None:
    """Lips around an opening: parabolas from corner to corner, its lower edge half an ellipse."""
    line = _ALONG * face.mouth_width + 1j * y + face.corner * (_DOWN_PARABOLA - 0.7j)
    raised = face.upper_lip * _DOWN_PARABOLA + face.sneer * (_SNEER if rng.random() < 0.5 else _SNEER[::-1])
    upper, lower = line - raised, line - 0.4 * raised + face.jaw * _DOWN_ELLIPSE
    strokes.between(upper - face.lips * _CUPID, lower + 1.2 * face.lips * _DOWN_ELLIPSE, skin * rng.uniform(0.55, 0.78))
    if face.jaw > 0.02:
        strokes.between(upper, lower, 30)
        if face.teeth > 0.1:
            strokes.between(upper + 0.005j, upper + face.teeth * (lower - upper), 230)
    else:
        strokes.line(upper, 0.035, skin * 0.35)
