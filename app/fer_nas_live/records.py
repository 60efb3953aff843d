"""What was seen, frame by frame, as JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fer_nas.errors import FerNasError, InputError
from fer_nas_live.faces import Face
from fer_nas_live.sources import Frame

FORMATS = (".jsonl", ".csv")


def check(path: Path) -> None:
    """Refuse an ending that is no record format, and a place that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"--records {path}: the name must end in {' or '.join(FORMATS)}")
    if path.is_dir():
        raise InputError(f"--records {path} is a folder; name a file in it")


class Records:
    """One line a frame (jsonl) or a face (csv; a frame without a face has one line with empty face fields).

    Every line is flushed when it is written, so that a killed run leaves whole lines. A file that exists is
    overwritten. Coordinates are pixels of the source's frame; times are seconds.
    """

    def __init__(self, path: Path, classes: Sequence[str], corrected: bool = False) -> None:
        """corrected: probabilities are corrected, and the uncorrected ones are written beside them."""
        check(path)
        self.path, self.classes, self.corrected = path, tuple(classes), corrected
        self.frames = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}; choose another --records") from None
        self._csv = path.suffix.lower() == ".csv"
        if self._csv:
            head = ["frame", "time", "source", "face", "track", "x", "y", "w", "h", "score", "label"]
            more = [f"uncorrected_{name}" for name in self.classes] if corrected else []
            self._put(_csv_lines([[*head, *self.classes, *more]]))

    def write(self, frame: Frame, faces: Sequence[Face]) -> None:
        """Append one frame."""
        self._put(_csv_lines(self._rows(frame, faces)) if self._csv else self._line(frame, faces))
        self.frames += 1

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise FerNasError(f"cannot write {self.path}: {error.strerror}") from None

    def _put(self, text: str) -> None:
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise FerNasError(f"cannot write {self.path}: {error.strerror}") from None

    def _line(self, frame: Frame, faces: Sequence[Face]) -> str:
        row: dict[str, Any] = {"frame": frame.index, "time": round(frame.time, 4)}
        if frame.name is not None:
            row["source"] = frame.name
        row["faces"] = [
            {
                "face": face.face,
                "track": face.track,
                "box": list(face.box),
                "score": face.score,
                "label": face.label,
                "probabilities": dict(zip(self.classes, _rounded(face.probabilities), strict=True)),
            }
            | self._uncorrected(face)
            for face in faces
        ]
        return json.dumps(row, ensure_ascii=False) + "\n"

    def _uncorrected(self, face: Face) -> dict[str, Any]:
        if not self.corrected or face.uncorrected is None:
            return {}
        return {"uncorrected": dict(zip(self.classes, _rounded(face.uncorrected), strict=True))}

    def _rows(self, frame: Frame, faces: Sequence[Face]) -> list[list[Any]]:
        start = [frame.index, round(frame.time, 4), frame.name or ""]
        if not faces:
            return [start + [""] * (8 + len(self.classes) * (1 + self.corrected))]
        return [
            [*start, face.face, face.track, *face.box, face.score, face.label, *_rounded(face.probabilities)]
            + (_rounded(face.uncorrected) if self.corrected and face.uncorrected is not None else [])
            for face in faces
        ]


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in values]


def _csv_lines(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
