"""The toy problem and the study on it: what was published of it, and that copies do not act on one another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fer_nas.bilevel.protocol import InnerStep, descend
from fer_nas.cli import app
from fer_nas.studies import closed_form
from fer_nas.studies import show as show_module
from fer_nas.studies import toy as study_module
from fer_nas.studies.toy import BASIN, CONTENDERS, INNER_RATE, examine, findings, run
from fer_nas.tasks.toy import Toy, landscape

BY_NAME = {contender.name: contender for contender in CONTENDERS}
FIRST, SECOND = BY_NAME["first order"], BY_NAME["second order, T = K = 1"]
FULL, TRUNCATED = BY_NAME["full, T = K = 100"], BY_NAME["truncated, T = 100, K = 1"]


def test_the_problem() -> None:
    """w*(λ) = λ; the optimum is 0; the basin of it ends where the slope changes its sign."""
    task = Toy()
    hyper = torch.tensor([0.3, -1.2], dtype=torch.float64)
    weights, _ = descend(task, task.initial_weights(), hyper, [None] * 2000, InnerStep(learning_rate=0.1))
    assert torch.allclose(weights["w"][0], hyper, atol=1e-12)
    assert task.outer_loss(weights, hyper, None).item() == pytest.approx(landscape(hyper).item())
    assert landscape(torch.zeros(2)).item() == 0
    line = torch.stack([torch.linspace(0, 3, 3001, dtype=torch.float64), torch.zeros(3001, dtype=torch.float64)], 1)
    peak = int(landscape(line)[:2500].argmax())
    assert line[peak, 0].item() == pytest.approx(BASIN, abs=0.01)


def test_first_order_never_moves() -> None:
    runs = run(FIRST, INNER_RATE, (0.1, 10.0))
    assert torch.equal(runs.path, runs.path[0].expand_as(runs.path))
    assert not runs.settled.any()


def test_order_of_the_published_comparison() -> None:
    """Full unrolling in 3 λ steps (published: 3), truncated in more, second order in many more."""
    full, truncated, second = (
        int(run(contender, INNER_RATE, (rate,)).settled)
        for contender, rate in ((FULL, 0.0464), (TRUNCATED, 0.681), (SECOND, 1.0))
    )
    assert full == 3
    assert full < truncated < second


def test_second_order_loses_the_optimum_where_full_unrolling_keeps_it() -> None:
    assert run(SECOND, 0.1, (1.0,)).settled > 0
    lost = run(SECOND, 0.5, (1.0,))
    assert not lost.settled
    assert run(FULL, 0.5, (0.0464,)).settled > 0


@pytest.mark.parametrize("name", ["second order, T = 5", "carried adjoint, T = 5"])
def test_copies_do_not_act_on_one_another(name: str) -> None:
    """A run alone, and beside one that is lost at once."""
    rates = {"second order, T = 5": 0.1, "carried adjoint, T = 5": 0.005}
    alone = run(BY_NAME[name], INNER_RATE, (rates[name],))
    beside = run(BY_NAME[name], INNER_RATE, (1e6, rates[name]))
    steps = min(len(alone.path), len(beside.path))
    assert torch.allclose(alone.path[:steps, 0], beside.path[:steps, 1], rtol=1e-9, atol=1e-9)
    assert beside.lost.tolist() == [True, False]
    assert beside.path[2:, 0].isnan().all()
    assert alone.settled == beside.settled[1] > 0


@pytest.mark.parametrize("name", ["Δ-STN, T = 5", "STN, T = 5"])
def test_a_learned_response_reaches_the_optimum(name: str) -> None:
    runs = run(BY_NAME[name], INNER_RATE, (0.00681, 0.01))
    assert (runs.settled > 0).all()


@pytest.fixture
def small_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's commands on few rates and methods."""
    monkeypatch.setattr(study_module, "INNER_RATES", (0.1, 0.13))
    monkeypatch.setattr(study_module, "OUTER_RATES", (10 ** (-8 / 6), 10 ** (-1 / 6), 1.0))
    monkeypatch.setattr(study_module, "LIMITS", {1: 20, 5: 10, 100: 4})
    monkeypatch.setattr(show_module, "CONTENDERS", (FIRST, SECOND, FULL, TRUNCATED))
    monkeypatch.setattr(closed_form, "ESTIMATORS", closed_form.ESTIMATORS[:2])


