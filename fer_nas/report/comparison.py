"""Searches, and what was trained from them, beside one another: a table over seeds as text, Markdown and CSV.

Runs are read from their files alone. A training belongs to the search that found its genotype; searches that differ in
nothing but their seed are one row. How many threads they had, and on which device, is not looked at.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from fer_nas.artifacts import RunFolder, read_json
from fer_nas.errors import InputError


@dataclass
class Searched:
    """A search's folder as read, with the trainings of its genotype."""

    path: Path
    config: dict[str, Any]
    found: dict[str, Any]  # genotype.json, which a training copies
    rows: list[dict[str, Any]]
    trained: list[dict[str, Any]] = field(default_factory=list)
    trainings: list[tuple[Path, dict[str, Any]]] = field(default_factory=list)  # their folders and settings
    group: str = ""
    """What a row of the table stands for; runs of one group differ in their seed alone."""

    @property
    def genotype(self) -> dict[str, Any]:
        return self.found["genotype"]

    @property
    def seed(self) -> int:
        return self.config["run"]["seed"]

    @property
    def kind(self) -> str:
        """Method, space, and what it tunes."""
        arch = self.config["arch"]
        name = arch["method"] if arch["space"] == "darts" else f"{arch['method']}, {arch['space']}"
        name = name if arch["operations"] in (None, arch["space"]) else f"{name} of {arch['operations']}"
        tuned = self.config.get("tuning", {}).get("tune")
        return f"{name}, tuning {tuned}" if tuned else name


def read(paths: Sequence[Path]) -> list[Searched]:
    """The searches among the folders, in their order.

    InputError for a folder that is neither search nor training, for a training whose search is not among them, and
    where there is no search at all.
    """
    searches: list[Searched] = []
    trainings: list[tuple[Path, dict[str, Any]]] = []
    for path in dict.fromkeys(Path(path) for path in paths):
        folder = RunFolder.open(path)
        saved = read_json(folder / "config.json", "run configuration")
        kind = saved.get("kind") if isinstance(saved, dict) else None
        if kind == "search":
            if not (folder / "genotype.json").exists():
                raise InputError(f"{path} has no genotype yet; go on with fer-nas search --resume {path}")
            found, rows = read_json(folder / "genotype.json", "genotype"), folder.metrics()
            epochs = saved["config"]["run"].get("epochs", 0)
            if rows and len(rows) < epochs and not saved["config"]["arch"].get("stable_epochs"):
                raise InputError(f"{path} is not finished; go on with fer-nas search --resume {path}")
            searches.append(Searched(path, saved["config"], found, rows))
        elif kind == "train":
            if not (folder / "test.json").exists():
                raise InputError(f"{path} is not finished; go on with fer-nas train --resume {path}")
            trainings.append((path, saved))
        elif kind == "seeds":
            inside = [path / f"seed-{seed}" for seed in saved["seeds"]]
            if not all((one / "genotype.json").exists() for one in inside):
                raise InputError(f"{path} is not finished; go on with fer-nas search --resume {path}")
            raise InputError(f"{path} holds searches of several seeds; give these: {', '.join(map(str, inside))}")
        else:
            raise InputError(f"{path} is a {kind} run; give folders of searches, and of trainings of what they found")
    if not searches:
        raise InputError("no search among these folders; give at least one")
    for path, saved in trainings:
        search = owner(path, saved["genotype"], searches)
        search.trained.append(read_json(path / "test.json", "test figures"))
        search.trainings.append((path, saved["config"]))
    name_groups(searches)
    return searches


def owner(path: Path, genotype: dict[str, Any], searches: Sequence[Searched]) -> Searched:
    """The search that found what this training trained: of several that found the same cell, the one that it names.

    A training copies its search's genotype.json, which tells the search's method, seed, figures and seconds. InputError
    where none of the searches found it.
    """
    owners = [search for search in searches if search.genotype == genotype]
    if not owners:
        raise InputError(f"{path} trained a genotype that none of these searches found; give its search too")
    copy = path / "genotype.json"
    named = read_json(copy, "genotype") if copy.exists() else {}

    def same(search: Searched) -> bool:
        return all(search.found.get(name) == named.get(name) for name in ("method", "space", "seed", "source"))

    return next(filter(same, owners), owners[0])


ASIDE = ("run.seed", "run.threads", "run.device")
"""Settings in which searches of one group may differ."""
IN_NAMES = ("arch.method", "arch.space", "arch.operations", "tuning.tune")
"""Settings that every row's name has."""
TO_SIZE = "network.channels"
"""In which their trainings may too: networks of one size have other channels."""


