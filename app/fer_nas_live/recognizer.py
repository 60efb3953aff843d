"""From a frame to its faces: detector, classifier and tracker in a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_nas_live.classifier import Classifier
from fer_nas_live.crops import prepare
from fer_nas_live.detectors import Detector
from fer_nas_live.faces import Face
from fer_nas_live.sources import Frame
from fer_nas_live.tracking import Tracker


@dataclass
class Recognizer:
    """Detector, classifier and tracker in a row."""

    detector: Detector
    classifier: Classifier
    tracker: Tracker

    def faces(self, frame: Frame, continuous: bool) -> list[Face]:
        """Faces from left to right, classified in one batch; smoothed where frames are `continuous`."""
        found = self.detector.detect(frame.image)
        model = self.classifier
        shape = (model.input_size, model.metadata.channels, self.detector.framing)
        probabilities = model.classify([prepare(frame.image, face[:4], *shape) for face in found])
        if not continuous:
            self.tracker.forget()
        tracks = self.tracker.update([face[:4] for face in found], probabilities, frame.time)
        return [
            Face(
                face=number,
                track=track.id,
                box=face[:4],
                score=face.score,
                label=model.classes[int(np.argmax(track.probabilities))],
                probabilities=track.probabilities.copy(),
            )
            for number, (face, track) in enumerate(zip(found, tracks, strict=True))
        ]
