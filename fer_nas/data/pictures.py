"""Picture bytes as people have them → uint8 RGB, upright; what is truncated or damaged raises."""

from __future__ import annotations

import io
import struct
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps

PICTURE_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .dib .tif .tiff .webp .gif .pbm .pgm .ppm .pnm .jp2 .avif".split()  # noqa: SIM905
)


class UnreadablePicture(ValueError):
    """A picture that is truncated, damaged or none at all; the message says which of these."""


def read_picture(content: bytes) -> np.ndarray:
    """uint8 (H, W, 3) RGB: EXIF orientation applied, alpha dropped, 16 bits cut to 8; or UnreadablePicture.

    Whole JPEGs go through OpenCV, which is fast but fills the missing part of a truncated one with grey and
    reports success; what is not certainly whole, and every other format, goes through Pillow, which raises.
    """
    if not content:
        raise UnreadablePicture("empty, 0 bytes")
    if _whole_plain_jpeg(content):
        try:
            picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
        except cv2.error as error:
            raise UnreadablePicture(str(error.err or error)) from None
        if picture is not None:
            return picture
    return _pillow(content)


def to_grey(picture: np.ndarray) -> np.ndarray:
    """uint8 (H, W) of uint8 (H, W, 3) RGB; R=G=B keeps its value."""
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)


def resize(picture: np.ndarray, size: int) -> np.ndarray:
    """The picture (H, W[, 3]) as size×size: area averaging where it shrinks, linear where it grows."""
    height, width = picture.shape[:2]
    if (height, width) == (size, size):
        return picture
    shrinks = size < height or size < width
    return cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _whole_plain_jpeg(content: bytes) -> bool:
    """Whether the bytes are a JPEG of one or three components with an end marker after its picture data.

    Segments are stepped over by their length, so that the end marker of an EXIF thumbnail does not count.
    """
    if content[:3] != b"\xff\xd8\xff":
        return False
    at, components = 2, 0
    while at + 9 < len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0xDA:
            return components in (1, 3) and content.rfind(b"\xff\xd9") > at
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            components = content[at + 9]
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return False


def _pillow(content: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return _eight_bit_rgb(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise UnreadablePicture("not a picture") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error) as error:
        raise UnreadablePicture(_first_line(error)) from None
    except Image.DecompressionBombError as error:
        raise UnreadablePicture(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _eight_bit_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image).astype(np.float64)
        if values.max() > 255:
            values = values / 256  # as OpenCV: the high byte
        elif image.mode == "F" and values.max() <= 1:
            values = values * 255
        grey = np.clip(values, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))
