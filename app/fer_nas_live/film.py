"""A test film out of one portrait: faces that move, come nearer, blur and change brightness, over a coloured room."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fer_nas.errors import FerNasError

PORTRAIT = Path(__file__).with_name("portrait.jpg")
"""NASA's portrait of the astronaut Eileen Collins, public domain, cut to the head; the face is FACE of it."""
FACE = (0.38, 0.17, 0.29, 0.30)
"""x, y, w, h of the face in shares of the portrait."""
WIDTH, HEIGHT, FPS = 640, 480, 30


def frames(count: int, faces: int = 1, seed: int = 0) -> Iterator[np.ndarray]:
    """(480,640,3) BGR frames with `faces` (1 to 4) portraits, each on its own way; noise of ±4 grey levels."""
    assert 1 <= faces <= 4
    portrait = cv2.imread(str(PORTRAIT))
    if portrait is None:
        raise FerNasError(f"{PORTRAIT} cannot be read; install fer-nas again")
    rng = np.random.default_rng(seed)
    room = _room(rng)
    grain = rng.normal(0, 4, (HEIGHT, WIDTH, 3)).astype(np.float32)
    for n in range(count):
        image = room.copy()
        for k in range(faces):
            x, y, side = place(n, k, faces)
            small = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA)
            image[y : y + side, x : x + side] = small
        light = 1 + 0.35 * math.sin(2 * math.pi * n / 150)
        shift = (7 * n % HEIGHT, 13 * n % WIDTH)
        image = image * light + np.roll(grain, shift, (0, 1))
        picture = np.clip(image, 0, 255).astype(np.uint8)
        if n % 60 >= 45:  # a blurred quarter of every two seconds
            picture = cv2.blur(picture, (5, 3)).astype(np.uint8)
        yield picture


def place(n: int, k: int, faces: int) -> tuple[int, int, int]:
    """Left, top and side in pixels of portrait k of `faces` in frame n."""
    columns = 1 if faces == 1 else 2
    rows = 1 if faces <= 2 else 2
    wide, high = WIDTH // columns, HEIGHT // rows
    turn = 2 * math.pi * n / 120 + k
    side = round(min(wide, high) * (0.8 + 0.12 * math.sin(1.3 * turn)))
    x = (wide - side) / 2 * (1 + math.sin(turn)) + wide * (k % columns)
    y = (high - side) / 2 * (1 + math.cos(0.7 * turn)) + high * (k // columns)
    return int(x), int(y), side


def face_at(n: int, k: int, faces: int) -> tuple[float, float, float, float]:
    """x, y, w, h in pixels of face k in frame n."""
    x, y, side = place(n, k, faces)
    return x + FACE[0] * side, y + FACE[1] * side, FACE[2] * side, FACE[3] * side


def write(path: Path, count: int, faces: int = 1) -> None:
    """The film as a video file (.mp4); FerNasError where OpenCV has no encoder."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise FerNasError(f"cannot write {path}: this OpenCV has no MPEG-4 encoder")
    for image in frames(count, faces):
        writer.write(image)
    writer.release()


def _room(rng: np.random.Generator) -> np.ndarray:
    """A smooth coloured background with some structure, as float32."""
    coarse = rng.uniform(40, 190, (6, 8, 3)).astype(np.float32)
    fine = rng.uniform(-18, 18, (48, 64, 3)).astype(np.float32)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) + cv2.resize(fine, (WIDTH, HEIGHT))
