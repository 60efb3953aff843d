"""What a data set holds, as `fer-nas data` shows it: counts, sizes, duplicates, agreement of label tracks."""

from __future__ import annotations

from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fer_nas.config import DataConfig
from fer_nas.data.duplicates import REPEATED, duplicates
from fer_nas.data.load import load, recognize
from fer_nas.data.sheet import check_sheet_path, contact_sheet
from fer_nas.data.split import DataSet, Split
from fer_nas.data.tracks import agreement, vote_counts
from fer_nas.data.votes import BESIDE, VOTES_OF_ROWS, find_votes, read_votes
from fer_nas.errors import InputError

__all__ = ["agreement", "describe", "print_report", "run", "vote_counts"]


def describe(dataset: DataSet) -> dict[str, Any]:
    """Plain values for JSON; a distribution counts for its most probable class. Without classes no counts."""
    splits = {}
    for name, split in dataset.splits.items():
        _, channels, height, width = split.images.shape
        splits[name] = {
            "images": len(split),
            "size": [width, height],
            "channels": channels,
            "targets": "distribution" if split.targets.ndim == 2 else "class" if dataset.classes else "none",
            "counts": _counts(split, dataset.classes),
            "subjects": None if split.subjects is None else len(set(split.subjects)),
        }
    return {
        "name": dataset.name,
        "labels": dataset.labels,
        "classes": list(dataset.classes),
        "images": sum(len(split) for name, split in dataset.splits.items() if name != REPEATED),
        "splits": splits,
        "duplicates": duplicates(dataset),
        "notes": list(dataset.notes),
    }


def _counts(split: Split, classes: tuple[str, ...]) -> dict[str, int]:
    counts = torch.bincount(split.labels().cpu(), minlength=len(classes)).tolist()
    return dict(zip(classes, counts, strict=True)) if classes else {}


def print_report(report: dict[str, Any], console: Console) -> None:
    """The report as tables; its notes are not among them."""
    splits = report["splits"]
    if not report["classes"]:
        console.print(f"{report['images']:,} images, no labels")
    else:
        labels = f", {report['labels']} labels" if report["labels"] else ""
        console.print(f"{escape(report['name'])}{labels}: {report['images']:,} images", highlight=False)
        _count_table(report, console)
    for size, names in _by_size(splits).items():
        console.print(f"Images: {size} ({', '.join(names)})", highlight=False)
    subjects = {name: split["subjects"] for name, split in splits.items() if split["subjects"] is not None}
    if subjects:
        listed = ", ".join(f"{name} {count}" for name, count in subjects.items())
        console.print(f"Subjects: {listed}", highlight=False)
    _print_duplicates(report["duplicates"], console)
    if "votes" in report:
        _print_votes(report["votes"], console)
    if "agreement" in report:
        _print_agreement(report["agreement"], console)


def _by_size(splits: dict[str, Any]) -> dict[str, list[str]]:
    sizes: dict[str, list[str]] = {}
    for name, split in splits.items():
        width, height = split["size"]
        colour = "grey" if split["channels"] == 1 else "RGB"
        sizes.setdefault(f"{width}×{height} {colour}", []).append(name)
    return sizes


