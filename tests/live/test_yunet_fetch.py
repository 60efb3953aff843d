"""`fer-nas fetch yunet` against a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fer_nas_live import yunet

from fer_nas.errors import FerNasError, InputError

RIGHT = bytes(range(256)) * 10
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:8f2383\nsize 232589\n"
ANSWERS = {
    "/right": RIGHT,
    "/cut": RIGHT[:-100],
    "/other": RIGHT[::-1],
    "/lfs": POINTER,
    "/html": b"\n <!DOCTYPE html><html><body>Sign in</body></html>",
    "/empty": b"",
    "/long": RIGHT * 50,
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = ANSWERS.get(self.path.removesuffix("!"))
        self.send_response(404 if body is None else 200)
        # with "!" the server promises more than it sends
        self.send_header("Content-Length", str(len(body or b"") + (5000 if self.path.endswith("!") else 0)))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setattr(yunet, "SIZE", len(RIGHT))
    monkeypatch.setattr(yunet, "SHA256", hashlib.sha256(RIGHT).hexdigest())
    monkeypatch.setenv("FER_NAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_released_file_is_the_one_expected():
    import importlib

    fresh = importlib.util.module_from_spec(importlib.util.find_spec("fer_nas_live.yunet"))
    fresh.__spec__.loader.exec_module(fresh)
    assert fresh.SIZE == 232_589 and len(fresh.SHA256) == 64
    assert fresh.URL.endswith("/face_detection_yunet_2023mar.onnx")


def test_right_content_gets_its_name(server, cache):
    assert yunet.cached() is None
    path = yunet.fetch(f"{server}/right")
    assert path == cache / yunet.FILE_NAME == yunet.cached()
    assert path.read_bytes() == RIGHT
    assert yunet.fetch(f"{server}/right") == path


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        ("missing", "answered 404"),
        ("cut", "2,460 bytes, 2,560 expected"),
        ("cut!", "2,460 bytes, 2,560 expected|IncompleteRead"),
        ("other", "SHA-256"),
        ("lfs", "Git LFS pointer"),
        ("html", "HTML page"),
        ("empty", "0 bytes"),
        ("long", "2,560 expected"),
    ],
)
def test_wrong_content_leaves_nothing(server, cache, page, reason):
    with pytest.raises(FerNasError, match=reason) as raised:
        yunet.fetch(f"{server}/{page}")
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)
    assert not cache.exists() or list(cache.iterdir()) == []


def test_wrong_content_does_not_replace_a_good_file(server, cache):
    path = yunet.fetch(f"{server}/right")
    with pytest.raises(FerNasError):
        yunet.fetch(f"{server}/other")
    assert path.read_bytes() == RIGHT


def test_no_server_and_no_address():
    with pytest.raises(FerNasError, match=r"cannot download .*--from FILE"):
        yunet.fetch("http://127.0.0.1:9/x")
    for url in ("file:///etc/hostname", "nonsense", "http://[bad"):
        with pytest.raises(FerNasError):
            yunet.fetch(url)


def test_from_a_file(tmp_path, cache):
    own = tmp_path / "own.bin"
    own.write_bytes(RIGHT)
    assert yunet.fetch(from_file=own).read_bytes() == RIGHT
    own.write_bytes(POINTER)
    with pytest.raises(InputError, match=r"own\.bin is not .*Git LFS pointer"):
        yunet.fetch(from_file=own)
    with pytest.raises(InputError, match="file not found"):
        yunet.fetch(from_file=tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot read"):
        yunet.fetch(from_file=tmp_path)


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    own = tmp_path / "own.bin"
    own.write_bytes(RIGHT)
    monkeypatch.setenv("FER_NAS_CACHE", str(own / "below a file"))
    with pytest.raises(InputError, match="FER_NAS_CACHE"):
        yunet.fetch(from_file=own)


def test_cache_folders(monkeypatch, tmp_path):
    monkeypatch.delenv("FER_NAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert yunet.cache_dir() == tmp_path / "xdg" / "fer-nas"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(yunet.sys, "platform", "darwin")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert yunet.cache_dir() == tmp_path / "Library" / "Caches" / "fer-nas"
    monkeypatch.setattr(yunet.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert yunet.cache_dir() == tmp_path / "local" / "fer-nas" / "Cache"


def test_a_user_without_a_home(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FER_NAS_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert yunet.cache_dir() is None and yunet.cached() is None
    with pytest.raises(InputError, match="FER_NAS_CACHE"):
        yunet.fetch("http://127.0.0.1:9/x")
