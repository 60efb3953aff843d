"""The loop: frames → faces → probabilities → window, video, records."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import cv2
import numpy as np
from rich.console import Console

from fer_nas.errors import InputError
from fer_nas_live import classifier, correction, detectors, drawing, models, pictures, records, savers, sources, window
from fer_nas_live.ahead import read_ahead
from fer_nas_live.faces import Face
from fer_nas_live.machine import usable_cores
from fer_nas_live.newest import newest_only
from fer_nas_live.quiet import silence_libraries
from fer_nas_live.recognizer import Recognizer
from fer_nas_live.schedule import Schedule, file_rhythm
from fer_nas_live.sources import Source
from fer_nas_live.stages import Stages
from fer_nas_live.telling import Summary, progress, say, tell
from fer_nas_live.tracking import Tracker


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """What `fer-nas live` was asked for; `headless` None decides by whether there is a display."""

    camera: int | None = None
    source: str | None = None
    model: str | None = None
    detector: str = "auto"
    yunet: Path | None = None
    provider: str = "auto"
    headless: bool | None = None
    save: Path | None = None
    records: Path | None = None
    smoothing: float = 0.3
    threshold: float = 0.0
    blur_faces: bool = False
    baseline: float = 0.0
    prior: str | None = None


DEFAULT_FPS = 30.0
"""Of a live source that does not tell its own."""


class Stop:
    """SIGINT and SIGTERM ask the loop to end after the frame in work; a second one ends it at once, a third one the
    program, even while it finishes what it wrote."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.again = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.again:
            os._exit(128 + number)
        if self.signal is not None:
            self.again = True
            raise KeyboardInterrupt
        self.signal = number

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(options: LiveOptions, out: Console, notes: Console) -> Summary:
    """Do what `options` say; results go to `out`, everything else to `notes`.

    InputError before anything is written for what cannot work; an unplugged camera is one too, after
    video and records were finished.
    """

    def note(text: str) -> None:
        say(notes, text)

    silence_libraries()
    _check_values(options)
    _check_outputs(options)
    problem = None if options.headless else window.display_problem()
    if options.headless is False and problem:
        raise InputError(f"--window: {problem}; leave it out, or use --headless")
    model = classifier.load(models.resolve(options.model), options.provider)
    detector = detectors.make(options.detector, options.yunet)
    stop = Stop()
    recognizer = Recognizer(
        detector,
        model,
        Tracker(options.smoothing),
        correction=correction.make(options.prior, options.baseline, model.metadata),
        threshold=options.threshold,
        thorough=options.blur_faces,
    )
    summary = Summary(detector=detector.name, provider=model.provider, model=str(model.path))
    # the signals outlast all that is closed: a second Ctrl-C then does not meet Python's own handler
    with contextlib.ExitStack() as signals, contextlib.ExitStack() as stack:
        opened = sources.open_source(camera=options.camera, source=options.source, note=note, leave_out=options.save)
        saver = savers.make(options.save, opened) if options.save else None
        if saver:
            stack.callback(saver.close)
        record = None
        if options.records:
            record = records.Records(options.records, model.classes, recognizer.correction is not None)
            stack.callback(record.close)
        source = newest_only(read_ahead(opened), lambda: stop.signal is not None)
        stack.callback(source.close)
        recognizer.schedule = schedule_for(source)
        show = None
        if options.headless is not True and not problem and (source.kind != "folder" or options.headless is False):
            show = window.Window()
            stack.callback(show.close)
        note(f"model {model.path.name} on {model.provider} ({model.why}), detector {detector.name}, {source.name}")
        if problem and options.headless is None:
            note(f"{problem}: running without a window")
        signals.enter_context(stop.installed())
        Loop(source, recognizer, summary, saver, record, show, stop, options.blur_faces).run(out, notes)
    if source.continuous:
        for text in (summary.line(), *summary.track_lines()):
            say(out, text)
    if stop.signal:
        of = f" of {source.count}" if source.count else ""
        by = "Ctrl-C" if stop.signal == signal.SIGINT else signal.Signals(stop.signal).name
        note(f"stopped by {by} after {summary.frames}{of} frames")
    if options.baseline and not recognizer.rested:
        why = "no face was followed for longer than that" if source.continuous else "it is for videos and cameras"
        note(f"--baseline {options.baseline:g} had no effect: {why}")
    for what, path in (("saved", options.save), ("records", options.records)):
        if path and path.exists():
            note(f"{what}: {path}")
    summary.exit_code = 128 + stop.signal if stop.signal else 0
    return summary


def schedule_for(source: Source) -> Schedule:
    """Live sources: the time between two frames is the budget; files: a fixed rhythm, so that runs are repeatable."""
    fps = source.fps or DEFAULT_FPS
    return Schedule(budget=1 / fps) if source.live else Schedule(every=file_rhythm(fps))


