"""`fer-nas bench live`: how long each stage takes, how old a shown frame is, and the ratio to a plain pipeline.

The two pipelines take turns, so that a machine whose speed wanders does so for both; figures are medians.
Times are wall clock; `cpu_ms` beside them is what the process used of the processor, which other programs disturb less.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from fer_nas.errors import FerNasError
from fer_nas_live import classifier, detectors, film, machine, models, sources, window
from fer_nas_live.ahead import read_ahead
from fer_nas_live.classifier import Classifier
from fer_nas_live.crops import prepare
from fer_nas_live.live import Loop, Stop, schedule_for
from fer_nas_live.newest import newest_only
from fer_nas_live.quiet import silence_libraries
from fer_nas_live.recognizer import Recognizer
from fer_nas_live.sources import Frame, Source
from fer_nas_live.stages import STAGES, Stages
from fer_nas_live.telling import Summary, percentile
from fer_nas_live.tracking import Tracker

STARTS, TURNS = 3, 3
"""Cold starts, and turns of the two pipelines, of which the median is told."""
SMOOTHING = 0.3


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """frames: of the film, or at most so many of `source`. faces: in the film. seconds: of the simulated camera."""

    source: str | None = None
    model: str | None = None
    detector: str = "auto"
    frames: int = 150
    faces: int = 1
    seconds: float = 5.0
    shown: bool = False


def run(options: BenchOptions, notes: Console) -> dict[str, Any]:
    """All figures, plain values for JSON. InputError, before anything slow, for what `live` refuses too."""
    silence_libraries()
    cv2.setNumThreads(machine.usable_cores())
    model = classifier.load(models.resolve(options.model), "cpu")
    detectors.make(options.detector)
    if options.source is not None:
        _frames(options.source, 1)
    with tempfile.TemporaryDirectory(prefix="fer-nas-bench-") as folder:
        source = options.source
        if source is None:
            notes.print("making the film", highlight=False)
            source = str(Path(folder) / "film.mp4")
            film.write(Path(source), options.frames, options.faces)
        notes.print("cold start", highlight=False)
        first = Path(folder) / "first.png"
        cv2.imwrite(str(first), _frames(source, 1)[0].image)
        start = _cold_start(first, options)
        turns = []
        for turn in range(TURNS):
            notes.print(f"our pipeline and the plain one, turn {turn + 1} of {TURNS}", highlight=False)
            turns.append((_ours(source, model, options), _plain(source, model, options.frames)))
        notes.print(f"camera of {film.FPS} frames/s, simulated", highlight=False)
        camera = _camera(source, model, options)
    ours, plain = (_median([turn[side] for turn in turns]) for side in (0, 1))
    return {
        "source": options.source or f"film of {options.faces} face(s), {film.WIDTH}×{film.HEIGHT}",
        "model": model.path.stem,
        "provider": model.provider,
        "cores": machine.usable_cores(),
        "window": options.shown,
        "cold_start_s": start,
        "ours": ours,
        "camera": camera,
        "plain": plain,
        "ratio": percentile([one["fps"] / other["fps"] for one, other in turns], 50),
        "ratio_cpu": percentile([other["cpu_ms"] / one["cpu_ms"] for one, other in turns], 50),
        "ratios": [one["fps"] / other["fps"] for one, other in turns],
    }


def _median(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Figure by figure."""
    first = turns[0]
    return {
        name: _median([turn[name] for turn in turns])
        if isinstance(value, dict)
        else percentile([turn[name] for turn in turns], 50)
        if isinstance(value, float)
        else value
        for name, value in first.items()
    }


def _frames(source: str, count: int) -> list[Frame]:
    opened = sources.open_source(camera=None, source=source, note=lambda text: None)
    try:
        return [frame for frame, _ in zip(opened.frames, range(count), strict=False)]
    finally:
        opened.close()


