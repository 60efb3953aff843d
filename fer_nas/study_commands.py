"""The commands that set results beside one another: compare, toy. Heavy imports stand inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fer_nas.errors import InputError
from fer_nas.options import guarded


@guarded
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of searches, and of trainings of what they found.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write tables (Markdown, CSV) and pictures into this folder, over older ones."),
    ] = None,
) -> None:
    """Set searches beside one another: accuracy, test error, size and cost, as mean ± deviation over seeds.

    Searches that differ in nothing but their seed are one row; a training counts for the search whose genotype it took.
    """
    from fer_nas.artifacts import write_text
    from fer_nas.report.comparison import comma_separated, markdown, read, rich_table

    searches = read(runs)
    if out is not None and (out / "config.json").exists():
        raise InputError(f"{out} holds a run; choose another folder with --out")
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(rich_table(searches))
    if out is not None:
        from fer_nas.report.comparison_pictures import draw_comparison

        write_text(out / "comparison.md", markdown(searches))
        write_text(out / "comparison.csv", comma_separated(searches))
        for path in (out / "comparison.md", out / "comparison.csv", *draw_comparison(searches, out)):
            typer.echo(path)


@guarded
def toy(
    out: Annotated[
        Path | None, typer.Option("--out", help="Write toy.json and two pictures into this folder, over older ones.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Compare the ways to learn hyperparameters by gradient on a small problem whose answer is known (minutes)."""
    from fer_nas.studies.show import toy as run_toy

    notes = Console(stderr=True)
    run_toy(out, as_json, lambda line: notes.print(line, highlight=False, markup=False, soft_wrap=True))
