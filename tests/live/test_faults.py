"""What goes wrong while the application runs: each fault has one clear end, and what was written is whole."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from fer_nas_live import classifier, detectors, savers, sources
from fer_nas_live.crops import EXACT
from fer_nas_live.detectors import Detector
from fer_nas_live.recognizer import Recognizer
from fer_nas_live.schedule import Schedule
from fer_nas_live.sources import Frame
from fer_nas_live.tracking import Tracker

from fer_nas.errors import FerNasError, InputError


def film_of(path, frames, size=(160, 120), codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25, size)
    for image in frames:
        writer.write(image)
    writer.release()
    return path


def noise(count, size=(160, 120)):
    rng = np.random.default_rng(0)
    return (rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8) for _ in range(count))


class Cameras:
    """Stands for cv2.VideoCapture: each opening of camera 0 gives so many frames, then nothing."""

    def __init__(self, monkeypatch, photo, lives):
        self.photo, self.lives, self.real, self.left = photo, list(lives), cv2.VideoCapture, 0
        monkeypatch.setattr(cv2, "VideoCapture", self)
        for name, value in (("CAMERA_PAUSE", 0.001), ("CAMERA_REOPEN", 0.01), ("CAMERA_WAIT", 0.3)):
            monkeypatch.setattr(sources, name, value)

    def __call__(self, *arguments):
        if arguments != (0,):
            return self.real(*arguments)
        self.left = self.lives.pop(0) if self.lives else 0
        return self

    def isOpened(self):
        return True

    def read(self):
        threading.Event().wait(0.08)
        self.left -= 1
        return (True, self.photo) if self.left >= 0 else (False, None)

    def get(self, _):
        return 12.0

    def release(self):
        pass


def test_a_camera_that_vanishes_and_comes_back(live, cases, tmp_path, read_records, monkeypatch):
    """It is awaited, the run goes on with the same files, and ends with one line when it is gone for good."""
    Cameras(monkeypatch, cv2.resize(cv2.imread(str(cases / "face.png")), (320, 320)), [5, 0, 5])
    with pytest.raises(InputError, match="camera 0 stopped after 10 frames; was it unplugged"):
        live(camera=0, records=tmp_path / "r.jsonl", save=tmp_path / "o.mp4")
    rows = read_records(tmp_path / "r.jsonl")
    numbers = [row["frame"] for row in rows]
    assert min(numbers) < 5 <= max(numbers) and numbers == sorted(set(numbers))
    assert all(len(row["faces"]) == 1 for row in rows)
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(rows)
    capture.release()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv"])
def test_a_zero_byte_video(live, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"{name} is empty \(0 bytes\)"):
        live(source=str(tmp_path / name), records=tmp_path / "r.jsonl")
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(("name", "codec"), [("c.mp4", "mp4v"), ("c.avi", "MJPG"), ("c.mkv", "mp4v")])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_video(live, tmp_path, read_records, name, codec, share):
    """Either what can be decoded is done and the rest is told, or one line says that nothing can."""
    data = film_of(tmp_path / name, noise(20), codec=codec).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    try:
        said = live(source=str(tmp_path / name), records=tmp_path / "r.jsonl")
    except InputError as error:
        assert name in str(error) and "\n" not in str(error) and not (tmp_path / "r.jsonl").exists()
        assert share < 0.1 or name == "c.mp4", "avi and mkv are readable from their beginning"
        return
    rows = read_records(tmp_path / "r.jsonl")
    assert said.summary.exit_code == 0 and 0 < len(rows) < 20
    assert "could be read" in said.notes or name == "c.mkv", "a cut mkv has no count to compare with"


def loaded(model):
    return classifier.load(model, "cpu")


def fake(boxes):
    return Detector("fake", lambda image: [(*box, 0.9) for box in boxes], EXACT)


@pytest.mark.parametrize("box", [None, (0, 0, 1, 1), (-5, -5, 30, 30)])
def test_frames_of_one_pixel_and_of_8k_in_one_stream(model, box):
    """A stream may change its size: 1×1, a line, 8K and back, with a face wherever the detector says."""
    recognizer = Recognizer(fake([box] if box else []), loaded(model), Tracker(0.3), schedule=Schedule(every=1))
    for n, shape in enumerate([(1, 1), (1, 900), (4320, 7680), (4320, 7680), (1, 1), (48, 48), (1, 1)]):
        image = np.full((*shape, 3), 100, np.uint8)
        for face in recognizer.faces(Frame(image, n, n / 30), True):
            x, y, w, h = face.box
            assert 0 <= x < shape[1] and 0 <= y < shape[0] and w >= 1 and h >= 1
            assert face.probabilities.sum() == pytest.approx(1, abs=1e-4)


def test_a_video_of_one_pixel(live, tmp_path, read_records, monkeypatch):
    one = [Frame(np.zeros((1, 1, 3), np.uint8), n, n / 25) for n in range(5)]
    opened = sources.Source(kind="video", name="v.mp4", frames=iter(one), close=lambda: None, fps=25.0)
    monkeypatch.setattr(sources, "open_source", lambda **_: opened)
    said = live(source="v.mp4", records=tmp_path / "r.jsonl", save=tmp_path / "o.mp4")
    assert said.out.startswith("5 frames, no face found") and len(read_records(tmp_path / "r.jsonl")) == 5


@pytest.mark.parametrize("kind", ["grey", "grey and alpha", "alpha", "16 bit", "palette"])
def test_grey_and_alpha_pictures(live, cases, tmp_path, read_records, kind):
    from PIL import Image

    photo = Image.open(cases / "face.png").convert("RGB")
    clear = Image.new("L", photo.size, 40)
    made = {
        "grey": lambda: photo.convert("L"),
        "grey and alpha": lambda: Image.merge("LA", (photo.convert("L"), clear)),
        "alpha": lambda: Image.merge("RGBA", (*photo.split(), clear)),
        "16 bit": lambda: Image.fromarray(np.array(photo.convert("L")).astype(np.uint16) * 257),
        "palette": lambda: photo.convert("P", palette=Image.Palette.ADAPTIVE),
    }[kind]()
    made.save(tmp_path / "p.png")
    live(source=str(tmp_path / "p.png"), records=tmp_path / "r.jsonl")
    live(source=str(cases / "face.png"), records=tmp_path / "plain.jsonl")
    (row,), (plain,) = read_records(tmp_path / "r.jsonl"), read_records(tmp_path / "plain.jsonl")
    assert len(row["faces"]) == 1
    assert np.abs(np.subtract(row["faces"][0]["box"], plain["faces"][0]["box"])).max() <= 6


def test_fifty_faces_in_every_frame(live, tmp_path, read_records, monkeypatch, model):
    boxes = [(5 + 31 * (k % 10), 3 + 35 * (k // 10), 24, 24) for k in range(50)]
    monkeypatch.setattr(detectors, "make", lambda *_: fake(boxes))
    calls = []
    real = classifier._run
    monkeypatch.setattr(classifier, "_run", lambda session, images: calls.append(len(images)) or real(session, images))
    film_of(tmp_path / "crowd.mp4", list(noise(1, (320, 180))) * 6, (320, 180))
    said = live(source=str(tmp_path / "crowd.mp4"), records=tmp_path / "r.jsonl", save=tmp_path / "o.mp4")
    rows = read_records(tmp_path / "r.jsonl")
    assert [len(row["faces"]) for row in rows] == [50] * 6 and calls[1:] == [50, 25, 25, 25, 25, 25], (
        "one call a frame, half of them in turn"
    )
    for row in rows:
        assert sorted(face["track"] for face in row["faces"]) == list(range(1, 51)), "the same people"
        assert [face["face"] for face in row["faces"]] == list(range(50))
    assert "and 40 faces that were seen for less" in said.out


def test_a_disk_that_fills_up_while_a_video_is_saved(live, tmp_path, read_records, monkeypatch):
    """The video is ended while it can still be finished; frames and records up to there are whole."""
    film_of(tmp_path / "in.avi", noise(80), codec="MJPG")
    answers = iter([1 << 40, 1 << 40])
    monkeypatch.setattr(savers, "_free", lambda path: next(answers, 1000))
    with pytest.raises(FerNasError, match=r"o\.mp4: the disk is full; the video ends after 50 frames") as raised:
        live(source=str(tmp_path / "in.avi"), save=tmp_path / "o.mp4", records=tmp_path / "r.jsonl")
    assert raised.value.exit_code == 1
    capture = cv2.VideoCapture(str(tmp_path / "o.mp4"), cv2.CAP_FFMPEG)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 50
    capture.release()
    assert len(read_records(tmp_path / "r.jsonl")) == 51


@pytest.mark.parametrize("what", ["--save", "--records"])
def test_writes_that_really_fail(program, clean_env, model, tmp_path, what):
    """A limit of the file's size makes every write past it fail, as a full disk would, whatever was asked before."""
    film_of(tmp_path / "in.avi", noise(60), codec="MJPG")
    out = tmp_path / ("o.mp4" if what == "--save" else "r.jsonl")
    words = [*program, "live", "--source", tmp_path / "in.avi", "--model", model, "--detector", "haar", what, out]
    done = subprocess.run(
        list(map(str, words)),
        env=clean_env,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert str(out) in done.stderr.splitlines()[-1]
    left = sorted(p.name for p in tmp_path.iterdir())
    if what == "--save":
        assert left == ["in.avi"], "no broken video under the name that was asked for"
    else:
        assert all("frame" in json.loads(line) for line in out.read_text().splitlines()[:-1])


@pytest.mark.parametrize("garbage", [b"", b"garbage" * 1000, None])
def test_a_model_swapped_for_garbage_while_it_runs(live, cases, model, tmp_path, monkeypatch, garbage):
    """The run goes on with what it has loaded, whole; the next start refuses the file."""
    own = tmp_path / "own.onnx"
    shutil.copy(model, own)
    real, calls = classifier._run, []

    def run(session, images):
        calls.append(len(images))
        if len(calls) == 5:
            own.write_bytes(garbage) if garbage is not None else own.unlink()
        return real(session, images)

    expected = live(source=str(cases / "ok.mp4"), records=tmp_path / "plain.jsonl").summary
    monkeypatch.setattr(classifier, "_run", run)
    said = live(source=str(cases / "ok.mp4"), model=str(own), records=tmp_path / "r.jsonl")
    assert said.summary.exit_code == 0 and said.summary.labels == expected.labels and len(calls) > 15
    assert Path(tmp_path / "r.jsonl").read_text() == (tmp_path / "plain.jsonl").read_text()
    with pytest.raises(InputError, match=r"own\.onnx") as raised:
        live(source=str(cases / "ok.mp4"), model=str(own))
    assert "\n" not in str(raised.value)
