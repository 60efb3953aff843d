"""Summary, separation of right from wrong labels, table and picture, on made-up figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fer_nas.errors import InputError
from fer_nas.report.tuning import _so_far, draw_tuning, tuning_figure
from fer_nas.tune.record import separation, spread, summary
from fer_nas.tune.show import closing, hyper_lines, words

ABOUT = {"problem": "mnist-mlp", "dataset": "mnist", "hyperparameters": "dropout", "clock": "cpu"}


def test_spread() -> None:
    assert spread([1.0, 2.0, 4.0]) == {"mean": pytest.approx(7 / 3), "sd": pytest.approx((7 / 3) ** 0.5)}
    assert spread([3.0]) == {"mean": 3.0, "sd": None}
    assert spread([]) is None
    assert words({"mean": 0.5, "sd": 0.01}, 100, 1) == "50.0 ± 1.0"
    assert words({"mean": 0.5, "sd": None}) == "0.5000" and words(None) == "–"


def result(method: str, seed: int, loss: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {"method": method, "seed": seed, "seconds": 5.0, "epochs": 3.0, "trials": 0,
                             "evaluations": 3, "diverged": int(loss is None)}  # fmt: skip
    if loss is not None:
        found |= {"val_loss": loss, "val_accuracy": 0.5, "test_loss": loss, "test_accuracy": 0.25}
        found["hyper"] = {"smoothing": loss / 10, "list": [1.0, 2.0]}
    return found


def test_summary_over_seeds() -> None:
    stn, other = summary([result("stn", 0, 1.0), result("random", 0, None), result("stn", 1, 3.0)])
    assert (stn["method"], stn["seeds"], stn["without_result"]) == ("stn", 2, 0)
    assert stn["val_loss"] == {"mean": 2.0, "sd": pytest.approx(2**0.5)}
    assert stn["hyper"]["smoothing"]["mean"] == pytest.approx(0.2) and stn["hyper"]["list"] is None
    assert (other["without_result"], other["diverged"], other["val_loss"], other["hyper"]) == (1, 1, None, {})
    about = ABOUT | {"methods": [stn, other], "val_count": 10, "test_count": None, "budget": 5.0, "device": "CPU"}
    assert hyper_lines(about) == ["stn: smoothing 0.2 ± 0.14, list –"]
    assert closing(about).startswith("n = 10 validation images; ± is the standard deviation")


def test_separation_is_the_area_under_the_curve() -> None:
    weight = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.3, 0.5])
    wrong = torch.tensor([True, True, False, False, False, True])
    pairs = [(r > w).item() + 0.5 * (r == w).item() for r in weight[~wrong] for w in weight[wrong]]
    assert separation(weight, wrong) == pytest.approx(sum(pairs) / len(pairs))
    assert separation(weight, torch.zeros(6, dtype=torch.bool)) is None


def rows(method: str, seed: int, losses: list[float | None]) -> list[dict[str, Any]]:
    best, found = None, []
    for place, loss in enumerate(losses, 1):
        best = loss if best is None or (loss is not None and loss < best) else best
        found.append({"method": method, "seed": seed, "seconds": 2.0 * place, "epochs": float(place),
                      "best_val_loss": best, "best_val_accuracy": None if best is None else 1 - best / 4})  # fmt: skip
    return found


def test_last_known_value() -> None:
    run = rows("stn", 0, [3.0, 2.0, 2.5])
    found = _so_far(run, "epochs", "best_val_loss", np.array([0.5, 1.0, 1.9, 2.0, 9.0]))
    assert np.isnan(found[0]) and found[1:].tolist() == [3.0, 3.0, 2.0, 2.0]


def test_picture(tmp_path: Path) -> None:
    table = [row for seed in range(3) for row in rows("stn", seed, [3.0, 2.0 - seed / 4, 1.0])]
    table += rows("random", 0, [None, 2.5])
    figure = tuning_figure(table, ABOUT)
    assert [axes.get_xlabel() for axes in figure.axes] == ["seconds of cpu time", "epochs"] * 2
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    assert set(lines) == {"stn", "random"}
    x, y = lines["stn"].get_data()
    assert x[0] >= 1 and y[np.searchsorted(x, 2.1)] == pytest.approx(1.75) and y[-1] == 1.0
    draw_tuning(table, ABOUT, tmp_path / "tuning.png")
    assert (tmp_path / "tuning.png").stat().st_size > 10_000


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no evaluation with a finite loss"):
        tuning_figure(rows("stn", 0, [None]), ABOUT)
