"""Where the faces of a video are: detected now and then in a thread of its own, followed by flow in between."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from fer_nas_live.detectors import COARSE_SIDE, FINE_SIDE, LONG_SIDE, Detection, Detector
from fer_nas_live.flow import Flow
from fer_nas_live.machine import usable_cores
from fer_nas_live.schedule import Schedule
from fer_nas_live.sources import Frame
from fer_nas_live.stages import Stages
from fer_nas_live.tracking import SAME_FACE, Box, Track, Tracker, overlap

FINE_EVERY = 4
"""Every so many detections one looks at the finer frame, for small faces."""
COARSE_LEAST = 32
"""A face smaller than this many pixels in the coarse frame is not expected to be found there."""
MISSES = 2
"""A face that this many detections in a row should have found, and did not, is gone."""


class Seen(NamedTuple):
    """A face of this frame: its box, the track it is of (None: a new face), the detector's last score."""

    box: Box
    track: Track | None
    score: float


@dataclass(frozen=True)
class Pending:
    """A detection at work in the other thread: on which frame, and what has happened to that frame's faces since."""

    answer: Future[tuple[list[Detection], float]]
    side: int
    places: dict[int, Box]
    """Track → its box in that frame."""
    pictures: list[np.ndarray] = field(default_factory=list)
    """That frame as flow sees it, and all after it."""


@dataclass
class Look:
    """`seen` must get every frame of a video, in order.

    A detection begins on one frame and comes into effect on a later one: of a live source as soon as it is there, of a
    file on the last frame before the next one begins, whatever the machine, so that a run can be repeated. Nothing
    waits for it but a frame whose face was lost, and a file's with none to follow: these are detected at once.
    thorough: every frame is detected, finely, at once.
    """

    detector: Detector
    tracker: Tracker
    schedule: Schedule
    stages: Stages
    thorough: bool = False
    detections: int = 0
    flow: Flow = field(default_factory=lambda: Flow(COARSE_SIDE))
    _pending: Pending | None = None

    def __post_init__(self) -> None:
        limit = partial(self.detector.limit, max(1, usable_cores() - 1))
        self._pool = ThreadPoolExecutor(1, "detection", limit)

    def seen(self, frame: Frame, current: list[Track]) -> list[Seen]:
        """The faces of this frame; `current` are those of the frame before."""
        with self.stages.of("track"):
            whole = self.flow.look(frame.image)
            moved = [inside(box, frame.image) for box in self.flow.follow([track.box for track in current])]
        followed = [Seen(box, track, track.score) for box, track in zip(moved, current, strict=True) if box]
        due = self.schedule.due(len(followed))
        if self.thorough or not self.detections or len(followed) < len(current) or self._at_once(due, followed):
            return self._now(frame, current, moved)
        if self._pending is not None:
            self._pending.pictures.append(self.flow.picture)
            if not whole:
                self._drop()
            elif self._pending.answer.done() if self.schedule.live else self.schedule.last:
                followed = self._arrived(frame, current, moved)
        if due and self._pending is None:
            self._begin(frame, followed)
        return followed

    def _at_once(self, due: bool, followed: list[Seen]) -> bool:
        return due and not self.schedule.live and (self.schedule.every == 1 or not followed)

    def _side(self) -> int:
        self.detections += 1
        if self.thorough:
            return LONG_SIDE
        return FINE_SIDE if (self.detections - 1) % FINE_EVERY == 0 else COARSE_SIDE

    def _timed(self, image: np.ndarray, side: int) -> tuple[list[Detection], float]:
        start = time.perf_counter()
        found = self.detector.detect(image, side)
        return found, time.perf_counter() - start

    def _now(self, frame: Frame, current: list[Track], moved: list[Box | None]) -> list[Seen]:
        """Detect on this frame and wait for it."""
        with self.stages.of("detect"):
            self._drop()
            side = self._side()
            found, seconds = self._timed(frame.image, side)
        self.schedule.began()
        self.schedule.detected(seconds)
        for track, box in zip(current, moved, strict=True):
            track.box = box or track.box
        boxes: list[Box] = [face[:4] for face in found]
        known = self.tracker.match(boxes, frame.time)
        here = [Seen(box, track, face.score) for box, track, face in zip(boxes, known, found, strict=True)]
        return here + self._missed(frame, current, moved, here, side)

    def _begin(self, frame: Frame, followed: list[Seen]) -> None:
        side = self._side()
        places = {seen.track.id: seen.box for seen in followed if seen.track}
        self.schedule.began()
        answer = self._pool.submit(self._timed, frame.image, side)
        self._pending = Pending(answer, side, places, [self.flow.picture])

    def _arrived(self, frame: Frame, current: list[Track], moved: list[Box | None]) -> list[Seen]:
        """What was found on an earlier frame, brought to this one: a known face by its own way since, a new one by
        flow through the frames between."""
        pending, self._pending = self._pending, None
        assert pending is not None
        with self.stages.of("detect"):
            found, seconds = pending.answer.result()
        self.schedule.detected(seconds)
        with self.stages.of("track"):
            now = {track.id: box for track, box in zip(current, moved, strict=True)}
            known = self.tracker.match([face[:4] for face in found], frame.time, pending.places)
            here = []
            for face, track in zip(found, known, strict=True):
                there: Box | None = face[:4]
                before, after = (places.get(track.id) if track else None for places in (pending.places, now))
                if before and after:
                    there = carried(face[:4], before, after)
                else:
                    there = inside(self.flow.through(pending.pictures, face[:4]), frame.image)
                if there:
                    here.append(Seen(there, track, face.score))
        return here + self._missed(frame, current, moved, here, pending.side)

    def _missed(
        self, frame: Frame, current: list[Track], moved: list[Box | None], found: list[Seen], side: int
    ) -> list[Seen]:
        """The faces that a detection on a frame of that side did not find, and that are followed all the same."""
        shrink = min(1.0, side / max(frame.image.shape[:2]))
        kept = []
        for seen in found:
            if seen.track:
                seen.track.missed = 0
        for track, box in zip(current, moved, strict=True):
            if box is None or any(track is seen.track for seen in found):
                continue
            track.missed += min(box[2:]) * shrink >= COARSE_LEAST or side >= FINE_SIDE
            if track.missed < MISSES and all(overlap(box, seen.box) < SAME_FACE for seen in found):
                kept.append(Seen(box, track, track.score))
        return kept

    def _drop(self) -> None:
        """Wait for the other thread, whose answer is no longer of use: a detector serves one frame at a time."""
        if self._pending is not None:
            self._pending.answer.result()
            self._pending = None


def carried(found: Box, before: Box, after: Box) -> Box:
    """A box moved and scaled as another one did on its way from `before` to `after`."""
    scale = (after[2] + after[3]) / (before[2] + before[3])
    w, h = found[2] * scale, found[3] * scale
    x, y = (found[n] + found[n + 2] / 2 + after[n] + after[n + 2] / 2 - before[n] - before[n + 2] / 2 for n in (0, 1))
    return x - w / 2, y - h / 2, w, h


def inside(box: Box | None, image: np.ndarray) -> Box | None:
    """The box while its middle is in the frame."""
    if box is None or min(box[2:]) < 2:
        return None
    x, y = box[0] + box[2] / 2, box[1] + box[3] / 2
    return box if 0 <= x < image.shape[1] and 0 <= y < image.shape[0] else None
