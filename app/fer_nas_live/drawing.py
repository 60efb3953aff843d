"""Boxes, labels and probability bars on a frame: pure functions, sizes relative to the frame's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from fer_nas_live.faces import UNSURE, Face

Colour = tuple[int, int, int]  # blue, green, red
Rect = tuple[int, int, int, int]  # x, y, w, h

COLOURS: dict[str, Colour] = {
    "angry": (77, 77, 240),
    "disgust": (94, 174, 70),
    "fear": (214, 110, 165),
    "happy": (66, 200, 250),
    "sad": (235, 150, 80),
    "surprise": (80, 140, 255),
    "neutral": (205, 205, 205),
    "contempt": (190, 190, 60),
    UNSURE: (120, 160, 200),
}
INK, PAPER, DIM, FAINT = (24, 20, 18), (245, 245, 245), (175, 172, 170), (90, 84, 80)
SHARPNESS = 4
"""Text and panels are drawn this many times larger and shrunk, which makes their edges smooth."""
CAPITAL = 22.0
"""Height in pixels of a capital letter of OpenCV's font at scale 1."""


def unit(frame: np.ndarray) -> int:
    """Height in pixels of a label's letters: a thirtieth of the short side, at least 9."""
    return max(9, round(min(frame.shape[:2]) / 30))


