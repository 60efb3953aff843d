"""FER2013 as tables (fer2013.csv, icml_face_data.csv, train.csv and test.csv), a picture's pixels a row."""

from __future__ import annotations

import csv
import io
import math
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fer_nas.classes import FACE_CLASSES, canonical_class
from fer_nas.config import DataConfig
from fer_nas.data.collect import Item, listed, make_split
from fer_nas.data.ferplus import ferplus_splits
from fer_nas.data.images import FER2013_CLASSES, FER_USAGES, fill_splits
from fer_nas.data.pictures import resize
from fer_nas.data.split import DataSet, Split
from fer_nas.data.tree import Tree
from fer_nas.data.votes import VOTES_OF_ROWS, Votes, find_votes, read_votes
from fer_nas.errors import InputError

LABEL_NAMES = ("emotion", "label", "expression")
_BYTE = {str(value): value for value in range(256)}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A good row: its line in the file (from 1), its place among the rows that are not blank (from 0)."""

    line: int
    place: int
    pixels: bytes
    label: int
    split: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table's good rows. places: how many rows are not blank. Where labelled is False, every label is 0."""

    name: str
    columns: tuple[str, ...]
    labelled: bool
    rows: tuple[Row, ...]
    places: int
    notes: tuple[str, ...]


def table_columns(tree: Tree, name: str) -> tuple[str, ...]:
    """The header of a csv, cleaned; empty where it cannot be read as text."""
    try:
        with tree.open(name) as file:
            head = file.read(2000)
    except OSError:
        return ()
    text = head.decode(_encoding(head), errors="replace").lstrip("\ufeff")
    return _header((text.splitlines() or [""])[0])[0]


def find_tables(tree: Tree) -> tuple[str, ...]:
    """The csv files of a tree that hold FER2013: one, or train.csv and test.csv together."""
    tables = [name for name in tree.files if name.lower().endswith(".csv")]
    tables = [name for name in tables if "pixels" in table_columns(tree, name)]
    by_base = {name.rpartition("/")[2].lower(): name for name in tables}
    for whole in ("fer2013.csv", "icml_face_data.csv"):
        if whole in by_base:
            return (by_base[whole],)
    if "train.csv" in by_base:
        return tuple(by_base[base] for base in ("train.csv", "test.csv") if base in by_base)
    if len(tables) > 1:
        raise InputError(f"{tree.source}: several tables with pixels: {', '.join(tables)}; name one of them")
    return tuple(tables)


def _encoding(head: bytes) -> str:
    return "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"


def _header(line: str) -> tuple[tuple[str, ...], str]:
    """Column names in lower case without blanks, and the delimiter."""
    delimiter = max(",;\t", key=line.count)
    cells = next(csv.reader([line], delimiter=delimiter), [])
    return tuple(cell.strip().strip("\"'").lower() for cell in cells), delimiter


def read_table(tree: Tree, name: str) -> Table:
    """Every good row; the notes name the others by line number. InputError without a column of pixels."""
    where = tree.where(name) if tree.archive else str(tree.root / name)
    rows: list[Row] = []
    odd: list[tuple[int, str]] = []
    place = 0
    try:
        with tree.open(name) as file:
            encoding = _encoding(file.read(2))
        with tree.open(name) as file:
            text = io.TextIOWrapper(file, encoding=encoding, errors="replace")
            columns, delimiter = _header(text.readline().lstrip("\ufeff").rstrip("\r\n"))
            if "pixels" not in columns:
                raise InputError(f"{where}: no column 'pixels'; {_found(columns)}")
            label_at = next((columns.index(column) for column in LABEL_NAMES if column in columns), None)
            pixels_at = columns.index("pixels")
            usage_at = columns.index("usage") if "usage" in columns else None
            for line, content in enumerate(text, start=2):
                if not content.strip():
                    continue
                cells = _cells(content, delimiter)
                try:
                    if len(cells) != len(columns):
                        raise ValueError(f"{len(cells)} fields instead of {len(columns)}")
                    rows.append(
                        Row(
                            line=line,
                            place=place,
                            pixels=_pixels(cells[pixels_at]),
                            label=0 if label_at is None else _label(cells[label_at]),
                            split="" if usage_at is None else _split(cells[usage_at]),
                        )
                    )
                except ValueError as error:
                    odd.append((line, str(error)))
                place += 1
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, csv.Error) as error:
        raise InputError(f"cannot read {where}: {error}") from None
    rows, odd = _same_size(rows, odd)
    if not rows:
        raise InputError(f"{where}: no usable row; {odd[0][1] + f' in line {odd[0][0]}' if odd else 'it is empty'}")
    notes: list[str] = []
    listed(notes, [f"{name}, line {line}: {reason}; left out" for line, reason in sorted(odd)], "damaged lines")
    return Table(
        name=name,
        columns=columns,
        labelled=label_at is not None,
        rows=tuple(rows),
        places=place,
        notes=tuple(notes),
    )


def _found(columns: tuple[str, ...]) -> str:
    names = ", ".join(columns[:10]) + (", …" if len(columns) > 10 else "")
    return f"columns found: {names or 'none'}"


def _cells(content: str, delimiter: str) -> list[str]:
    if '"' not in content:
        return content.rstrip("\r\n").split(delimiter)
    return next(csv.reader([content], delimiter=delimiter, skipinitialspace=True), [])


def _pixels(text: str) -> bytes:
    values = text.split()
    if not values:
        raise ValueError("no pixels")
    try:
        return bytes(map(_BYTE.__getitem__, values))
    except KeyError as error:
        raise ValueError(f"pixel value {error.args[0][:20]!r} is not a whole number from 0 to 255") from None


