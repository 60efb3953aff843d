"""`--recompute` in a search: the same λ, less memory, and a clear line where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fer_nas.artifacts import RunFolder
from fer_nas.config import SearchConfig
from fer_nas.data.load import load
from fer_nas.errors import FerNasError, InputError
from fer_nas.runtime import load_checkpoint
from fer_nas.search.run import Search
from fer_nas.search.state import build as build_state

Searched = Callable[..., RunFolder]
Configured = Callable[..., SearchConfig]

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "darts-2nd", "form": "plain"},
        {"method": "darts-delta-stn", "check_response": True, "hessian_iterations": 1},
        {"method": "darts-stn", "tune": "drop_path,dropout"},
        {"method": "soba", "space": "gdas", "form": "plain"},
        {"space": "p-darts", "stage_layers": "1,2", "stage_operations": "8,4", "skip_dropout": "0.0,0.4",
         "stage_warmup": 0},
        {"space": "pc-darts", "auxiliary_skip": 1.0},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)  # fmt: skip
def test_the_same_search(settings: dict[str, object], searched: Searched, cases: Path, tmp_path: Path) -> None:
    runs = [
        searched(cases / "fer.csv", tmp_path / str(recompute), recompute=recompute, **settings)
        for recompute in (False, True)
    ]
    kept, recomputed = (load_checkpoint(run / "checkpoint.pt")["arch"] for run in runs)
    assert torch.equal(kept, recomputed)
    for a, b in zip(*(run.metrics() for run in runs), strict=True):
        for name in ("train_loss", "val_loss", "check_cosine", "hessian_eigenvalue"):
            assert a.get(name) == b.get(name)


@pytest.mark.parametrize(
    "settings",
    [{"method": "implicit"}, {"method": "darts-delta-stn", "response": "published"},
     {"method": "darts-stn", "perturb": "example"}],
)  # fmt: skip
def test_refused_where_all_of_a_pass_is_needed(
    settings: dict[str, object], configured: Configured, cases: Path
) -> None:
    config = configured(cases / "fer.csv", recompute=True, **settings)
    with pytest.raises(InputError, match=f"--recompute: {settings['method']} differentiates the network twice or"):
        build_state(config, load(config.data, seed=0), torch.device("cpu"))


@pytest.mark.parametrize(("settings", "told"), [({}, ", or give --recompute"), ({"recompute": True}, "image-size$")])
def test_told_where_memory_is_short(
    settings: dict[str, object], told: str, searched: Searched, cases: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Search, "one_step", fail)
    with pytest.raises(FerNasError, match=f"out of memory; lower --batch-size, .*{told}"):
        searched(cases / "fer.csv", tmp_path / "run", **settings)
