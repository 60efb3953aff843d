"""A comparison's summary on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fer_nas.progress import say

Spread = dict[str, float | None] | None


def show(found: dict[str, Any], picture: Path) -> None:
    """To stdout; where that is no terminal, wide enough for every column."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    console.print(table(found))
    for line in (*hyper_lines(found), closing(found), f"picture {picture}"):
        say(console, line)


def words(value: Spread, scale: float = 1.0, digits: int = 4) -> str:
    """mean ± standard deviation over seeds; – where there is none."""
    if value is None or value["mean"] is None:
        return "–"
    text = f"{scale * value['mean']:.{digits}f}"
    return text if value["sd"] is None else f"{text} ± {scale * value['sd']:.{digits}f}"


def table(found: dict[str, Any]) -> Table:
    shown = Table(
        "method", "best val loss", "val accuracy %", "test loss", "test accuracy %", "epochs", "trainings", "seeds"
    )
    for row in found["methods"]:
        shown.add_row(
            row["method"],
            words(row["val_loss"]),
            words(row["val_accuracy"], 100, 2),
            words(row["test_loss"]),
            words(row["test_accuracy"], 100, 2),
            words(row["epochs"], digits=0),
            words(row["trials"], digits=0) if row["trials"] and row["trials"]["mean"] else "1",
            f"{row['seeds'] - row['without_result']} of {row['seeds']}",
        )
    return shown


def hyper_lines(found: dict[str, Any]) -> list[str]:
    """One line a method: λ at the chosen point."""
    return [
        f"{row['method']}: " + ", ".join(f"{name} {small(value)}" for name, value in row["hyper"].items())
        for row in found["methods"]
        if row["hyper"]
    ]


def small(value: Spread) -> str:
    if value is None or value["mean"] is None:
        return "–"
    text = f"{value['mean']:.3g}"
    return text if value["sd"] is None else f"{text} ± {value['sd']:.2g}"


def closing(found: dict[str, Any]) -> str:
    counts = f"n = {found['val_count']:,} validation"
    if found["test_count"]:
        counts += f" and {found['test_count']:,} test"
    return (
        f"{counts} images; ± is the standard deviation over seeds; {found['budget']:g} s of {found['clock']} time for "
        f"each method and seed, {found['device']}; the point of lowest validation loss is tested once"
    )
