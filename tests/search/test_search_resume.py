"""A search that was stopped goes on and ends as the one that never was, bit for bit; what cannot go on says so."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.errors import InputError
from fer_nas.runtime import Interrupted, load_checkpoint
from fer_nas.search.start import resume

Searched = Callable[..., RunFolder]


def quiet() -> Console:
    return Console(file=io.StringIO())


def measured(run: RunFolder) -> list[dict[str, object]]:
    """The rows of the record without what a clock and the machine put in."""
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "gpu_days", "peak_memory_mib")} for row in run.metrics()
    ]


def assert_same_end(run: RunFolder, straight: RunFolder) -> None:
    mine, theirs = (load_checkpoint(folder / "checkpoint.pt") for folder in (run, straight))
    assert torch.equal(mine["arch"], theirs["arch"])
    for name, value in theirs["weights"].items():
        assert torch.equal(mine["weights"][name], value), name
    assert measured(run) == measured(straight)
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4]
    found, expected = (GenotypeFile.load(folder / "genotype.json") for folder in (run, straight))
    assert found.genotype == expected.genotype


def test_kill_in_mid_epoch_then_resume(
    cases: Path,
    tmp_path: Path,
    straight: RunFolder,
    kill_at: Callable[[int, int, list[str]], None],
    small_settings: dict[str, object],
) -> None:
    run = RunFolder(tmp_path / "run")
    settings = small_settings | {"data": cases / "fer.csv", "epochs": 4, "preset": "tiny", "out": run.path}
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    kill_at(3, 2, ["search", *words])
    assert load_checkpoint(run / "checkpoint.pt")["progress"][:2] == [3, 0]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_lo')  # a row that the crash cut short
    resume(run.path, quiet())
    assert_same_end(run, straight)


@pytest.mark.parametrize(("at", "number", "left"), [((3, 1), signal.SIGINT, [3, 1]), ((2, 2), signal.SIGTERM, [3, 0])])
def test_signal_then_resume(
    at: tuple[int, int],
    number: int,
    left: list[int],
    cases: Path,
    tmp_path: Path,
    straight: RunFolder,
    searched: Searched,
    interrupt_at: Callable[[int, int, int], None],
) -> None:
    """Within an epoch the step is finished and the checkpoint lies between two steps; at its end, between epochs."""
    run = RunFolder(tmp_path / "run")
    interrupt_at(*at, number)
    with pytest.raises(Interrupted, match=r"go on with: fer-nas search --resume") as caught:
        searched(cases / "fer.csv", run.path, epochs=4)
    assert caught.value.exit_code == 128 + number
    assert load_checkpoint(run / "checkpoint.pt")["progress"][:2] == left
    resume(run.path, quiet())
    assert_same_end(run, straight)


def test_resume_before_the_first_checkpoint_starts_over(cases: Path, tmp_path: Path, straight: RunFolder) -> None:
    run = RunFolder.create(tmp_path / "run", "x")
    shutil.copy(straight / "config.json", run / "config.json")
    resume(run.path, quiet())
    assert_same_end(run, straight)


def test_resume_of_a_finished_run_leaves_it_as_it_is(straight: RunFolder) -> None:
    before = {path.name: path.read_bytes() for path in straight.path.iterdir()}
    resume(straight.path, quiet())
    assert {path.name: path.read_bytes() for path in straight.path.iterdir()} == before


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


@pytest.mark.parametrize("pack", ["pickle", "torch"])
def test_checkpoint_with_code_is_refused(
    pack: str, straight: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(straight.path, tmp_path / "run")
    target = tmp_path / "run" / "checkpoint.pt"
    if pack == "pickle":
        target.write_bytes(pickle.dumps({"kind": "search", "arch": Attack()}))
    else:
        torch.save({"kind": "search", "arch": Attack()}, target)
    with pytest.raises(InputError, match=r"holds code, which is never run"):
        resume(tmp_path / "run", quiet())
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_checkpoint(share: float, straight: RunFolder, tmp_path: Path) -> None:
    content = (straight / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"checkpoint\.pt (cannot be read|is not) a(s a)? checkpoint") as caught:
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "train"}, r"is not the checkpoint of a search"),
        ({"arch": torch.zeros(3)}, r"does not fit this run's config.json"),
        ({"progress": [1]}, r"does not fit this run's config.json"),
        ({"weights": {}}, r"does not fit this run's config.json"),
        ({"weights_optimizer": None}, r"does not fit this run's config.json"),
    ],
)
def test_checkpoint_of_another_run(
    change: dict[str, object], message: str, straight: RunFolder, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight.path, run)
    torch.save(load_checkpoint(run / "checkpoint.pt") | change, run / "checkpoint.pt")
    with pytest.raises(InputError, match=message) as caught:
        resume(run, quiet())
    assert "\n" not in str(caught.value)


def test_what_cannot_be_resumed(straight: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run folder \(no config\.json in it\)"):
        resume(tmp_path, quiet())
    run = tmp_path / "run"
    shutil.copytree(straight.path, run)
    saved = json.loads((run / "config.json").read_text())
    for change, message in (
        ({"kind": "train"}, r"is a train run; resume it with `fer-nas train --resume"),
        ({"config": {}}, r"config\.json: does not fit this version's SearchConfig"),
    ):
        (run / "config.json").write_text(json.dumps(saved | change))
        with pytest.raises(InputError, match=message):
            resume(run, quiet())
    saved["config"]["data"]["data"] = "gone.csv"
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"cannot go on without the images it was started with: .*gone\.csv"):
        resume(run, quiet())
