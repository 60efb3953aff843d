"""Which searches a study compares, and how large it is: tables of options of `fer-nas search` and `fer-nas train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Options = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A search of a study: its name, its options, and what it searches on: the study's own faces, or cifar10."""

    name: str
    search: Options
    on: str = "faces"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """search, train: options of every search and training. parameters: what derived networks are brought near to, by
    their channels."""

    search: Options
    train: Options
    parameters: int
    layers: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """lines: what is searched, with every seed. retrained: lines whose best genotype is trained again under SETTINGS,
    so that the ranking is not an artefact of one recipe."""

    lines: tuple[Line, ...]
    retrained: tuple[str, ...] = ()

    def only(self, names: Sequence[str] | None) -> Plan:
        """Of these lines alone; all where None."""
        if names is None:
            return self
        return Plan(
            lines=tuple(line for line in self.lines if line.name in names),
            retrained=tuple(name for name in self.retrained if name in names),
        )


PLANS: dict[str, Plan] = {
    "methods": Plan(
        lines=(
            Line(name="first order", search=("--method", "darts-1st")),
            Line(name="second order", search=("--method", "darts-2nd")),
            Line(name="soba", search=("--method", "soba")),
            Line(name="STN as published", search=("--method", "darts-stn", "--response", "published")),
            Line(name="STN", search=("--method", "darts-stn")),
            Line(name="Δ-STN", search=("--method", "darts-delta-stn")),
            Line(name="PC-DARTS", search=("--method", "darts-1st", "--space", "pc-darts")),
            Line(name="PC-DARTS-STN", search=("--method", "darts-stn", "--space", "pc-darts")),
            Line(name="GDAS", search=("--method", "darts-1st", "--space", "gdas")),
            Line(name="random", search=("--method", "random")),
        ),
        retrained=("first order", "second order", "STN", "Δ-STN", "random"),
    ),
    # The project's four networks: two searched on objects, two on the faces they then work on.
    "networks": Plan(
        lines=(
            Line(name="DARTS", search=("--method", "darts-2nd"), on="cifar10"),
            Line(name="DARTS-STN", search=("--method", "darts-stn"), on="cifar10"),
            Line(name="DARTS-FER", search=("--method", "darts-2nd")),
            Line(name="DARTS-STN-FER", search=("--method", "darts-stn")),
        ),
    ),
}

SETTINGS: dict[str, Options] = {
    "as in the table": (),
    "half the learning rate": ("--learning-rate", "0.05"),
    "without augmentation but mirroring": (
        "--shift", "0", "--rotate", "0", "--scale", "0", "--brightness", "0", "--contrast", "0",
    ),
}  # fmt: skip
"""Recipes of the retrained genotypes, beside the scale's own (whose learning rate is 0.1 but on `paper`)."""

_CPU_TRAIN = ("--preset", "cpu", "--image-size", "24", "--stem", "stride2", "--epochs", "10", "--limit", "9600")
SCALES: dict[str, Scale] = {
    # Both train alike, so that what differs between them is the length of the search, 200 or 1,200 steps of w.
    "quick": Scale(
        search=("--preset", "cpu", "--epochs", "4", "--limit", "3200"), train=_CPU_TRAIN, parameters=60_000, layers=4
    ),
    "cpu": Scale(search=("--preset", "cpu"), train=_CPU_TRAIN, parameters=60_000, layers=4),
    "paper": Scale(search=("--preset", "paper"), train=("--preset", "paper"), parameters=3_300_000, layers=20),
}
