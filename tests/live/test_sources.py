"""Cameras, pictures, folders, videos and streams."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import cv2
import numpy as np
import pytest
from fer_nas_live import sources

from fer_nas.errors import InputError


def read(source=None, camera=None):
    """Kind, frames and warnings of a source that is read to its end."""
    warnings: list[str] = []
    opened = sources.open_source(camera=camera, source=None if source is None else str(source), note=warnings.append)
    frames = list(opened.frames)
    opened.close()
    return opened, frames, warnings


class FakeCapture:
    """A capture with `count` good frames of 2×4 pixels and the given properties."""

    def __init__(self, count=3, properties=None, obeys=True):
        self.left, self.properties, self.obeys, self.closed = count, dict(properties or {}), obeys, False

    def isOpened(self):
        return True

    def read(self):
        self.left -= 1
        return (True, np.arange(24, dtype=np.uint8).reshape(2, 4, 3)) if self.left >= 0 else (False, None)

    def get(self, name):
        return self.properties.get(name, 0.0)

    def set(self, name, value):
        if self.obeys:
            self.properties[name] = value
        return self.obeys

    def release(self):
        self.closed = True


def test_exactly_one_source_is_needed():
    for camera, source in ((None, None), (0, "x.mp4")):
        with pytest.raises(InputError, match="--camera"):
            sources.open_source(camera=camera, source=source, note=print)


def test_missing_camera_is_named_with_those_that_work(monkeypatch, capfd):
    monkeypatch.setattr(sources, "usable_cameras", lambda: [2, 4])
    with pytest.raises(InputError, match=r"camera 99 not found; usable cameras: 2, 4"):
        read(camera=99)
    monkeypatch.setattr(sources, "usable_cameras", lambda: [])
    with pytest.raises(InputError, match="usable cameras: none"):
        read(camera=99)
    assert capfd.readouterr() == ("", "")


def test_unplugged_camera_gives_its_frames_and_one_line(monkeypatch):
    capture = FakeCapture(3, {cv2.CAP_PROP_FPS: 30.0})
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: capture)
    monkeypatch.setattr(sources, "CAMERA_PAUSE", 0)
    monkeypatch.setattr(sources, "CAMERA_WAIT", 0)
    opened = sources.open_source(camera=1, source=None, note=print)
    assert opened.fps == 30 and opened.kind == "camera" and opened.continuous
    seen = []
    with pytest.raises(InputError, match="camera 1 stopped after 3 frames"):
        seen.extend(frame.index for frame in opened.frames)
    opened.close()
    assert capture.closed


def test_camera_that_opens_and_gives_nothing_is_busy(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: FakeCapture(0))
    monkeypatch.setattr(sources, "usable_cameras", lambda: [])
    with pytest.raises(InputError, match=r"camera 0 gives no picture \(busy"):
        read(camera=0)


def test_rotated_clip_is_upright(cases):
    opened, frames, warnings = read(cases / "rot.mp4")
    assert opened.kind == "video" and len(frames) == 20 and not warnings
    assert {frame.image.shape for frame in frames} == {(320, 250, 3)}


def test_turning_by_hand_does_what_opencv_does(cases, monkeypatch):
    _, wanted, _ = read(cases / "rot.mp4")
    original = cv2.VideoCapture

    def stubborn(*arguments):
        capture = original(*arguments)
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
        return capture

    monkeypatch.setattr(cv2, "VideoCapture", stubborn)
    turned = sources._turn_by_hand
    monkeypatch.setattr(
        sources,
        "_turn_by_hand",
        lambda capture: turned(
            FakeCapture(0, {cv2.CAP_PROP_ORIENTATION_META: capture.get(cv2.CAP_PROP_ORIENTATION_META)}, obeys=False)
        ),
    )
    _, frames, _ = read(cases / "rot.mp4")
    assert np.array_equal(frames[0].image, wanted[0].image)


def test_cut_video_gives_what_can_be_decoded_and_says_so(cases):
    _, frames, warnings = read(cases / "cut.avi")
    assert 5 < len(frames) < 20
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert len(warnings) == 1 and f"{len(frames)} of 20" in warnings[0]


def test_times_follow_the_frame_rate(cases):
    for name in ("ok.mp4", "odd.mjpeg", "ok.avi"):
        opened, frames, _ = read(cases / name)
        assert opened.fps == 25
        assert np.allclose([frame.time for frame in frames], np.arange(20) / 25, atol=1e-3)


def test_odd_size_is_kept(cases):
    assert {frame.image.shape for frame in read(cases / "odd.mjpeg")[1]} == {(241, 321, 3)}


def test_percent_and_letters_in_a_video_path(cases, tmp_path):
    folder = tmp_path / "Übung 表情 50%d"
    folder.mkdir()
    shutil.copy(cases / "ok.mp4", folder / "ok %03d.mp4")
    assert len(read(folder / "ok %03d.mp4")[1]) == 20
    assert len(read(f"file://{folder / 'ok %03d.mp4'}")[1]) == 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"no video at all", "neither a picture nor a video"), (None, "not found")],
)
def test_bad_video_files_are_named(tmp_path, content, reason, capfd):
    file = tmp_path / "clip.mp4"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=rf"clip\.mp4.*{reason}|{reason}.*clip\.mp4"):
        read(file)
    assert capfd.readouterr().err == ""


def test_mp4_cut_before_its_index_is_an_error(cases, tmp_path):
    data = (cases / "ok.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"half\.mp4"):
        read(tmp_path / "half.mp4")


def test_folder_leaves_out_bad_and_hidden_files(cases, tmp_path):
    for name in ("b.PNG", "a.png", ".hidden.png", "sub/c.png", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(cases / "face.png", tmp_path / name)
    shutil.copy(cases / "trunc.jpg", tmp_path / "aa.jpg")
    (tmp_path / "notes.txt").write_text("x")
    opened, frames, warnings = read(tmp_path)
    assert opened.kind == "folder" and not opened.continuous
    assert [(frame.index, frame.name) for frame in frames] == [(0, "a.png"), (1, "b.PNG"), (2, "sub/c.png")]
    assert len(warnings) == 1 and "aa.jpg" in warnings[0]


def test_folders_without_a_usable_picture(cases, tmp_path):
    with pytest.raises(InputError, match="no pictures in"):
        read(tmp_path)
    shutil.copy(cases / "trunc.jpg", tmp_path / "only.jpg")
    with pytest.raises(InputError, match="none of the 1 pictures"):
        read(tmp_path)


def test_picture_without_a_known_ending_and_truncated_one(cases, tmp_path):
    shutil.copy(cases / "face.png", tmp_path / "portrait")
    opened, frames, _ = read(tmp_path / "portrait")
    assert opened.kind == "picture" and frames[0].image.shape == (512, 512, 3)
    with pytest.raises(InputError, match=r"trunc\.jpg is a truncated picture"):
        read(cases / "trunc.jpg")


@pytest.mark.parametrize("wrong", ["\0", "x" * 5000])
def test_impossible_names_are_one_line(wrong):
    with pytest.raises(InputError):
        read(wrong)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_stream_over_http(cases):
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(cases)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        opened, frames, _ = read(f"{address}/ok.avi")
        assert opened.kind == "stream" and len(frames) == 20
        with pytest.raises(InputError, match="cannot open the stream"):
            read(f"{address}/missing.mp4")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with pytest.raises(InputError, match="cannot open the stream"):
        read(f"{address}/ok.avi")
