"""The picture of `hypergradient.py`, which draws it with --picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from fer_nas.report.figure import new_figure, save_figure


def draw(done: list[dict[str, Any]], path: Path) -> None:
    """Cosines of the whole hypergradient over the steps on φ: columns by λ scale, rows by batch; mean ± deviation."""
    scales = list(dict.fromkeys(case["scale"] for case in done))
    names = list(dict.fromkeys(row["method"] for case in done for row in case["rows"]))
    figure = new_figure(12, 9)
    figure.set_layout_engine("constrained")
    for row, batch in enumerate(dict.fromkeys(r["batch"] for case in done for r in case["rows"])):
        for column, scale in enumerate(scales):
            axes = figure.add_subplot(2, len(scales), row * len(scales) + column + 1)
            here = [r for case in done if case["scale"] == scale for r in case["rows"] if r["batch"] == batch]
            for number, name in enumerate(names):
                by_steps: dict[int | None, list[float]] = {}
                for one in (r for r in here if r["method"] == name):
                    by_steps.setdefault(one["steps"], []).append(one["total"])
                means = [statistics.fmean(values) for values in by_steps.values()]
                if None in by_steps:
                    axes.axhline(means[0], color=f"C{number}", linestyle="--", label=name)
                elif by_steps:
                    spreads = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in by_steps.values()]
                    look = {
                        "color": f"C{number % 10}",
                        "linestyle": "-" if number < 10 else "-.",
                        "marker": "os"[number > 9],
                    }
                    axes.errorbar([s for s in by_steps if s], means, spreads, capsize=2, label=name, **look)
            axes.set_title(
                f"{'all images' if batch is None else f'batches of {batch}'}, λ scale {scale:g}", fontsize=10
            )
            axes.set_ylim(-0.2, 1.02)
            axes.set_xticks(sorted({r["steps"] for r in here if r["steps"]}))
            axes.set_xlabel("steps on φ, or of the adjoint")
            axes.set_ylabel("cosine to the truth")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    save_figure(figure, path)


def draw_search(done: list[dict[str, Any]], path: Path) -> None:
    """Of `hypergradient_search.py`: clipped cosines over the steps of the search, and what they are above first order's
    of the same seed, near zero; every seed thin, the mean thick."""
    rows = [row for run in done for row in run["rows"]]
    steps = sorted({row["steps"] for row in rows})
    names = list(dict.fromkeys(row["method"] for row in rows))
    figure = new_figure(12, 4.8)
    figure.set_layout_engine("constrained")
    whole, gain = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    first = [[r["clipped"] for r in run["rows"] if r["method"] == names[0]] for run in done]
    for number, name in enumerate(names):
        look = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "-."}
        by_seed = [[r["clipped"] for r in run["rows"] if r["method"] == name] for run in done]
        above = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(by_seed, first, strict=True)]
        for axes, lines in ((whole, by_seed), (gain, above)):
            for values in lines:
                axes.plot(steps, values, linewidth=0.6, alpha=0.6, **look)
            means = [statistics.fmean(values) for values in zip(*lines, strict=True)]
            axes.plot(steps, means, linewidth=2, marker="o", label=name, **look)
    whole.set_ylabel("cosine of the hypergradient to the truth")
    gain.set_ylabel(f"above {names[0]}, same seed")
    gain.set_ylim(-0.04, 0.04)
    for axes in (whole, gain):
        axes.set_xticks(steps)
        axes.set_xlabel("steps of the search")
    figure.suptitle(f"{len(done)} seed(s), responses at most half the direct term", fontsize=10)
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)