@contextlib.contextmanager
def opencv_threads(count: int) -> Iterator[None]:
    """OpenCV on so many threads, at least one, while the block runs: one core is left to the detector's thread."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(max(1, count))
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _check_values(options: LiveOptions) -> None:
    for name, seconds in (("--smoothing", options.smoothing), ("--baseline", options.baseline)):
        if not 0 <= seconds < math.inf:
            raise InputError(f"{name} is {seconds}; give seconds, at least 0")
    if not 0 <= options.threshold <= 1:
        raise InputError(f"--threshold is {options.threshold}; it must be from 0 to 1")
    if options.blur_faces and not options.save:
        raise InputError("--blur-faces goes with --save")


def _check_outputs(options: LiveOptions) -> None:
    for name, output in (("--save", options.save), ("--records", options.records)):
        there = next((place for place in output.parents if place.exists()), None) if output else None
        if there is not None and not there.is_dir():
            raise InputError(f"{name} {output}: {there} is not a folder; choose another place")
    if options.records:
        records.check(options.records)
        paths = [Path(options.source)] if options.source and "://" not in options.source else []
        for path, name in ((options.save, "--save"), *((path, "the source") for path in paths)):
            if path and path.resolve() == options.records.resolve():
                raise InputError(f"--records {options.records} is the same file as {name}; give another name")


@dataclass
class Loop:
    """Every frame of the source through the recognizer to records, saver and window."""

    source: Source
    recognizer: Recognizer
    summary: Summary
    saver: savers.Saver | None
    record: records.Records | None
    show: window.Window | None
    stop: Stop
    blur: bool = False

    @property
    def stages(self) -> Stages:
        return self.recognizer.stages

    def run(self, out: Console, notes: Console) -> None:
        start = before = time.monotonic()
        fps, frames, source = 0.0, iter(self.source.frames), self.source
        with opencv_threads(usable_cores() - 1), progress(source, self.show is not None, notes) as advance:
            while not self.stop.signal:
                with self.stages.of("grab"):
                    frame = next(frames, None)
                if frame is None or self.stop.signal:
                    return
                faces = self.recognizer.faces(frame, source.continuous)
                now = time.monotonic()
                fps = (0.9 * fps if fps else 0.0) + (0.1 if fps else 1.0) / max(1e-6, now - before)
                before = now
                image = None
                if self.saver or self.show:
                    with self.stages.of("draw"):
                        image = self._drawn(frame, faces, fps if self.show and source.continuous else None)
                if self.record:
                    self.record.write(frame, faces)
                if self.saver and image is not None:
                    self.saver.write(frame, image)
                self.summary.count(faces, now - start, frame.time if source.continuous else None)
                if not source.continuous:
                    tell(out, frame, faces, source.kind == "folder")
                advance(faces)
                goes_on = self.show is None or image is None or self._shown(self.show, image, frame, notes)
                if source.live:
                    self.summary.ages.append(self._age(frame))
                self.recognizer.schedule.spent(self.stages.next_frame())
                if not goes_on:
                    return

    def _age(self, frame: sources.Frame) -> float:
        return time.monotonic() - frame.grabbed

    def _drawn(self, frame: sources.Frame, faces: list[Face], fps: float | None) -> np.ndarray:
        image = frame.image
        if self.blur:
            boxes = self.recognizer.recent_boxes(image) if self.source.continuous else [face.box for face in faces]
            image = drawing.blurred(image, boxes)
        return drawing.annotate(image, faces, self.recognizer.classifier.classes, fps)

    def _shown(self, show: window.Window, image: np.ndarray, frame: sources.Frame, notes: Console) -> bool:
        """Show a frame and do what the keys say; pictures, and frames after space, are held until space."""
        held = not self.source.continuous
        while not self.stop.signal:
            if held:
                action = show.wait(image, lambda: self.stop.signal is not None)
            else:
                with self.stages.of("show"):
                    action = show.show(image, frame.time if self.source.kind == "video" else None)
            if action == window.QUIT:
                return False
            if action == window.SNAPSHOT:
                _snapshot(image, lambda text: say(notes, text))
            if action == window.PAUSE:
                held = not held
                if not held:
                    return True
            elif not held:
                return True
        return False


def _snapshot(image: np.ndarray, note: sources.Note) -> None:
    path = Path(f"fer-nas-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() // 1_000_000 % 1000:03d}.png")
    try:
        pictures.write_picture(path, image)
        note(f"snapshot: {path.absolute()}")
    except (InputError, OSError) as error:
        note(f"warning: no snapshot: {error}")
