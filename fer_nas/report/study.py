"""The tables and the picture of a study: how far each search came, on validation and test images, and how long it took.

`found` is study.json's value.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from fer_nas.report.comparison import spread
from fer_nas.report.figure import FAINT, INK, new_figure, save_figure

PANELS = (
    ("val_accuracy", 100.0, "validation accuracy of the derived network, %"),
    ("accuracy", 100.0, "test accuracy, %"),
    ("search_seconds", 1.0, "seconds of the search"),
)

BASELINE = "random"
"""The line that every search has to beat."""


def words(values: Sequence[float | None], scale: float = 1.0, digits: int = 1) -> str:
    """mean ± standard deviation over seeds; – where there is none."""
    found = spread([value for value in values if value is not None])
    if found is None:
        return "–"
    mean, deviation = (None if x is None else f"{scale * x:,.{digits}f}" for x in found)
    return f"{mean}" if deviation is None else f"{mean} ± {deviation}"


def above(values: Sequence[float], base: Sequence[float]) -> tuple[float, float] | None:
    """Difference of two means and its standard error, √(s²/n + s₀²/n₀); None with fewer than two values of either."""
    if min(len(values), len(base)) < 2:
        return None
    error = sum(statistics.variance(each) / len(each) for each in (values, base)) ** 0.5
    return statistics.fmean(values) - statistics.fmean(base), error


def markdown(found: dict[str, Any]) -> str:
    """Two tables: the lines over their seeds, and the retrained genotypes by setting.

    Where the study has random cells, what a line's test accuracy is above theirs, ± the standard error over seeds.
    """
    n = found["rows"][0]["seeds"][0]["n"]
    columns = (
        ("supernet val accuracy %", "supernet_val_accuracy", 100, 1),
        ("λ entropy, nats", "arch_entropy", 1, 2),
        ("response / direct", "response_ratio", 1, 3),
        ("skips, normal cell", "skips_normal", 1, 1),
        ("val accuracy %", "val_accuracy", 100, 1),
        (f"test accuracy % (n {n:,})", "accuracy", 100, 1),
        ("parameters", "parameters", 1, 0),
        ("MFLOPs", "flops", 1e-6, 1),
        ("search s", "search_seconds", 1, 0),
        ("peak MiB", "peak_memory_mib", 1, 0),
    )
    head = ["search", *(heading for heading, *_ in columns)]
    accuracies = {row["name"]: [seed["accuracy"] for seed in row["seeds"]] for row in found["rows"]}
    if BASELINE in accuracies:
        head.append("test above random, points ± standard error")
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in found["rows"]:
        cells = [words([seed[name] for seed in row["seeds"]], scale, digits) for _, name, scale, digits in columns]
        if BASELINE in accuracies:
            gain = above(accuracies[row["name"]], accuracies[BASELINE]) if row["name"] != BASELINE else None
            cells.append("–" if gain is None else f"{100 * gain[0]:+.1f} ± {100 * gain[1]:.1f}")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    last = "; in the last column the standard error of the difference of two means" if BASELINE in accuracies else ""
    lines += ["", f"± is the standard deviation over seeds{last}."]
    if found["retrained"]:
        settings = list(dict.fromkeys(row["setting"] for row in found["retrained"]))
        lines += ["", f"| best genotype of | seed | {' | '.join(f'{s}, val / test %' for s in settings)} |"]
        lines.append("| --- | --- |" + " --- |" * len(settings))
        for name in dict.fromkeys(row["line"] for row in found["retrained"]):
            mine = {row["setting"]: row for row in found["retrained"] if row["line"] == name}
            cells = [f"{100 * mine[s]['val_accuracy']:.1f} / {100 * mine[s]['accuracy']:.1f}" for s in settings]
            lines.append(f"| {name} | {next(iter(mine.values()))['seed']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_study(found: dict[str, Any], path: Path) -> None:
    """A line a search, a point a seed, a bar the mean; figures that no search has are left out."""
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
