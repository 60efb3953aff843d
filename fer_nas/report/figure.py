"""A matplotlib figure without pyplot: no global state, no display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fer_nas.artifacts import atomic_path

DPI = 120
INK, FAINT = "#1f2933", "#9aa5b1"


def new_figure(width: float, height: float) -> Figure:
    """A white figure of that many inches, drawn by Agg."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """As PNG, whole or not at all; the same figure gives the same bytes."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
