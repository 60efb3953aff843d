"""FER+ (Barsoum et al. 2016): ten people's votes for each FER2013 image, and the rules from votes to targets.

By the majority rule 25,060 / 3,199 / 3,153 images (train, val, test) count in the authors' `fer2013new.csv`.
A `ferplus.csv` of the 35,710 images that could be aligned to file names counts 25,057 / 3,199 / 3,152.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fer_nas.classes import FACE_CLASSES, canonical_class
from fer_nas.errors import InputError

BESIDE = ("ferplus.csv", "fer2013new.csv")
VOTES_OF_ROWS = ("fer2013new.csv",)
"""What tables of pixels can have beside them: the votes of their rows, in the same order."""
_OTHERS = ("unknown", "nf")
_COLUMNS = len(FACE_CLASSES) + len(_OTHERS)
FILE_ORDER = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")
"""Order of the vote columns in the authors' file; ties for the largest vote go to the first of them."""
_CANONICAL_ORDER = [FILE_ORDER.index(name) for name in FACE_CLASSES]


@dataclass(frozen=True, kw_only=True)
class Votes:
    """votes: float32 (N, 10), columns FILE_ORDER, unknown, not a face. usages: empty if the file has none."""

    path: Path
    votes: Tensor
    names: tuple[str, ...]
    usages: tuple[str, ...]

    def by_name(self) -> dict[str, int]:
        """Row by 'class/stem' where the file gives class folders, else by 'stem' (see `name_keys`).

        FER2013's archives use two file names twice, in different class folders, so a stem alone can mislead.
        """
        return {name_keys(name)[0]: row for row, name in enumerate(self.names) if name}


def name_keys(name: str) -> tuple[str, ...]:
    """What can identify an image file: its class folder and name without ending, then the name alone."""
    *folders, file = name.split("/")
    stem = file.rpartition(".")[0] or file
    return (f"{canonical_class(folders[-1]) or folders[-1]}/{stem}", stem) if folders else (stem,)


def majority(votes: Tensor) -> Tensor:
    """int64 (N,) canonical class by the authors' majority rule, or -1 where the image does not count.

    A class with one vote counts as none; the first class needs more than half of what is left and must be an
    expression. A tie can never have more than half, so ties do not count. votes: (N, 10) as in `Votes`.
    """
    kept = torch.where(votes > 1, votes, torch.zeros_like(votes))
    most, first = kept.max(1)
    counts = (2 * most > kept.sum(1)) & (first < len(FILE_ORDER))
    return torch.where(counts, _to_canonical(first), torch.full_like(first, -1))


def largest(votes: Tensor) -> Tensor:
    """int64 (N,) canonical class with most votes (ties: the first column), or -1 if that is no expression."""
    first = _first(votes)
    return torch.where(first < len(FILE_ORDER), _to_canonical(first), torch.full_like(first, -1))


def distribution(votes: Tensor) -> Tensor:
    """float32 (N, 8): votes for the expressions in canonical order, each row over its sum."""
    faces = votes[:, _CANONICAL_ORDER].float()
    return faces / faces.sum(1, keepdim=True).clamp_min(1e-12)


def _first(votes: Tensor) -> Tensor:
    """Index of the first largest column; torch's own argmax promises no order among equals."""
    return (votes == votes.max(1, keepdim=True).values).int().cummax(1).values.eq(0).sum(1)


def _to_canonical(column: Tensor) -> Tensor:
    table = torch.tensor([FACE_CLASSES.index(name) for name in FILE_ORDER] + [-1] * len(_OTHERS))
    return table[column]


def find_votes(data: Path, given: str | None, prefer: tuple[str, ...] = BESIDE) -> Path:
    """The vote file: the given one, else one of `prefer` in the data folder or beside the data."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise InputError(f"--votes {path}: no such file")
        return path
    places = [data, data.parent] if data.is_dir() else [data.parent]
    for name in prefer:
        for place in places:
            if (place / name).is_file():
                return place / name
    looked = " or ".join(str(place) for place in places)
    raise InputError(f"--labels ferplus needs {' or '.join(prefer)}, not found in {looked}; name it with --votes")


def read_votes(path: Path) -> Votes:
    """The votes of `ferplus.csv` (column file) or the authors' `fer2013new.csv` (Usage, Image name)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the votes in {path}: {error}") from None
    rows = csv.reader(io.StringIO(text, newline=""))
    header = [column.strip().lower() for column in next(rows, [])]
    wanted = {name: index for index, name in enumerate((*FILE_ORDER, *_OTHERS))}
    columns = {
        wanted[key]: at for at, column in enumerate(header) if (key := canonical_class(column) or column) in wanted
    }
    name_at = next((header.index(name) for name in ("file", "image name") if name in header), None)
    if len(columns) != _COLUMNS or name_at is None:
        raise InputError(f"{path}: not a FER+ vote file; columns found: {', '.join(header) or 'none'}")
    usage_at = header.index("usage") if "usage" in header else None
    order = [columns[index] for index in range(_COLUMNS)]
    votes, names, usages = [], [], []
    for row in rows:
        if not row:
            continue
        try:
            votes.append([float(row[at]) for at in order])
            names.append(row[name_at].strip())
            if usage_at is not None:
                usages.append(row[usage_at].strip())
        except (ValueError, IndexError):
            raise InputError(f"{path}, line {rows.line_num}: not a row of votes") from None
    if not votes:
        raise InputError(f"{path}: no votes in it")
    return Votes(path=path, votes=torch.tensor(votes), names=tuple(names), usages=tuple(usages))
