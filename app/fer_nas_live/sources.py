"""Where frames come from: camera, picture, folder of pictures, video file, stream address."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import cv2
import numpy as np

from fer_nas.errors import InputError
from fer_nas_live.pictures import PICTURE_ENDINGS, looks_like_picture, read_picture, to_bgr
from fer_nas_live.quiet import quiet_stderr

STREAM_TIMEOUT = 10.0
"""Seconds a stream may take to open, and to send the next frame."""
CAMERA_RETRIES, CAMERA_PAUSE = 20, 0.05
"""A camera that gives no frame this many times in a row, with this pause in seconds, is gone."""
CAMERA_WAIT, CAMERA_REOPEN = 10.0, 0.5
"""Seconds for which a camera that is gone is awaited, and between two tries to open it again."""
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}

Note = Callable[[str], None]


@dataclass(frozen=True)
class Frame:
    """One picture of a source: (H,W,3) uint8 BGR, number from 0, time in seconds, file in a folder.

    `grabbed` is when it came, by the monotonic clock.
    """

    image: np.ndarray
    index: int
    time: float
    name: str | None = None
    grabbed: float = field(default_factory=monotonic)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened source; `frames` yields until the end and raises InputError when a camera is gone."""

    kind: str  # camera, picture, folder, video or stream
    name: str
    frames: Iterator[Frame]
    close: Callable[[], None]
    fps: float | None = None
    count: int | None = None
    files: tuple[Path, ...] = ()

    @property
    def continuous(self) -> bool:
        """Whether one frame follows from the last, so that faces can be tracked and smoothed."""
        return self.kind in ("camera", "video", "stream")

    @property
    def live(self) -> bool:
        """Whether frames come by themselves and grow old; a stream whose length is known is a file elsewhere."""
        return self.kind == "camera" or (self.kind == "stream" and self.count is None)


def open_source(*, camera: int | None, source: str | None, note: Note, leave_out: Path | None = None) -> Source:
    """Open what the user named; exactly one of `camera` and `source` is given. `note` hears warnings.

    leave_out: a folder inside a folder of pictures that is not read, where the run saves.
    """
    if (camera is None) == (source is None):
        raise InputError("give either --camera N or --source PATH_OR_ADDRESS")
    if camera is not None:
        return _camera(camera, note)
    assert source is not None
    if "://" in source and not source.lower().startswith("file://"):
        return _stream(source, note)
    name = source[7:] if source.lower().startswith("file://") else source
    if not name.strip():
        raise InputError("--source is empty; name a picture, a folder of pictures, a video or a stream address")
    path = Path(name)
    try:
        if path.is_dir():
            return _folder(path, note, leave_out)
        if not path.exists():
            raise InputError(f"source not found: {path}")
        if path.is_file() and path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes)")
    except OSError as error:
        raise InputError(f"cannot read {source!r}: {error.strerror or error}") from None
    return _picture(path) if looks_like_picture(path) else _video(path, note)


def camera_numbers(limit: int = 10) -> list[int]:
    """Numbers that may be cameras: on Linux those of /dev/video*, elsewhere the first four."""
    if not sys.platform.startswith("linux"):
        return list(range(min(limit, 4)))
    return sorted(int(p.name[5:]) for p in Path("/dev").glob("video*") if p.name[5:].isdigit())[:limit]


def usable_cameras() -> list[int]:
    """Numbers of cameras that deliver a frame."""
    found = []
    for number in camera_numbers():
        with quiet_stderr():
            capture = cv2.VideoCapture(number)
            if capture.isOpened() and capture.read()[0]:
                found.append(number)
            capture.release()
    return found


def _camera(number: int, note: Note) -> Source:
    camera = _Camera(number)
    first = camera.open()
    if first is None:
        opened = camera.capture.isOpened() or Path(f"/dev/video{number}").exists()
        camera.release()
        usable = ", ".join(str(n) for n in usable_cameras() if n != number) or "none"
        problem = "gives no picture (busy in another program, or no permission)" if opened else "not found"
        raise InputError(f"camera {number} {problem}; usable cameras: {usable}")
    fps = camera.capture.get(cv2.CAP_PROP_FPS)
    return Source(
        kind="camera",
        name=f"camera {number}",
        frames=_camera_frames(camera, first, note),
        close=camera.release,
        fps=fps if 1 <= fps <= 240 else None,
    )


class _Camera:
    """A camera that can be opened again; `open` and `read` give None where no picture comes."""

    def __init__(self, number: int) -> None:
        self.number = number

    def open(self) -> np.ndarray | None:
        with quiet_stderr():
            self.capture = cv2.VideoCapture(self.number)
            return self._once() if self.capture.isOpened() else None

    def read(self) -> np.ndarray | None:
        for _ in range(CAMERA_RETRIES):
            if (image := self._once()) is not None:
                return image
            time.sleep(CAMERA_PAUSE)
        return None

    def _once(self) -> np.ndarray | None:
        with quiet_stderr():
            ok, image = self.capture.read()
        return image if ok else None

    def again(self) -> np.ndarray | None:
        """Open it anew until a picture comes or the wait is over."""
        end = time.monotonic() + CAMERA_WAIT
        while time.monotonic() < end:
            self.release()
            time.sleep(CAMERA_REOPEN)
            if (image := self.open()) is not None:
                return image
        return None

    def release(self) -> None:
        self.capture.release()


