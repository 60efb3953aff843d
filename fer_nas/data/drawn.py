"""Drawn faces: a seeded generator of grey faces with seven expressions; the data set that needs no download.

The geometry of an expression follows the facial action coding system (Ekman and Friesen 1978): which brows,
lids and lips move, and where to.
"""

from __future__ import annotations

from dataclasses import astuple, fields

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fer_nas.classes import FACE_CLASSES
from fer_nas.data.portrait import Expression, portrait
from fer_nas.data.split import DataSet, Split

DRAWN_CLASSES = FACE_CLASSES[:7]

# Action units in brackets. Several rows for one class are ways to show it.
EXPRESSIONS: dict[str, tuple[Expression, ...]] = {
    "angry": (  # brows down and together (4), lids tense (5, 7), lips tight (23, 24) or teeth bared
        Expression(brow_inner=-0.15, brow_outer=0.06, brow_arch=0.0, brow_gap=0.09, eye_open=0.09,
                   lid_lower=0.05, mouth_width=0.25, corner=-0.03, lips=0.025, frown=0.9),
        Expression(brow_inner=-0.15, brow_outer=0.06, brow_arch=0.0, brow_gap=0.09, eye_open=0.11,
                   lid_lower=0.05, mouth_width=0.27, corner=-0.05, jaw=0.16, lips=0.04, teeth=0.9, frown=0.9,
                   fold=0.6),
    ),
    "disgust": (  # nose wrinkled (9), upper lip raised, more on one side (10), corners down (15)
        Expression(brow_inner=-0.10, brow_outer=-0.06, brow_arch=0.02, brow_gap=0.12, eye_open=0.05,
                   lid_lower=0.03, mouth_width=0.29, corner=-0.07, jaw=0.03, upper_lip=0.09, sneer=0.10,
                   wrinkle=1.0, fold=0.9),
    ),
    "fear": (  # brows up and together (1, 2, 4), eyes wide (5), mouth stretched (20, 25)
        Expression(brow_inner=0.16, brow_outer=0.02, brow_arch=-0.01, brow_gap=0.08, eye_open=0.17,
                   lid_lower=0.09, mouth_width=0.40, corner=-0.08, jaw=0.12, lips=0.04, teeth=0.3,
                   forehead=0.6),
    ),
    "happy": (  # cheeks up (6), mouth corners up and out (12), closed or with teeth (25)
        Expression(brow_outer=0.02, eye_open=0.08, lid_lower=0.02, mouth_width=0.39, corner=0.13, lips=0.05,
                   fold=0.8),
        Expression(brow_outer=0.02, eye_open=0.08, lid_lower=0.01, mouth_width=0.42, corner=0.14, jaw=0.17,
                   lips=0.045, teeth=0.75, fold=0.9),
    ),
    "sad": (  # inner brows up (1), lids heavy, mouth corners down (15), chin up (17)
        Expression(brow_inner=0.14, brow_outer=-0.08, brow_arch=0.0, brow_gap=0.13, eye_open=0.06,
                   mouth_width=0.27, corner=-0.12, fold=0.4, forehead=0.3),
    ),
    "surprise": (  # brows up (1, 2), eyes wide (5), jaw dropped (26, 27)
        Expression(brow_inner=0.17, brow_outer=0.16, brow_arch=0.09, brow_gap=0.17, eye_open=0.17,
                   lid_lower=0.10, mouth_width=0.19, jaw=0.34, lips=0.05, teeth=0.12, forehead=0.6),
    ),
    "neutral": (Expression(),),
}  # fmt: skip
# Standard deviation of every part from person to person, and how much of an expression is shown.
_SPREAD = Expression(
    brow_inner=0.02, brow_outer=0.02, brow_arch=0.02, brow_gap=0.015, eye_open=0.012, lid_lower=0.01,
    mouth_width=0.022, corner=0.015, jaw=0.01, upper_lip=0.01, sneer=0.01, lips=0.01, teeth=0.1, wrinkle=0.1,
    frown=0.1, fold=0.15, forehead=0.1,
)  # fmt: skip
_INTENSITY = (0.8, 1.15)
_PARTS = [part.name for part in fields(Expression)]
_WAYS = {name: np.array([astuple(way) for way in ways]) for name, ways in EXPRESSIONS.items()}
_REST, _DEVIATION = np.array(astuple(Expression())), np.array(astuple(_SPREAD))
_ANY_SIGN = ("brow_inner", "brow_outer", "brow_arch", "corner")
_LEAST = np.array([-1.0 if part in _ANY_SIGN else 0.0 for part in _PARTS])
_LEAST[[_PARTS.index(part) for part in ("eye_open", "lid_lower", "lips")]] = 0.015
_LEAST[_PARTS.index("mouth_width")] = 0.12


def drawn_faces(train: int = 2100, val: int = 700, test: int = 700, *, seed: int = 0, size: int = 48) -> DataSet:
    """Data set `drawn` of grey `size`×`size` faces, classes in turn; the same faces for the same seed."""
    counts = {"train": train, "val": val, "test": test}
    splits = {
        name: _split(name, count, np.random.default_rng([seed, number]), size)
        for number, (name, count) in enumerate(counts.items())
        if count
    }
    return DataSet(name="drawn", classes=DRAWN_CLASSES, splits=splits)


def _split(name: str, count: int, rng: np.random.Generator, size: int) -> Split:
    labels = np.arange(count) % len(DRAWN_CLASSES)
    images = np.stack([portrait(_show(DRAWN_CLASSES[label], rng), rng, size) for label in labels])
    images = _photograph(images, rng)
    return Split(
        images=torch.from_numpy(images)[:, None],
        targets=torch.from_numpy(labels),
        names=tuple(f"{name}/{DRAWN_CLASSES[label]}/{row:05d}" for row, label in enumerate(labels)),
    )


def _show(expression: str, rng: np.random.Generator) -> Expression:
    """One person's version of an expression: more or less of it, and every part a little different."""
    ways = _WAYS[expression]
    change = rng.uniform(*_INTENSITY) * (ways[rng.integers(len(ways))] - _REST)
    values = _REST + change + _DEVIATION * rng.standard_normal(len(_PARTS))
    return Expression(*values.clip(_LEAST, 1).tolist())


def _photograph(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Light from one side, blur, contrast, brightness and grain: uint8 (N, H, W) → uint8 (N, H, W)."""
    count, height, width = images.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None]
    result = np.empty_like(images)
    for row in range(count):
        direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
        light = 1 + strength * (np.float32(np.cos(direction)) * x + np.float32(np.sin(direction)) * y)
        image = images[row] * light
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8) * height / 48)
        image = (image - 128) * rng.uniform(0.75, 1.1) + 128 + rng.uniform(-25, 25)
        image = image + rng.uniform(2, 7) * rng.standard_normal((height, width), np.float32)
        result[row] = np.clip(np.rint(image), 0, 255)
    return result