def _cold_start(picture: Path, options: BenchOptions) -> dict[str, float]:
    """Seconds from the start of a new `fer-nas live` to its first label, median; its largest memory in MiB."""
    words = ["live", "--source", str(picture), "--headless", "--provider", "cpu", "--detector", options.detector]
    words += ["--model", options.model] if options.model else []
    code = "import sys; from fer_nas.__main__ import main; sys.argv[0] = 'fer-nas'; main()"
    wall = []
    for _ in range(STARTS):
        begun = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            assert process.stdout
            line = process.stdout.readline()
            wall.append(time.perf_counter() - begun)
            process.stdout.read()  # to the end, since a closed pipe would end the program
        if process.returncode or not line:
            raise FerNasError(f"`fer-nas {' '.join(words)}` failed; run it to see why")
    return {"wall": percentile(wall, 50), **_children()}


def _children() -> dict[str, float]:
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        unit = 1 if sys.platform == "darwin" else 1024
        cpu = (used.ru_utime + used.ru_stime) / STARTS
        return {"cpu": cpu, "peak_memory_mib": used.ru_maxrss * unit / (1 << 20)}
    return {}


def _recognizer(model: Classifier, options: BenchOptions, source: Source) -> Recognizer:
    detector, stages = detectors.make(options.detector), Stages(keep=True)
    return Recognizer(detector, model, Tracker(SMOOTHING), schedule=schedule_for(source), stages=stages)


class Sink:
    """Takes the drawn frames where there is no window, so that drawing is measured all the same."""

    def show(self, image: np.ndarray, seconds: float | None) -> str | None:
        return None

    def wait(self, image: np.ndarray, stopped: Any) -> str | None:
        return None

    def close(self) -> None:
        pass


class Unpaced(window.Window):
    """The window, without waiting for the time of a video's frame."""

    def show(self, image: np.ndarray, seconds: float | None) -> str | None:
        return super().show(image, None)


def _loop(source: Source, recognizer: Recognizer, shown: bool) -> tuple[Summary, float, float]:
    """Summary, wall and CPU seconds of a run over the source."""
    summary = Summary(detector=recognizer.detector.name, provider="", model="")
    show: Any = Unpaced() if shown else Sink()
    silent = Console(file=io.StringIO())
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        Loop(source, recognizer, summary, None, None, show, Stop()).run(silent, silent)
    finally:
        show.close()
    return summary, time.perf_counter() - wall, time.process_time() - cpu


def _ours(source: str, model: Classifier, options: BenchOptions) -> dict[str, Any]:
    opened = read_ahead(sources.open_source(camera=None, source=source, note=lambda text: None))
    limited = replace(opened, frames=(frame for frame, _ in zip(opened.frames, range(options.frames), strict=False)))
    recognizer = _recognizer(model, options, limited)
    try:
        summary, wall, cpu = _loop(limited, recognizer, options.shown)
    finally:
        opened.close()
    kept = recognizer.stages.kept
    assert kept is not None
    count = max(1, summary.frames)
    return {
        "detector": recognizer.detector.name,
        "frames": summary.frames,
        "faces_per_frame": summary.faces / count,
        "detections": recognizer.detections,
        "detection_ms": 1000 * recognizer.schedule.detection,
        "fps": summary.frames / wall,
        "ms": 1000 * wall / count,
        "cpu_ms": 1000 * cpu / count,
        "stages_ms": {name: 1000 * sum(kept[name]) / count for name in STAGES},
        "memory_mib": machine.resident_memory() / (1 << 20),
    }


