"""The loop: frames → faces → probabilities → window, video, records."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from rich.console import Console

from fer_nas.errors import InputError
from fer_nas_live import classifier, detectors, drawing, models, pictures, records, savers, sources, window
from fer_nas_live.quiet import silence_libraries
from fer_nas_live.recognizer import Recognizer
from fer_nas_live.sources import Source
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


class Stop:
    """SIGINT and SIGTERM ask the loop to end after the frame in work; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
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
    if options.smoothing < 0:
        raise InputError(f"--smoothing is {options.smoothing}; it must be at least 0")
    _check_outputs(options)
    problem = None if options.headless else window.display_problem()
    if options.headless is False and problem:
        raise InputError(f"--window: {problem}; leave it out, or use --headless")
    model = classifier.load(models.resolve(options.model), options.provider)
    detector = detectors.make(options.detector, options.yunet)
    recognizer = Recognizer(detector, model, Tracker(options.smoothing))
    summary = Summary(detector=detector.name, provider=model.provider, model=str(model.path))
    with contextlib.ExitStack() as stack:
        source = sources.open_source(camera=options.camera, source=options.source, note=note)
        stack.callback(source.close)
        saver = savers.make(options.save, source) if options.save else None
        if saver:
            stack.callback(saver.close)
        record = records.Records(options.records, model.classes) if options.records else None
        if record:
            stack.callback(record.close)
        show = None
        if options.headless is not True and not problem and (source.kind != "folder" or options.headless is False):
            show = window.Window()
            stack.callback(show.close)
        note(f"model {model.path.stem} on {model.provider}, detector {detector.name}, source {source.name}")
        if problem and options.headless is None:
            note(f"{problem}: running without a window")
        stop = Stop()
        with stop.installed():
            _loop(source, recognizer, summary, saver, record, show, stop, out, notes, note)
    if source.continuous:
        say(out, summary.line())
    for what, path in (("saved", options.save), ("records", options.records)):
        if path and path.exists():
            note(f"{what}: {path}")
    summary.exit_code = 128 + stop.signal if stop.signal else 0
    return summary


def _check_outputs(options: LiveOptions) -> None:
    if options.records:
        records.check(options.records)
        paths = [Path(options.source)] if options.source and "://" not in options.source else []
        for path, name in ((options.save, "--save"), *((path, "the source") for path in paths)):
            if path and path.resolve() == options.records.resolve():
                raise InputError(f"--records {options.records} is the same file as {name}; give another name")


def _loop(
    source: Source,
    recognizer: Recognizer,
    summary: Summary,
    saver: savers.Saver | None,
    record: records.Records | None,
    show: window.Window | None,
    stop: Stop,
    out: Console,
    notes: Console,
    note: sources.Note,
) -> None:
    start = before = time.monotonic()
    fps = 0.0
    with progress(source, show is not None, notes) as advance:
        for frame in source.frames:
            if stop.signal:
                return
            faces = recognizer.faces(frame, source.continuous)
            now = time.monotonic()
            fps = (0.9 * fps if fps else 0.0) + (0.1 if fps else 1.0) / max(1e-6, now - before)
            before = now
            if saver or show:
                image = drawing.annotate(
                    frame.image,
                    faces,
                    recognizer.classifier.classes,
                    fps if show and source.continuous else None,
                )
            if record:
                record.write(frame, faces)
            if saver:
                saver.write(frame, image)
            summary.count(faces, now - start)
            if not source.continuous:
                tell(out, frame, faces, source.kind == "folder")
            advance(faces)
            if show and not _goes_on(show, image, frame, source, stop, note):
                return


def _goes_on(
    show: window.Window,
    image: np.ndarray,
    frame: sources.Frame,
    source: Source,
    stop: Stop,
    note: sources.Note,
) -> bool:
    """Show a frame and do what the keys say; pictures, and frames after space, are held until space."""
    held = not source.continuous
    while not stop.signal:
        if held:
            action = show.wait(image, lambda: stop.signal is not None)
        else:
            action = show.show(image, frame.time if source.kind == "video" else None)
        if action == window.QUIT:
            return False
        if action == window.SNAPSHOT:
            _snapshot(image, note)
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
