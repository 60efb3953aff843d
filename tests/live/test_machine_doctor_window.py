"""Cores and memory in containers, the doctor's report, and whether there is a display."""

from __future__ import annotations

import io
import json
import os
import socket

import cv2
import numpy as np
import pytest
from fer_nas_live import doctor, machine, models, window
from fer_nas_live.window import PAUSE, QUIT, SNAPSHOT, Window, display_problem
from rich.console import Console


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"cpu.max": "max 100000"}, 16),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "9900000 100000"}, 16),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 16),
        ({"cpu.max": "garbage"}, 16),
    ],
)
def test_cores_respect_the_quota(tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8 << 30),
        ({"memory.max": "max", "memory.current": "5"}, 8 << 30),
        ({"memory.max": str(2 << 30), "memory.current": str(1 << 30)}, 1 << 30),
        (
            {"memory/memory.limit_in_bytes": str(3 << 30), "memory/memory.usage_in_bytes": str(1 << 30)},
            2 << 30,
        ),
        ({"memory/memory.limit_in_bytes": str(1 << 62), "memory/memory.usage_in_bytes": "0"}, 8 << 30),
    ],
)
def test_memory_respects_the_limit(tmp_path, files, free):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99999999 kB\nMemAvailable: {8 << 20} kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.free_memory(tmp_path, meminfo) == free
    assert (machine.free_memory(tmp_path / "nothing") or 0) > 0


def test_report_has_advice_for_everything_missing(monkeypatch, tmp_path, model):
    monkeypatch.setattr(models, "folders", lambda: [tmp_path])
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("FER_NAS_CACHE", str(tmp_path / "cache"))
    value = doctor.report()
    assert json.loads(json.dumps(value)) == value
    assert value["versions"]["python"] and value["versions"]["opencv"] and value["versions"]["numpy"]
    assert value["cores"] >= 1 and "CPUExecutionProvider" in value["providers"]
    assert not value["ok"] and value["models"] == []
    advice = "\n".join(value["advice"])
    for needed in ("fetch yunet", "--model FILE", "display: no "):
        assert needed in advice
    default = tmp_path / models.DEFAULT_MODEL
    default.write_bytes(model.read_bytes())
    default.with_suffix(".md").write_text(f"# Card\n\nSHA-256: `{models.sha256(model.read_bytes())}`\n")
    (tmp_path / "broken.onnx").write_bytes(b"x")
    (tmp_path / "broken.md").write_text(f"# Card\n\nSHA-256: `{models.sha256(b'x')}`\n")
    value = doctor.report()
    good, bad = value["models"]
    assert value["ok"] and good["default"] and good["test_accuracy"] == 0.5 and good["classes"][3] == "happy"
    assert "broken.onnx" in bad["problem"] and any("broken.onnx" in line for line in value["advice"])
    text = io.StringIO()
    doctor.print_report(value, Console(file=text, width=160))
    assert "test accuracy 50.00 % (n = 10)" in text.getvalue() and "fer-nas live can run here." in text.getvalue()


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_default_model_that_live_would_not_take_is_told(monkeypatch, tmp_path, model, damage):
    monkeypatch.setattr(models, "folders", lambda: [tmp_path])
    for name in (models.DEFAULT_MODEL, "other.onnx"):
        (tmp_path / name).write_bytes(model.read_bytes())
        (tmp_path / name).with_suffix(".md").write_text(f"# Card\n\nSHA-256: `{models.sha256(model.read_bytes())}`\n")
    if damage == "changed":
        (tmp_path / models.DEFAULT_MODEL).write_bytes(model.read_bytes() + b"x")
    else:
        (tmp_path / models.DEFAULT_MODEL).unlink()
    value = doctor.report()
    text = io.StringIO()
    doctor.print_report(value, Console(file=text, width=400))
    state = "is refused" if damage == "changed" else "is not installed"
    assert not value["ok"] and "live can run here" not in text.getvalue()
    assert f"runs here with --model only: the default {models.DEFAULT_MODEL} {state}." in text.getvalue()
    assert f"{state}; use `fer-nas live --model FILE`, or install fer-nas again" in text.getvalue()


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(window.sys, "platform", "linux")
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           QT5\n")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_no_display_is_told_before_any_window(linux):
    assert display_problem() == "no display (DISPLAY is not set)"
    linux.setenv("WAYLAND_DISPLAY", "wayland-0")  # OpenCV's wheels have no Wayland plug-in
    assert display_problem() == "no display (DISPLAY is not set)"
    for dead in (":98765", "nonsense", "127.0.0.1:59000.0"):
        linux.setenv("DISPLAY", dead)
        assert f"DISPLAY is {dead}" in display_problem()


