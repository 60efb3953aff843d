"""The live window, and whether there can be one: OpenCV aborts the process where there is no display."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

TITLE = "fer-nas live"
QUIT, SNAPSHOT, PAUSE = "quit", "snapshot", "pause"
_KEYS = {ord("q"): QUIT, ord("Q"): QUIT, 27: QUIT, ord("s"): SNAPSHOT, ord("S"): SNAPSHOT, ord(" "): PAUSE}


def display_problem() -> str | None:
    """Why no window can be opened here, in words; None where one can. Opens none."""
    build = re.search(r"^\s*GUI:\s*(\S+)", cv2.getBuildInformation(), re.MULTILINE)
    if build and build.group(1) == "NONE":
        return "no window support: this is a headless OpenCV (install opencv-python instead)"
    if not sys.platform.startswith("linux"):
        return None
    display = os.environ.get("DISPLAY")
    if not display:
        plugins = Path(cv2.__file__).parent / "qt" / "plugins" / "platforms"
        if os.environ.get("WAYLAND_DISPLAY") and any(plugins.glob("libqwayland*")):
            return None
        return "no display (DISPLAY is not set)"
    return None if _reachable(display) else f"no display (DISPLAY is {display}, and nothing answers there)"


def _reachable(display: str) -> bool:
    """Whether an X server listens at an address such as :0, :1.0, host:10.0."""
    found = re.fullmatch(r"(?:unix|(?P<host>[^:/]*))(?:/\w+)?:(?P<number>\d+)(?:\.\d+)?", display)
    if not found:
        return False
    number, host = int(found["number"]), found["host"]
    local = f"/tmp/.X11-unix/X{number}"
    tries: list[tuple[socket.AddressFamily, str | tuple[str, int]]] = [(socket.AF_INET, (host, 6000 + number))]
    if not host:
        tries = [(socket.AF_UNIX, "\0" + local), (socket.AF_UNIX, local)]
    for family, address in tries:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(3)
            try:
                probe.connect(address)
            except OSError:
                continue
            return True
    return False


class Window:
    """Shows frames at the pace of the source and tells which key was pressed."""

    def __init__(self) -> None:
        self._start: float | None = None
        self._sized = False

    def show(self, image: np.ndarray, seconds: float | None) -> str | None:
        """Show a frame that belongs to `seconds` of a video; None shows it at once (a camera)."""
        self._put(image)
        now = time.monotonic()
        if seconds is None:
            return self._key(1)
        if self._start is None:
            self._start = now - seconds
        return self._key(max(1, round(1000 * (self._start + seconds - now))))

    def wait(self, image: np.ndarray, stopped: Callable[[], bool]) -> str | None:
        """Show a picture until a key of ours is pressed, the window is closed or `stopped` says so (None)."""
        self._put(image)
        before = time.monotonic()
        while (key := self._key(50)) is None and not stopped():
            pass
        if self._start is not None:
            self._start += time.monotonic() - before
        return key

    def close(self) -> None:
        cv2.destroyAllWindows()
        cv2.waitKey(1)

    def _put(self, image: np.ndarray) -> None:
        if not self._sized:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            height, width = image.shape[:2]
            factor = max(480 / max(width, height), min(1.0, 1280 / width, 800 / height))
            cv2.resizeWindow(TITLE, max(1, round(width * factor)), max(1, round(height * factor)))
            self._sized = True
        cv2.imshow(TITLE, image)

    def _key(self, milliseconds: int) -> str | None:
        pressed = _KEYS.get(cv2.waitKey(milliseconds) & 0xFF)
        if pressed is None and cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            return QUIT  # closed by its own button
        return pressed
