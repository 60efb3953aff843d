"""The picture of a study: how far each search came, on validation and test images, and how long it took."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fer_nas.report.figure import FAINT, INK, new_figure, save_figure

PANELS = (
    ("val_accuracy", 100.0, "validation accuracy of the derived network, %"),
    ("accuracy", 100.0, "test accuracy, %"),
    ("search_seconds", 1.0, "seconds of the search"),
)


def draw_study(found: dict[str, Any], path: Path) -> None:
    """found: study.json's value. A line a search, a point a seed, a bar the mean; figures that no search has are left
    out."""
    rows = found["rows"][::-1]
    panels = [panel for panel in PANELS if any(seed.get(panel[0]) is not None for row in rows for seed in row["seeds"])]
    figure = new_figure(4 * len(panels), 1.2 + 0.36 * len(rows))
    figure.set_layout_engine("constrained")
    for place, (name, scale, heading) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        for height, row in enumerate(rows):
            values = [scale * seed[name] for seed in row["seeds"] if seed.get(name) is not None]
            if values:
                _line(axes, values, height)
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows] if place == 1 else [""] * len(rows))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(heading, fontsize=9)
        axes.grid(axis="x", color=FAINT, linewidth=0.4)
    counts = {seed["n"] for row in rows for seed in row["seeds"]}
    figure.suptitle(
        f"{found['scale']} scale, {found['seeds']} seed{'s' if found['seeds'] > 1 else ''}, "
        f"test n = {', '.join(f'{n:,}' for n in sorted(counts))}",
        fontsize=10,
    )
    save_figure(figure, path)


def _line(axes: Axes, values: list[float], height: int) -> None:
    axes.plot(values, [height] * len(values), "o", color=INK, markersize=4, alpha=0.7)
    axes.plot([statistics.fmean(values)], [height], "|", color=INK, markersize=16, markeredgewidth=2)
