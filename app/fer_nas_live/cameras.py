"""Which cameras there are, for `fer-nas cameras`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2

from fer_nas.errors import InputError
from fer_nas_live.quiet import quiet_stderr, silence_libraries
from fer_nas_live.sources import camera_numbers

NAMES = Path("/sys/class/video4linux")


def camera_number(text: str) -> int:
    """What --camera was given, as a number; InputError for anything else."""
    if not (text.isascii() and text.isdigit()) or len(text) > 4:
        raise InputError(f"--camera is {text!r}; give a camera's number, as 0 (`fer-nas cameras` lists them)")
    return int(text)


def cameras() -> list[dict[str, Any]]:
    """Every camera: number, name where Linux tells it, size and frames/s of its picture; `problem` where none comes.

    Each one is opened for a moment. Where cameras cannot be listed (not on Linux) those that do not open are left out.
    """
    silence_libraries()
    found = []
    for number in camera_numbers():
        entry: dict[str, Any] = {"number": number, "name": _name(number), "problem": None}
        with quiet_stderr():
            capture = cv2.VideoCapture(number)
            opened = capture.isOpened()
            ok, image = capture.read() if opened else (False, None)
            fps = capture.get(cv2.CAP_PROP_FPS) if opened else 0.0
            capture.release()
        if ok and image is not None:
            entry |= {"width": image.shape[1], "height": image.shape[0], "fps": fps if 1 <= fps <= 240 else None}
        elif opened:
            entry["problem"] = "gives no picture (busy in another program?)"
        elif Path(f"/dev/video{number}").exists():
            entry["problem"] = "cannot be opened (busy, no permission, or no camera but its second device)"
        else:
            continue
        found.append(entry)
    return found


def _name(number: int) -> str | None:
    try:
        return (NAMES / f"video{number}" / "name").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def lines(found: list[dict[str, Any]]) -> list[str]:
    """One line a camera, or what to do where there is none."""
    if not found:
        return ["no camera found; connect one and allow access to it, or use --source with a file"]
    told = []
    for entry in found:
        name = f" ({entry['name']})" if entry["name"] else ""
        state = entry["problem"] or f"{entry['width']}×{entry['height']}" + (
            f", {entry['fps']:g} frames/s" if entry["fps"] else ""
        )
        told.append(f"--camera {entry['number']}{name}: {state}")
    return told
