"""From a frame to its faces: look, classifier, tracker, correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fer_nas_live.classifier import Classifier
from fer_nas_live.correction import Correction
from fer_nas_live.crops import prepare
from fer_nas_live.detectors import Detector
from fer_nas_live.faces import UNSURE, Face
from fer_nas_live.looking import Look, Seen
from fer_nas_live.schedule import Schedule
from fer_nas_live.sources import Frame
from fer_nas_live.stages import Stages
from fer_nas_live.tracking import Track, Tracker


@dataclass
class Recognizer:
    """Pictures: every face is detected. Videos: `schedule` says when to detect (looking.py).

    thorough: detect on every frame, finely. threshold: a largest probability below it is shown as unsure.
    rested: some face has been shown as its change from rest.
    """

    detector: Detector
    classifier: Classifier
    tracker: Tracker
    schedule: Schedule = field(default_factory=Schedule)
    correction: Correction | None = None
    threshold: float = 0.0
    thorough: bool = False
    stages: Stages = field(default_factory=Stages)
    rested: bool = False
    _turns: int = 0
    _current: list[Track] = field(default_factory=list)
    _look: Look | None = None

    @property
    def look(self) -> Look:
        if self._look is None:
            self._look = Look(self.detector, self.tracker, self.schedule, self.stages, self.thorough)
        return self._look

    @property
    def detections(self) -> int:
        """Of the video so far."""
        return self.look.detections

    def faces(self, frame: Frame, continuous: bool) -> list[Face]:
        """Faces from left to right, classified in one batch; followed and smoothed where frames are `continuous`."""
        if continuous:
            seen = self.look.seen(frame, self._current)
        else:
            self.tracker.forget()
            with self.stages.of("detect"):
                seen = [Seen(face[:4], None, face.score) for face in self.detector.detect(frame.image)]
        seen = sorted(seen, key=lambda one: one.box[:2])
        boxes, known = [one.box for one in seen], [one.track for one in seen]
        model = self.classifier
        turn = self._turn(known)
        with self.stages.of("crop"):
            shape = (model.input_size, model.metadata.channels, self.detector.framing)
            crops = [prepare(frame.image, boxes[n], *shape) for n in turn]
        with self.stages.of("classify"):
            new = dict(zip(turn, model.classify(crops), strict=True))
        with self.stages.of("track"):
            found = [new.get(n) for n in range(len(boxes))]
            self._current = self.tracker.update(boxes, found, frame.time, known)
        for track, one in zip(self._current, seen, strict=True):
            track.score = one.score
        return [self._face(n, track, new.get(n), frame) for n, track in enumerate(self._current)]

    def _turn(self, known: list[Track | None]) -> list[int]:
        """Who is classified on this frame: all, or where several faces are smoothed over time, new ones and every
        second known one in turn, which halves the price of a crowd."""
        self._turns += 1
        if len(known) < 2 or not self.tracker.smoothing:
            return list(range(len(known)))
        return [n for n, track in enumerate(known) if track is None or (track.id + self._turns) % 2 == 0]

    def _face(self, number: int, track: Track, new_K: np.ndarray | None, frame: Frame) -> Face:
        probabilities, uncorrected = track.probabilities.copy(), None
        if self.correction:
            if new_K is not None:
                self.correction.learn(track, new_K, frame.time)
            self.rested |= self.correction.rested(track, frame.time)
            uncorrected, probabilities = probabilities, self.correction.apply(track, frame.time)
        chosen = self.tracker.choose(track, probabilities)
        sure = self.tracker.is_sure(track, float(probabilities.max()), self.threshold)
        return Face(
            face=number,
            track=track.id,
            box=clipped(track.box, frame.image),
            score=track.score,
            label=self.classifier.classes[chosen] if sure else UNSURE,
            probabilities=probabilities,
            uncorrected=uncorrected,
            guess=None if sure else self.classifier.classes[chosen],
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