def test_a_display_that_listens_is_found(linux):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        linux.setenv("DISPLAY", f"127.0.0.1:{server.getsockname()[1] - 6000}.0")
        assert display_problem() is None


def test_other_systems_and_headless_builds(linux):
    linux.setattr(window.sys, "platform", "darwin")
    assert display_problem() is None
    linux.setattr(cv2, "getBuildInformation", lambda: "  GUI:                           NONE\n")
    assert "opencv-python" in display_problem()


class FakeScreen:
    """OpenCV's window functions: keys are pressed in turn, then the window is closed."""

    def __init__(self, monkeypatch, keys):
        self.keys, self.shown = list(keys), 0
        for name in ("namedWindow", "resizeWindow", "destroyAllWindows"):
            monkeypatch.setattr(cv2, name, lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", self.show)
        monkeypatch.setattr(cv2, "waitKey", lambda _: self.keys.pop(0) if self.keys else -1)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0 if self.keys else 0.0)

    def show(self, *_):
        self.shown += 1


def test_keys(monkeypatch):
    image = np.zeros((9, 9, 3), np.uint8)
    for key, action in ((ord("q"), QUIT), (27, QUIT), (ord("S"), SNAPSHOT), (ord(" "), PAUSE)):
        FakeScreen(monkeypatch, [key, 0])
        assert Window().show(image, None) == action
    FakeScreen(monkeypatch, [ord("x"), 0])
    assert Window().show(image, None) is None
    FakeScreen(monkeypatch, [])
    assert Window().show(image, 0.0) == QUIT


@pytest.fixture
def desk(monkeypatch, tmp_path):
    monkeypatch.setattr(window, "display_problem", lambda: None)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


NONE = -1


@pytest.mark.parametrize(
    ("keys", "frames", "snapshots"),
    [
        ([NONE] * 3 + [ord("q")] + [0] * 9, 4, 0),
        ([NONE, ord("s"), ord("s"), 27] + [0] * 9, 4, 2),
        ([ord(" "), NONE, NONE, ord(" "), ord("q")] + [0] * 9, 2, 0),
        ([ord(" "), ord("s"), ord("s"), ord(" "), ord("q")] + [0] * 9, 2, 2),
        ([ord(" "), ord("q")] + [0] * 9, 1, 0),
        ([NONE] * 60, 20, 0),
    ],
)
def test_keys_in_a_running_video(live, cases, desk, tmp_path, keys, frames, snapshots):
    FakeScreen(desk, keys)
    said = live(source=str(cases / "ok.mp4"), headless=None)
    assert said.summary.frames == frames and said.summary.exit_code == 0
    assert len(list(tmp_path.glob("fer-nas-*.png"))) == snapshots


def test_keys_on_a_picture(live, cases, desk, tmp_path):
    FakeScreen(desk, [NONE, ord("s"), NONE, ord("q"), 0])
    said = live(source=str(cases / "face.png"), headless=False)
    (snapshot,) = tmp_path.glob("fer-nas-*.png")
    assert cv2.imread(str(snapshot)).shape == (512, 512, 3) and " %  box " in said.out


def test_a_snapshot_that_cannot_be_written_is_a_note(live, cases, desk):
    from fer_nas_live import pictures

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    desk.setattr(pictures, "write_picture", refuse)
    FakeScreen(desk, [ord("s"), ord("q"), 0])
    assert "no snapshot: " in live(source=str(cases / "face.png"), headless=False).notes
