"""Picture files as people have them → BGR uint8, upright."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from fer_nas.artifacts import atomic_path
from fer_nas.errors import InputError
from fer_nas_live.quiet import quiet_stderr

# fmt: off
PICTURE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp",
    ".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif",
)
VIDEO_ENDINGS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".mjpeg", ".mjpg", ".wmv", ".flv",
    ".3gp", ".ts", ".mts", ".m2ts", ".ogv", ".gif",
)
# fmt: on
WRITABLE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"BM", b"II*\x00", b"MM\x00*", b"P1\n", b"P4\n", b"P5\n", b"P6\n")


def looks_like_picture(path: Path) -> bool:
    """By the ending in any capitalization, or by the first bytes where the ending is no known one."""
    if path.suffix.lower() in PICTURE_ENDINGS + VIDEO_ENDINGS:
        return path.suffix.lower() in PICTURE_ENDINGS
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG ends before its end marker: some decoders fill the rest with grey."""
    if data.startswith(b"\x89PNG\r\n"):
        return b"IEND" not in data[-4096:]
    if not data.startswith(b"\xff\xd8"):
        return False
    at = 2  # walk the segments, so that the end marker of a thumbnail inside one does not count
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:  # start of scan: entropy-coded data, in which FF is always followed by 00
            return data.find(b"\xff\xd9", at) < 0
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def to_bgr(image: np.ndarray) -> np.ndarray:
    """(H,W), (H,W,1), (H,W,3) or (H,W,4), uint8 or uint16 → (H,W,3) uint8; 16-bit values are scaled."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image.reshape(image.shape[:2]), cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[:, :, :3])


def read_picture(path: Path) -> np.ndarray:
    """(H,W,3) uint8 BGR with the EXIF orientation applied and alpha dropped; InputError for a bad file."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise InputError(f"picture not found: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if data.size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    if is_truncated(data.tobytes()):
        raise InputError(f"{path} is a truncated picture: it ends before its end marker")
    try:
        with quiet_stderr():
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise InputError(f"{path} cannot be decoded as a picture: {error.err or error.code}") from None
    if image is None:
        raise InputError(f"{path} is not a readable picture")
    return to_bgr(image)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write (H,W,3) BGR in the format of the ending, atomically, under any name."""
    ok, data = cv2.imencode(path.suffix.lower(), image)
    if not ok:
        raise InputError(f"cannot write {path}: OpenCV could not encode it; try .png")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
