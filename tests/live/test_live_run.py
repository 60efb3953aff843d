"""The loop from source to records and saved files, in this process."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from fer_nas_live import detectors, sources
from fer_nas_live.crops import EXACT
from fer_nas_live.detectors import Detector

from fer_nas.errors import InputError


def inside(box, point):
    return box[0] <= point[0] < box[0] + box[2] and box[1] <= point[1] < box[1] + box[3]


def fake_detector(monkeypatch, boxes):
    """Let every frame have these boxes (x, y, w, h)."""
    found = [(*box, 0.9) for box in boxes]
    monkeypatch.setattr(detectors, "make", lambda *_: Detector("fake", lambda image: found, EXACT))


def video_size(path):
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    shapes = []
    while (answer := capture.read())[0]:
        shapes.append(answer[1].shape[:2])
    capture.release()
    return len(shapes), shapes[0]


def test_a_picture_says_one_line_a_face(live, cases, tmp_path):
    said = live(source=str(cases / "face.png"), save=tmp_path / "out.png")
    label = next(iter(said.summary.labels))
    assert said.summary.exit_code == 0 and said.summary.faces == 1
    assert said.out.startswith(f"{label} ") and said.out.count("\n") == 1 and " %  box 1" in said.out
    assert "CPUExecutionProvider" in said.notes and f"detector {said.summary.detector}" in said.notes
    drawn = cv2.imread(str(tmp_path / "out.png"))
    assert drawn.shape == (512, 512, 3) and not np.array_equal(drawn, cv2.imread(str(cases / "face.png")))


def test_exif_rotated_phone_photo(live, cases, tmp_path, read_records):
    live(source=str(cases / "exif6.jpg"), records=tmp_path / "r.jsonl", save=tmp_path / "o.png")
    (row,) = read_records(tmp_path / "r.jsonl")
    assert row["source"] == "exif6.jpg" and len(row["faces"]) == 1
    assert inside(row["faces"][0]["box"], (224, 110))
    assert cv2.imread(str(tmp_path / "o.png")).shape == (512, 400, 3)


def test_rotated_phone_video(live, cases, tmp_path, read_records):
    said = live(source=str(cases / "rot.mp4"), records=tmp_path / "r.jsonl", save=tmp_path / "o.mp4")
    rows = read_records(tmp_path / "r.jsonl")
    assert [row["frame"] for row in rows] == list(range(20))
    assert all(len(row["faces"]) == 1 and inside(row["faces"][0]["box"], (140, 71)) for row in rows)
    assert video_size(tmp_path / "o.mp4") == (20, (320, 250))
    again = live(source=str(tmp_path / "o.mp4"))  # not rotated twice: the face is found upright
    assert again.summary.frames_with_face == 20
    assert "20 frames, up to 1 face at once (" in said.out


def test_cut_video_is_done_with_a_warning(live, cases, tmp_path, read_records):
    said = live(source=str(cases / "cut.avi"), records=tmp_path / "r.jsonl", save=tmp_path / "o.mp4")
    count = len(read_records(tmp_path / "r.jsonl"))
    assert said.summary.exit_code == 0 and 5 < count < 20 and f"{count} of 20" in said.notes
    assert video_size(tmp_path / "o.mp4")[0] == count


def test_odd_size_is_padded_in_the_video_only(live, cases, tmp_path, read_records, monkeypatch):
    fake_detector(monkeypatch, [(300, 220, 21, 21)])
    live(source=str(cases / "odd.mjpeg"), records=tmp_path / "r.jsonl", save=tmp_path / "o.mp4")
    boxes = np.array([row["faces"][0]["box"] for row in read_records(tmp_path / "r.jsonl")])
    assert boxes.shape == (20, 4) and boxes[0].tolist() == [300, 220, 21, 21]
    assert (boxes[:, :2] + boxes[:, 2:] <= (321, 241)).all()
    assert video_size(tmp_path / "o.mp4") == (20, (242, 322))


def test_frames_without_a_face_stay_in_the_table(live, cases, tmp_path, read_records):
    said = live(source=str(cases / "dark.mp4"), records=tmp_path / "r.jsonl")
    counts = [(row["frame"], len(row["faces"])) for row in read_records(tmp_path / "r.jsonl")]
    assert said.summary.exit_code == 0
    assert counts == [(n, 0) for n in range(10)] + [(n, 1) for n in range(10, 20)]
    live(source=str(cases / "dark.mp4"), records=tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame"]) for row in rows] == list(range(20))
    assert [row["label"] == "" for row in rows] == [True] * 10 + [False] * 10


def test_two_faces_keep_order_and_ids(live, cases, tmp_path, read_records):
    photo = cv2.resize(cv2.imread(str(cases / "face.png")), (320, 320))
    path = tmp_path / "two.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (640, 320))
    for _ in range(20):
        writer.write(np.hstack([photo, photo]))
    writer.release()
    live(source=str(path), records=tmp_path / "r.jsonl")
    rows = read_records(tmp_path / "r.jsonl")
    keys = {(row["frame"], face["face"]) for row in rows for face in row["faces"]}
    assert len(keys) == sum(len(row["faces"]) for row in rows) == 40
    for row in rows:
        left, right = row["faces"]
        assert left["box"][0] < 320 <= right["box"][0]
        assert (left["face"], left["track"], right["face"], right["track"]) == (0, 1, 1, 2)


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_any_number_of_faces(live, cases, tmp_path, read_records, monkeypatch, count):
    fake_detector(monkeypatch, [(10 * k, 5 * k, 40, 40) for k in range(count)])
    said = live(source=str(cases / "face.png"), records=tmp_path / "r.jsonl", save=tmp_path / "o.png")
    (row,) = read_records(tmp_path / "r.jsonl")
    assert [face["face"] for face in row["faces"]] == list(range(count))
    assert all(abs(sum(face["probabilities"].values()) - 1) < 1e-4 for face in row["faces"])
    assert said.out.count("\n") == max(1, count) and ("no face found" in said.out) == (count == 0)


@pytest.mark.parametrize("detector", ["auto", "haar"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (48, 48)])
def test_tiny_pictures(live, tmp_path, shape, detector):
    (tmp_path / "tiny.png").write_bytes(cv2.imencode(".png", np.zeros((*shape, 3), np.uint8))[1].tobytes())
    said = live(source=str(tmp_path / "tiny.png"), save=tmp_path / "o.png", detector=detector)
    assert said.out == "no face found\n" and cv2.imread(str(tmp_path / "o.png")).shape == (*shape, 3)


def test_an_8k_picture(live, cases, tmp_path, read_records):
    frame = np.zeros((4320, 7680, 3), np.uint8)
    frame[:, 1500:5820] = cv2.resize(cv2.imread(str(cases / "face.png")), (4320, 4320))
    cv2.imwrite(str(tmp_path / "8k.jpg"), frame)
    live(source=str(tmp_path / "8k.jpg"), records=tmp_path / "r.jsonl")
    (row,) = read_records(tmp_path / "r.jsonl")
    assert len(row["faces"]) == 1 and inside(row["faces"][0]["box"], (1500 + 8.4375 * 224, 8.4375 * 113))


def test_a_folder_of_pictures(live, cases, tmp_path, read_records):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    shutil.copy(cases / "face.png", folder / "b.png")
    shutil.copy(cases / "exif6.jpg", folder / "sub" / "a.JPG")
    shutil.copy(cases / "trunc.jpg", folder / "c.jpg")
    said = live(source=str(folder), records=tmp_path / "r.jsonl", save=tmp_path / "out", smoothing=100.0)
    rows = read_records(tmp_path / "r.jsonl")
    assert [(row["frame"], row["source"]) for row in rows] == [(0, "b.png"), (1, "sub/a.JPG")]
    assert [row["faces"][0]["track"] for row in rows] == [1, 2]
    assert "c.jpg" in said.notes and said.out.startswith("b.png: ") and said.summary.exit_code == 0
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")) == [
        "b.png",
        "sub/a.png",
    ]


def test_letters_blanks_and_percent_in_every_path(live, cases, tmp_path, read_records):
    folder = tmp_path / "Übung 表情 50%d"
    folder.mkdir()
    for name in ("ok.mp4", "face.png"):
        shutil.copy(cases / name, folder / name)
    live(source=str(folder / "ok.mp4"), save=folder / "ö ü.mp4", records=folder / "é.jsonl")
    live(source=str(cases / "ok.mp4"), save=tmp_path / "plain.mp4", records=tmp_path / "plain.jsonl")
    assert read_records(folder / "é.jsonl") == read_records(tmp_path / "plain.jsonl")
    assert video_size(folder / "ö ü.mp4") == video_size(tmp_path / "plain.mp4") == (20, (320, 320))
    assert live(source=str(folder / "face.png"), save=folder / "表.png").summary.faces == 1
    assert (folder / "表.png").is_file()


def test_smoothing_averages_over_time(live, cases, tmp_path, read_records, monkeypatch):
    """dark.mp4 with a box that is always there: the change at frame 10 comes at once, or slowly."""
    fake_detector(monkeypatch, [(112, 40, 60, 60)])
    steps = {}
    for smoothing in (0.0, 1.0):
        live(source=str(cases / "dark.mp4"), records=tmp_path / "r.jsonl", smoothing=smoothing)
        values = [list(row["faces"][0]["probabilities"].values()) for row in read_records(tmp_path / "r.jsonl")]
        steps[smoothing] = np.abs(np.subtract(values[10], values[9])).max()
    assert steps[1.0] == pytest.approx(steps[0.0] * (1 - np.exp(-0.04)), rel=0.05)


def test_missing_camera_leaves_no_file(live, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "usable_cameras", lambda: [])
    with pytest.raises(InputError, match="camera 99 not found; usable cameras: none"):
        live(camera=99, save=tmp_path / "o.mp4", records=tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []


class Cameras:
    """Stands for cv2.VideoCapture: each opening of camera 0 gives the next of `lives` frames, then nothing."""

    def __init__(self, monkeypatch, photo, lives):
        self.photo, self.lives, self.real = photo, list(lives), cv2.VideoCapture
        monkeypatch.setattr(cv2, "VideoCapture", self)
        monkeypatch.setattr(sources, "CAMERA_PAUSE", 0.001)
        monkeypatch.setattr(sources, "CAMERA_REOPEN", 0.01)
        monkeypatch.setattr(sources, "CAMERA_WAIT", 0.2)

    def __call__(self, *arguments):
        if arguments != (0,):
            return self.real(*arguments)
        self.left = self.lives.pop(0) if self.lives else 0
        return self

    def isOpened(self):
        return True

    def read(self):
        time.sleep(0.05)  # the pace of a camera, which a loop on a busy machine should keep up with
        self.left -= 1
        return (True, self.photo) if self.left >= 0 else (False, None)

    def get(self, _):
        return 20.0

    def release(self):
        pass


def test_unplugged_camera_leaves_whole_records_and_a_video(live, cases, tmp_path, read_records, monkeypatch):
    Cameras(monkeypatch, cv2.resize(cv2.imread(str(cases / "face.png")), (320, 320)), [6])
    with pytest.raises(InputError, match="camera 0 stopped after 6 frames"):
        live(camera=0, save=tmp_path / "o.mp4", records=tmp_path / "r.jsonl")
    rows = read_records(tmp_path / "r.jsonl")  # frames that grew old on the way are left out
    assert 1 <= len(rows) <= 6 and {len(row["faces"]) for row in rows} == {1}
    assert video_size(tmp_path / "o.mp4") == (len(rows), (320, 320))


def test_camera_that_comes_back_goes_on(cases, monkeypatch):
    Cameras(monkeypatch, cv2.resize(cv2.imread(str(cases / "face.png")), (320, 320)), [3, 0, 2])
    said: list[str] = []
    opened = sources.open_source(camera=0, source=None, note=said.append)
    seen = []
    with pytest.raises(InputError, match="camera 0 stopped after 5 frames"):
        seen.extend(frame.index for frame in opened.frames)
    assert seen == [0, 1, 2, 3, 4] and "waiting" in said[0] and said[1] == "camera 0 is back"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"source": "nothing.mp4"}, r"source not found: nothing\.mp4"),
        ({"source": None}, "--camera N or --source"),
        ({"model": "nothing.onnx"}, r"model not found: nothing\.onnx"),
        ({"detector": "yunet"}, "fer-nas fetch yunet"),
        ({"smoothing": -1.0}, "--smoothing is -1"),
        ({"threshold": 1.5}, r"--threshold is 1\.5"),
        ({"blur_faces": True}, "--blur-faces goes with --save"),
        ({"baseline": -1.0}, "--baseline is -1"),
        ({"prior": "joy=0.5,cold=0.1"}, "--prior 'cold=0.1'"),
        ({"records": "r.xls"}, r"must end in \.jsonl or \.csv"),
        ({"records": "file/r.csv"}, "is not a folder"),
        ({"save": "o.mp4"}, "the source is a picture"),
        ({"save": "file/o.png"}, "is not a folder"),
        ({"save": "face.png"}, "is the source itself"),
        ({"records": "same.csv", "save": "same.csv"}, "same file as --save"),
        ({"yunet": "face.png"}, "is not a YuNet model"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(live, cases, tmp_path, monkeypatch, options, reason):
    monkeypatch.chdir(tmp_path)
    shutil.copy(cases / "face.png", "face.png")
    (tmp_path / "file").write_text("x")
    for name in ("records", "save", "yunet"):
        if name in options:
            options = options | {name: Path(options[name])}
    with pytest.raises(InputError, match=reason) as raised:
        live(**({"source": "face.png"} | options))
    assert "\n" not in str(raised.value)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "no-cache") == ["face.png", "file"]


def test_a_file_that_exists_is_kept_where_the_source_fails(live, tmp_path):
    (tmp_path / "r.jsonl").write_text("old\n")
    (tmp_path / "o.mp4").write_text("old\n")
    with pytest.raises(InputError):
        live(source=str(tmp_path / "none.mp4"), records=tmp_path / "r.jsonl", save=tmp_path / "o.mp4")
    assert (tmp_path / "r.jsonl").read_text() == (tmp_path / "o.mp4").read_text() == "old\n"
