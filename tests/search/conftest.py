"""Small searches, and one of four epochs that was never stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fer_nas.artifacts import RunFolder
from fer_nas.config import SEARCH_PRESETS, SearchConfig, build
from fer_nas.search.run import search

SMALL = {
    "channels": 4, "layers": 1, "limit": 40, "batch_size": 10, "image_size": 16, "threads": 1, "device": "cpu",
    "space": "fer", "stem": "stride2",
}  # fmt: skip


def configure(source: Path, **settings: object) -> SearchConfig:
    return build(SearchConfig, SEARCH_PRESETS, "tiny", SMALL | {"data": str(source), "epochs": 2} | settings)


@pytest.fixture(scope="session")
def small_settings() -> dict[str, object]:
    return dict(SMALL)


@pytest.fixture(scope="session")
def configured() -> Callable[..., SearchConfig]:
    """configured(data, **settings)"""
    return configure


@pytest.fixture(scope="session")
def searched() -> Callable[..., RunFolder]:
    """searched(data, out, **settings): a search in this process."""
    return lambda source, out, **settings: search(configure(source, **settings), out, Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def straight(cases: Path, searched: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four epochs of DARTS, first order, never stopped."""
    return searched(cases / "fer.csv", tmp_path_factory.mktemp("straight") / "run", epochs=4)
