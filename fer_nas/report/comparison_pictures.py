"""The pictures of a comparison: curves of all searches, their cells side by side, λ over the epochs."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer_nas.artifacts import Genotype
from fer_nas.report.cells import stacked_figure
from fer_nas.report.comparison import Searched, groups
from fer_nas.report.figure import INK, new_figure, save_figure
from fer_nas.report.pictures import LINES

CURVES = {
    "val_accuracy": ("validation accuracy of the supernet, %", 100.0),
    "val_loss": ("validation loss", 1.0),
    "arch_entropy": ("entropy of λ (nats)", 1.0),
    "skips_normal": ("skips, normal cell", 1.0),
    "skips_reduce": ("skips, reduction cell", 1.0),
    "response_ratio": ("|response| / |direct|", 1.0),
}
"""Headings and scales of the figures of an epoch's record."""
NONE_HERE = "none of these searches has it"
TITLE_WIDTH = 44
"""Characters in a line of a panel's title."""
SHOWN_AT_MOST = 12
"""Searches whose cells and λ are drawn; more would be too small to read."""


def draw_comparison(searches: Sequence[Searched], folder: Path) -> list[Path]:
    """curves.png, cells.png and lambda.png, as far as the runs have what they show; the files written."""
    made = []
    with_rows = [run for run in searches if run.rows]
    if with_rows:
        save_figure(curves_figure(with_rows), folder / "curves.png")
        made.append(folder / "curves.png")
    cells = {title(run): Genotype.from_dict(run.genotype) for run in searches[:SHOWN_AT_MOST]}
    save_figure(stacked_figure(cells), folder / "cells.png")
    made.append(folder / "cells.png")
    with_mixtures = [run for run in searches if mixtures_of(run) is not None][:SHOWN_AT_MOST]
    if with_mixtures:
        save_figure(lambda_figure(with_mixtures), folder / "lambda.png")
        made.append(folder / "lambda.png")
    return made


def curves_figure(searches: Sequence[Searched]) -> Figure:
    """A panel a figure, a colour a group, a line a search."""
    figure = new_figure(13.8, 7.0)
    figure.set_layout_engine("constrained")
    colours = dict(zip(groups(searches), itertools.cycle(LINES), strict=False))
    for place, (name, (heading, scale)) in enumerate(CURVES.items(), 1):
        axes = figure.add_subplot(2, 3, place)
        for group, runs in groups(searches).items():
            for number, run in enumerate(runs):
                points = [(row["epoch"], scale * row[name]) for row in run.rows if row.get(name) is not None]
                if points:
                    label = group if number == 0 else None
                    axes.plot(*zip(*points, strict=True), color=colours[group], label=label, marker="o", markersize=2.5)
        axes.set_title(heading, fontsize=10, weight="bold", color=INK)
        axes.set_xlabel("epoch", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.tick_params(labelsize=8)
        if not axes.lines:
            axes.set_yticks([])
            axes.text(0.5, 0.5, NONE_HERE, transform=axes.transAxes, ha="center", va="center", fontsize=8, color=INK)
    named = {text: line for axes in figure.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    words = [textwrap.fill(text, 2 * TITLE_WIDTH) for text in named]
    figure.legend(named.values(), words, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def title(run: Searched) -> str:
    """In lines that a panel has room for."""
    return "\n".join(textwrap.wrap(f"{run.group}, seed {run.seed}", TITLE_WIDTH))


def mixtures_of(run: Searched) -> np.ndarray | None:
    """The weight of every operation on every edge, (epochs, 2·E·O); None where the run has not kept it."""
    kept = [row["mixtures"] for row in run.rows if "mixtures" in row]
    return np.array([[*np.ravel(m["normal"]), *np.ravel(m["reduce"])] for m in kept]) if kept else None


def lambda_figure(searches: Sequence[Searched]) -> Figure:
    """A panel a search: epochs from left to right, operations of the edges from top to bottom."""
    across = min(4, len(searches))
    down = -(-len(searches) // across)
    figure = new_figure(3.6 * across, 3.6 * down)
    figure.set_layout_engine("constrained")
    for place, run in enumerate(searches, 1):
        weights = mixtures_of(run)
        assert weights is not None
        axes = figure.add_subplot(down, across, place)
        image = axes.imshow(
            weights.T, aspect="auto", cmap="viridis", interpolation="nearest",
            extent=(0.5, len(weights) + 0.5, weights.shape[1], 0),
        )  # fmt: skip
        axes.axhline(weights.shape[1] / 2, color="white", linewidth=0.8)
        axes.set_title(title(run), fontsize=8, color=INK)
        axes.set_xlabel("epoch", fontsize=8)
        axes.set_ylabel("edge and operation; normal cell above", fontsize=7)
        axes.tick_params(labelsize=7)
        figure.colorbar(image, ax=axes).ax.tick_params(labelsize=7)
    return figure
