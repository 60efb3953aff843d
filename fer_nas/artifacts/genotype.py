"""A cell, and the file that holds one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fer_nas
from fer_nas.artifacts.files import read_json, write_json
from fer_nas.errors import InputError

GENOTYPE_SCHEMA = 1

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