def flat(config: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"run": {"epochs": 3}} → {"run.epochs": 3}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def differing(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Settings that are not the same in all of them; one that an older version did not write differs from none."""
    flats = [flat(config) for config in configs]
    names = [name for name in dict.fromkeys(name for one in flats for name in one) if name not in ASIDE]
    return [name for name in names if len({str(one[name]) for one in flats if name in one}) > 1]


def unlike(searches: Sequence[Searched]) -> list[str]:
    """Settings in which the trainings of all searches differ, but for what brings networks to one size."""
    found = differing([settings for run in searches for _, settings in run.trainings])
    return [name for name in found if name != TO_SIZE]


def unlike_searches(searches: Sequence[Searched]) -> list[str]:
    """Settings in which the rows differ beside method, space and what is tuned."""
    return [name for name in differing([run.config for run in searches]) if name not in IN_NAMES]


def told(name: str, value: Any, values: Sequence[Any]) -> str:
    """A setting in a row's name: of paths the last part, where that tells them apart."""
    short = {str(one): Path(str(one)).name or str(one) for one in values}
    if value is None:
        return f"{name} not given"
    return f"{name} {short[str(value)] if len(set(short.values())) == len(short) else value}"


def name_groups(searches: Sequence[Searched]) -> None:
    """By method and space, and by the settings in which such searches differ.

    InputError for a search that is there twice, and for trainings of one group with other settings.
    """
    kinds = dict.fromkeys(run.kind for run in searches)
    for kind in kinds:
        same = [run for run in searches if run.kind == kind]
        names = differing([run.config for run in same])
        for run in same:
            values = flat(run.config)
            more = [
                (name.split(".")[-1], values[name], [flat(one.config).get(name) for one in same])
                for name in names
                if name in values
            ]
            run.group = ", ".join([kind, *(told(*one) for one in more)])
    for group in groups(searches).values():
        first: dict[int, Searched] = {}
        for run in group:
            if first.setdefault(run.seed, run) is not run:
                raise InputError(f"{run.path} is {first[run.seed].path} again, its settings and its seed; give one")
        trainings = [one for run in group for one in run.trainings]
        other = unlike(group)
        if other:
            paths = " and ".join(str(path) for path, _ in trainings)
            raise InputError(f"{paths} are not trained alike ({', '.join(other)}); give those of one recipe")


Figure = Callable[[Searched], list[float]]


def _last(name: str) -> Figure:
    return lambda run: [row[name] for row in run.rows[-1:] if row.get(name) is not None]


def _trained(name: str, change: Callable[[float], float] = float) -> Figure:
    return lambda run: [change(figures[name]) for figures in run.trained if figures.get(name) is not None]


@dataclass(frozen=True)
class Column:
    """heading; digits and scale of its numbers; the figures of one search, none where it has none."""

    heading: str
    figures: Figure
    digits: int = 1
    scale: float = 1.0


COLUMNS = (
    Column("supernet val accuracy %", _last("val_accuracy"), 1, 100),
    Column("val accuracy %", _trained("val_accuracy"), 1, 100),
    Column("test error %", _trained("accuracy", lambda value: 1 - value), 1, 100),
    Column("parameters", _trained("parameters"), 0),
    Column("MFLOPs", _trained("flops"), 1, 1e-6),
    Column("search s", lambda run: [sum(row["seconds"] for row in run.rows)] if run.rows else [], 0),
    Column("GPU-days", _last("gpu_days"), 4),
    Column("peak MiB", lambda run: [max(row["peak_memory_mib"] for row in run.rows)] if run.rows else [], 0),
    Column("skips n", lambda run: [float(_skips(run.genotype["normal"]))], 1),
    Column("skips r", lambda run: [float(_skips(run.genotype["reduce"]))], 1),
)


def _skips(edges: Sequence[Sequence[Any]]) -> int:
    return sum(operation == "skip_connect" for operation, _ in edges)


def groups(searches: Sequence[Searched]) -> dict[str, list[Searched]]:
    found: dict[str, list[Searched]] = {}
    for run in searches:
        found.setdefault(run.group, []).append(run)
    return found


def spread(values: Sequence[float]) -> tuple[float, float | None] | None:
    """Mean and standard deviation (n − 1); None where there is no value, or no spread."""
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def pooled(runs: Sequence[Searched], column: Column) -> list[float]:
    """What a row's mean and spread are of: each search's mean over its trainings, or a single search's trainings."""
    each = [figures for figures in map(column.figures, runs) if figures]
    return each[0] if len(runs) == len(each) == 1 else [statistics.fmean(figures) for figures in each]


def cells(searches: Sequence[Searched]) -> list[list[str]]:
    """Rows of text: group, seeds, trainings, then COLUMNS as mean ± standard deviation over the searches."""
    table = []
    for name, runs in groups(searches).items():
        row = [name, str(len(runs)), str(sum(len(run.trained) for run in runs))]
        for column in COLUMNS:
            found = spread(pooled(runs, column))
            if found is None:
                row.append("–")
                continue
            mean, deviation = (None if x is None else f"{column.scale * x:,.{column.digits}f}" for x in found)
            row.append(f"{mean}" if deviation is None else f"{mean} ± {deviation}")
        table.append(row)
    return table


HEADINGS = ("method", "searches", "trainings", *(column.heading for column in COLUMNS))


def rich_table(searches: Sequence[Searched]) -> Table:
    shown = Table(*HEADINGS)
    for row in cells(searches):
        shown.add_row(*row)
    return shown


def markdown(searches: Sequence[Searched]) -> str:
    rows = [HEADINGS, ["---"] * len(HEADINGS), *cells(searches)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def comma_separated(searches: Sequence[Searched]) -> str:
    """One line a search, its trainings averaged; numbers as they are, without rounding."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "method", "seed", "trainings", *(column.heading for column in COLUMNS)])
    for run in searches:
        figures = [spread(column.figures(run)) for column in COLUMNS]
        values = [
            "" if found is None else repr(column.scale * found[0])
            for column, found in zip(COLUMNS, figures, strict=True)
        ]
        writer.writerow([run.path, run.group, run.seed, len(run.trained), *values])
    return out.getvalue()
