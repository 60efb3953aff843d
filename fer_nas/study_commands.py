"""The commands that set results beside one another: compare, toy, bench search. Heavy imports stand inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

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
    Trainings of one row are of one recipe; their channels may differ, where they bring networks to one size.
    """
    from fer_nas.artifacts import RunFolder, write_text
    from fer_nas.report.comparison import comma_separated, markdown, read, rich_table, unlike, unlike_searches

    searches = read(runs)
    for what, other in (("searches", unlike_searches(searches)), ("trainings", unlike(searches))):
        if other:
            print(f"note: the rows' {what} differ in {', '.join(other)}", file=sys.stderr)
    if out is not None:
        RunFolder.refuse_run(out)
        write_text(out / "comparison.md", markdown(searches))  # first, so that a place that cannot be written is told
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(rich_table(searches))
    if out is not None:
        from fer_nas.report.comparison_pictures import draw_comparison

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


@guarded
def bench_search(
    methods: Annotated[
        str, typer.Option("--methods", help="Methods of search, with commas; darts-stn:published is a form.")
    ] = "darts-1st,darts-2nd",
    forms: Annotated[
        str,
        typer.Option(
            "--forms",
            help="Forms of the supernet, with commas: plain (channels first), channels-last, fast, recomputed and "
            "fast-recomputed (activation checkpointing), compiled (minutes to compile), and on a GPU graphed and "
            "fast-graphed; the first is what others are compared with.",
        ),
    ] = "plain,fast",
    space: Annotated[str, typer.Option("--space", help="Search space.")] = "darts",
    batch_size: Annotated[int, typer.Option("--batch-size", min=2, help="Images a step, for w and for λ each.")] = 16,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Channels of the first cells (C).")] = 16,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Number of cells.")] = 8,
    image_size: Annotated[int, typer.Option("--image-size", min=8, help="Side of the images in pixels.")] = 32,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Timed steps of each, after some that warm up.")] = 5,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: torch's own.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Keep the record in this JSON file from turn to turn, over an older one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Time the steps of a search: images a second, step time and peak memory by method and form, taking turns."""
    from fer_nas.artifacts import write_json
    from fer_nas.search import bench as search_bench
    from fer_nas.search.bench_table import show

    options = search_bench.BenchOptions(
        methods=tuple(methods.split(",")),
        forms=tuple(forms.split(",")),
        space=space,
        batch_size=batch_size,
        channels=channels,
        layers=layers,
        image_size=image_size,
        steps=steps,
        device=device,
        threads=threads,
    )
    if out is not None:
        write_json(out, {})  # a place that cannot be written is told before the work, not after it
    record = search_bench.run(
        options, Console(stderr=True), lambda found: None if out is None else write_json(out, found)
    )
    show(record, as_json)


@guarded
def study(
    plan: Annotated[str, typer.Argument(help="methods (ten searches side by side), or networks (the four networks).")],
    data: Annotated[str, typer.Option("--data", help="FER2013, in any form that fer-nas reads.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the study; one that was stopped goes on.")],
    scale: Annotated[str, typer.Option("--scale", help="quick, cpu or paper (for a GPU).")] = "quick",
    labels: Annotated[str, typer.Option("--labels", help="FER2013's official labels, or the votes: ferplus.")] = (
        "fer2013"
    ),
    votes: Annotated[
        str | None, typer.Option("--votes", help="FER+ vote file; found beside the images where not given.")
    ] = None,
    cifar10: Annotated[str | None, typer.Option("--cifar10", help="CIFAR-10, for the plan networks.")] = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="Lines of the plan to run, by their names in the table: 'STN,random'; else all."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds.")] = 3,
    first_seed: Annotated[int, typer.Option("--first-seed", min=0, help="The first of them; the others follow.")] = 0,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Runs at a time; their seconds then count each other's load.")
    ] = 1,
    threads: Annotated[int, typer.Option("--threads", min=1, help="CPU threads of a run.")] = 1,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Search with several methods and seeds, train what each finds at equal size and recipe, and write one table."""
    from fer_nas.report.study import markdown
    from fer_nas.studies.searches import Runner, Study, check

    asked = Study(
        plan=plan,
        scale=scale,
        data=data,
        labels=labels,
        votes=votes,
        cifar10=cifar10,
        seeds=seeds,
        first_seed=first_seed,
        only=None if only is None else only.split(","),
        threads=threads,
        device=device,
    )
    asked = check(asked, out)
    notes = Console(stderr=True)
    runner = Runner(asked, out, lambda line: notes.print(line, highlight=False, markup=False, soft_wrap=True), jobs)
    found = runner.run()
    typer.echo(markdown(found), nl=False)
