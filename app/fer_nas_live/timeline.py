"""`fer-nas timeline`: a picture of recorded expressions over time, a band for each followed face.

Shapes: F frames, K classes.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fer_nas.errors import InputError
from fer_nas_live.drawing import INK, colour_of, draw_text, text_mask
from fer_nas_live.faces import UNSURE
from fer_nas_live.pictures import WRITABLE_ENDINGS, write_picture
from fer_nas_live.records import FORMATS

WIDTH, BAND, LABELS, GAP, MARGIN, LETTERS = 1280, 90, 14, 28, 60, 11
"""Pixels: picture, one face's probabilities, its labels' strip, between two faces, at the sides, a capital letter."""
MOST = 12
"""Faces that are shown: those that are seen longest."""
HOLE = 1.0
"""Seconds without a face after which its band is broken off."""


@dataclass
class Seen:
    """One followed face: seconds (F,), labels and probabilities by name, one each a frame in which it is."""

    times: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    probabilities: list[dict[str, float]] = field(default_factory=list)

    def add(self, time: float, label: str, probabilities: dict[str, float]) -> None:
        self.times.append(time)
        self.labels.append(label)
        self.probabilities.append(probabilities)


@dataclass(frozen=True)
class Recorded:
    """Faces by track, seconds of the last frame, frames, and lines that could not be read."""

    faces: dict[int, Seen]
    end: float
    frames: int
    broken: int


def read(path: Path) -> Recorded:
    """Records of `fer-nas live`, .jsonl or .csv; lines that a killed run cut short are counted and left out."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: records end in {' or '.join(FORMATS)}")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise InputError(f"records not found: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    rows = _csv_rows(text) if path.suffix.lower() == ".csv" else _json_rows(text)
    faces: dict[int, Seen] = {}
    frames, end, broken = set[int](), 0.0, 0
    for row in rows:
        try:
            number, time = int(row["frame"]), float(row["time"])
            found = [(int(f["track"]), str(f["label"]), _shares(f["probabilities"])) for f in row["faces"]]
        except (KeyError, TypeError, ValueError):
            broken += 1
            continue
        frames.add(number)
        end = max(end, time)
        for track, label, probabilities in found:
            faces.setdefault(track, Seen()).add(time, label, probabilities)
    if not frames:
        raise InputError(f"{path} holds no records of fer-nas live")
    if end <= 0:
        raise InputError(f"{path}: all its frames have time 0; a timeline needs records of a video or a camera")
    return Recorded(faces, end, len(frames), broken)


def _shares(value: dict[str, Any]) -> dict[str, float]:
    return {str(name): float(share) for name, share in value.items()}


def _json_rows(text: str) -> list[dict[str, Any]]:
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = {}
        rows.append(row if isinstance(row, dict) else {})
    return rows


def _csv_rows(text: str) -> list[dict[str, Any]]:
    """The table as the same rows, one a face."""
    rows: list[dict[str, Any]] = []
    for line in csv.DictReader(text.splitlines()):
        names = list(line)
        first = names.index("label") + 1 if "label" in names else len(names)
        shares = {name: line[name] for name in names[first:] if name and not name.startswith("uncorrected_")}
        faces = [{"track": line["track"], "label": line["label"], "probabilities": shares}] if line.get("label") else []
        rows.append({"frame": line.get("frame"), "time": line.get("time"), "faces": faces})
    return rows


def draw(recorded: Recorded) -> np.ndarray:
    """(H,1280,3) BGR: for each face its shown label as a strip, and below it the probabilities, stacked."""
    shown = sorted(recorded.faces, key=lambda track: -len(recorded.faces[track].times))[:MOST]
    classes = list(
        dict.fromkeys(name for track in shown for row in recorded.faces[track].probabilities for name in row)
    )
    top = 3 * GAP
    image = np.full((top + max(1, len(shown)) * (BAND + LABELS + GAP) + 2 * GAP, WIDTH, 3), 255, np.uint8)
    unsure = any(UNSURE in recorded.faces[track].labels for track in shown)
    _legend(image, [*classes, UNSURE] if unsure else classes)
    for n, track in enumerate(sorted(shown)):
        _band(image, top + n * (BAND + LABELS + GAP), f"face {track}", recorded.faces[track], classes, recorded.end)
    _axis(image, recorded.end)
    return image


def _x(time: float, end: float) -> int:
    return MARGIN + round((WIDTH - 2 * MARGIN) * time / end)


def _legend(image: np.ndarray, classes: list[str]) -> None:
    x = MARGIN
    for name in classes:
        cv2.rectangle(image, (x, GAP), (x + LETTERS, GAP + LETTERS), colour_of(name), -1)
        mask = text_mask(name, LETTERS)
        draw_text(image, name, LETTERS, x + 2 * LETTERS - 4, GAP - 3, INK)
        x += mask.shape[1] + 4 * LETTERS


def _band(image: np.ndarray, y: int, name: str, seen: Seen, classes: list[str], end: float) -> None:
    draw_text(image, name, LETTERS, MARGIN, y - round(1.7 * LETTERS), INK)
    for n, (time, label) in enumerate(zip(seen.times, seen.labels, strict=True)):
        after = seen.times[n + 1] if n + 1 < len(seen.times) else time
        left = _x(time, end)
        right = max(left + 1, _x(after, end) if after - time <= HOLE else left + 1)
        image[y : y + LABELS, left:right] = colour_of(label) if label in (*classes, UNSURE) else (225, 225, 225)
        low = 0.0
        for part in classes:
            high = low + seen.probabilities[n].get(part, 0.0)
            rows = slice(y + LABELS + 2 + round(BAND * low), y + LABELS + 2 + round(BAND * min(1.0, high)))
            image[rows, left:right] = colour_of(part)
            low = high


def _axis(image: np.ndarray, end: float) -> None:
    """Seconds below the bands, at a round step that leaves room for the figures."""
    y = image.shape[0] - round(1.6 * GAP)
    cv2.line(image, (MARGIN, y), (WIDTH - MARGIN, y), INK, 1)
    for n in range(int(end / step(end)) + 1):
        x = _x(n * step(end), end)
        cv2.line(image, (x, y), (x, y + 5), INK, 1)
        text = f"{n * step(end):g} s"
        draw_text(image, text, LETTERS, x - text_mask(text, LETTERS).shape[1] // 2, y + 8, INK)


def step(end: float) -> float:
    """1, 2 or 5 times a power of ten, so that at most ten marks fit into `end` seconds."""
    power = 10.0 ** math.floor(math.log10(end / 10))
    return next(factor * power for factor in (1, 2, 5, 10) if end / (factor * power) <= 10)


def write(records: Path, out: Path | None) -> tuple[Path, Recorded]:
    """The picture of `records` at `out`, default beside them as .png, where no file of that name is replaced."""
    path = records.with_suffix(".png") if out is None else out
    if out is None and path.exists():
        raise InputError(f"{path} exists; name the picture with --out (which replaces a file), or remove it")
    if path.suffix.lower() not in WRITABLE_ENDINGS:
        raise InputError(f"--out {path}: end the name in {', '.join(WRITABLE_ENDINGS)}")
    recorded = read(records)
    write_picture(path, draw(recorded))
    return path, recorded
