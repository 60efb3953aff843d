"""What a run says: lines for faces, a progress bar, a summary."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fer_nas_live.faces import Face
from fer_nas_live.sources import Frame, Source
from fer_nas_live.tracking import FORGET_AFTER

NOTE_EVERY = 10.0
"""Seconds between progress lines where the output is no terminal."""
TOLD = 10
"""Faces of which the summary tells the time by expression."""
LEAST_TOLD = 0.05
"""Seconds of an expression, below which the summary leaves it out."""
AGES = 5000
"""How many frames' ages are kept for the percentiles of the summary."""


@dataclass(kw_only=True)
class Summary:
    """What a run saw and used; `most` faces in one frame; `exit_code` is 0, or 130 and 143 after SIGINT and SIGTERM.

    `tracks`: followed face → seconds by label, from frame to frame.
    `ages`: seconds from a live frame's grab to when it had been shown, of the last frames.
    """

    detector: str
    provider: str
    model: str
    frames: int = 0
    faces: int = 0
    frames_with_face: int = 0
    most: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    ages: deque[float] = field(default_factory=lambda: deque(maxlen=AGES))
    tracks: dict[int, dict[str, float]] = field(default_factory=dict)
    seconds: float = 0.0
    exit_code: int = 0
    _before: float | None = None

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    def count(self, faces: list[Face], seconds: float, time: float | None = None) -> None:
        """Take in one frame; `seconds` have passed since the start. time: of the frame, where one follows another."""
        self.frames += 1
        self.faces += len(faces)
        self.frames_with_face += bool(faces)
        self.most = max(self.most, len(faces))
        self.labels.update(face.label for face in faces)
        self.seconds = seconds
        if time is not None:
            step = 0.0 if self._before is None else min(FORGET_AFTER, max(0.0, time - self._before))
            self._before = time
            for face in faces:
                times = self.tracks.setdefault(face.track, {})
                times[face.label] = times.get(face.label, 0.0) + step

    def track_lines(self) -> list[str]:
        """A line for each of the faces that were seen longest: seconds by label."""
        order = sorted(self.tracks, key=lambda track: -sum(self.tracks[track].values()))
        told = [
            f"face {track}: " + (", ".join(_times(self.tracks[track])) or f"less than {2 * LEAST_TOLD:g} s")
            for track in sorted(order[:TOLD])
        ]
        return told + ([f"and {len(order) - TOLD} faces that were seen for less"] if len(order) > TOLD else [])

    def line(self) -> str:
        shares = ", ".join(f"{name} {100 * n / self.faces:.0f} %" for name, n in self.labels.most_common())
        faces = f"up to {self.most} face{'s' * (self.most > 1)} at once" if self.faces else "no face found"
        where = f", none in {empty} of them" if self.faces and (empty := self.frames - self.frames_with_face) else ""
        shares = f" ({shares})" if shares else ""
        text = f"{self.frames} frames, {faces}{where}{shares}; {self.seconds:.1f} s, {self.fps:.1f} frames/s"
        if not self.ages:
            return text
        half, most = (1000 * percentile(self.ages, share) for share in (50, 95))
        return f"{text}; age of a frame when shown: half under {half:.0f} ms, 95 % under {most:.0f} ms"


def _times(seconds: Mapping[str, float]) -> list[str]:
    """The seconds of each label, the longest first, without those that would be told as 0.0."""
    ordered = sorted(seconds.items(), key=lambda pair: -pair[1])
    return [f"{name} {time:.1f} s" for name, time in ordered if time >= LEAST_TOLD]


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile: the smallest value that at least `share` percent do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share / 100 * len(ordered)) - 1)]


@contextlib.contextmanager
def progress(source: Source, window: bool, notes: Console) -> Iterator[Callable[[list[Face]], None]]:
    """A function to call after each frame: a bar on a terminal, a line now and then elsewhere."""
    last, frames = time.monotonic(), 0
    total = source.count

    def line(faces: list[Face]) -> None:
        nonlocal last, frames
        frames += 1
        if time.monotonic() - last > NOTE_EVERY:
            last = time.monotonic()
            say(notes, f"frame {frames}" + (f" of {total}" if total else ""))

    if window or source.kind == "picture" or not notes.is_terminal:
        yield line
        return
    columns = [TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("", total=total)

        def advance(faces: list[Face]) -> None:
            bar.update(task, advance=1, description=faces[0].shown if faces else "no face")

        yield advance


def tell(out: Console, frame: Frame, faces: list[Face], named: bool) -> None:
    start = f"{frame.name}: " if named else ""
    for face in faces:
        x, y, w, h = face.box
        say(out, f"{start}{face.shown} {100 * face.confidence:.0f} %  box {x},{y} {w}x{h}")
    if not faces:
        say(out, f"{start}no face found")


def say(out: Console, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
