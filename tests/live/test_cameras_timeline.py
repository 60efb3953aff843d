"""`fer-nas cameras` and `fer-nas timeline`."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from fer_nas_live import cameras, timeline
from fer_nas_live.drawing import colour_of
from typer.testing import CliRunner

from fer_nas.cli import app
from fer_nas.errors import InputError


class Captures:
    """Camera 0 gives pictures, 1 opens and gives none, 2 does not open."""

    def __init__(self, number):
        self.number = number

    def isOpened(self):
        return self.number < 2

    def read(self):
        return (True, np.zeros((48, 64, 3), np.uint8)) if self.number == 0 else (False, None)

    def get(self, _):
        return 30.0

    def release(self):
        pass


def test_cameras_are_listed_with_what_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "VideoCapture", Captures)
    monkeypatch.setattr(cameras, "camera_numbers", lambda: [0, 1, 2])
    monkeypatch.setattr(cameras, "NAMES", tmp_path)
    (tmp_path / "video0").mkdir()
    (tmp_path / "video0" / "name").write_text("Front Camera\n")
    good, busy = cameras.cameras()
    assert good == {"number": 0, "name": "Front Camera", "problem": None, "width": 64, "height": 48, "fps": 30.0}
    assert busy["number"] == 1 and "busy" in busy["problem"]
    said = CliRunner().invoke(app, ["cameras"])
    assert said.exit_code == 0
    assert said.stdout.startswith("--camera 0 (Front Camera): 64×48, 30 frames/s\n--camera 1: gives no picture")
    assert json.loads(CliRunner().invoke(app, ["cameras", "--json"]).stdout) == [good, busy]


def test_no_camera_says_what_to_do(monkeypatch):
    monkeypatch.setattr(cameras, "camera_numbers", lambda: [])
    assert "no camera found; connect one" in CliRunner().invoke(app, ["cameras"]).stdout


def test_a_timeline_of_a_real_run(live, cases, tmp_path):
    for ending in ("jsonl", "csv"):
        live(source=str(cases / "ok.mp4"), records=tmp_path / f"r.{ending}")
    said = CliRunner().invoke(app, ["timeline", str(tmp_path / "r.jsonl")])
    assert said.exit_code == 0 and "1 face in 20 frames, 0.8 s" in said.stdout
    again = CliRunner().invoke(app, ["timeline", str(tmp_path / "r.jsonl")])
    assert again.exit_code == 2 and "r.png exists; name the picture with --out" in again.stderr
    named = CliRunner().invoke(app, ["timeline", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "r.png")])
    assert named.exit_code == 0
    assert cv2.imread(str(tmp_path / "r.png")).shape[1] == timeline.WIDTH
    from_csv = timeline.draw(timeline.read(tmp_path / "r.csv"))
    assert np.array_equal(from_csv, timeline.draw(timeline.read(tmp_path / "r.jsonl")))


def row(frame, **labels):
    faces = [
        {"track": int(track[1:]), "label": label, "probabilities": {"happy": share, "sad": 1 - share}}
        for track, (label, share) in labels.items()
    ]
    return json.dumps({"frame": frame, "time": frame / 10, "faces": faces})


def test_colours_stand_where_the_expression_was(tmp_path):
    """Happy for 5 s, then sad for 5 s at 70 %; the last line is cut, as after kill -9."""
    lines = [row(n, t1=("happy", 0.9)) for n in range(50)] + [row(n, t1=("sad", 0.3)) for n in range(50, 101)]
    (tmp_path / "r.jsonl").write_text("\n".join([*lines, lines[-1][:40]]))
    found = timeline.read(tmp_path / "r.jsonl")
    assert (found.frames, found.end, found.broken) == (101, 10.0, 1)
    image = timeline.draw(found)
    strip = 3 * timeline.GAP + timeline.LABELS // 2
    quarter, later = (timeline.MARGIN + round((timeline.WIDTH - 2 * timeline.MARGIN) * share) for share in (0.25, 0.75))
    assert tuple(image[strip, quarter]) == colour_of("happy") and tuple(image[strip, later]) == colour_of("sad")
    band = image[3 * timeline.GAP + timeline.LABELS + 2 :][: timeline.BAND, later]
    assert (band == colour_of("sad")).all(1).mean() == pytest.approx(0.7, abs=0.02)
    said = CliRunner().invoke(app, ["timeline", str(tmp_path / "r.jsonl"), "--out", str(tmp_path / "t.jpg")])
    assert said.exit_code == 0 and "1 lines of" in said.stderr and (tmp_path / "t.jpg").is_file()


def test_unsure_has_a_colour_of_its_own_and_stands_in_the_legend(tmp_path):
    for name in ("happy", "unsure"):
        lines = [row(n, t1=(name if n < 50 else "sad", 0.6)) for n in range(101)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    sure, doubtful = (timeline.draw(timeline.read(tmp_path / f"{name}.jsonl")) for name in ("happy", "unsure"))
    strip, early = 3 * timeline.GAP + timeline.LABELS // 2, timeline.MARGIN + 100
    assert tuple(doubtful[strip, early]) == colour_of("unsure") != colour_of("neutral")
    legends = [(image[: 2 * timeline.GAP] == colour_of("unsure")).all(2).sum() for image in (sure, doubtful)]
    assert legends[0] == 0 and legends[1] >= timeline.LETTERS**2


def test_a_gap_is_left_empty(tmp_path):
    lines = [row(n, t1=("happy", 1.0)) if n < 20 or n > 80 else row(n) for n in range(101)]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    image = timeline.draw(timeline.read(tmp_path / "r.jsonl"))
    middle = image[3 * timeline.GAP : 3 * timeline.GAP + timeline.LABELS, timeline.WIDTH // 2]
    assert (middle == 255).all()


@pytest.mark.parametrize("end", [0.3, 1.0, 7.0, 61.0, 3600.0])
def test_marks_are_round_and_few(end):
    step = timeline.step(end)
    assert 2 <= int(end / step) + 1 <= 11 and f"{step:e}"[0] in "125"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("r.txt", "", r"records end in \.jsonl or \.csv"),
        ("gone.jsonl", None, "records not found"),
        ("r.jsonl", "", "holds no records"),
        ("r.csv", "a,b\n1,2\n", "holds no records"),
        ("r.jsonl", row(0, t1=("sad", 0.1)), "all its frames have time 0"),
        ("r.jsonl", "[]\nnull\n3\n", "holds no records"),
    ],
)
def test_what_is_no_record(tmp_path, name, text, reason):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        timeline.write(tmp_path / name, None)
