"""Small searches, and one of four epochs that was never stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fer_nas.artifacts import RunFolder
from fer_nas.config import SearchConfig
from fer_nas.presets import SEARCH_PRESETS
from fer_nas.search.run import Search
from fer_nas.search.start import resume, search
from fer_nas.settings import build

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


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have their own tests and take as long as such a search."""
    for name in ("draw_cells", "draw_curves"):
        monkeypatch.setattr(f"fer_nas.search.run.{name}", lambda *_: None)


@pytest.fixture(scope="session")
def searched() -> Callable[..., RunFolder]:
    """searched(data, out, **settings): a search in this process."""
    return lambda source, out, **settings: search(configure(source, **settings), out, Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def straight(cases: Path, searched: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four epochs of DARTS, first order, never stopped."""
    return searched(cases / "fer.csv", tmp_path_factory.mktemp("straight") / "run", epochs=4)


@pytest.fixture
def interrupted(
    cases: Path, searched: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunFolder]:
    """interrupted(**settings): a search of two epochs that breaks off in the second, and is resumed."""

    def run(**settings: object) -> RunFolder:
        step = Search.one_step

        def until_then(self: Search, batch: object) -> torch.Tensor:
            if (self.epoch, self.step) == (2, 1):
                raise KeyboardInterrupt
            return step(self, batch)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Search, "one_step", until_then)
            searched(cases / "fer.csv", tmp_path / "interrupted", **settings)
        return resume(tmp_path / "interrupted", Console(file=io.StringIO()))

    return run
