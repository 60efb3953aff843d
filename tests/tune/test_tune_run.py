"""Comparisons from start to end: equal seeds, budgets, resuming, results, what goes wrong."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fer_nas.artifacts import RunFolder
from fer_nas.cli import app
from fer_nas.errors import FerNasError, InputError
from fer_nas.runtime import Interrupted
from fer_nas.tune import record, run
from fer_nas.tune.training import Clock

Tuned = Callable[..., tuple[RunFolder, dict[str, Any]]]
EVERY = "stn,delta-stn,random,bayes,fixed"


def results(folder: RunFolder) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_all_methods_of_the_dropout_problem(tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = []
    score = record.score
    monkeypatch.setattr(record, "score", lambda *args: tested.append(len(args[3])) or score(*args))
    folder, found = tuned(tmp_path / "run", methods=EVERY, problem="fer-cnn")
    assert {file.name for file in folder.path.iterdir()} == {
        "config.json", "metrics.jsonl", "results.json", "summary.json", "tuning.png",
    }  # fmt: skip
    assert tested == [14] * 5  # the test images once for each
    rows = folder.metrics()
    for result in results(folder):
        own = [row for row in rows if row["method"] == result["method"]]
        assert result["val_loss"] == min(row["val_loss"] for row in own) == own[-1]["best_val_loss"]
        chosen = next(row for row in own if row["val_loss"] == result["val_loss"])
        assert (result["val_accuracy"], result["hyper"]) == (chosen["val_accuracy"], chosen["hyper"])
        assert own[-1]["best_val_accuracy"] == result["val_accuracy"]
        assert result["evaluations"] == len(own) and [row["evaluation"] for row in own] == list(range(1, len(own) + 1))
        assert max(row["seconds"] for row in own) <= 30
        assert len(result["hyper"]) == 6
    by_name = {result["method"]: result for result in results(folder)}
    assert by_name["random"]["trials"] > 3 and by_name["stn"]["trials"] == 0
    assert by_name["fixed"]["hyper"]["dropout.input"] == pytest.approx(0.05, rel=1e-6)
    assert by_name["stn"]["last_hyper"]["dropout.conv1"] != pytest.approx(0.05, rel=1e-3)
    assert [row["method"] for row in found["methods"]] == EVERY.split(",")
    assert found == json.loads((folder / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", ["continuous", "pixels", "examples"])
def test_methods_that_need_a_derivative(tuned: Tuned, tmp_path: Path, family: str) -> None:
    folder, _ = tuned(tmp_path / "run", methods="stn,delta-stn,truncated,unrolled,neumann", hyperparameters=family)
    for result in results(folder):
        first = next(row for row in folder.metrics() if row["method"] == result["method"])
        moved = [name for name, value in result["last_hyper"].items() if value != first["hyper"][name]]
        assert moved, result["method"]
        if family == "examples":
            assert 0 <= result["hyper"]["examples.found"] <= 1


@pytest.mark.parametrize("perturb", ["batch", "example"])
def test_equal_seeds_give_equal_runs(tuned: Tuned, tmp_path: Path, perturb: str) -> None:
    first, again, other = (
        tuned(tmp_path / name, methods="stn,bayes", perturb=perturb, seed=seed)[0]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.metrics() == again.metrics()
    assert [row["val_loss"] for row in first.metrics()] != [row["val_loss"] for row in other.metrics()]


def test_warm_up_leaves_lambda_alone(tuned: Tuned, tmp_path: Path) -> None:
    folder, _ = tuned(tmp_path / "run", methods="stn", warmup_epochs=2)
    rows = folder.metrics()
    assert rows[0]["hyper"] == rows[1]["hyper"] != rows[3]["hyper"]


def interrupting(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """This process gets SIGINT at the reading number `at` of its clocks, all together."""
    count = 0
    seconds = run.Clock.seconds

    def read(self: Any) -> float:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGINT)
        return seconds(self)

    monkeypatch.setattr(run.Clock, "seconds", read)


def test_stopped_and_resumed(tuned: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, wanted = tuned(tmp_path / "straight", methods="stn,random", seeds=2)
    with monkeypatch.context() as patch:
        interrupting(patch, 45)
        with pytest.raises(Interrupted, match="tune --resume") as stopped:
            tuned(tmp_path / "run", methods="stn,random", seeds=2)
    assert stopped.value.exit_code == 130
    folder = RunFolder(tmp_path / "run")
    assert [(row["method"], row["seed"]) for row in results(folder)] == [("stn", 0)]
    kept = (folder / "results.json").read_text(encoding="utf-8")
    assert any(row["method"] == "random" for row in folder.metrics())  # the pair that was stopped
    _, found = run.resume(folder.path, Console(file=io.StringIO()))
    assert (folder / "results.json").read_text(encoding="utf-8").startswith(kept.rstrip().rstrip("]").rstrip())
    assert folder.metrics() == straight.metrics()
    assert found == wanted
    before = results(folder)
    _, again = run.resume(folder.path, Console(file=io.StringIO()))  # a finished one stays as it is
    assert again == found and results(folder) == before


def test_a_line_cut_short_by_a_crash_is_no_hindrance(tuned: Tuned, tmp_path: Path) -> None:
    folder, found = tuned(tmp_path / "run", methods="fixed")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"method": "sto')
    assert run.resume(folder.path, Console(file=io.StringIO()))[1] == found


def test_a_loss_that_is_not_finite_is_one_line(tuned: Tuned, tmp_path: Path) -> None:
    """λ's own failure ends the pair, not the comparison; where nothing is left the command fails."""
    notes = io.StringIO()
    with pytest.raises(FerNasError, match="no method came to a result"):
        tuned(tmp_path / "run", Console(file=notes, width=300), methods="stn,random,fixed", learning_rate=1e12)
    lines = [line for line in notes.getvalue().splitlines() if line.startswith("note: ") and "seed 0" in line]
    assert len(lines) == 3
    assert "stn" in lines[0] and "not finite" in lines[0] and "lower --learning-rate" in lines[0]
    assert "random" in lines[1] and "finite" in lines[1]
    assert all(row["val_loss"] is None for row in RunFolder(tmp_path / "run").metrics())


