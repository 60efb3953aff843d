"""What a tuning run keeps: a line an evaluation, a result for each method and seed, and the summary over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fer_nas.artifacts import RunFolder, read_json, write_json, write_text
from fer_nas.errors import InputError
from fer_nas.tune.problems import Images
from fer_nas.tune.training import Point, score

LISTED_AT_MOST = 16
"""Numbers of one part of λ that are written out; a larger part is described by its quartiles."""

Pair = tuple[str, int]


def described(point: Point, wrong: Tensor | None = None) -> dict[str, Any]:
    """λ's values by name. The weights of examples whose labels are known to be wrong are judged too: `found` is the
    chance that a right label outweighs a wrong one (area under the ROC curve)."""
    found: dict[str, Any] = {}
    for name, value in point.task.layout.values(point.hyper).items():
        if value.numel() <= LISTED_AT_MOST:
            found[name] = value.tolist()
            continue
        quartiles = torch.quantile(
            value.double().flatten(), torch.linspace(0, 1, 5, dtype=torch.float64).to(value.device)
        )
        found |= dict(
            zip((f"{name}.{q}" for q in ("min", "q25", "median", "q75", "max")), quartiles.tolist(), strict=True)
        )
        if name == "examples" and wrong is not None:
            found["examples.found"] = separation(value.cpu(), wrong)
    return found


def separation(weight: Tensor, wrong: Tensor) -> float | None:
    """P(weight of a right label > that of a wrong one), ties one half; None where there is only one kind."""
    right, bad = weight[~wrong], weight[wrong].sort().values
    if not len(right) or not len(bad):
        return None
    below, up_to = torch.searchsorted(bad, right), torch.searchsorted(bad, right, right=True)
    return ((below + up_to).double().mean() / (2 * len(bad))).item()


@dataclass
class Trace:
    """One method and seed while it runs: the rows so far and the best point by validation loss."""

    rival: str
    seed: int
    wrong: Tensor | None
    best: Point | None = None
    evaluations: int = 0
    diverged: int = 0
    row: dict[str, Any] = field(default_factory=dict)

    def add(self, point: Point, seconds: float) -> dict[str, Any]:
        """The row of metrics.jsonl. A loss that is not finite never becomes the best, and is written as null."""
        self.evaluations += 1
        finite = point.loss == point.loss and abs(point.loss) != float("inf")
        self.diverged += not finite
        if finite and (self.best is None or point.loss < self.best.loss):
            self.best = point
        self.row = {
            "method": self.rival,
            "seed": self.seed,
            "evaluation": self.evaluations,
            "trial": point.trial,
            "seconds": seconds,
            "epochs": point.epochs,
            "val_loss": point.loss if finite else None,
            "val_accuracy": point.accuracy if finite else None,
            "best_val_loss": self.best.loss if self.best else None,
            "best_val_accuracy": self.best.accuracy if self.best else None,
            "hyper": described(point, self.wrong),
        }
        return self.row

    def result(self, images: Images, seconds: float) -> dict[str, Any]:
        """What is left of it: the chosen point, and its test figures, read here for the first and only time."""
        best = self.best
        found: dict[str, Any] = {
            "method": self.rival,
            "seed": self.seed,
            "seconds": seconds,
            "epochs": self.row.get("epochs", 0.0),
            "trials": self.row.get("trial", 0),
            "evaluations": self.evaluations,
            "diverged": self.diverged,
            "val_count": len(images.val),
            "train_count": len(images.train),
        }
        if best is None:
            return found
        found |= {
            "val_loss": best.loss,
            "val_accuracy": best.accuracy,
            "chosen_epochs": best.epochs,
            "hyper": described(best, self.wrong),
            "last_hyper": self.row["hyper"],
        }
        if images.test is not None and len(images.test):
            loss, accuracy = score(best.task, best.weights, best.hyper, images.test, best.response)
            found |= {"test_loss": loss, "test_accuracy": accuracy, "test_count": len(images.test)}
        return found


class Results:
    """results.json of a run, one entry for each method and seed that is finished; metrics.jsonl follows it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.file = folder, folder / "results.json"
        self.rows: list[dict[str, Any]] = read_json(self.file, "results") if self.file.exists() else []
        if not isinstance(self.rows, list) or not all({"method", "seed"} <= set(row) for row in self.rows):
            raise InputError(f"{self.file} does not hold the results of a tuning run")

    @property
    def done(self) -> set[Pair]:
        return {(row["method"], row["seed"]) for row in self.rows}

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        write_json(self.file, self.rows)

    def drop_unfinished(self) -> None:
        """Take the lines of pairs that were stopped out of metrics.jsonl: they start over."""
        rows = [row for row in self.folder.metrics() if (row["method"], row["seed"]) in self.done]
        write_text(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


FIGURES = ("val_loss", "val_accuracy", "test_loss", "test_accuracy", "seconds", "epochs", "trials", "evaluations")


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each method, in order: mean and standard deviation over seeds (None for one seed) of every figure and of
    the chosen λ."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    found = []
    for method, runs in by_method.items():
        chosen = [run for run in runs if "val_loss" in run]
        names = dict.fromkeys(name for run in chosen for name in run["hyper"])
        found.append(
            {
                "method": method,
                "seeds": len(runs),
                "without_result": len(runs) - len(chosen),
                "diverged": sum(run["diverged"] for run in runs),
                **{name: spread([run[name] for run in chosen if name in run]) for name in FIGURES},
                "hyper": {
                    name: spread(
                        [run["hyper"][name] for run in chosen if isinstance(run["hyper"].get(name), float | int)]
                    )
                    for name in names
                },
            }
        )
    return found


def spread(values: list[float]) -> dict[str, float | None] | None:
    """Mean and standard deviation (n − 1) of the seeds; None where no seed has the figure."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
