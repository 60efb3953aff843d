"""The toy study on the screen and on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fer_nas.artifacts import RunFolder, write_json
from fer_nas.progress import say
from fer_nas.report.toy import draw_robustness, draw_trajectories
from fer_nas.studies import closed_form
from fer_nas.studies.toy import CONTENDERS, findings, study


def toy(out: Path | None, as_json: bool, note: Callable[[str], None]) -> None:
    """Run the study, write toy.json and its pictures into `out` where it is given, print the table or all as JSON."""
    if out is not None:
        RunFolder.refuse_run(out)
        write_json(out / "toy.json", {})  # a place that cannot be written is told before the work, not after it
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        result = {**study(CONTENDERS, note), "closed_form": closed_form.study(note)}
    finally:
        torch.set_num_threads(threads)
    result["findings"] = findings(result)
    if out is not None:
        write_json(out / "toy.json", result)
        draw_trajectories(result, out / "toy-trajectories.png")
        draw_robustness(result, out / "toy-robustness.png")
        note(f"wrote toy.json, toy-trajectories.png and toy-robustness.png into {out}")
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    """To stdout; where that is no terminal, wide enough for every column."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    console.print(table(result))
    for line in (*result["findings"], closing(result)):
        say(console, line)
    console.print(errors(result["closed_form"]))


def table(result: dict[str, Any]) -> Table:
    shown = Table(
        "method", "outer rate", "λ steps", "seconds", "ms a λ step", "share of rates", "for all", "keeps at inner rates"
    )
    for row in result["rows"]:
        found = row["steps"] is not None
        shown.add_row(
            row["name"],
            f"{row['outer_rate']:.3g}" if found else "–",
            str(row["steps"]) if found else "never",
            f"{row['seconds']:.2f}" if found else "–",
            f"{1000 * row['seconds_per_step']:.1f}",
            f"{100 * row['share']:.0f} %",
            str(row["rates_for_all"]),
            " ".join(f"{rate:g}" for rate in row["kept_at"]) or "–",
        )
    return shown


def errors(rows: list[dict[str, Any]]) -> Table:
    title = (
        f"relative error against a closed form (20 weights, 12 λ; median and largest of {len(closed_form.SEEDS)} seeds)"
    )
    shown = Table("method", "response", "hypergradient", title=title, title_justify="left")
    for row in rows:
        cells = (f"{row[part]['median']:.1e}  {row[part]['largest']:.1e}" for part in ("response", "total"))
        shown.add_row(row["name"], *cells)
    return shown


def closing(result: dict[str, Any]) -> str:
    inner, outer = result["inner_rates"], result["outer_rates"]
    return (
        f"λ steps: until ‖λ‖ stays below {result['near']:g} for {result['hold']} steps, inner rate "
        f"{result['inner_rate']:g}, the outer rate with the fewest of {len(outer)} from {outer[0]:g} to {outer[-1]:g}; "
        f"seconds: CPU, one thread; share: of {len(inner)} × {len(outer)} pairs of rates; for all: outer rates that "
        f"arrive at every inner rate; keeps: the inner rates at which this outer rate arrives; "
        f"the comparison took {result['wall_seconds']:.0f} s"
    )