def test_one_method_that_fails_leaves_the_others(tuned: Tuned, tmp_path: Path) -> None:
    _, found = tuned(tmp_path / "run", methods="stn,fixed", hyper_learning_rate=1e30)
    failed, good = found["methods"]
    assert (failed["method"], good["method"]) == ("stn", "fixed")
    assert good["without_result"] == 0 and good["val_loss"]["mean"] > 0


def test_a_budget_below_one_epoch(tuned: Tuned, tmp_path: Path) -> None:
    notes = io.StringIO()
    with pytest.raises(FerNasError, match="raise --budget"):
        tuned(tmp_path / "run", Console(file=notes, width=300), methods="fixed", budget=1.5)
    assert "no epoch ended within 1.5 s" in notes.getvalue()


def test_a_budget_within_the_warm_up(tuned: Tuned, tmp_path: Path) -> None:
    notes = io.StringIO()
    tuned(tmp_path / "run", Console(file=notes, width=300), methods="stn,fixed", warmup_epochs=10_000)
    told = [line for line in notes.getvalue().splitlines() if "λ has not moved" in line]
    assert len(told) == 1 and told[0].startswith("note: stn, seed 0") and "lower --warmup-epochs" in told[0]


def test_clocks() -> None:
    clock = Clock("cpu")
    busy = sum(i * i for i in range(200_000))
    assert 0 < clock.seconds() < 10 and busy > 0
    assert Clock("wall").seconds() < 1


def test_command(settings: Callable[..., dict[str, Any]], counted: None, tmp_path: Path) -> None:
    given = {name: value for name, value in settings().items() if name != "trial_epochs"}
    words = [w for name, value in given.items() for w in (f"--{name.replace('_', '-')}", str(value))]
    done = CliRunner().invoke(app, ["tune", *words, "--methods", "stn,fixed", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.stderr
    assert "stn" in done.stdout and "dropout.hidden2" in done.stdout and "n = 7 validation and 14 test" in done.stdout
    assert (tmp_path / "run" / "tuning.png").stat().st_size > 10_000
    again = CliRunner().invoke(app, ["tune", *words, "--out", str(tmp_path / "run")])
    assert again.exit_code == 2 and "already holds a run" in again.stderr
    resumed = CliRunner().invoke(app, ["tune", "--resume", str(tmp_path / "run")])
    assert resumed.exit_code == 0 and resumed.stdout == done.stdout
    both = CliRunner().invoke(app, ["tune", "--resume", str(tmp_path / "run"), "--budget", "3"])
    assert both.exit_code == 2 and "leave out --budget" in both.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "0"], "--budget is 0"),
        (["--budget", "-1"], "at least 0"),
        (["--methods", "unrolled"], "act only through sampled masks"),
        (["--hyperparameters", "pixels", "--methods", "bayes"], "by whole trainings"),
        (["--problem", "cifar"], "choose from mnist-mlp, fashion-cnn, fer-cnn"),
        (["--width", "0"], "at least 0.01"),
        (["--perturbation", "0"], "at least 1e-06"),
        (["--wrong-labels", "1"], "at most 0.95"),
        (["--seeds", "0"], "at least 1"),
        (["--data", "nowhere"], "no such file"),
        (["--resume", "nowhere"], "not a run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_input_is_one_line(cases: Path, tmp_path: Path, words: list[str], message: str) -> None:
    given = [] if {"--data", "--resume"} & set(words) else ["--data", str(cases / "fer.csv")]
    out = [] if "--resume" in words else ["--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, ["tune", *given, *words, *out])
    assert done.exit_code == 2
    said = done.stderr.strip().splitlines()
    assert message in said[-1] and said[-1].startswith("fer-nas: ")
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_kind_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"kind": "train", "config": {}}', encoding="utf-8")
    with pytest.raises(InputError, match="fer-nas train --resume"):
        run.resume(tmp_path, Console(file=io.StringIO()))
