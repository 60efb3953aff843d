"""OpenCV Zoo's YuNet face detector: where its file lies, and fetching it on request."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from fer_nas.artifacts import atomic_path
from fer_nas.errors import FerNasError, InputError

FILE_NAME = "face_detection_yunet_2023mar.onnx"
SIZE = 232_589
SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
URL = "https://media.githubusercontent.com/media/opencv/opencv_zoo/main/models/face_detection_yunet/" + FILE_NAME
TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


def cache_dir() -> Path | None:
    """The folder for fetched files: $FER_NAS_CACHE, else the user's; None for a user without a home."""
    if own := os.environ.get("FER_NAS_CACHE"):
        return Path(own)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "fer-nas"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "fer-nas" / "Cache"
    try:
        home = Path.home()
    except (RuntimeError, KeyError):
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "fer-nas"


def cached() -> Path | None:
    """YuNet's file in the cache, where it is there and readable."""
    folder = cache_dir()
    if folder is None:
        return None
    file = folder / FILE_NAME
    try:
        return file if file.stat().st_size == SIZE and os.access(file, os.R_OK) else None
    except OSError:
        return None


def fetch(url: str = URL, from_file: Path | None = None, cache: Path | None = None) -> Path:
    """Put YuNet into the cache, from `url` or a local file, and return its path.

    Size and SHA-256 are checked before the file gets its name. A wrong `from_file` is an InputError, a failed
    or wrong download a FerNasError.
    """
    folder = cache or cache_dir()
    if folder is None:
        raise InputError("this user has no home folder for the download; set FER_NAS_CACHE to a folder")
    data = _download(url) if from_file is None else _read(Path(from_file))
    if problem := what_is_wrong(data):
        if from_file is not None:
            raise InputError(f"{from_file} is not {FILE_NAME}: {problem}")
        raise FerNasError(f"{url} did not send {FILE_NAME}: {problem}")
    target = folder / FILE_NAME
    try:
        with atomic_path(target) as temporary:
            temporary.write_bytes(data)
    except InputError as error:
        raise InputError(f"{error}; FER_NAS_CACHE names another folder") from None
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}; FER_NAS_CACHE names another folder") from None
    return target


def what_is_wrong(data: bytes) -> str | None:
    """Why `data` is not YuNet's file, in words; None where it is."""
    head = data[:512].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer came instead of the file; use the address of the file itself"
    if head.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "an HTML page came instead of the file (a login or error page?)"
    if len(data) != SIZE:
        return f"{len(data):,} bytes, {SIZE:,} expected" + (" (cut short?)" if len(data) < SIZE else "")
    digest = hashlib.sha256(data).hexdigest()
    return None if digest == SHA256 else f"SHA-256 {digest}, {SHA256} expected"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(2 * SIZE)
    except FileNotFoundError:
        raise InputError(f"file not found: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _download(url: str) -> bytes:
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"--url is {url!r}; it must start with http:// or https:// (for a file there is --from)")
    advice = "; without internet, bring the file and use --from FILE"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read(2 * SIZE)
    except urllib.error.HTTPError as error:
        with error:
            raise FerNasError(f"{url}: the server answered {error.code} {error.reason}{advice}") from None
    except urllib.error.URLError as error:
        raise FerNasError(f"cannot download {url}: {error.reason}{advice}") from None
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise FerNasError(f"cannot download {url}: {type(error).__name__} {error}{advice}") from None
