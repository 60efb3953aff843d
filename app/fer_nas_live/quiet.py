"""Keeping the libraries' own messages off the user's terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator


def silence_libraries() -> None:
    """Turn down OpenCV's, FFmpeg's and Qt's logs; what the user set in the environment stays."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
    import cv2

    if "OPENCV_LOG_LEVEL" not in os.environ:
        for holder in (getattr(cv2.utils, "logging", None), cv2):  # its place differs between versions
            if holder is not None and hasattr(holder, "setLogLevel"):
                holder.setLogLevel(0)
                break


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send what native code writes to file descriptor 2 to nowhere while the block runs.

    Only in the main thread: the descriptor is everybody's, and another thread would swallow the program's notes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        saved = os.dup(2)
    except OSError:  # stderr is closed: nothing to hide
        yield
        return
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(nowhere)
        os.close(saved)
