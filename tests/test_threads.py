"""How many CPU threads a run takes: tried where nobody says it, and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from rich.console import Console

from fer_nas import runtime
from fer_nas.artifacts import RunFolder
from fer_nas.config import SearchConfig, TrainConfig
from fer_nas.data.split import noise
from fer_nas.loop import with_threads
from fer_nas.presets import SEARCH_PRESETS, TRAIN_PRESETS
from fer_nas.settings import build


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


def test_all_and_halves_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(n8=1.0, n4=0.8, n2=1.5, n1=2.0)
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: machine.now)
    assert runtime.time_threads(machine.step) == pytest.approx(machine.seconds)
    assert machine.ran == [8] * 3 + [4] * 3 + [2] * 3 + [1] * 3


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({8: 1.0, 4: 0.8, 2: 1.0, 1: 2.0}, 4),
        ({8: 1.0, 4: 1.5, 2: 2.0, 1: 4.0}, 8),
        ({8: 1.0, 4: 0.95, 2: 0.92, 1: 0.91}, 8),  # by less than a tenth, which may be noise
        ({8: 1.0, 4: 0.95, 2: 0.85, 1: 0.8}, 2),
        ({1: 1.0}, 1),
    ],
)
def test_the_fastest_is_taken(seconds: dict[int, float], chosen: int) -> None:
    assert runtime.fastest_threads(seconds) == chosen


SMALL = {"channels": 4, "layers": 1, "limit": 24, "batch_size": 10, "image_size": 16, "device": "cpu", "epochs": 1,
         "stem": "stride2"}  # fmt: skip


def small(source: Path, threads: int | None = None, **more: object) -> tuple[SearchConfig, TrainConfig]:
    settings = SMALL | {"data": str(source), "threads": threads} | more
    return (
        build(SearchConfig, SEARCH_PRESETS, "tiny", settings | {"space": "fer"}),
        build(TrainConfig, TRAIN_PRESETS, "tiny", settings | {"layers": 3, "drop_path": 0.2, "dropout": 0.1}),
    )


def test_where_nothing_is_tried(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is given, a GPU, OMP_NUM_THREADS, one core; and a trial that fails."""
    dataset, notes = noise(8, 3, 1, 16), Console(quiet=True)
    monkeypatch.setattr("fer_nas.loop.subprocess.run", lambda *_, **__: pytest.fail("a trial"))
    config, _ = small(cases / "fer.csv")
    given, _ = small(cases / "fer.csv", threads=3)
    assert with_threads("search", given, dataset, notes) is given
    with monkeypatch.context() as patch:
        patch.setattr("fer_nas.loop.choose_device", lambda name: torch.device("cuda"))
        assert with_threads("search", config, dataset, notes) is config
    with monkeypatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "8")
        assert with_threads("search", config, dataset, notes) is config
    failed = CompletedProcess([], 1, "", "killed")
    monkeypatch.setattr("fer_nas.loop.subprocess.run", lambda *_, **__: failed)
    assert with_threads("search", config, dataset, notes) is config and torch.get_num_threads() == 8
    torch.set_num_threads(1)
    monkeypatch.setattr("fer_nas.loop.subprocess.run", lambda *_, **__: pytest.fail("a trial"))
    assert with_threads("search", config, dataset, notes) is config


COMMAND = """
import sys
from fer_nas import loop
from fer_nas.__main__ import main
loop.fastest_threads = lambda seconds: min(seconds)
sys.argv = ["fer-nas", *sys.argv[1:]]
main()
"""


def told(settings: dict[str, object]) -> list[str]:
    """As options."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


@pytest.mark.slow
def test_a_run_is_that_of_its_number_from_the_start(cases: Path, tmp_path: Path) -> None:
    """To the last digit, as commands in processes of their own; config.json keeps the number, and it is said."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    words = ["--preset", "tiny", "--data", str(cases / "fer.csv"), *told(SMALL)]
    of = {"search": [*words, "--space", "fer"], "train": ["DARTS_V2", *words, "--layers=3", "--drop-path=0.2"]}
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for kind, options in of.items():
        losses = []
        for name, more in (("tried", []), ("given", ["--threads", "1"])):
            out = tmp_path / f"{kind}-{name}"
            line = [sys.executable, "-c", COMMAND, kind, *options, *more, "--out", str(out)]
            done = subprocess.run(line, env=env, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert ("CPU threads: 1; a pass with" in done.stderr) == (name == "tried")
            assert json.loads((out / "config.json").read_text())["config"]["run"]["threads"] == 1
            losses.append(RunFolder(out).metrics()[-1]["train_loss"])
        assert losses[0] == losses[1]
