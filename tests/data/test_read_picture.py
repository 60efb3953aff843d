"""Pictures as people have them: every mode upright in 8-bit RGB, and nothing half a picture."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fer_nas.data.pictures import UnreadablePicture, read_picture, resize, to_grey


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """uint8 (12, 20, 3): four even quarters, so that lossy formats keep them."""
    picture = np.zeros((12, 20, 3), np.uint8)
    picture[:6, :10], picture[:6, 10:] = (200, 40, 40), (40, 200, 40)
    picture[6:, :10], picture[6:, 10:] = (40, 40, 200), (220, 220, 220)
    return picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_exact(colours: np.ndarray, kind: str) -> None:
    assert np.array_equal(read_picture(encoded(Image.fromarray(colours), kind)), colours)


@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(colours: np.ndarray, mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = Image.fromarray(colours)
    image = image.quantize(16) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(np.full((12, 20), 7, np.uint8)))
    picture = read_picture(encoded(image, kind))
    assert picture.shape == (12, 20, 3)
    assert np.abs(picture.astype(int) - colours).max() <= 2


def test_cmyk_jpeg_is_not_inverted(colours: np.ndarray) -> None:
    content = encoded(Image.fromarray(colours).convert("CMYK"), "JPEG", quality=95)
    error = np.abs(read_picture(content).astype(int) - colours)
    assert np.median(error) <= 4


def test_sixteen_bits_keep_the_high_byte() -> None:
    values = np.array([[0, 255, 256, 65535]] * 3, np.uint16)
    content = cv2.imencode(".png", values)[1].tobytes()
    assert read_picture(content)[0, :, 0].tolist() == [0, 0, 1, 255]
    assert np.array_equal(read_picture(content), cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    colour = cv2.imencode(".png", np.full((2, 2, 3), 0x7FFF, np.uint16))[1].tobytes()
    assert np.unique(read_picture(colour)).tolist() == [127]


def test_grey_values_are_kept() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for mode in ("L", "LA"):
        picture = read_picture(encoded(Image.fromarray(values).convert(mode), "PNG"))
        assert np.array_equal(to_grey(picture), values)
    jpeg = cv2.imencode(".jpg", values)[1].tobytes()
    assert np.array_equal(
        to_grey(read_picture(jpeg)), cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
    )


def test_phone_photo_is_turned_upright(cases: Path) -> None:  # C20
    content = (cases / "exif6.jpg").read_bytes()
    assert Image.open(io.BytesIO(content)).size == (512, 400)
    picture = read_picture(content)
    assert picture.shape == (512, 400, 3)
    upright = read_picture((cases / "face.png").read_bytes())[:, :400]
    assert np.abs(picture.astype(int) - upright).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_decoders_turn_alike(colours: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    jpeg = read_picture(encoded(Image.fromarray(colours), "JPEG", exif=exif, quality=100, subsampling=0))
    png = read_picture(encoded(Image.fromarray(colours), "PNG", exif=exif))
    assert jpeg.shape == png.shape == ((12, 20, 3) if orientation < 5 else (20, 12, 3))
    assert np.abs(jpeg.astype(int) - png).max() < 12


def test_truncated_jpeg_raises(cases: Path) -> None:  # C18
    with pytest.raises(UnreadablePicture, match="truncated"):
        read_picture((cases / "trunc.jpg").read_bytes())


def test_end_marker_of_a_thumbnail_does_not_count(colours: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    thumbnail = encoded(Image.fromarray(colours), "JPEG")
    whole = encoded(Image.fromarray(noise), "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert whole.count(b"\xff\xd9") >= 2
    with pytest.raises(UnreadablePicture):
        read_picture(whole[: len(whole) * 2 // 3])


def test_whole_jpeg_without_end_marker_or_with_a_tail_is_good() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), "JPEG")
    expected = read_picture(whole)
    assert np.array_equal(read_picture(whole + b"tail of another program" * 9), expected)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_half_a_file_of_any_format_raises(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind)
    with pytest.raises(UnreadablePicture):
        read_picture(content[: len(content) // 2])


@pytest.mark.parametrize("content", [b"", b"x", b"\xff\xd8\xff\xe0", b"<html>no picture</html>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_raises(content: bytes) -> None:
    with pytest.raises(UnreadablePicture):
        read_picture(content)


def test_resize_averages_when_it_shrinks() -> None:
    stripes = np.zeros((8, 8), np.uint8)
    stripes[::2] = 200
    assert np.unique(resize(stripes, 4)).tolist() == [100]
    assert resize(stripes, 8) is stripes
    assert resize(np.zeros((6, 9, 3), np.uint8), 12).shape == (12, 12, 3)