@lru_cache(maxsize=1024)
def text_mask(text: str, height: int) -> np.ndarray:
    """(h,w) float32 coverage, 0 to 1, of a line with capitals of `height` pixels; h = 1.6 · height."""
    big = height * SHARPNESS
    scale, thickness = big / CAPITAL, max(1, round(big / 9))
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    rows, columns = round(1.6 * height), max(1, -(-(width + thickness) // SHARPNESS))
    canvas = np.zeros((rows * SHARPNESS, columns * SHARPNESS), np.uint8)
    cv2.putText(canvas, text, (thickness // 2, round(1.3 * big)), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness)
    return cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


@lru_cache(maxsize=256)
def _rounded_mask(width: int, height: int, radius: int) -> np.ndarray:
    k = SHARPNESS
    radius = min(radius, width // 2, height // 2)
    canvas = np.zeros((height * k, width * k), np.uint8)
    r = radius * k
    cv2.rectangle(canvas, (r, 0), (width * k - r - 1, height * k - 1), 255, -1)
    cv2.rectangle(canvas, (0, r), (width * k - 1, height * k - r - 1), 255, -1)
    for x in (r, width * k - r - 1):
        for y in (r, height * k - r - 1):
            cv2.circle(canvas, (x, y), r, 255, -1)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


class Stamp(NamedTuple):
    """What is painted often, ready to be blended: (h,w,3) uint8 paint, (h,w) float32 cover 0 to 1, and 1 − cover."""

    paint: np.ndarray
    cover: np.ndarray
    through: np.ndarray


def _stamp(mask: np.ndarray, colour: Colour, opacity: float) -> Stamp:
    paint = np.empty((*mask.shape, 3), np.uint8)
    paint[:] = colour
    cover = mask * np.float32(opacity)
    return Stamp(paint, cover, 1 - cover)


@lru_cache(maxsize=1024)
def _text_stamp(text: str, height: int, colour: Colour) -> Stamp:
    return _stamp(text_mask(text, height), colour, 1.0)


@lru_cache(maxsize=512)
def _panel_stamp(width: int, height: int, radius: int, colour: Colour, opacity: float) -> Stamp:
    return _stamp(_rounded_mask(width, height, radius), colour, opacity)


def blend(image: np.ndarray, stamp: Stamp, x: int, y: int) -> None:
    """Paint at (x, y), in place; what lies outside the image is cut off."""
    height, width = image.shape[:2]
    left, top = max(0, x), max(0, y)
    right, bottom = min(width, x + stamp.cover.shape[1]), min(height, y + stamp.cover.shape[0])
    if left >= right or top >= bottom:
        return
    part = image[top:bottom, left:right]
    paint, cover, through = (piece[top - y : bottom - y, left - x : right - x] for piece in stamp)
    part[:] = cv2.blendLinear(paint, part, cover, through)


def draw_text(image: np.ndarray, text: str, height: int, x: int, y: int, colour: Colour) -> None:
    """A line whose capitals are `height` pixels high, in place, its upper left corner at (x, y)."""
    blend(image, _text_stamp(text, height, colour), x, y)


def _panel(image: np.ndarray, rect: Rect, colour: Colour, opacity: float, radius: int) -> None:
    x, y, w, h = rect
    if w > 0 and h > 0:
        blend(image, _panel_stamp(w, h, radius, colour, opacity), x, y)


def _inside(x: int, y: int, w: int, h: int, frame: np.ndarray) -> Rect:
    """The rectangle moved into the frame, as far as it fits."""
    return max(0, min(x, frame.shape[1] - w)), max(0, min(y, frame.shape[0] - h)), w, h


def _common(a: Rect, b: Rect) -> int:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)


def draw_box(image: np.ndarray, box: Rect, colour: Colour, size: int) -> None:
    """A thin frame with strong corners, in place."""
    x, y, w, h = box
    thin = max(1, size // 9)
    thick, arm = (2 * thin + 1 if min(w, h) > 5 * size else thin), max(3, min(w, h) // 5)
    right, bottom = x + w - 1, y + h - 1
    cv2.rectangle(image, (x, y), (right, bottom), colour, thin, cv2.LINE_AA)
    for cx, cy, dx, dy in ((x, y, 1, 1), (right, y, -1, 1), (x, bottom, 1, -1), (right, bottom, -1, -1)):
        cv2.line(image, (cx, cy), (cx + dx * arm, cy), colour, thick, cv2.LINE_AA)
        cv2.line(image, (cx, cy), (cx, cy + dy * arm), colour, thick, cv2.LINE_AA)


def label_rect(frame: np.ndarray, box: Rect, text: str, size: int) -> Rect:
    """Where the label of `box` goes: above it, else below, else over its upper edge; always in the frame."""
    width, height = text_mask(text, size).shape[1] + size, round(1.9 * size)
    x, y, _, h = box
    gap = max(2, size // 4)
    top = y - height - gap
    if top < 0:
        top = y + h + gap if y + h + gap + height <= frame.shape[0] else y + gap
    return _inside(x, top, width, height, frame)


def draw_label(image: np.ndarray, rect: Rect, text: str, colour: Colour, size: int) -> None:
    """A filled pill with dark text, in place."""
    x, y, w, h = rect
    _panel(image, rect, colour, 0.95, size // 2)
    mask = text_mask(text, size)
    draw_text(image, text, size, x + (w - mask.shape[1]) // 2, y + (h - mask.shape[0]) // 2, INK)


def fitting_label(frame: np.ndarray, texts: Sequence[str], size: int) -> str | None:
    """The first text that is no wider than the frame; None where none is."""
    return next((text for text in texts if text_mask(text, size).shape[1] + size <= frame.shape[1]), None)


@lru_cache(maxsize=16)
def bars_size(classes: tuple[str, ...], size: int) -> tuple[int, int]:
    """Width and height of the panel of probability bars whose letters are `size` pixels high."""
    names = max(text_mask(name, size).shape[1] for name in classes)
    return names + 11 * size + text_mask("100%", size).shape[1], round((1.8 * len(classes) + 1) * size)


@lru_cache(maxsize=16)
def _plate(width: int, height: int, classes: tuple[str, ...], size: int) -> Stamp:
    """The unchanging part of the bars: painted on black and on white, which tells what shows through."""
    black, white = np.zeros((height, width, 3), np.uint8), np.full((height, width, 3), 255, np.uint8)
    for canvas in (black, white):
        _panel(canvas, (0, 0, width, height), INK, 0.78, size)
        for k, name in enumerate(classes):
            left, middle, length, thickness = _bar(width, height, classes, size, k)
            draw_text(canvas, name, size, size, middle - round(0.8 * size), DIM)
            _panel(canvas, (left, middle - thickness // 2, length, thickness), FAINT, 0.8, thickness // 2)
    through = (white.astype(np.float32) - black).mean(2) / 255
    paint = black / np.maximum(1 - through, 1e-6)[..., None]
    return Stamp(paint.round().clip(0, 255).astype(np.uint8), 1 - through, through)


@lru_cache(maxsize=256)
def _bar(width: int, height: int, classes: tuple[str, ...], size: int, k: int) -> tuple[int, int, int, int]:
    """Left end, middle line, length and thickness of bar k on a plate."""
    names, figures = (max(text_mask(t, size).shape[1] for t in some) for some in (classes, ("100%",)))
    left = size + names + size
    middle = round(size / 2 + (k + 0.5) * (height - size) / len(classes))
    return left, middle, width - size - figures - size - left, max(3, round(0.7 * size))


def draw_bars(image: np.ndarray, rect: Rect, classes: Sequence[str], probabilities: np.ndarray, size: int) -> None:
    """One bar a class on a dark panel that lies inside the image, in place; the largest is written bright."""
    x, y, w, h = rect
    classes = tuple(classes)
    blend(image, _plate(w, h, classes, size), x, y)
    part = image[y : y + h, x : x + w]
    best = int(np.argmax(probabilities))
    for k, name in enumerate(classes):
        left, middle, length, thickness = _bar(w, h, classes, size, k)
        figure = f"{100 * probabilities[k]:.0f}%"
        if k == best:
            draw_text(part, name, size, size, middle - round(0.8 * size), PAPER)
        place = w - size - text_mask(figure, size).shape[1]
        draw_text(part, figure, size, place, middle - round(0.8 * size), PAPER if k == best else DIM)
        filled = max(thickness if probabilities[k] > 0.005 else 0, round(length * float(probabilities[k])))
        _panel(part, (left, middle - thickness // 2, filled, thickness), colour_of(name), 1.0, thickness // 2)


def colour_of(name: str) -> Colour:
    return COLOURS.get(name, COLOURS["neutral"])


def bars_rect(frame: np.ndarray, box: Rect, width: int, height: int, taken: Sequence[Rect], force: bool) -> Rect | None:
    """A free place for a face's bars: right, left, below or above it, else a corner; None where none is free.

    With `force` the place that covers least of `taken` is taken instead of none.
    """
    rows, columns = frame.shape[:2]
    gap = max(2, min(rows, columns) // 60)
    if width + 2 * gap > columns or height + 2 * gap > rows:
        return None
    x, y, w, h = box
    level = max(gap, min(y, rows - height - gap))
    along = max(gap, min(x, columns - width - gap))
    far, low = columns - width - gap, rows - height - gap
    places = [
        (x + w + 2 * gap, level),
        (x - width - 2 * gap, level),
        (along, y + h + 2 * gap),
        (along, y - height - 2 * gap),
    ]
    places += [(far, gap), (gap, gap), (far, low), (gap, low)]
    fit = [(px, py, width, height) for px, py in places if gap <= px <= far and gap <= py <= low]
    free = [place for place in fit if not any(_common(place, other) for other in taken)]
    if free:
        return free[0]
    return min(fit, key=lambda place: sum(_common(place, other) for other in taken)) if force else None


BLOCKS, WIDER = 6, 1.4
"""A blurred face is left with this many blocks a side, over a box this much wider than the detector's."""


def blurred(frame: np.ndarray, boxes: Sequence[Rect]) -> np.ndarray:
    """A copy of the (H,W,3) frame in which what is in the boxes is reduced to BLOCKS × BLOCKS means."""
    image = frame.copy()
    height, width = image.shape[:2]
    for x, y, w, h in boxes:
        wide, high = round(w * (WIDER - 1) / 2), round(h * (WIDER - 1) / 2)
        part = image[max(0, y - high) : min(height, y + h + high), max(0, x - wide) : min(width, x + w + wide)]
        if part.size:
            means = cv2.resize(part, (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA)
            part[:] = cv2.resize(means, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
    return image


def annotate(
    frame: np.ndarray,
    faces: Sequence[Face],
    classes: Sequence[str],
    fps: float | None = None,
) -> np.ndarray:
    """A copy of the (H,W,3) BGR frame with box, label and bars of every face that has room.

    A single face gets its bars wherever they fit into the frame.
    """
    image = frame.copy()
    size, small = unit(frame), max(8, round(0.6 * unit(frame)))
    labels: list[tuple[Face, Rect, str]] = []
    for face in faces:
        draw_box(image, face.box, colour_of(face.label), size)
        short = f"{face.shown} {100 * face.confidence:.0f}%"
        choices = [f"{face.track}  {short}"] if len(faces) > 1 else []
        text = fitting_label(frame, [*choices, short, face.shown], size)
        if text:
            labels.append((face, label_rect(frame, face.box, text, size), text))
    taken: list[Rect] = [face.box for face in faces] + [rect for _, rect, _ in labels]
    width, height = bars_size(tuple(classes), small)
    for face in sorted(faces, key=lambda face: -face.box[2] * face.box[3]):
        place = bars_rect(frame, face.box, width, height, taken, force=len(faces) == 1)
        if place:
            draw_bars(image, place, classes, face.probabilities, small)
            taken.append(place)
    for face, rect, text in labels:
        draw_label(image, rect, text, colour_of(face.label), size)
    if fps and fitting_label(frame, [f"{fps:.0f} FPS"], small):
        _draw_corner(image, f"{fps:.0f} FPS", small, taken)
    return image


def _draw_corner(image: np.ndarray, text: str, size: int, taken: Sequence[Rect]) -> None:
    """A line of text on a dark pill in the corner that covers least of `taken`, the upper right one first."""
    mask, gap = text_mask(text, size), max(2, size // 2)
    w, h = mask.shape[1] + size, round(1.9 * size)
    right, low = image.shape[1] - w - gap, image.shape[0] - h - gap
    corners = [_inside(x, y, w, h, image) for x, y in ((right, gap), (gap, gap), (right, low), (gap, low))]
    spot = min(corners, key=lambda corner: sum(_common(corner, other) for other in taken))
    _panel(image, spot, INK, 0.7, size // 2)
    draw_text(image, text, size, spot[0] + (w - mask.shape[1]) // 2, spot[1] + (h - mask.shape[0]) // 2, PAPER)
