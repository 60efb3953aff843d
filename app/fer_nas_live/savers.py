"""Annotated frames to a picture, a folder of pictures or a video."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path, PurePosixPath
from typing import Protocol

import cv2
import numpy as np

from fer_nas.artifacts import atomic_path
from fer_nas.errors import FerNasError, InputError
from fer_nas_live.pictures import WRITABLE_ENDINGS, write_picture
from fer_nas_live.quiet import quiet_stderr
from fer_nas_live.sources import Frame, Source

VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
MEASURED_FRAMES = 20
"""A camera's real frame rate is measured over this many frames before its video is begun."""


CHECKED_EVERY, LEAST_FREE = 25, 16 << 20
"""Every so many frames of a video the free bytes of the disk are looked at; with fewer than these it is ended."""


class Saver(Protocol):
    """Takes annotated frames; `close` finishes the file, also after an interrupted run."""

    def write(self, frame: Frame, image: np.ndarray) -> None: ...
    def close(self) -> None: ...


def make(path: Path, source: Source) -> Saver:
    """The saver that fits the source: a picture for a picture, a folder for a folder, else a video."""
    suffix = path.suffix.lower()
    if source.kind == "folder":
        if suffix in WRITABLE_ENDINGS or suffix in VIDEO_CODECS or path.is_file():
            raise InputError(f"--save {path}: the source is a folder, so give a folder for the annotated pictures")
        if path.resolve() == Path(source.name).resolve():
            raise InputError(f"--save {path} is the source itself; give another folder")
        return FolderSaver(path)
    if path.is_dir():
        raise InputError(f"--save {path} is a folder; name a file in it")
    if any(path.resolve() == file.resolve() for file in (*source.files, Path(source.name))):
        raise InputError(f"--save {path} is the source itself; give another name")
    if source.kind == "picture":
        if suffix not in WRITABLE_ENDINGS:
            raise InputError(f"--save {path}: the source is a picture; end the name in {', '.join(WRITABLE_ENDINGS)}")
        _check_writable(path)
        return PictureSaver(path)
    if suffix not in VIDEO_CODECS:
        raise InputError(f"--save {path}: the source is a {source.kind}; end the name in {', '.join(VIDEO_CODECS)}")
    return VideoSaver(path, None if source.kind == "camera" else source.fps)


def _check_writable(path: Path) -> None:
    class Probe(Exception):
        pass

    with contextlib.suppress(Probe), atomic_path(path):
        raise Probe


class PictureSaver:
    """One picture."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, frame: Frame, image: np.ndarray) -> None:
        write_picture(self.path, image)

    def close(self) -> None:
        pass


class FolderSaver:
    """Each picture under its own name with .png, in the same subfolders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._used: set[PurePosixPath] = set()
        _check_writable(path / "picture.png")

    def write(self, frame: Frame, image: np.ndarray) -> None:
        name = PurePosixPath(frame.name or f"{frame.index:05d}")
        target = name.with_suffix(".png")
        if target in self._used:  # a.jpg beside a.png
            target = name.with_name(name.name + ".png")
        self._used.add(target)
        write_picture(self.path / target, image)

    def close(self) -> None:
        pass


class VideoSaver:
    """A video under a temporary name that gets its own when it is finished.

    Odd sizes are padded to even ones (321×241 → 322×242, the border repeated), since codecs cannot take them;
    a frame of another size than the first is scaled to the first's. Without `fps`, the rate is measured.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self.path, self.fps, self.frames = path, fps, 0
        self.size: tuple[int, int] | None = None
        self._waiting: list[tuple[float, np.ndarray]] = []
        self._writer: cv2.VideoWriter | None = None
        self._files = contextlib.ExitStack()
        self._temporary = self._files.enter_context(atomic_path(path))

    def write(self, frame: Frame, image: np.ndarray) -> None:
        """Add a frame; FerNasError where the disk is nearly full, with room left to finish what was written."""
        if self.frames % CHECKED_EVERY == 0 and (free := _free(self.path)) is not None and free < LEAST_FREE:
            raise FerNasError(f"{self.path}: the disk is full; the video ends after {self.frames} frames")
        self.frames += 1
        padded = _even(image)
        if self.size is None:
            self.size = (padded.shape[1], padded.shape[0])
        if (padded.shape[1], padded.shape[0]) != self.size:
            padded = cv2.resize(padded, self.size, interpolation=cv2.INTER_AREA)
        if self._writer is None and self.fps is None:
            self._waiting.append((frame.time, padded))
            if len(self._waiting) >= MEASURED_FRAMES:
                self._begin()
            return
        if self._writer is None:
            self._begin()
        assert self._writer is not None
        with quiet_stderr():
            self._writer.write(padded)

    def _begin(self) -> None:
        if self.fps is None:
            seconds = self._waiting[-1][0] - self._waiting[0][0]
            self.fps = min(240.0, max(1.0, (len(self._waiting) - 1) / seconds)) if seconds > 0 else 25.0
        codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[self.path.suffix.lower()])
        assert self.size is not None
        with quiet_stderr():
            self._writer = cv2.VideoWriter(str(self._temporary.absolute()), codec, self.fps, self.size)
        if not self._writer.isOpened():
            raise FerNasError(
                f"cannot write {self.path}: OpenCV has no encoder for it at {self.size[0]}×{self.size[1]}"
            )
        for _, image in self._waiting:
            self._writer.write(image)
        self._waiting = []

    def close(self) -> None:
        """Finish the file and give it its name; without a single frame no file is left.

        FerNasError, and no file, where it does not hold what was written: OpenCV tells of no failed write.
        """
        if self._writer is None and self._waiting:
            self._begin()
        if self._writer is None or not self._writer.isOpened():
            self._abandon()
            return
        with quiet_stderr():
            self._writer.release()
            capture = cv2.VideoCapture(str(self._temporary.absolute()), cv2.CAP_FFMPEG)
            count = capture.get(cv2.CAP_PROP_FRAME_COUNT) if capture.isOpened() else -1
            capture.release()
        if count < 0.98 * self.frames - 1:  # some containers tell the count by their length, rounded
            self._abandon()
            raise FerNasError(f"{self.path} could not be written whole (is the disk full?); it was taken away")
        self._files.close()

    def _abandon(self) -> None:
        self._files.pop_all()
        self._temporary.unlink(missing_ok=True)


def _free(path: Path) -> int | None:
    """Bytes that are free where `path` lies; None where that cannot be told."""
    try:
        return shutil.disk_usage(path.absolute().parent).free
    except OSError:
        return None


def _even(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    return cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
