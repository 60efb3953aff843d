"""From a frame to its faces: detector or flow, classifier, tracker, correction."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fer_nas_live.classifier import Classifier
from fer_nas_live.correction import Correction
from fer_nas_live.crops import prepare
from fer_nas_live.detectors import COARSE_SIDE, FINE_SIDE, LONG_SIDE, Detector
from fer_nas_live.faces import UNSURE, Face
from fer_nas_live.flow import Flow
from fer_nas_live.schedule import Schedule
from fer_nas_live.sources import Frame
from fer_nas_live.stages import Stages
from fer_nas_live.tracking import SAME_FACE, Box, Track, Tracker, overlap

FINE_EVERY = 4
"""In a video every so many detections one looks at the finer frame, for small faces."""
COARSE_LEAST = 32
"""A face smaller than this many pixels in the coarse frame is not expected to be found there."""
MISSES = 2
"""A face that this many detections in a row should have found, and did not, is gone."""


@dataclass
class Recognizer:
    """Pictures: every face is detected. Videos: `schedule` says when to detect, flow follows in between.

    thorough: detect on every frame, finely. threshold: a largest probability below it is shown as unsure.
    """

    detector: Detector
    classifier: Classifier
    tracker: Tracker
    schedule: Schedule = field(default_factory=Schedule)
    correction: Correction | None = None
    threshold: float = 0.0
    thorough: bool = False
    stages: Stages = field(default_factory=Stages)
    flow: Flow = field(default_factory=lambda: Flow(COARSE_SIDE))
    detections: int = 0
    _current: list[Track] = field(default_factory=list)

    def faces(self, frame: Frame, continuous: bool) -> list[Face]:
        """Faces from left to right, classified in one batch; followed and smoothed where frames are `continuous`."""
        boxes: list[Box]
        known: list[Track | None]
        if continuous:
            boxes, known, scores = self._look(frame)
        else:
            self.tracker.forget()
            with self.stages.of("detect"):
                found = self.detector.detect(frame.image)
            boxes, scores = [face[:4] for face in found], [face.score for face in found]
            known = [None] * len(found)
        order = sorted(range(len(boxes)), key=lambda n: boxes[n][:2])
        boxes, known, scores = [boxes[n] for n in order], [known[n] for n in order], [scores[n] for n in order]
        model = self.classifier
        with self.stages.of("crop"):
            shape = (model.input_size, model.metadata.channels, self.detector.framing)
            crops = [prepare(frame.image, box, *shape) for box in boxes]
        with self.stages.of("classify"):
            probabilities_NK = model.classify(crops)
        with self.stages.of("track"):
            self._current = self.tracker.update(boxes, probabilities_NK, frame.time, known)
        for track, score in zip(self._current, scores, strict=True):
            track.score = score
        return [
            self._face(n, track, new, frame)
            for n, (track, new) in enumerate(zip(self._current, probabilities_NK, strict=True))
        ]

    def _look(self, frame: Frame) -> tuple[list[Box], list[Track | None], list[float]]:
        """Boxes, whose they are, and scores: followed, or detected where that is due or a face was lost."""
        with self.stages.of("track"):
            self.flow.look(frame.image)
            moved = [self._inside(box, frame.image) for box in self.flow.follow([t.box for t in self._current])]
        lost = any(box is None for box in moved)
        if not (self.schedule.due(len(moved)) or lost or self.thorough):
            return [box for box in moved if box], list(self._current), [t.score for t in self._current]
        side = LONG_SIDE if self.thorough else COARSE_SIDE if self.detections % FINE_EVERY else FINE_SIDE
        start = time.perf_counter()
        with self.stages.of("detect"):
            found = self.detector.detect(frame.image, side)
        self.detections += 1
        self.schedule.detected(time.perf_counter() - start)
        for track, box in zip(self._current, moved, strict=True):
            track.box = box or track.box
        boxes: list[Box] = [face[:4] for face in found]
        known, scores = self.tracker.match(boxes, frame.time), [face.score for face in found]
        shrink = min(1.0, side / max(frame.image.shape[:2]))
        for seen in known:
            if seen:
                seen.missed = 0
        for track, still in zip(self._current, moved, strict=True):
            if still is None or any(track is other for other in known):
                continue
            track.missed += min(still[2:]) * shrink >= COARSE_LEAST or side >= FINE_SIDE
            if track.missed < MISSES and all(overlap(still, box) < SAME_FACE for box in boxes):
                boxes.append(still)
                known.append(track)
                scores.append(track.score)
        return boxes, known, scores

    @staticmethod
    def _inside(box: Box | None, image: np.ndarray) -> Box | None:
        """The box while its middle is in the frame."""
        if box is None or min(box[2:]) < 2:
            return None
        x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
        return box if 0 <= x < image.shape[1] and 0 <= y < image.shape[0] else None

    def _face(self, number: int, track: Track, new_K: np.ndarray, frame: Frame) -> Face:
        probabilities, uncorrected = track.probabilities.copy(), None
        if self.correction:
            self.correction.learn(track, new_K, frame.time)
            uncorrected, probabilities = probabilities, self.correction.apply(track, frame.time)
        chosen = self.tracker.choose(track, probabilities)
        sure = probabilities.max() >= self.threshold
        return Face(
            face=number,
            track=track.id,
            box=clipped(track.box, frame.image),
            score=track.score,
            label=self.classifier.classes[chosen] if sure else UNSURE,
            probabilities=probabilities,
            uncorrected=uncorrected,
        )

    def recent_boxes(self, image: np.ndarray) -> list[tuple[int, int, int, int]]:
        """Where every face is, or was within the last second."""
        return [clipped(track.box, image) for track in self.tracker.tracks]


def clipped(box: Sequence[float], image: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, w, h) in whole pixels of the frame."""
    height, width = image.shape[:2]
    left, top = min(width - 1, max(0, round(box[0]))), min(height - 1, max(0, round(box[1])))
    right, bottom = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[3]))
    return left, top, max(1, right - left), max(1, bottom - top)
