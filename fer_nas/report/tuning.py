"""tuning.png: how good the best point so far is, against time and against epochs, for each method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from fer_nas.errors import InputError
from fer_nas.report.figure import FAINT, INK, new_figure, save_figure
from fer_nas.report.pictures import LINES

GRID = 300  # places along the axis at which the seeds are compared
MEASURES = {"best_val_loss": "best validation loss (nats)", "best_val_accuracy": "validation accuracy there"}


def draw_tuning(rows: Sequence[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """rows: those of metrics.jsonl; about: those of summary.json. Median of the seeds as a line, their range shaded."""
    save_figure(tuning_figure(rows, about), path)


def tuning_figure(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> Figure:
    rows = [row for row in rows if row["best_val_loss"] is not None]
    if not rows:
        raise InputError("nothing to draw: metrics.jsonl has no evaluation with a finite loss")
    axes_of = {"seconds": f"seconds of {about['clock']} time", "epochs": "epochs"}
    figure = new_figure(10.5, 7.2)
    figure.set_layout_engine("constrained")
    grid = figure.subplots(len(MEASURES), len(axes_of))
    for line, (measure, title) in zip(grid, MEASURES.items(), strict=True):
        for axes, (along, label) in zip(line, axes_of.items(), strict=True):
            _panel(axes, rows, along, measure)
            axes.set_xlabel(label, fontsize=9)
            axes.set_ylabel(title, fontsize=9)
    grid[0][0].legend(fontsize=8, frameon=False)
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(
        f"{about['problem']} on {about['dataset']}, {about['hyperparameters']}: median and range of {seeds} "
        f"seed{'s' * (seeds > 1)}",
        fontsize=11,
        color=INK,
    )
    return figure


def _panel(axes: Axes, rows: Sequence[dict[str, Any]], along: str, measure: str) -> None:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for method, ink in zip(methods, LINES * (1 + len(methods) // len(LINES)), strict=False):
        own = [row for row in rows if row["method"] == method]
        runs = [[row for row in own if row["seed"] == seed] for seed in sorted({row["seed"] for row in own})]
        where = np.linspace(0, max(row[along] for row in own), GRID)
        values = np.array([_so_far(run, along, measure, where) for run in runs])
        known = ~np.isnan(values).any(0)  # from where on every seed has been evaluated
        if not known.any():
            continue
        axes.plot(where[known], np.median(values[:, known], 0), color=ink, label=method, linewidth=1.4)
        axes.fill_between(where[known], values[:, known].min(0), values[:, known].max(0), color=ink, alpha=0.15, lw=0)
    if measure.endswith("loss"):
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(labelsize=8, which="both")
    axes.grid(color=FAINT, alpha=0.3, linewidth=0.7, which="both")
    axes.spines[["top", "right"]].set_visible(False)


def _so_far(run: Sequence[dict[str, Any]], along: str, measure: str, where: np.ndarray) -> np.ndarray:
    """The last known value at each place; NaN before the first."""
    places = np.array([row[along] for row in run])
    values = np.array([np.nan, *(row[measure] for row in run)])
    return values[np.searchsorted(places, where, side="right")]
