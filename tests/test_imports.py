"""The import rules of docs/architecture.md: contracts of pyproject.toml, and what a command really loads."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "torchvision", "onnx", "onnxscript", "safetensors", "matplotlib", "PIL", "skimage", "numba"}
"""What the base install does not have."""


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`."""
    tail = "import json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"], capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def after_command(*words: str) -> set[str]:
    return loaded_after(
        f"import sys; sys.argv = ['fer-nas', *{list(words)!r}]\n"
        "from fer_nas.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as leave:\n    assert not leave.code, leave.code"
    )


def test_contracts_are_kept() -> None:
    code = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_room_is_held_back_from_the_application() -> None:
    """A new room must be named where the application's imports are limited; the layers ask by themselves."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = {
        module
        for contract in contracts
        if contract["type"] == "forbidden" and contract["source_modules"] == ["fer_nas_live"]
        for module in contract["forbidden_modules"]
    }
    folder = ROOT / "fer_nas"
    rooms = {item.stem for item in folder.glob("*.py")} | {item.parent.name for item in folder.glob("*/__init__.py")}
    shared = {"__init__", "__main__", "errors", "classes", "artifacts"}
    assert {f"fer_nas.{room}" for room in rooms - shared} <= named


def test_foundation_needs_the_standard_library_only() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n" + "".join(
        f"import fer_nas.{name}\n" for name in ("errors", "classes", "artifacts", "config")
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", ["--version", "--help", "live --help", "search --help", "train --help", "demo --help"])
def test_help_and_version_load_nothing_heavy(line: str) -> None:
    loaded = after_command(*line.split())
    assert "typer" in loaded
    assert not loaded & (HEAVY | {"numpy", "cv2", "onnxruntime"})


def test_package_itself_loads_nothing() -> None:
    assert not loaded_after("import fer_nas, fer_nas_live") & (HEAVY | {"numpy", "cv2", "rich", "typer"})


def test_application_never_loads_torch() -> None:
    names = sorted(file.stem for file in (ROOT / "app" / "fer_nas_live").glob("*.py") if file.stem != "__init__")
    loaded = loaded_after("".join(f"import fer_nas_live.{name}\n" for name in names))
    assert {"cv2", "onnxruntime"} <= loaded
    assert not loaded & HEAVY
