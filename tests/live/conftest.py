"""Small valid models, and the application's commands as a user calls them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fer_nas_live.live import LiveOptions, Summary, run
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from fer_nas.artifacts import Genotype, ModelMetadata
from fer_nas.classes import FACE_CLASSES

GENOTYPE = Genotype(
    normal=(("skip_connect", 0), ("skip_connect", 1)),
    reduce=(("max_pool_3x3", 0), ("max_pool_3x3", 1)),
    normal_concat=(2,),
    reduce_concat=(2,),
)
PROGRAM = """
import sys
import typer
from fer_nas.errors import FerNasError
from fer_nas_live import commands
app = typer.Typer(pretty_exceptions_enable=False)
for command in (commands.live, commands.fetch, commands.doctor):
    app.command()(command)
try:
    app()
except FerNasError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


def build_model(
    path: Path,
    *,
    classes: tuple[str, ...] = FACE_CLASSES,
    size: int = 48,
    channels: int = 1,
    outputs: int | None = None,
    softmax: bool = True,
    batch: int | str = "N",
    metadata: dict[str, str] | None = None,
) -> Path:
    """Softmax of a random linear map of the pixels, with the metadata of an export."""
    count = len(classes) if outputs is None else outputs
    weights = np.random.default_rng(0).normal(0, 0.02 / size, (channels * size * size, count))
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        helper.make_node("Softmax" if softmax else "Identity", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, channels, size, size])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, count])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    strings = ModelMetadata(
        classes=classes,
        input_size=size,
        channels=channels,
        dataset="test",
        labels=None,
        genotype=GENOTYPE,
        test_accuracy=0.5,
        test_count=10,
        fer_nas_version="0",
        opset=17,
    ).to_strings()
    helper.set_model_props(model, strings if metadata is None else metadata)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    return build_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid model of the eight expressions."""
    return build_model(tmp_path_factory.mktemp("model") / "tiny.onnx")


class Said:
    """One run in this process: its summary and what it printed."""

    def __init__(self, **options: Any) -> None:
        out, notes = io.StringIO(), io.StringIO()
        self.summary: Summary = run(
            LiveOptions(**options), Console(file=out, width=200), Console(file=notes, width=200)
        )
        self.out, self.notes = out.getvalue(), notes.getvalue()


@pytest.fixture
def live(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Said]:
    """Run the application without a window, on the small model, with no YuNet in the cache."""
    monkeypatch.setenv("FER_NAS_CACHE", str(tmp_path / "no-cache"))

    def call(**options: Any) -> Said:
        return Said(**({"model": str(model), "headless": True} | options))

    return call


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The commands in a process of their own: for signals, environments and aborts."""
    file = tmp_path_factory.mktemp("program") / "program.py"
    file.write_text(PROGRAM)
    return [sys.executable, str(file)]


@pytest.fixture(scope="session")
def clean_env() -> dict[str, str]:
    """This environment without a display."""
    return {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}


@pytest.fixture(scope="session")
def command(program: list[str], clean_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"env": clean_env, "timeout": 60} | options
        return subprocess.run([*program, *map(str, words)], capture_output=True, text=True, **options)

    return call


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def read_records() -> Callable[[Path], list[dict[str, Any]]]:
    return rows
