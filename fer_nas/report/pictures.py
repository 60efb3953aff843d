"""The pictures of a run: cells.png, the confusion matrix, and the curves of metrics.jsonl."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fer_nas.errors import InputError
from fer_nas.report.cells import draw_cells
from fer_nas.report.figure import FAINT, INK, new_figure, save_figure

__all__ = ["draw_cells", "draw_confusion", "draw_curves"]

LINES = ("#2f6fb0", "#c4511f", "#3d8b45", "#7a4fa3", "#b07d12", "#157f8c", "#a63a6b", "#5c6b7a")
# Panel title → the words of which a metric's name has one; the first panel that fits takes it.
PANELS = {
    "loss": {"loss"},
    "accuracy": {"accuracy", "f1"},
    "learning rate": {"rate"},
    "entropy of λ (nats)": {"entropy"},
    "skip connections": {"skip", "skips"},
}


def draw_confusion(confusion: Any, classes: Sequence[str], path: Path) -> None:
    """The confusion matrix (K, K) of counts, rows the true classes, coloured by share of the row."""
    save_figure(confusion_figure(confusion, classes), path)


def confusion_figure(confusion: Any, classes: Sequence[str]) -> Figure:
    table_KK = np.asarray(confusion)
    if table_KK.shape != (len(classes), len(classes)):
        raise InputError(f"a confusion matrix of shape {table_KK.shape} does not fit {len(classes)} classes")
    count = table_KK.sum(1)
    share_KK = table_KK / np.maximum(count, 1)[:, None]
    total = int(count.sum())
    figure = new_figure(1.9 + 0.72 * len(classes), 1.7 + 0.72 * len(classes))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    axes.imshow(share_KK, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(share_KK):
        label = f"{share:.0%}\n{table_KK[row, column]}" if count[row] else "–"
        ink = "white" if share > 0.55 else INK if table_KK[row, column] else FAINT
        axes.text(column, row, label, ha="center", va="center", fontsize=8, color=ink)
    places = range(len(classes))
    names = [f"{name}\n{n}" for name, n in zip(classes, count, strict=True)]
    axes.set_xticks(places, classes, rotation=30, rotation_mode="anchor", ha="left", fontsize=9, parse_math=False)
    axes.set_yticks(places, names, fontsize=9, parse_math=False)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    right = int(table_KK.diagonal().sum())
    caption = f"accuracy {right / max(total, 1):.2%} ({right} of {total})\nrows: true class, columns: answer"
    axes.set_xlabel(caption, fontsize=9, color=INK)
    return figure


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, accuracy, learning rate, λ's entropy and skips against the epoch, as far as the rows have them.

    rows: those of metrics.jsonl, with `epoch`. A nested {"skips": {"normal": 1}} is `skips normal`. Rows
    without anything to draw are an InputError.
    """
    save_figure(curves_figure(rows), path)


def curves_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    table = [_flat(row) for row in rows]
    panels: dict[str, list[str]] = {title: [] for title in PANELS}
    for name in dict.fromkeys(name for row in table for name in row):
        words = set(re.split(r"[_ ]", name))
        title = next((title for title, known in PANELS.items() if words & known), None)
        if title and not name.startswith("best"):  # a running best hides the curve that it follows
            panels[title].append(name)
    shown = {title: names for title, names in panels.items() if names}
    if not shown:
        raise InputError("no curves to draw: metrics.jsonl has no finished epoch with a loss or an accuracy")
    across = min(len(shown), 3)
    down = math.ceil(len(shown) / across)
    figure = new_figure(4.6 * across, 3.3 * down)
    figure.set_layout_engine("constrained")
    for position, (title, names) in enumerate(shown.items(), 1):
        _panel(figure.add_subplot(down, across, position), title, names, table)
    return figure


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a row, those of nested objects by both names; what is no finite number is left out."""
    found: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key} ")
        elif isinstance(value, int | float) and math.isfinite(value):
            found[prefix + key] = float(value)
    return found


def _panel(axes: Axes, title: str, names: list[str], table: list[dict[str, float]]) -> None:
    for name, ink in zip(names, itertools.cycle(LINES)):
        points = [(row.get("epoch", place), row[name]) for place, row in enumerate(table, 1) if name in row]
        marker = "o" if len(points) <= 40 else ""
        axes.plot(*zip(*points, strict=True), color=ink, label=name.replace("_", " "), marker=marker, markersize=3)
    axes.set_title(title, fontsize=10, weight="bold", color=INK)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(table) == 1:
        axes.margins(x=10)
    if title == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(labelsize=8)
    axes.grid(color=FAINT, alpha=0.3, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