def _camera_frames(camera: _Camera, first: np.ndarray, note: Note) -> Iterator[Frame]:
    start, index = time.monotonic(), 0
    image: np.ndarray | None = first
    while image is not None:
        now = time.monotonic()
        yield Frame(to_bgr(image), index, now - start, grabbed=now)
        index += 1
        image = camera.read()
        if image is None and CAMERA_WAIT > 0:
            note(f"camera {camera.number} gives no picture; waiting up to {CAMERA_WAIT:g} s for it to come back")
            image = camera.again()
            if image is not None:
                note(f"camera {camera.number} is back")
    raise InputError(f"camera {camera.number} stopped after {index} frames; was it unplugged?")


def _picture(path: Path) -> Source:
    image = read_picture(path)
    return Source(
        kind="picture",
        name=str(path),
        frames=iter([Frame(image, 0, 0.0, path.name)]),
        close=lambda: None,
        count=1,
        files=(path,),
    )


def _folder(path: Path, note: Note, leave_out: Path | None) -> Source:
    inside = sorted(path.rglob("*"))
    if leave_out is not None and path.resolve() in leave_out.resolve().parents:
        own = path / leave_out.resolve().relative_to(path.resolve())
        everything, inside = inside, [file for file in inside if own not in file.parents]
        if len(inside) < len(everything):
            note(f"what lies in {own} is left out: annotated pictures go there")
    files = tuple(
        file
        for file in inside
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.suffix.lower() in PICTURE_ENDINGS
    )
    if not files:
        raise InputError(f"no pictures in {path}; it holds {len(inside)} other entries")
    frames = _folder_frames(path, files, note)
    return Source(kind="folder", name=str(path), frames=frames, close=lambda: None, count=len(files), files=files)


def _folder_frames(folder: Path, files: tuple[Path, ...], note: Note) -> Iterator[Frame]:
    index = 0
    for file in files:
        try:
            image = read_picture(file)
        except InputError as error:
            note(f"warning: left out: {error}")
            continue
        yield Frame(image, index, 0.0, file.relative_to(folder).as_posix())
        index += 1
    if not index:
        raise InputError(f"none of the {len(files)} pictures in {folder} can be read")


def _video(path: Path, note: Note) -> Source:
    with quiet_stderr():
        # FFmpeg by name: with CAP_ANY a '%' in the path would be taken as the pattern of an image sequence
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise InputError(f"{path} is neither a picture nor a video that can be opened (damaged or another format?)")
    return _moving("video", str(path), capture, note)


def _stream(address: str, note: Note) -> Source:
    timeout = int(STREAM_TIMEOUT * 1000)
    settings = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout]
    with quiet_stderr():
        capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, settings)
    if not capture.isOpened():
        raise InputError(
            f"cannot open the stream {address}: it cannot be reached (within {STREAM_TIMEOUT:g} s), or is not a video; "
            "check the address"
        )
    return _moving("stream", address, capture, note)


def _moving(kind: str, name: str, capture: cv2.VideoCapture, note: Note) -> Source:
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    turn = _turn_by_hand(capture)
    with quiet_stderr():
        ok, first = capture.read()
    if not ok:
        capture.release()
        raise InputError(f"{name}: no frame can be decoded (damaged, or a codec that OpenCV lacks)")
    promised = int(count) if 0 < count < 1e9 else None
    fps = fps if 0.1 <= fps <= 1000 else 25.0
    frames = _moving_frames(capture, name, first, turn, fps, promised, note)
    return Source(kind=kind, name=name, frames=frames, close=capture.release, fps=fps, count=promised)


def _turn_by_hand(capture: cv2.VideoCapture) -> int | None:
    """Ask OpenCV to apply the clip's rotation; where it will not, the cv2.rotate code that does.

    The default of CAP_PROP_ORIENTATION_AUTO differs between OpenCV versions (off in 4.11).
    """
    if capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1) and capture.get(cv2.CAP_PROP_ORIENTATION_AUTO) == 1:
        return None
    return _TURNS.get(int(capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360)


def _moving_frames(
    capture: cv2.VideoCapture,
    name: str,
    first: np.ndarray,
    turn: int | None,
    fps: float,
    promised: int | None,
    note: Note,
) -> Iterator[Frame]:
    index, last, ok, image = 0, -1 / fps, True, first
    while ok:
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if not last < seconds < last + 60:  # a file without usable time stamps
            seconds = last + 1 / fps
        last = seconds
        yield Frame(to_bgr(image if turn is None else cv2.rotate(image, turn)), index, round(seconds, 6))
        index += 1
        with quiet_stderr():
            ok, image = capture.read()
    if promised and index < promised:
        note(f"warning: {name}: {index} of {promised} frames could be read; the file is cut or damaged")
