"""The real window on a virtual screen: what it shows, and keys as a keyboard sends them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from fer_nas_live import film
from fer_nas_live.window import TITLE

xlib = pytest.importorskip("Xlib", reason="needs python-xlib")
if not shutil.which("Xvfb"):
    pytest.skip("needs Xvfb", allow_module_level=True)

from Xlib import XK, X, display, error  # noqa: E402
from Xlib.ext import xtest  # noqa: E402


class Screen:
    """An X server of 800×600 pixels without a window manager."""

    def __init__(self) -> None:
        read, write = os.pipe()
        words = ["Xvfb", "-displayfd", str(write), "-screen", "0", "800x600x24", "-nolisten", "tcp"]
        self.process = subprocess.Popen(words, pass_fds=[write], stderr=subprocess.DEVNULL)
        os.close(write)
        with os.fdopen(read) as pipe:
            self.name = f":{pipe.readline().strip()}"
        self.display = display.Display(self.name)
        self.root = self.display.screen().root

    def window(self, seconds: float = 40.0) -> object:
        """The application's window, once it is there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for window in self.root.query_tree().children:
                try:
                    if window.get_wm_name() == TITLE and window.get_attributes().map_state == X.IsViewable:
                        return window
                except error.BadWindow:
                    continue
            time.sleep(0.1)
        raise AssertionError("no window came")

    def picture(self) -> np.ndarray:
        size = self.root.get_geometry()
        data = self.root.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF).data
        return np.frombuffer(data, np.uint8).reshape(size.height, size.width, 4)[:, :, :3]

    def press(self, window: object, name: str) -> None:
        window.set_input_focus(X.RevertToParent, X.CurrentTime)  # type: ignore[attr-defined]
        code = self.display.keysym_to_keycode(XK.string_to_keysym(name))
        for kind in (X.KeyPress, X.KeyRelease):
            xtest.fake_input(self.display, kind, code)
            self.display.sync()
            time.sleep(0.05)

    def close(self) -> None:
        self.display.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def screen():
    made = Screen()
    yield made
    made.close()


def count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def until(check, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(check())


@pytest.mark.slow
def test_window_and_keys(screen: Screen, program, clean_env, model, tmp_path) -> None:
    film.write(tmp_path / "film.mp4", 900)
    records = tmp_path / "r.jsonl"
    words = ["live", "--source", tmp_path / "film.mp4", "--model", model, "--window", "--records", records]
    process = subprocess.Popen(
        [*program, *map(str, words)],
        env=clean_env | {"DISPLAY": screen.name},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        window = screen.window()
        assert until(lambda: count(records) > 10)
        shown = screen.picture()[:480, :640]
        wanted = next(film.frames(1))
        assert shown.std() > 20 and abs(shown.mean() - wanted.mean()) < 40, "the film fills the window"
        white = (screen.picture().min(2) > 225).sum()
        assert white > 50, "bright letters of the bars"

        screen.press(window, "space")
        time.sleep(0.7)
        held, still = count(records), screen.picture()
        time.sleep(1.0)
        assert count(records) == held and np.array_equal(screen.picture(), still), "held"
        screen.press(window, "s")
        assert until(lambda: list(tmp_path.glob("fer-nas-*.png")))
        screen.press(window, "space")
        assert until(lambda: count(records) > held + 3), "goes on"
        screen.press(window, "q")
        out, notes = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in notes
    assert count(records) < 900 and f"{count(records)} frames" in out
    (snapshot,) = tmp_path.glob("fer-nas-*.png")
    assert cv2.imread(str(snapshot)).shape == (480, 640, 3)
