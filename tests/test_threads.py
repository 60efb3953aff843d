"""How many CPU threads a run takes: tried where nobody says it, and kept."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fer_nas import runtime
from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.config import RunConfig, SearchConfig, TrainConfig
from fer_nas.loop import with_threads
from fer_nas.presets import SEARCH_PRESETS, TRAIN_PRESETS
from fer_nas.search.start import search
from fer_nas.settings import build
from fer_nas.train.start import train


class Machine:
    """Of eight cores; a step takes as long as `seconds` says for a number of threads."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = {int(name[1:]): value for name, value in seconds.items()}
        self.now, self.ran = 0.0, list[int]()

    def step(self) -> None:
        count = torch.get_num_threads()
        self.ran.append(count)
        self.now += self.seconds[count]


@pytest.fixture(autouse=True)
def eight_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("machine", "chosen"),
    [
        (Machine(n8=1.0, n4=0.8, n2=1.0, n1=2.0), 4),
        (Machine(n8=1.0, n4=1.5, n2=2.0, n1=4.0), 8),
        (Machine(n8=1.0, n4=0.95, n2=0.92, n1=0.91), 8),  # by less than a tenth, which may be noise
        (Machine(n8=1.0, n4=0.95, n2=0.85, n1=0.8), 2),
    ],
)
def test_the_fastest_is_taken(machine: Machine, chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: machine.now)
    found = runtime.choose_threads(machine.step)
    assert found == pytest.approx(machine.seconds) and torch.get_num_threads() == chosen
    assert machine.ran == [8] * 3 + [4] * 3 + [2] * 3 + [1] * 3


def test_nothing_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> None:
        raise AssertionError("ran")

    notes = io.StringIO()
    for run, device in ((RunConfig(threads=3), "cpu"), (RunConfig(), "cuda")):
        assert with_threads(run, torch.device(device), step, Console(file=notes)) is run
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert runtime.choose_threads(step) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(1)
    assert with_threads(RunConfig(), torch.device("cpu"), step, Console(file=notes)).threads is None
    assert not notes.getvalue()


SMALL = {"channels": 4, "layers": 1, "limit": 24, "batch_size": 10, "image_size": 16, "device": "cpu", "epochs": 1,
         "stem": "stride2"}  # fmt: skip


def test_a_run_keeps_it(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its config.json, and says it; a trial changes nothing of what follows."""
    torch.set_num_threads(2)
    monkeypatch.setattr("fer_nas.runtime._seconds", lambda step: step() or float(torch.get_num_threads()))
    settings, losses = SMALL | {"data": str(cases / "fer.csv")}, list[float]()

    def done(folder: RunFolder, notes: io.StringIO, said: bool) -> None:
        config = json.loads((folder / "config.json").read_text())["config"]
        assert config["run"]["threads"] == 1 and torch.get_num_threads() == 1
        assert ("CPU threads: 1; a pass with 2: 2 s, 1: 1 s" in notes.getvalue()) == said
        losses.append(folder.metrics()[-1]["train_loss"])

    for threads in (None, 1):
        torch.set_num_threads(2)
        notes = io.StringIO()
        config = build(SearchConfig, SEARCH_PRESETS, "tiny", settings | {"space": "fer", "threads": threads})
        folder = search(config, tmp_path / f"search-{threads}", Console(file=notes, width=200))
        done(folder, notes, threads is None)
    genotype = GenotypeFile.load(folder / "genotype.json")
    for threads in (None, 1):
        torch.set_num_threads(2)
        notes = io.StringIO()
        more = {"threads": threads, "layers": 3, "drop_path": 0.2, "dropout": 0.1}
        made = build(TrainConfig, TRAIN_PRESETS, "tiny", settings | more)
        folder, _ = train(made, genotype, tmp_path / f"train-{threads}", Console(file=notes, width=200))
        done(folder, notes, threads is None)
    assert losses[0] == losses[1] and losses[2] == losses[3]