@pytest.mark.usefixtures("small_study")
def test_command(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["toy", "--out", str(tmp_path / "new"), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "new" / "toy.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["first order"]["steps"] is None
    assert rows["first order"]["moved"] == 0
    assert rows["full, T = K = 100"]["steps"] == 3
    assert rows["full, T = K = 100"]["share"] == pytest.approx(1 / 3)
    assert rows["full, T = K = 100"]["kept_at"] == [0.1, 0.13]
    assert rows["full, T = K = 100"]["rates_for_all"] == 1
    assert "first order never moves: seen" in result["findings"][0]
    for name in ("toy-trajectories.png", "toy-robustness.png"):
        file = tmp_path / "new" / name
        with Image.open(file) as picture:
            assert picture.width > 1000
        assert file.stat().st_size < 150_000
    assert "first order: 2 inner rates × 3 outer rates" in done.stderr


@pytest.mark.usefixtures("small_study")
def test_command_prints_a_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(show_module, "study", lambda contenders, note: RESULT)
    monkeypatch.setattr(closed_form, "study", lambda note: RESULT["closed_form"])
    done = CliRunner().invoke(app, ["toy"])
    assert done.exit_code == 0
    full = next(line for line in done.stdout.splitlines() if "full, T = K = 100" in line)
    assert [word for word in full.split() if word[0].isdigit()][:4] == ["100", "0.5", "3", "0.30"]
    assert "2.5e-01  5.0e-01" in done.stdout
    (tmp_path / "file").touch()
    refused = CliRunner().invoke(app, ["toy", "--out", str(tmp_path / "file" / "in")])
    assert refused.exit_code == 2
    assert len(refused.stderr.strip().splitlines()) == 1


def row(name: str, steps: int | None, kept: list[float], moved: float = 1.0) -> dict[str, object]:
    return {
        "name": name,
        "outer_rate": 0.5 if steps else None,
        "steps": steps,
        "seconds": 0.1 * steps if steps else None,
        "seconds_per_step": 0.1,
        "share": 0.25,
        "kept_at": kept,
        "rates_for_all": len(kept),
        "first_near": steps,
        "moved": moved,
    }


RESULT = {
    "inner_rates": [0.1, 0.13],
    "inner_rate": 0.1,
    "outer_rates": [0.1, 1.0],
    "near": 0.01,
    "hold": 10,
    "wall_seconds": 1.0,
    "closed_form": [
        {"name": "Neumann", "response": {"median": 0.1, "largest": 0.2}, "total": {"median": 0.25, "largest": 0.5}}
    ],
    "rows": [
        row("first order", None, [], 0.0),
        row("second order, T = K = 1", 24, [0.1]),
        row("full, T = K = 100", 3, [0.1, 0.13]),
        row("truncated, T = 100, K = 1", 9, [0.1, 0.13]),
    ],
}


def test_findings_say_what_is_not_seen() -> None:
    assert [": seen" in line for line in findings(RESULT)[:3]] == [True, True, True]
    rows = [row("first order", None, [], 0.5), *RESULT["rows"][1:]]  # type: ignore[index]
    rows[1] = row("second order, T = K = 1", 2, [0.1, 0.13])
    lines = findings({**RESULT, "rows": rows})
    assert [": not seen" in line for line in lines[:3]] == [True, True, True]
    assert len(lines) == 3
    assert (
        "misses it at the inner rates 0.13; at all of these keep it, at outer rates of theirs: full"
        in findings(RESULT)[3]
    )


def test_a_method_that_never_settles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "INNER_RATES", (0.1,))
    found = examine(FIRST)
    assert found["outer_rate"] is None
    assert found["share"] == 0
    assert found["kept_at"] == []
