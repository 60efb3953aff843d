"""Fixtures that every room's tests share."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, here and in every process that a test starts


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets, from FER_NAS_DATA; without it the test is skipped."""
    value = os.environ.get("FER_NAS_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip(
            "needs real data: set FER_NAS_DATA to a folder with fer2013.zip, ferplus.csv, … (datasets/README.md)"
        )
    return Path(value).resolve()


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small troublesome inputs: tables, folders, pictures and videos; treat it as read-only."""
    folder = tmp_path_factory.mktemp("cases")
    spec = importlib.util.spec_from_file_location("make_cases", HERE / "make_cases.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(folder)
    return folder


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, int], None]:
    """interrupt_at(epoch, step, signal): this process gets the signal once that step is done."""
    from fer_nas.progress import EpochTable

    tell = EpochTable.step

    def arrange(at_epoch: int, at_step: int, number: int) -> None:
        def step(self: EpochTable, epoch: int, step: int) -> None:
            tell(self, epoch, step)
            if (epoch, step) == (at_epoch, at_step):
                os.kill(os.getpid(), number)

        monkeypatch.setattr(EpochTable, "step", step)

    return arrange


STEPWISE = """
import sys
from fer_nas import cli, progress
def step(self, epoch, step):
    print(epoch, step, flush=True)
    sys.stdin.readline()
progress.EpochTable.step = step
cli.app()
"""


@pytest.fixture(scope="session")
def kill_at() -> Callable[[int, int, list[str]], None]:
    """kill_at(epoch, step, words): `fer-nas WORDS` in a process of its own that is killed once that step is done."""

    def run(epoch: int, step: int, words: list[str]) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", STEPWISE, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin and process.stdout
            for line in process.stdout:
                if line == f"{epoch} {step}\n":
                    process.kill()
                    break
                process.stdin.write("\n")
                process.stdin.flush()
        assert process.returncode == -signal.SIGKILL

    return run
