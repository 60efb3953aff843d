"""The command line: parse, build the configuration, call one function, print. Heavy imports stand inside commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from fer_nas_live import commands as live_commands
from rich.console import Console
from rich.table import Table

import fer_nas
from fer_nas import model_commands, study_commands
from fer_nas.artifacts import RunFolder
from fer_nas.config import DataConfig, SearchConfig, TrainConfig, TuneConfig
from fer_nas.errors import InputError
from fer_nas.options import OneLineErrors, OutOption, ResumeOption, configured, flag, guarded
from fer_nas.presets import RESPONSE_FORMS, SEARCH_PRESETS, TRAIN_PRESETS, TUNE_READ_BY
from fer_nas.progress import say
from fer_nas.settings import build, override, read_seeds, recipe_settings, refuse_unread, search_config

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find a neural network for facial expression recognition, and run it.",
)
for command in (
    live_commands.live,
    live_commands.cameras,
    live_commands.timeline,
    live_commands.models,
    live_commands.info,
    live_commands.fetch,
    live_commands.doctor,
):
    app.command()(guarded(command))
bench = typer.Typer(no_args_is_help=True, help="Measure what fer-nas does on this machine.")
bench.command("live")(guarded(live_commands.bench_live))
bench.command("search")(study_commands.bench_search)
app.add_typer(bench, name="bench")
for command in (
    model_commands.export,
    model_commands.evaluate,
    model_commands.verify,
    study_commands.compare,
    study_commands.study,
    study_commands.toy,
):
    app.command()(command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"fer-nas {fer_nas.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def _notes() -> Console:
    return Console(stderr=True)


DEFAULT_PRESET = "cpu"
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", help=f"tiny, cpu or paper; single options override it. \\[default: {DEFAULT_PRESET}]"),
]


def _refuse_with_resume(settings: dict[str, Any], *others: tuple[str, object]) -> None:
    given = [flag(name) for name in settings] + [name for name, value in others if value is not None]
    if given:
        raise InputError(f"--resume goes on with the run's own settings; leave out {', '.join(given)}")


@app.command()
@guarded
@configured(SearchConfig, SEARCH_PRESETS, {f"--response {name}": vars(row) for name, row in RESPONSE_FORMS.items()})
def search(
    settings: dict[str, Any],
    preset: PresetOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            help="Search with each of these seeds (0,1,2) in a sub-folder of its own, and rank what was found by a "
            "short training: ranking.json, and the best as genotype.json. The test split is not read.",
        ),
    ] = None,
    rank_epochs: Annotated[
        int | None, typer.Option("--rank-epochs", min=1, help="--seeds: epochs of the short training. \\[default: 5]")
    ] = None,
) -> None:
    """Search for a cell: writes genotype.json, a record of every epoch and pictures into a run folder.

    In the table, λ entropy is how undecided the edges are (log of the number of operations at first, 0 once every edge
    has chosen), |resp|/|dir| and cos are the size of λ's gradient through the weights beside its direct part and the
    angle between the two, and skips n / r count the skip connections in the normal and the reduction cell.
    """
    config = None
    if resume is not None:
        others = ("--out", out), ("--preset", preset), ("--seeds", seeds), ("--rank-epochs", rank_epochs)
        _refuse_with_resume(settings, *others)
        RunFolder.open(resume)
    else:
        config = search_config(preset or DEFAULT_PRESET, settings)
        if seeds is not None and "seed" in settings:
            raise InputError("--seed and --seeds were both given; leave one out")
        if seeds is None and rank_epochs is not None:
            raise InputError("--rank-epochs is read with --seeds only; leave it out")
    chosen = None if seeds is None else read_seeds(seeds)
    from fer_nas import parallel, ranking
    from fer_nas.search.start import resume as resume_search
    from fer_nas.search.start import search as run_search

    with parallel.joined(settings.get("device", "auto")):
        notes = Console(stderr=True, quiet=parallel.number() > 0)
        if chosen is not None and config is not None:
            ranking.show(ranking.rank(config, chosen, rank_epochs or ranking.RANK_EPOCHS, out, notes))
            return
        if resume is not None and ranking.is_ranking(resume):
            ranking.show(ranking.resume(resume, notes))
            return
        if config is None:
            assert resume is not None
            folder = resume_search(resume, notes)
        else:
            folder = run_search(config, out, notes)
        if parallel.number():
            return
    for last in folder.metrics()[-1:]:  # a random cell has no record
        typer.echo(f"validation accuracy {100 * last['val_accuracy']:.2f} %")
    typer.echo(f"genotype {folder / 'genotype.json'}")
    typer.echo(f"picture {folder / 'cells.png'}")


@app.command()
@guarded
@configured(TrainConfig, TRAIN_PRESETS)
def train(
    settings: dict[str, Any],
    genotype: Annotated[
        str | None,
        typer.Argument(help="A genotype.json, a search's run folder, or a published name (DARTS_V2, …)."),
    ] = None,
    preset: PresetOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    recipe: Annotated[
        bool,
        typer.Option(
            "--recipe/--no-recipe",
            help="Take the training hyperparameters that a search tuned (--tune) from its genotype.json; options that "
            "are given go before them.",
        ),
    ] = True,
) -> None:
    """Train a genotype's network: validation chooses the epoch, the test split is read once at the end."""
    config = None
    if resume is not None:
        others = ("GENOTYPE", genotype), ("--no-recipe", None if recipe else True)
        _refuse_with_resume(settings, ("--out", out), ("--preset", preset), *others)
        RunFolder.open(resume)
    elif genotype is None:
        raise InputError("give a genotype: a genotype.json, a search's run folder, or a name such as DARTS_V2")
    else:
        config = build(TrainConfig, TRAIN_PRESETS, preset or DEFAULT_PRESET, settings)
    from fer_nas import parallel
    from fer_nas.space.genotypes import find
    from fer_nas.train.start import resume as resume_train
    from fer_nas.train.start import train as run_train

    with parallel.joined(settings.get("device", "auto")):
        notes = Console(stderr=True, quiet=parallel.number() > 0)
        if config is None or genotype is None:
            assert resume is not None
            folder, report = resume_train(resume, notes)
        else:
            found = find(genotype)
            taken = recipe_settings(found.recipe, settings) if recipe else {}
            if taken:
                config = build(TrainConfig, TRAIN_PRESETS, preset or DEFAULT_PRESET, taken | settings)
                told = ", ".join(f"{name} {value:.3g}" for name, value in taken.items())
                say(notes, f"note: recipe of {found.name}: {told}; --no-recipe leaves it out")
            folder, report = run_train(config, found, out, notes)
        if parallel.number():
            return
    _print_report(report)
    typer.echo(f"run {folder.path}")