def _label(text: str) -> int:
    text = text.strip()
    name = canonical_class(text)
    if name is not None:
        return FACE_CLASSES.index(name)
    if text.isascii() and text.isdigit() and int(text) < len(FER2013_CLASSES):
        return int(text)
    raise ValueError(f"label {text[:20]!r} is not one of 0 to {len(FER2013_CLASSES) - 1}")


def _split(text: str) -> str:
    split = FER_USAGES.get(text.strip().lower())
    if split is None:
        raise ValueError(f"Usage {text.strip()[:20]!r} is not Training, PublicTest or PrivateTest")
    return split


def _same_size(rows: list[Row], odd: list[tuple[int, str]]) -> tuple[list[Row], list[tuple[int, str]]]:
    """The rows of the most frequent square size; the others join the odd ones."""
    counts = Counter(len(row.pixels) for row in rows if math.isqrt(len(row.pixels)) ** 2 == len(row.pixels))
    usual = max(counts, key=lambda length: (counts[length], length), default=0)
    good = [row for row in rows if len(row.pixels) == usual]
    expected = f" instead of {usual}" if usual else ", not a square"
    return good, odd + [(r.line, f"{len(r.pixels)} pixels{expected}") for r in rows if len(r.pixels) != usual]


def read_fer2013_csv(tree: Tree, config: DataConfig, seed: int, report: bool) -> DataSet:
    """FER2013 from its table or tables; unlabelled tables only for a report (see `load`)."""
    names = find_tables(tree)
    if not names:
        raise InputError(f"{tree.source}: no csv with a column 'pixels' in it{_columns_of_first(tree)}")
    tables = [read_table(tree, name) for name in names]
    notes = [note for table in tables for note in table.notes]
    if not tables[0].labelled:
        if not report:
            where = tree.source if tree.source.is_file() else tree.where(names[0])
            raise InputError(f"{where}: no column 'emotion' to learn from; {_found(tables[0].columns)}")
        return _unlabelled(tables[0], config, notes)
    for table in tables[1:]:
        if not table.labelled:
            notes.append(f"{table.name}: {len(table.rows)} images, no labels; left out")
    tables = [table for table in tables if table.labelled]
    images = torch.cat([_images(table, config.image_size) for table in tables])
    pairs = [(table, row) for table in tables for row in table.rows]
    usual = {"train.csv": "train", "test.csv": "test"} if len(tables) > 1 else {}
    items = [
        Item(
            file=f"{table.name}:{row.line}",
            label=row.label,
            split=row.split or usual.get(table.name.rpartition("/")[2].lower(), ""),
        )
        for table, row in pairs
    ]
    labels = torch.tensor([item.label for item in items])
    rows = fill_splits([item.split for item in items], labels, seed, notes)
    if config.labels == "ferplus":
        if len(tables) > 1:
            raise InputError(f"{tree.source}: FER+ votes follow the rows of fer2013.csv, not train.csv and test.csv")
        votes = read_votes(find_votes(tree.source, config.votes, VOTES_OF_ROWS))
        return ferplus_splits(images, items, rows, votes, _vote_rows(tables[0], votes), notes)
    splits = {name: make_split(images, items, part) for name, part in rows.items()}
    classes = FACE_CLASSES if labels.max() >= len(FER2013_CLASSES) else FER2013_CLASSES
    return DataSet(name="fer2013", classes=classes, splits=splits, labels="fer2013", notes=tuple(notes))


def _columns_of_first(tree: Tree) -> str:
    first = next((name for name in tree.files if name.lower().endswith(".csv")), None)
    return "" if first is None else f"; {first}: {_found(table_columns(tree, first))}"


def _images(table: Table, image_size: int | None) -> Tensor:
    """uint8 (N, 1, S, S)."""
    side = math.isqrt(len(table.rows[0].pixels))
    content = np.frombuffer(bytearray(b"".join(row.pixels for row in table.rows)), np.uint8)
    pictures = content.reshape(-1, side, side)
    if image_size is not None:
        pictures = np.stack([resize(picture, image_size) for picture in pictures])
    return torch.from_numpy(pictures).unsqueeze(1)


def _unlabelled(table: Table, config: DataConfig, notes: list[str]) -> DataSet:
    images = _images(table, config.image_size)
    split = Split(
        images=images,
        targets=torch.zeros(len(images), dtype=torch.int64),
        names=tuple(f"{table.name}:{row.line}" for row in table.rows),
    )
    notes.append(f"{table.name}: {len(images)} images, no labels ({_found(table.columns)})")
    return DataSet(name="fer2013", classes=(), splits={"unlabelled": split}, notes=tuple(notes))


def _vote_rows(table: Table, votes: Votes) -> list[int]:
    """The row in `votes` of each row of the table: the same place in the file, and the same Usage."""
    if not votes.usages:
        raise InputError(f"{votes.path} names picture files; a csv needs FER+'s fer2013new.csv, of the same rows")
    if len(votes.votes) == table.places:
        places = [row.place for row in table.rows]
    elif len(votes.votes) == len(table.rows):  # stray lines in the table
        places = list(range(len(table.rows)))
    else:
        raise InputError(f"{votes.path} has {len(votes.votes)} rows, {table.name} has {table.places}; they must match")
    for place, row in zip(places, table.rows, strict=True):
        if row.split and FER_USAGES.get(votes.usages[place].lower()) != row.split:
            raise InputError(
                f"{votes.path}: Usage of row {place + 1} is {votes.usages[place]!r}, "
                f"not that of line {row.line} of {table.name}: the files do not belong together"
            )
    return places
