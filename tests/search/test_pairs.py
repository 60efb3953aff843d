"""Every pair of space and method that is defined searches for two epochs on drawn faces, and λ moves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fer_nas.artifacts import RunFolder
from fer_nas.config import SEARCH_METHODS, SPACES, SearchConfig
from fer_nas.data.drawn import drawn_faces
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError
from fer_nas.presets import SEARCH_PRESETS
from fer_nas.search.methods import METHODS
from fer_nas.search.run import Search
from fer_nas.settings import build
from fer_nas.space.variants import SPACES as ROWS

SMALL = {
    "channels": 4, "layers": 1, "batch_size": 8, "device": "cpu", "stem": "imagenet", "epochs": 2, "terms": 1,
    "arch_learning_rate": 1e-2, "stage_layers": "1,1", "stage_operations": "8,4", "skip_dropout": "0.2,0.4",
}  # fmt: skip


@pytest.fixture(scope="module")
def faces() -> DataSet:
    """One step an epoch, of λ and of w."""
    return drawn_faces(14, 7, 0, seed=0)


def test_the_names_of_the_option_are_those_of_the_table() -> None:
    assert set(ROWS) == set(SPACES)


@pytest.mark.parametrize("method", [name for name in SEARCH_METHODS if METHODS[name].make])
@pytest.mark.parametrize("space", SPACES)
def test_lambda_moves(space: str, method: str, faces: DataSet, tmp_path: Path) -> None:
    config = build(SearchConfig, SEARCH_PRESETS, "tiny", SMALL | {"space": space, "method": method})
    console = Console(file=io.StringIO())
    search = Search(config, RunFolder.create(tmp_path / "run", "x"), faces, console)
    before = search.state.arch.detach().clone()
    seen: list[torch.Tensor] = []
    finish = search.next_epoch

    def look() -> None:
        seen.append(search.state.arch.detach().clone())
        stage = search.number
        finish()
        if search.number > stage:
            before.copy_(search.state.arch.detach())  # λ of the second stage is new

    search.next_epoch = look  # type: ignore[method-assign]
    search.run_epochs()
    assert len(seen) == 2 and all(arch.isfinite().all() for arch in seen)
    assert (seen[-1] - before).abs().max() > 5e-3, "Adam's steps are 1e-2"
    last = search.folder.metrics()[-1]
    if method in ("darts-2nd", "implicit"):  # those of the others begin at zero
        assert last["response_ratio"] > 0


def test_what_is_no_search_says_so(faces: DataSet, tmp_path: Path) -> None:
    config = build(SearchConfig, SEARCH_PRESETS, "tiny", SMALL | {"method": "random"})
    with pytest.raises(InputError, match="random learns nothing"):
        Search(config, RunFolder(tmp_path), faces, Console(file=io.StringIO()))
