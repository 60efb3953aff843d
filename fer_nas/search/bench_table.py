"""The record of `fer-nas bench search` as a table or JSON."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table


def show(record: dict[str, Any], as_json: bool) -> None:
    """To stdout; where that is no terminal, wide enough for every column."""
    if as_json:
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(table(record))


def table(record: dict[str, Any]) -> Table:
    options = record["options"]
    title = (
        f"batch {options['batch_size']}, {options['image_size']}×{options['image_size']}, C={options['channels']}, "
        f"{options['layers']} cells, space {options['space']}; {record['device']}; median \\[least, largest] of "
        f"n = {options['steps']}; ratio: {options['forms'][0]}'s time to the row's"
    )
    several = len(options["methods"]) > 1
    if several:
        title += "; of first: the row's CPU time as a share of the first row's in the same turn"
    share = ["of first"] if several else []
    made = Table(
        "method", "form", "images/s", "step, s", "CPU, s", "ratio", "CPU ratio", *share, "peak, MiB", title=title
    )
    for row in record["rows"]:
        peak = row["peak_memory_mib"]
        made.add_row(
            row["method"],
            row["form"],
            f"{row['images_per_second']:.3g}",
            *(_cell(row[name]) for name in ("step_seconds", "cpu_seconds", "speedup", "speedup_cpu")),
            *([f"{_cell(row['relative_cpu'])}, mean {row['relative_cpu']['mean']:.3g}"] if several else []),
            "" if peak is None else f"{peak:.0f}",
        )
    for name, why in record["left_out"].items():
        made.add_row(*name.split(", "), "does not run here:", why)
    return made


def _cell(values: dict[str, float]) -> str:
    return f"{values['median']:.3g} \\[{values['low']:.3g}, {values['high']:.3g}]"