def _plain(source: str, model: Classifier, count: int) -> dict[str, Any]:
    """What most such programs do: Haar's cascade on every full frame, then one network call a face, and a label."""
    opened = sources.open_source(camera=None, source=source, note=lambda text: None)
    cascade = cv2.CascadeClassifier(str(detectors.haar_file()))
    frames = faces = 0
    wall, cpu = time.perf_counter(), time.process_time()
    for frame, _ in zip(opened.frames, range(count), strict=False):
        grey = cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY)
        drawn = frame.image.copy()
        for x, y, w, h in cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=5, minSize=(50, 50)):
            crop = prepare(frame.image, (x, y, w, h), model.input_size, model.metadata.channels)
            label = model.classes[int(np.argmax(model.classify([crop])[0]))]
            cv2.rectangle(drawn, (x, y), (x + w, y + h), (0, 255, 0), 2)
            cv2.putText(drawn, label, (x, y - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 255, 0), 2)
            faces += 1
        frames += 1
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    opened.close()
    n = max(1, frames)
    return {
        "frames": frames,
        "faces_per_frame": faces / n,
        "fps": frames / wall,
        "ms": 1000 * wall / n,
        "cpu_ms": 1000 * cpu / n,
    }


def _camera(source: str, model: Classifier, options: BenchOptions) -> dict[str, Any]:
    """The same frames at a camera's pace: frames/s that were shown, and how old each was by then."""
    frames = _frames(source, options.frames)
    camera = simulated_camera([frame.image for frame in frames], film.FPS, options.seconds)
    live = newest_only(camera, lambda: False)
    recognizer = _recognizer(model, options, live)
    try:
        summary, wall, _ = _loop(live, recognizer, options.shown)
    finally:
        live.close()
    ages = [1000 * age for age in summary.ages]
    return {
        "frames": summary.frames,
        "fps": summary.frames / wall,
        "detect_every": recognizer.schedule.every,
        "age_ms": {f"p{share}": percentile(ages, share) for share in (50, 95, 99)} if ages else {},
    }


def simulated_camera(images: list[np.ndarray], fps: float, seconds: float) -> Source:
    """A live source that gives the images over and over, each at its time; a late reader misses them."""

    def frames() -> Iterator[Frame]:
        start, number = time.monotonic(), 0
        while (due := number / fps) < seconds:
            wait = start + due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            yield Frame(images[number % len(images)], number, due, grabbed=start + due)
            number = max(number + 1, int((time.monotonic() - start) * fps))

    return Source(kind="camera", name="simulated camera", frames=frames(), close=lambda: None, fps=fps)


def lines(value: dict[str, Any]) -> list[str]:
    """The figures for people; the last line is the ratio."""
    ours, plain, camera, start = (value[name] for name in ("ours", "plain", "camera", "cold_start_s"))
    stages = ", ".join(f"{name} {ms:.2f}" for name, ms in ours["stages_ms"].items())
    ages = ", ".join(f"{name} {age:.0f}" for name, age in camera["age_ms"].items())
    ratios = ", ".join(f"{one:.1f}" for one in sorted(value["ratios"]))
    memory = f", peak {start['peak_memory_mib']:.0f} MiB" if "peak_memory_mib" in start else ""
    cpu = f" ({start['cpu']:.2f} s of CPU)" if "cpu" in start else ""
    return [
        f"{value['source']}; {value['model']} on {value['provider']}, detector {ours['detector']}, "
        f"{value['cores']} cores, {'with' if value['window'] else 'without a'} window",
        f"cold start to the first label {start['wall']:.2f} s{cpu}{memory}",
        f"ours: {ours['fps']:.1f} frames/s, {ours['cpu_ms']:.1f} ms of CPU a frame, "
        f"{ours['faces_per_frame']:.2f} faces a frame, {ours['detections']} detections in {ours['frames']} frames "
        f"beside it of {ours['detection_ms']:.0f} ms each, {ours['memory_mib']:.0f} MiB",
        f"milliseconds a frame (detect: waiting for it): {stages}",
        f"camera of {film.FPS} frames/s: {camera['fps']:.1f} frames/s shown, one detection in {camera['detect_every']} "
        f"frames; age of a shown frame in ms: {ages}",
        f"plain Haar and one call a face: {plain['fps']:.1f} frames/s, {plain['cpu_ms']:.1f} ms of CPU a frame, "
        f"{plain['faces_per_frame']:.2f} faces a frame",
        f"ratio {value['ratio']:.1f} in frames/s ({ratios} by turns), {value['ratio_cpu']:.1f} in CPU time",
    ]


def to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
