"""Records and saved pictures and videos as files."""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
from fer_nas_live import records, savers
from fer_nas_live.faces import Face
from fer_nas_live.records import Records
from fer_nas_live.sources import Frame, Source

from fer_nas.errors import FerNasError, InputError

FACE = Face(face=0, track=3, box=(1, 2, 30, 40), score=0.9, label="sad", probabilities=np.array([0.25, 0.75]))


def frame(index=0, shape=(20, 30), name=None, time=None):
    image = np.full((*shape, 3), index % 256, np.uint8)
    return Frame(image, index, index / 25 if time is None else time, name)


def source(kind="video", name="/nowhere/in.mp4", fps=25.0, files=()):
    return Source(kind=kind, name=name, frames=iter(()), close=lambda: None, fps=fps, files=files)


def test_jsonl(tmp_path):
    made = Records(tmp_path / "new" / "é.jsonl", ["happy", "sad"])
    made.write(frame(0), [])
    made.write(frame(1, name="ü.png"), [FACE])
    lines = (tmp_path / "new" / "é.jsonl").read_text(encoding="utf-8").splitlines()  # before it is closed
    made.close()
    assert json.loads(lines[0]) == {"frame": 0, "time": 0.0, "faces": []}
    wanted = {
        "face": 0,
        "track": 3,
        "box": [1, 2, 30, 40],
        "score": 0.9,
        "label": "sad",
        "probabilities": {"happy": 0.25, "sad": 0.75},
    }
    assert json.loads(lines[1]) == {"frame": 1, "time": 0.04, "source": "ü.png", "faces": [wanted]}


def test_csv_has_a_row_for_a_frame_without_a_face(tmp_path):
    made = Records(tmp_path / "r.CSV", ["happy", "sad"])
    made.write(frame(0), [])
    made.write(frame(1, name='a,"b".png'), [FACE, FACE])
    with (tmp_path / "r.CSV").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    made.close()
    assert [row["frame"] for row in rows] == ["0", "1", "1"]
    assert rows[0]["face"] == rows[0]["label"] == rows[0]["sad"] == ""
    assert rows[1]["source"] == 'a,"b".png' and rows[1]["x"] == "1" and rows[1]["h"] == "40"
    assert rows[1]["label"] == "sad" and float(rows[1]["sad"]) == 0.75


@pytest.mark.parametrize("name", ["r.txt", "r", "folder.jsonl"])
def test_records_refuse_other_endings_and_folders(tmp_path, name):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="--records"):
        records.check(tmp_path / name)


def test_records_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        Records(tmp_path / "file" / "r.jsonl", ["sad"])


def test_a_full_disk_is_one_line():
    from pathlib import Path

    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    made = Records.__new__(Records)
    made.path, made.classes, made.frames, made._csv = Path("r.jsonl"), ("happy", "sad"), 0, False
    with Path("/dev/full").open("w") as file:
        made._file = file
        with pytest.raises(FerNasError, match=r"cannot write r\.jsonl: No space left"):
            made.write(frame(), [])
        with pytest.raises(OSError):
            file.flush()
        import contextlib

        with contextlib.suppress(OSError):
            file.close()


def reopen(path):
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    while (answer := capture.read())[0]:
        frames.append(answer[1])
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return frames, fps


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mkv", ".MP4", ".mov"])
def test_a_saved_video_opens_with_every_frame(tmp_path, ending):
    path = tmp_path / f"ö 50%d{ending}"
    saver = savers.make(path, source(fps=12.5))
    for index in range(7):
        saver.write(frame(index, (64, 48)), np.full((64, 48, 3), 30 * index, np.uint8))
    assert not path.exists()
    saver.close()
    frames, fps = reopen(path)
    assert len(frames) == 7 and frames[0].shape == (64, 48, 3) and fps == 12.5
    assert abs(frames[6].mean() - 180) < 8
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(241, 321), (1, 1), (3, 5), (2, 7)])
def test_odd_sizes_are_padded_to_even_ones(tmp_path, shape):
    saver = savers.make(tmp_path / "o.mp4", source())
    saver.write(frame(), np.zeros((*shape, 3), np.uint8))
    saver.close()
    frames, _ = reopen(tmp_path / "o.mp4")
    assert frames[0].shape == (shape[0] + shape[0] % 2, shape[1] + shape[1] % 2, 3)


def test_a_frame_of_another_size_is_scaled(tmp_path):
    saver = savers.make(tmp_path / "o.mp4", source())
    for shape in ((40, 60), (80, 60), (41, 61)):
        saver.write(frame(), np.zeros((*shape, 3), np.uint8))
    saver.close()
    assert [image.shape for image in reopen(tmp_path / "o.mp4")[0]] == [(40, 60, 3)] * 3


@pytest.mark.parametrize("count", [1, 5, savers.MEASURED_FRAMES, savers.MEASURED_FRAMES + 5])
def test_a_cameras_video_runs_at_the_rate_that_was_measured(tmp_path, count):
    saver = savers.make(tmp_path / "o.mp4", source("camera", "camera 0", fps=30.0))
    for index in range(count):
        saver.write(frame(index, time=index / 8), np.zeros((32, 32, 3), np.uint8))
    saver.close()
    frames, fps = reopen(tmp_path / "o.mp4")
    assert len(frames) == count and fps == pytest.approx(8 if count > 1 else 25, rel=0.01)


def test_a_video_without_a_frame_leaves_no_file(tmp_path):
    savers.make(tmp_path / "o.mp4", source()).close()
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_a_folder_keep_their_names(tmp_path):
    saver = savers.make(tmp_path / "out", source("folder", str(tmp_path / "in")))
    for name in ("a.jpg", "a.png", "sub/ü.TIFF"):
        saver.write(frame(name=name), np.zeros((4, 4, 3), np.uint8))
    saver.close()
    made = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert made == ["a.png", "a.png.png", "sub/ü.png"]


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("picture", "o.mp4", "the source is a picture"),
        ("video", "o.png", "the source is a video"),
        ("camera", "o", "the source is a camera"),
        ("folder", "o.png", "give a folder"),
        ("video", "folder", "is a folder"),
        ("video", "in.mp4", "is the source itself"),
        ("picture", "in.png", "is the source itself"),
        ("folder", "folder", "is the source itself"),
        ("picture", "file/o.png", "cannot write"),
        ("video", "file/o.mp4", "cannot write"),
        ("folder", "file/out", "cannot write"),
    ],
)
def test_places_that_do_not_fit_are_refused(tmp_path, kind, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    own = {"video": "in.mp4", "picture": "in.png", "folder": "folder", "camera": "camera 0"}[kind]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=reason):
        savers.make(tmp_path / name, source(kind, str(tmp_path / own), files=(tmp_path / "in.png",)))
    assert sorted(tmp_path.rglob("*")) == before
