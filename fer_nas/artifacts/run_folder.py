"""The folder of a run."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from fer_nas.artifacts.files import write_text
from fer_nas.errors import InputError


class RunFolder:
    """A run's folder: config.json, metrics.jsonl, genotype.json, checkpoint.pt and pictures."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @classmethod
    def create(cls, out: Path | None, kind: str) -> RunFolder:
        """A new folder, default runs/<time>-<kind>; one that already holds a run is an error, never overwritten."""
        if out is None:
            stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{re.sub(r'[^A-Za-z0-9._-]+', '-', kind)}"
            out = Path("runs") / stem
            number = 1
            while out.exists():
                number += 1
                out = Path("runs") / f"{stem}-{number}"
        cls.refuse_used(out)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the run folder {out}: {error.strerror}; choose another with --out") from None
        return cls(out)

    @staticmethod
    def refuse_used(out: Path | None) -> None:
        """InputError for a folder that holds a run already, or cannot be made; said before anything slow is done."""
        if out is not None:
            if (out / "config.json").exists():
                raise InputError(f"{out} already holds a run; go on with --resume {out}, or choose another --out")
            for name in ("genotype.json", "metrics.jsonl", "checkpoint.pt"):
                if (out / name).exists():
                    raise InputError(f"{out} already holds {name}, which a run would overwrite; choose another --out")
        wanted = (out or Path("runs")).absolute()
        there = next(place for place in (wanted, *wanted.parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            why = f"no leave to write in {there}" if there.is_dir() else f"{there} is a file"
            raise InputError(f"cannot make the run folder {out or wanted}: {why}; choose another with --out")

    @staticmethod
    def refuse_run(out: Path) -> None:
        """InputError for a run's folder, into which something else would be written."""
        if (out / "config.json").exists():
            raise InputError(f"{out} holds a run; choose another folder with --out")

    def discard_empty(self) -> None:
        """Take the folder away again where nothing is in it, as when the run could not start."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that holds a run; anything else is an InputError."""
        if not (Path(path) / "config.json").is_file():
            why = "no config.json in it" if Path(path).is_dir() else "there is no such folder"
            raise InputError(f"{path} is not a run folder ({why}); give the folder that a search or training wrote")
        return cls(path)

    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a last line that a crash cut short is left out."""
        rows: list[dict[str, Any]] = []
        file = self / "metrics.jsonl"
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    rows.append(json.loads(line))
        return rows

    def append_metrics(self, row: dict[str, Any]) -> None:
        with (self / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()

    def keep_epochs(self, count: int) -> None:
        """Drop the rows past the first `count` epochs: those after the checkpoint from which a run resumes."""
        rows = [row for row in self.metrics() if row["epoch"] <= count]
        write_text(self / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