def _table(title: str, columns: list[str]) -> Table:
    """An empty table with a left column and one on the right for each of `columns`."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for column in columns:
        table.add_column(escape(column), justify="right")
    return table


def _count_table(report: dict[str, Any], console: Console) -> None:
    splits = report["splits"]
    table = _table("Images of each class", list(splits))
    for name in report["classes"]:
        table.add_row(escape(name), *(f"{split['counts'][name]:,}" for split in splits.values()))
    table.add_section()
    table.add_row("all", *(f"{split['images']:,}" for split in splits.values()))
    console.print(table)
    soft = ", ".join(name for name, split in splits.items() if split["targets"] == "distribution")
    if soft:
        console.print(f"Distributions, counted by their most probable class: {soft}", highlight=False)


def _print_duplicates(found: dict[str, Any], console: Console) -> None:
    table = _table("Exact duplicates", ["images"])
    for name, count in found["within"].items():
        table.add_row(f"repeated in {escape(name)}", f"{count:,}")
    for pair, count in found["across"].items():
        first, _, second = pair.partition(" and ")
        table.add_row(f"in {escape(second)}, and in {escape(first)} too", f"{count:,}")
    wrong = found["contradicting"]
    table.add_row(f"with contradicting labels ({wrong['groups']:,} pictures)", f"{wrong['images']:,}")
    console.print(table)
    for group in wrong["examples"]:
        named: dict[str, list[str]] = {}
        for member in group:
            named.setdefault(member["label"], []).append(member["name"])
        more = {label: f" (and {len(names) - 1} more)" if names[1:] else "" for label, names in named.items()}
        listed = "; ".join(f"{label}: {names[0]}{more[label]}" for label, names in named.items())
        console.print(f"Same picture: {listed}", markup=False, highlight=False, soft_wrap=True)


def _print_votes(votes: dict[str, Any], console: Console) -> None:
    table = _table("The whole vote file: FER+ by the majority rule", list(votes))
    for name in next(iter(votes.values()))["majority"]:
        table.add_row(name, *(f"{split['majority'][name]:,}" for split in votes.values()))
    table.add_section()
    keys = {"all": "majority_images", "all by the largest vote": "largest_images", "all that were voted on": "rows"}
    for title, key in keys.items():
        table.add_row(title, *(f"{split[key]:,}" for split in votes.values()))
    console.print(table)


def _print_agreement(found: dict[str, Any], console: Console) -> None:
    if found["share"] is None:
        return
    columns = list(next(iter(found["table"].values())))
    table = _table("FER2013's label (rows) and people's largest vote, %", columns)
    for name, row in found["table"].items():
        table.add_row(name, *(f"{100 * row[column]:.0f}" for column in columns))
    console.print(table)
    console.print(
        f"The two tracks agree on {100 * found['share']:.1f} % of {found['images']:,} images.",
        highlight=False,
    )


def run(config: DataConfig, sheet: Path | None, json: bool, console: Console) -> None:
    """Read the data set of `config` and report on it: tables or JSON on `console`, notes on stderr.

    Where FER2013 has FER+ votes beside it, both tracks are read and compared, whichever is asked for.
    """
    if sheet is not None:
        check_sheet_path(sheet)
    dataset = load(config, report=True)
    report = describe(dataset)
    report |= _both_tracks(config, dataset, report["notes"])
    if sheet is not None:
        contact_sheet(dataset, sheet)
    if json:
        console.print(dumps(report, ensure_ascii=False), markup=False, highlight=False, soft_wrap=True)
        return
    print_report(report, console)
    if sheet is not None:
        console.print(f"Contact sheet: {sheet}", markup=False, highlight=False, soft_wrap=True)
    notes = Console(stderr=True)
    for note in report["notes"]:
        notes.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def _both_tracks(config: DataConfig, dataset: DataSet, notes: list[str]) -> dict[str, Any]:
    """`votes` and `agreement` for the report; nothing where the data set has no second track.

    Votes that lie beside the data and cannot be used become a note; votes that were asked for are an error.
    """
    if dataset.labels not in ("fer2013", "ferplus"):
        return {}
    table = (config.dataset or recognize(config.data)) == "fer2013-csv"
    try:
        path = find_votes(Path(config.data), config.votes, VOTES_OF_ROWS if table else BESIDE)
    except InputError:
        if config.votes is not None:
            raise
        return {}
    other = "fer2013" if dataset.labels == "ferplus" else "ferplus"
    try:
        tracks = {dataset.labels: dataset, other: load(replace(config, labels=other), report=True)}
        counts = vote_counts(read_votes(path))
    except InputError as error:
        if config.votes is not None:
            raise
        notes.append(f"the FER+ votes are not compared: {error}")
        return {}
    return {"votes": counts, "agreement": agreement(tracks["fer2013"], tracks["ferplus"])}
