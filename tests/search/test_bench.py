"""`fer-nas bench search` in a tiny setting: what the record says, and how wrong options end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from fer_nas.cli import app
from fer_nas.errors import InputError
from fer_nas.search import bench, bench_table

TINY = ["--channels=2", "--layers=1", "--image-size=8", "--batch-size=2", "--steps=3", "--threads=1", "--device=cpu"]


def options(**more: Any) -> bench.BenchOptions:
    tiny: dict[str, Any] = {"channels": 2, "layers": 1, "image_size": 8, "batch_size": 2, "steps": 1, "device": "cpu"}
    return bench.BenchOptions(**tiny | more)


def test_record(tmp_path: Path) -> None:
    """One method in two forms, memory measured in processes of their own."""
    threads = torch.get_num_threads()
    words = ["bench", "search", "--methods", "darts-2nd", *TINY, "--json", "--out", str(tmp_path / "bench.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    record = json.loads(result.stdout)
    assert record == json.loads((tmp_path / "bench.json").read_text())
    assert torch.get_num_threads() == threads
    assert record["options"]["steps"] == 3 and record["left_out"] == {}
    plain, fast = record["rows"]
    assert [(row["method"], row["form"]) for row in (plain, fast)] == [("darts-2nd", "plain"), ("darts-2nd", "fast")]
    for row in (plain, fast):
        walls = sorted(step["wall"] for step in row["steps"])
        assert row["step_seconds"] == {"low": walls[0], "median": walls[1], "high": walls[2]} and walls[0] > 0
        assert row["images_per_second"] == pytest.approx(2 / walls[1])
        assert row["peak_memory_mib"] >= row["memory_before_mib"] > 10
    assert plain["speedup"] == {"median": 1, "low": 1, "high": 1}
    ratios = sorted(a["wall"] / b["wall"] for a, b in zip(plain["steps"], fast["steps"], strict=True))
    assert fast["speedup"]["median"] == pytest.approx(ratios[1])
    shares = [b["cpu"] / a["cpu"] for a, b in zip(plain["steps"], fast["steps"], strict=True)]
    assert fast["relative_cpu"]["mean"] == pytest.approx(sum(shares) / 3)
    assert plain["relative_cpu"] == {"median": 1, "low": 1, "high": 1, "mean": 1}


def test_forms_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    for form in bench.FORMS:
        made = bench.Contestant(options(), "darts-1st", form)
        task = made.search.state.task
        assert task.fast == form.startswith("fast")
        assert (task.replay is not None) == (form in bench.GRAPHED and torch.cuda.is_available())
        stem = next(iter(task.supernet.stem.parameters()))
        assert stem.is_contiguous() == (form == "plain")
        assert compiled == (list(task.supernet.cells) if form == "compiled" else [])
        compiled.clear()
        arch, weight = task_state(made)
        made.step()
        moved = task_state(made)
        assert not torch.equal(arch, moved[0]) and not torch.equal(weight, moved[1])


def task_state(made: bench.Contestant) -> tuple[torch.Tensor, torch.Tensor]:
    state = made.search.state
    return state.arch.detach().clone(), state.task.supernet.classifier.weight.detach().clone()


def test_what_does_not_compile_is_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: torch.nn.Module) -> None:
        raise RuntimeError("no compiler found\nand more lines")

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    monkeypatch.setattr(bench, "_memory", lambda *_: {"peak_memory_mib": None, "memory_before_mib": None})
    record = bench.run(options(methods=("darts-1st",), forms=("plain", "compiled")), Console(quiet=True))
    assert [row["form"] for row in record["rows"]] == ["plain"]
    assert record["left_out"] == {"darts-1st, compiled": "no compiler found"}
    console = Console(width=200)
    with console.capture() as shown:
        console.print(bench_table.table(record))
    assert "no compiler found" in shown.get() and "n = 1" in shown.get()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--forms fastest", "--forms: 'fastest' is none of plain, channels-last, recomputed, compiled, gra"),
        (
            "--methods implicit --forms plain,recomputed",
            "--forms recomputed: implicit differentiates the network twice",
        ),
        ("--forms plain,graphed --device cpu", "--forms graphed: CUDA graphs need a GPU"),
        ("--forms fast,fast", "--forms is 'fast,fast'"),
        ("--methods darts-3rd", "darts-3rd"),
        ("--space nowhere", "nowhere"),
        ("--methods darts-1st:own", "only best responses have a form"),
        ("--methods darts-stn:mine", "the forms of a best response are published and own"),
        ("--methods darts-1st,darts-delta-stn:published", "--forms fast: darts-delta-stn:published differentiates"),
        ("--batch-size 1", "batch-size"),
    ],
)
def test_wrong_options(words: str, said: str) -> None:
    result = CliRunner().invoke(app, ["bench", "search", *words.split()])
    assert result.exit_code == 2
    assert said in str(result.stderr) + str(result.exception)


def test_a_folder_is_no_file_for_the_record(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "search", *TINY, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert f"cannot write {tmp_path}: it is a folder" in str(result.stderr) + str(result.exception)


def test_a_batch_of_one() -> None:
    with pytest.raises(InputError, match="at least 2"):
        options(batch_size=1)
    with pytest.raises(InputError, match="--space p-darts: its stages are supernets of darts"):
        options(space="p-darts")