@app.command()
@guarded
@configured(TuneConfig)
def tune(
    settings: dict[str, Any],
    out: OutOption = None,
    resume: ResumeOption = None,
) -> None:
    """Tune hyperparameters: self-tuning networks against unrolling, random search and Bayesian optimization.

    Every method has the same seconds, images and batches; test images are read once for each method and seed.
    """
    config = override(TuneConfig(), settings)
    methods = (name.strip() for name in config.run.methods.split(","))
    refuse_unread(settings, TUNE_READ_BY, (*methods, config.hyperparameters))
    if resume is not None:
        _refuse_with_resume(settings, ("--out", out))
        RunFolder.open(resume)
    from fer_nas.tune.run import resume as resume_tune
    from fer_nas.tune.run import tune as run_tune
    from fer_nas.tune.show import show

    folder, found = run_tune(config, out, _notes()) if resume is None else resume_tune(resume, _notes())
    show(found, folder / "tuning.png")


def _print_report(report: dict[str, Any]) -> None:
    table = Table("figure", "value", "n")
    table.add_row(
        f"validation accuracy (epoch {report['best_epoch']})",
        f"{100 * report['val_accuracy']:.2f} %",
        str(report["val_count"]),
    )
    for name, part in (("test", report), ("test, largest vote", report.get("test_largest"))):
        if part and "accuracy" in part:
            table.add_row(f"{name} accuracy", f"{100 * part['accuracy']:.2f} %", str(part["n"]))
            table.add_row(f"{name} macro-F1", f"{100 * part['macro_f1']:.2f} %", str(part["n"]))
    table.add_row("parameters", f"{report['parameters']:,}", "")
    table.add_row("FLOPs of one image", f"{report['flops']:,}", "")
    Console().print(table)


@app.command()
@guarded
@configured(DataConfig)
def data(
    settings: dict[str, Any],
    path: Annotated[str | None, typer.Argument(help="The data set; the drawn faces where not given.")] = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write a contact sheet per class to this PNG.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Look at a data set: classes per split, sizes, duplicates, what cannot be read, how far two label tracks agree."""
    from fer_nas.data.report import run as run_report

    if path is not None:
        if "data" in settings:
            raise InputError("give the data set once: as an argument or with --data")
        settings["data"] = path
    run_report(override(DataConfig(), settings), sheet, as_json, Console())


@app.command()
@guarded
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where everything goes.")] = Path("demo"),
    picture: Annotated[Path | None, typer.Option("--picture", help="A picture with a face for the last step.")] = None,
) -> None:
    """The whole path on drawn faces in a few minutes: search, train, export, and the live application on a picture."""
    from fer_nas.demo import run

    run(out, picture, Console(), _notes())
