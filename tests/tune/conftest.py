"""Small comparisons on 49 pictures, under a clock that counts its readings instead of seconds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fer_nas.artifacts import RunFolder
from fer_nas.config import TuneConfig
from fer_nas.settings import override
from fer_nas.tune import run as tune_run

SMALL = {"width": 0.01, "batch_size": 8, "seeds": 1, "budget": 30, "warmup_epochs": 0, "trial_epochs": 2,
         "train_steps": 2, "image_size": 12, "device": "cpu"}  # fmt: skip


class CountingClock:
    def __init__(self, kind: str) -> None:
        self.readings = 0

    def seconds(self) -> float:
        self.readings += 1
        return float(self.readings)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_run, "Clock", CountingClock)


@pytest.fixture(scope="session")
def settings(cases: Path) -> Callable[..., dict[str, Any]]:
    return lambda **more: SMALL | {"data": str(cases / "fer.csv")} | more


@pytest.fixture
def tuned(
    counted: None, settings: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[RunFolder, dict[str, Any]]]:
    """tuned(out, **settings) → (folder, summary); its picture, which takes a second, is an empty file."""
    monkeypatch.setattr(tune_run, "draw_tuning", lambda rows, about, path: path.touch())

    def start(out: Path, console: Console | None = None, **more: object) -> tuple[RunFolder, dict[str, Any]]:
        config = override(TuneConfig(), settings(**more))
        return tune_run.tune(config, out, console or Console(file=io.StringIO()))

    return start
