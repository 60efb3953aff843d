"""What is refused, and how a stop ends, before anything slow is loaded."""

from __future__ import annotations

import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from fer_nas.__main__ import main
from fer_nas.config import SEARCH_METHODS, SPACES, SearchConfig, TuneConfig
from fer_nas.presets import READ_BY, TUNE_READ_BY
from fer_nas.settings import flat_fields
from fer_nas.tune.methods import RIVALS
from fer_nas.tune.problems import FAMILIES


@pytest.fixture(autouse=True)
def _the_handler_of_this_process() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_the_program_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Loading(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "fer_nas.cli", Loading("fer_nas.cli"))
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 130 and capsys.readouterr().err == "fer-nas: stopped\n"


@pytest.mark.parametrize("caught", ["except KeyboardInterrupt: raise", "except BaseException: pass"])
def test_ctrl_c_within_an_import(caught: str, tmp_path: Path) -> None:
    """numpy's import swallows an interrupt, or turns it into another error; the program must end all the same."""
    (tmp_path / "slow.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    for _ in range(10**6): pass\n"
        f"{caught}\n"
        "print('went on')\n"
    )
    script = (
        "import signal, sys, types\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job's is ignored
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "class Command(types.ModuleType):\n"
        "    def app(self): import slow\n"
        "sys.modules['fer_nas.cli'] = Command('fer_nas.cli')\n"
        "from fer_nas.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "fer-nas: stopped\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["search", "--method", "nope"], "--method is 'nope'; choose from darts-1st"),
        (["train", "DARTS_V2", "--epochs", "-3"], "--epochs is -3; it must be at least 1"),
        (["search", "--resume", "nowhere"], "nowhere is not a run folder"),
        (["tune", "--problem", "nope"], "--problem is 'nope'"),
        (["export", "nowhere"], "nowhere is not a run folder"),
        (["search", "--terms", "3"], "--terms is read by implicit and --check-response and --trust only"),
        (["search", "--method", "darts-stn", "--temperature", "3"], "--temperature is read by gdas only; leave it out"),
        (["search", "--method", "darts-stn", "--linearize"], "--linearize is read by darts-delta-stn only"),
        (["search", "--tune", "dropout"], "--tune: darts-1st has no gradient of hyperparameters"),
        (["search", "--method", "darts-stn", "--tune", "sleep"], "--tune: 'sleep' is none of dropout, drop_path"),
        (["search", "--method", "darts-stn", "--tune", "erase,erase"], "--tune names erase twice"),
        (["search", "--method", "darts-stn", "--tune-rate", "1"], "--tune-rate is read by --tune only; leave it out"),
        (["search", "--check-response"], "--check-response is read by darts-2nd and implicit and soba and"),
        (["search", "--check-batches", "2"], "--check-batches is read by --check-response and --trust only"),
        (["search", "--method", "implicit", "--trust", "check"], "--trust is read by soba and darts-stn and"),
        (["tune", "--methods", "stn, random", "--neumann-terms", "3"], "--neumann-terms is read by neumann only"),
        (["tune", "--wrong-labels", "0.1"], "--wrong-labels is read by examples only"),
    ],
    ids=" ".join,
)
def test_wrong_settings_are_refused_before_torch_is_loaded(words: list[str], text: str) -> None:
    script = (
        "import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch': raise SystemExit('torch was loaded')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from fer_nas.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"fer-nas: {text}") and result.stderr.count("\n") == 1


def test_who_reads_an_option_exists() -> None:
    search, tune = (set(flat_fields(config)) for config in (SearchConfig, TuneConfig))
    assert set(READ_BY) <= search and set(TUNE_READ_BY) <= tune
    options = {f"--{name.replace('_', '-')}" for name in search}
    assert {name for names in READ_BY.values() for name in names} <= {*SEARCH_METHODS, *SPACES, *options}
    assert {name for names in TUNE_READ_BY.values() for name in names} <= {*RIVALS, *FAMILIES}
