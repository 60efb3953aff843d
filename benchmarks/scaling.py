"""How a search's step scales: images a second against batch, channels, cells, image side, each ×1, ×2, ×4.

Plain and fast form of `darts-1st` at all three values of a row take turns, one thread, so that what disturbs the
machine disturbs all of them. Time is the process's CPU time after one step to warm up; the exponent is the slope of log
time over log factor, by least squares within each turn, as median [least, largest] over `--steps` turns.

    python benchmarks/scaling.py --out docs/scaling.png --record scaling.json

With --axes only those are measured, and the others are drawn as the record has them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import torch

from fer_nas.runtime import many_steps
from fer_nas.search.bench import BenchOptions, Contestant, spread

matplotlib.use("Agg")
from matplotlib import pyplot as plt

AXES = {
    "batch_size": ("batch", 1),
    "channels": ("channels C", 1),
    "layers": ("cells", 1),
    "image_size": ("image side, pixels", 0.5),  # from half: above 40 pixels the stem would halve the picture
}
"""Setting → its label, and where its three values begin, as a share of the base's."""
FACTORS = (1, 2, 4)
FORMS = {"plain": "tab:gray", "fast": "tab:blue"}


def measure(points: list[BenchOptions], steps: int) -> list[dict[str, list[float]]]:
    """CPU seconds of every timed step by point and form."""
    made = [{form: Contestant(options, "darts-1st", form) for form in FORMS} for options in points]
    times: list[dict[str, list[float]]] = [{form: [] for form in FORMS} for _ in points]
    with many_steps():
        for turn in range(steps + 1):
            for contestants, row in zip(made, times, strict=True):
                for form, contestant in contestants.items():
                    _, cpu = contestant.step()
                    if turn:
                        row[form].append(cpu)
    return times


def exponent(seconds: list[float]) -> float:
    x, y = [math.log(f) for f in FACTORS], [math.log(s) for s in seconds]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", type=Path, required=True, help="keep every figure in this JSON file")
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--image-size", type=int, default=16)
    wish = parser.parse_args()
    torch.set_num_threads(1)
    base = BenchOptions(
        batch_size=wish.batch_size,
        channels=wish.channels,
        layers=wish.layers,
        image_size=wish.image_size,
        device="cpu",
        threads=1,
    )
    record = json.loads(wish.record.read_text()) if wish.record.exists() else {}
    settings = {"base": asdict(base), "steps": wish.steps}
    if set(wish.axes) < set(AXES) and {name: record.get(name) for name in settings} != json.loads(json.dumps(settings)):
        parser.error(f"{wish.record} is of other settings; measure all axes again")
    record = {**settings, "axes": record.get("axes", {})}
    for axis in wish.axes:
        values = [round(AXES[axis][1] * factor * getattr(base, axis)) for factor in FACTORS]
        points = measure([replace(base, **{axis: value}) for value in values], wish.steps)
        record["axes"][axis] = {"values": values, "seconds": points}
        for form in FORMS:
            seconds = [statistics.median(point[form]) for point in points]
            by_turn = [exponent(list(turn)) for turn in zip(*(point[form] for point in points), strict=True)]
            record["axes"][axis][f"exponent_{form}"] = e = spread(by_turn)
            told = f"{e['median']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"
            print(
                f"{axis} {values}, {form}: {', '.join(f'{s:.3f}' for s in seconds)} s a step, exponent {told}",
                flush=True,
            )
        wish.record.write_text(json.dumps(record, indent=1) + "\n")
    draw(record, wish.out)


def draw(record: dict[str, Any], out: Path) -> None:
    base = BenchOptions(**{name: tuple(v) if isinstance(v, list) else v for name, v in record["base"].items()})
    figure, panels = plt.subplots(1, len(AXES), figsize=(13, 3.4), sharey=True, layout="constrained")
    for panel, (axis, (label, _)) in zip(panels, AXES.items(), strict=True):
        row = record["axes"][axis]
        values, points = row["values"], row["seconds"]
        batches = values if axis == "batch_size" else [base.batch_size] * len(values)
        for form, color in FORMS.items():
            speed = [[b / t for t in point[form]] for b, point in zip(batches, points, strict=True)]
            middle = [statistics.median(v) for v in speed]
            bars = [[m - min(v), max(v) - m] for m, v in zip(middle, speed, strict=True)]
            panel.errorbar(
                values,
                middle,
                list(zip(*bars, strict=True)),
                color=color,
                marker="o",
                capsize=3,
                label=f"{form}, time ~ x^{row[f'exponent_{form}']['median']:.2f}",
            )
        panel.set(xlabel=label, xscale="log", yscale="log", xticks=values, xticklabels=values)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("images per CPU second")
    figure.suptitle(
        f"darts-1st, one thread, around batch {base.batch_size}, C={base.channels}, {base.layers} cells, "
        f"{base.image_size}×{base.image_size}; median and range of n = {record['steps']}",
        fontsize=10,
    )
    figure.savefig(out, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
