"""Picture files as people have them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fer_nas_live import pictures

from fer_nas.errors import InputError


@pytest.fixture(scope="module")
def photo(cases: Path) -> np.ndarray:
    return cv2.imread(str(cases / "face.png"))


def save(path: Path, image: np.ndarray) -> Path:
    path.write_bytes(cv2.imencode(path.suffix.lower(), image)[1].tobytes())
    return path


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("colour.PNG", lambda a: a),
        ("Übung 表情 50%d.png", lambda a: a),
        ("alpha.png", lambda a: np.dstack([a, np.full(a.shape[:2], 40, np.uint8)])),
        ("sixteen.png", lambda a: a.astype(np.uint16) * 257),
        ("sixteen.tiff", lambda a: a.astype(np.uint16) * 257),
        ("plain.bmp", lambda a: a),
    ],
)
def test_lossless_forms_give_the_same_pixels(tmp_path, photo, name, change):
    assert np.array_equal(pictures.read_picture(save(tmp_path / name, change(photo))), photo)


def test_grey_and_one_pixel(tmp_path, photo):
    grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
    read = pictures.read_picture(save(tmp_path / "grey.png", grey))
    assert read.shape == photo.shape and np.array_equal(read[:, :, 1], grey)
    assert pictures.read_picture(save(tmp_path / "one.png", photo[:1, :1])).shape == (1, 1, 3)


@pytest.mark.parametrize(("name", "mode"), [("cmyk.jpg", "CMYK"), ("palette.png", "P"), ("bits.png", "1")])
def test_forms_that_pillow_writes(tmp_path, photo, name, mode):
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.fromarray(photo[:, :, ::-1]).convert(mode)
    picture.save(tmp_path / name)
    wanted = np.asarray(picture.convert("RGB"), np.int16)[:, :, ::-1]
    read = pictures.read_picture(tmp_path / name)
    assert read.dtype == np.uint8 and np.abs(read - wanted).mean() < 3


def test_exif_orientation_is_applied(cases):
    assert pictures.read_picture(cases / "exif6.jpg").shape == (512, 400, 3)


@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_truncated_pictures_are_refused_and_whole_ones_are_not(tmp_path, photo, ending):
    data = cv2.imencode(ending, photo)[1].tobytes()
    assert not pictures.is_truncated(data)
    assert not pictures.is_truncated(data + b"maker's trailer")
    file = tmp_path / f"half{ending}"
    for share in (0.1, 0.5, 0.99):
        file.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match=r"half.* truncated"):
            pictures.read_picture(file)


def test_the_end_marker_of_a_thumbnail_does_not_count(photo):
    data = cv2.imencode(".jpg", photo)[1].tobytes()
    thumbnail = b"\xff\xe1" + (2 + 100).to_bytes(2, "big") + b"x" * 50 + b"\xff\xd9" + b"x" * 48
    assert pictures.is_truncated(data[:2] + thumbnail + data[2:-100])
    assert not pictures.is_truncated(data[:2] + thumbnail + data[2:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"hello", "not a readable picture"), (None, "not found"), (b"\xff\xd8", "truncated")],
)
def test_bad_files_are_named(tmp_path, content, reason, capfd):
    file = tmp_path / "bad.jpg"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=reason) as raised:
        pictures.read_picture(file)
    assert "bad.jpg" in str(raised.value) and "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""


def test_a_folder_is_not_a_picture(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        pictures.read_picture(tmp_path)


def test_writing_under_any_name(tmp_path, photo):
    path = tmp_path / "ö 表" / "情 50%d.png"
    pictures.write_picture(path, photo)
    assert np.array_equal(pictures.read_picture(path), photo)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_s_own_output_inside_it_is_not_read_again(live, cases, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes((cases / "face.png").read_bytes())
    for turn in range(2):
        said = live(source=str(tmp_path / "in"), save=tmp_path / "in" / "out", detector="haar")
        assert said.summary.frames == 2 and ("is left out" in said.notes) is (turn == 1)
    assert sorted(p.name for p in (tmp_path / "in" / "out").rglob("*")) == ["a.png", "b.png"]
    assert live(source=str(tmp_path / "in"), save=tmp_path / "elsewhere", detector="haar").summary.frames == 4


def test_a_baseline_without_effect_is_told(live, cases):
    told = {
        ("face.png", 1.0): "--baseline 1 had no effect: it is for videos and cameras",
        ("ok.mp4", 9.0): "--baseline 9 had no effect: no face was followed for longer than that",
        ("ok.mp4", 0.2): None,
    }
    for (name, seconds), text in told.items():
        notes = live(source=str(cases / name), baseline=seconds, detector="haar").notes
        assert text in notes if text else "no effect" not in notes


@pytest.mark.parametrize("source", ["", " ", "file://"])
def test_an_empty_source_is_refused(live, source):
    with pytest.raises(InputError, match="--source is empty; name a picture"):
        live(source=source)
