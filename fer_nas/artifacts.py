"""The files a run leaves: genotype, model metadata, run folder, all written atomically (standard library only)."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fer_nas
from fer_nas.errors import InputError

GENOTYPE_SCHEMA = 1
MODEL_SCHEMA = 1


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that becomes `path` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder; give the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another place for it") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, what: str = "file") -> Any:
    """The JSON value in `path`; a missing or broken file is an InputError that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{what} not found: {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not a readable {what}: {error}") from None


Edge = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class Genotype:
    """A discrete cell pair: per node two (operation, input node) edges; node 0 and 1 are the cell's inputs."""

    normal: tuple[Edge, ...]
    reduce: tuple[Edge, ...]
    normal_concat: tuple[int, ...] = (2, 3, 4, 5)
    reduce_concat: tuple[int, ...] = (2, 3, 4, 5)

    def __post_init__(self) -> None:
        for kind, edges, concat in (
            ("normal", self.normal, self.normal_concat),
            ("reduce", self.reduce, self.reduce_concat),
        ):
            if not edges or len(edges) % 2:
                raise InputError(f"genotype: {kind} has {len(edges)} edges; two for each node are needed")
            for position, (_, source) in enumerate(edges):
                node = position // 2 + 2
                if not 0 <= source < node:
                    raise InputError(
                        f"genotype: {kind} edge {position} reads node {source}; node {node} sees 0 to {node - 1}"
                    )
            if not concat or not all(0 <= node < len(edges) // 2 + 2 for node in concat):
                raise InputError(f"genotype: {kind}_concat {list(concat)} names nodes that the cell has not")

    def to_dict(self) -> dict[str, Any]:
        return {
            "normal": [list(edge) for edge in self.normal],
            "normal_concat": list(self.normal_concat),
            "reduce": [list(edge) for edge in self.reduce],
            "reduce_concat": list(self.reduce_concat),
        }

    @classmethod
    def from_dict(cls, value: Any, where: str = "genotype") -> Genotype:
        try:
            return cls(
                normal=tuple((str(op), int(node)) for op, node in value["normal"]),
                reduce=tuple((str(op), int(node)) for op, node in value["reduce"]),
                normal_concat=tuple(int(node) for node in value["normal_concat"]),
                reduce_concat=tuple(int(node) for node in value["reduce_concat"]),
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: not a genotype ({error!r}); it needs normal, normal_concat, reduce, reduce_concat"
            ) from None


@dataclass(frozen=True, kw_only=True)
class GenotypeFile:
    """What `genotype.json` holds: the genotype and where it came from."""

    genotype: Genotype
    name: str
    space: str
    method: str
    dataset: str
    labels: str | None = None
    seed: int | None = None
    source: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, float] = field(default_factory=dict)
    """Training hyperparameters that the search tuned, by the names of training's settings."""

    def save(self, path: Path) -> None:
        value = {
            "schema": GENOTYPE_SCHEMA,
            "fer_nas_version": fer_nas.__version__,
            "name": self.name,
            "space": self.space,
            "method": self.method,
            "dataset": self.dataset,
            "labels": self.labels,
            "seed": self.seed,
            "genotype": self.genotype.to_dict(),
            "source": self.source,
            "recipe": self.recipe,
        }
        write_json(path, value)

    @classmethod
    def load(cls, path: Path) -> GenotypeFile:
        value = read_json(path, "genotype file")
        if not isinstance(value, dict) or "genotype" not in value:
            raise InputError(f"{path}: not a genotype file (no 'genotype' in it)")
        if value.get("schema") != GENOTYPE_SCHEMA:
            raise InputError(f"{path}: genotype schema {value.get('schema')!r}; this version reads {GENOTYPE_SCHEMA}")
        return cls(
            genotype=Genotype.from_dict(value["genotype"], str(path)),
            name=str(value.get("name", Path(path).stem)),
            space=str(value.get("space", "darts")),
            method=str(value.get("method", "unknown")),
            dataset=str(value.get("dataset", "unknown")),
            labels=value.get("labels"),
            seed=value.get("seed"),
            source=dict(value.get("source") or {}),
            recipe=_recipe(value.get("recipe") or {}, path),
        )


def _recipe(value: Any, path: Path) -> dict[str, float]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: recipe is no table of training settings")
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise InputError(f"{path}: recipe: {name} is {number!r}; it must be a number")
    return {name: float(number) for name, number in value.items()}


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """What an exported ONNX file says of itself, as strings in its metadata; `classes` are in output order.

    Input of the graph: float32 (N, channels, input_size, input_size), values 0 to 255, RGB where channels is 3;
    normalization and softmax are inside. Output: float32 (N, len(classes)), probabilities.
    """

    classes: tuple[str, ...]
    input_size: int
    channels: int
    dataset: str
    labels: str | None
    genotype: Genotype
    test_accuracy: float | None
    test_count: int | None
    fer_nas_version: str
    opset: int
    precision: str = "float32"
    extra: dict[str, Any] = field(default_factory=dict)

    REQUIRED = ("classes", "input_size", "channels", "genotype", "fer_nas_version")

    def to_strings(self) -> dict[str, str]:
        return {
            "schema": str(MODEL_SCHEMA),
            "classes": json.dumps(list(self.classes)),
            "input_size": str(self.input_size),
            "channels": str(self.channels),
            "input_range": "0-255",
            "dataset": self.dataset,
            "labels": self.labels or "",
            "genotype": json.dumps(self.genotype.to_dict()),
            "test_accuracy": "" if self.test_accuracy is None else repr(self.test_accuracy),
            "test_count": "" if self.test_count is None else str(self.test_count),
            "fer_nas_version": self.fer_nas_version,
            "opset": str(self.opset),
            "precision": self.precision,
            "extra": json.dumps(self.extra),
        }

    @classmethod
    def from_strings(cls, value: dict[str, str], where: str) -> ModelMetadata:
        """Metadata read back; a file that is no FER model is refused with what is missing."""
        missing = [name for name in cls.REQUIRED if not value.get(name)]
        if missing:
            raise InputError(f"{where}: not a model that fer-nas exported (no {', '.join(missing)} in its metadata)")
        try:
            return cls(
                classes=tuple(json.loads(value["classes"])),
                input_size=int(value["input_size"]),
                channels=int(value["channels"]),
                dataset=value.get("dataset", "unknown"),
                labels=value.get("labels") or None,
                genotype=Genotype.from_dict(json.loads(value["genotype"]), where),
                test_accuracy=float(value["test_accuracy"]) if value.get("test_accuracy") else None,
                test_count=int(value["test_count"]) if value.get("test_count") else None,
                fer_nas_version=value["fer_nas_version"],
                opset=int(value.get("opset") or 0),
                precision=value.get("precision") or "float32",
                extra=json.loads(value.get("extra") or "{}"),
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}: its metadata cannot be read: {error}") from None


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
        """InputError for a folder that holds a run already; said before anything slow is done."""
        if out is None:
            return
        if out.exists() and not out.is_dir():
            raise InputError(f"cannot make the run folder {out}: a file has that name; choose another with --out")
        if (out / "config.json").exists():
            raise InputError(f"{out} already holds a run; go on with --resume {out}, or choose another --out")
        for name in ("genotype.json", "metrics.jsonl", "checkpoint.pt"):
            if (out / name).exists():
                raise InputError(f"{out} already holds {name}, which a run would overwrite; choose another --out")

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
