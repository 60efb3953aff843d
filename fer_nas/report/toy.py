"""Pictures of the toy study: λ's way over the loss, and from which rates it arrives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fer_nas.report.figure import FAINT, INK, new_figure, save_figure

PATH, START, GOAL = "#c4511f", "#1f2933", "#2f6fb0"
UNDECIDED, LOST = "#e4e7eb", "#52606d"
COLUMNS = 5
LOW, HIGH = -1.3, 3.2


def draw_trajectories(result: dict[str, Any], path: Path) -> None:
    """A panel a method: λ from (1, 1) over L_val(λ, w*(λ)), at the table's inner and outer rate."""
    axis = np.linspace(LOW, HIGH, 120)
    one = axis**2 + 10 * np.sin(axis) ** 2
    figure, panels = _panels(len(result["rows"]), 1.95, 2.2)
    for axes, row in zip(panels, result["rows"], strict=False):
        axes.contour(axis, axis, one[:, None] + one[None, :], levels=7, colors=FAINT, linewidths=0.5)
        way = np.array(row["path"], dtype=float)
        way = way[: row["steps"] + 1] if row["steps"] else way
        axes.plot(way[:, 0], way[:, 1], color=PATH, linewidth=0.9, marker=".", markersize=3)
        axes.plot(*way[0], marker="o", color=START, markersize=4)
        axes.plot(0, 0, marker="+", color=GOAL, markersize=9, markeredgewidth=1.6)
        axes.set(xlim=(LOW, HIGH), ylim=(LOW, HIGH), aspect="equal", xticks=(), yticks=())
        outcome = f"{row['steps']} steps, outer rate {row['outer_rate']:.3g}" if row["steps"] else "does not settle"
        _title(axes, row["name"], outcome if row["moved"] else "does not move")
    save_figure(figure, path)


def draw_robustness(result: dict[str, Any], path: Path) -> None:
    """A panel a method: λ steps at every pair of inner rate (rows) and outer rate (columns)."""
    rates, outer = result["inner_rates"], result["outer_rates"]
    figure, panels = _panels(len(result["rows"]), 2.3, 1.7)
    for axes, row in zip(panels, result["rows"], strict=False):
        settled = np.array(row["settled"], dtype=float)
        axes.imshow(
            np.where(row["lost"], 1, 0),
            cmap=ListedColormap([UNDECIDED, LOST]),
            vmin=0,
            vmax=1,
            aspect="auto",
            origin="lower",
        )
        shown = np.ma.masked_equal(settled, 0)
        axes.imshow(shown, cmap="viridis_r", norm=LogNorm(1, 300), aspect="auto", origin="lower")
        ticks = [k for k, rate in enumerate(outer) if abs(np.log10(rate) - round(np.log10(rate))) < 1e-9]
        axes.set_xticks(ticks, [f"{outer[k]:g}" for k in ticks], fontsize=7)
        axes.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates], fontsize=7)
        _title(axes, row["name"], f"{row['share']:.0%} of the pairs")
    scale = figure.colorbar(panels[0].images[-1], ax=list(panels), shrink=0.4, aspect=30, location="bottom", pad=0.01)
    scale.set_label("λ steps until it stays within 0.01 of the optimum", fontsize=8)
    scale.ax.tick_params(labelsize=7)
    figure.supxlabel("outer rate", fontsize=9)
    figure.supylabel("inner rate", fontsize=9)
    marks = [Patch(color=UNDECIDED, label="still on its way, or circling"), Patch(color=LOST, label="lost")]
    panels[len(result["rows"])].legend(handles=marks, loc="center", fontsize=8, frameon=False)
    save_figure(figure, path)


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """At least one more panel than `count`; what is over is blank."""
    rows = count // COLUMNS + 1
    figure = new_figure(width * COLUMNS, height * rows)
    figure.set_layout_engine("constrained")
    panels = list(figure.subplots(rows, COLUMNS).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def _title(axes: Axes, name: str, outcome: str) -> None:
    axes.set_title(f"{name}\n{outcome}", fontsize=8, color=INK)
    axes.tick_params(length=2)
