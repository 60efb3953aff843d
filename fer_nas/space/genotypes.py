"""Published genotypes, and a genotype by name or from a file."""

from __future__ import annotations

from pathlib import Path

from fer_nas.artifacts import Edge, Genotype, GenotypeFile
from fer_nas.errors import InputError
from fer_nas.space.operations import OPERATIONS

_SHORT = {
    "max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect", "sep3": "sep_conv_3x3",
    "sep5": "sep_conv_5x5", "dil3": "dil_conv_3x3", "dil5": "dil_conv_5x5", "conv1": "conv_1x1",
    "conv3": "conv_3x3", "ghost": "ghost",
}  # fmt: skip


def _edges(text: str) -> tuple[Edge, ...]:
    words = text.split()
    return tuple((_SHORT[op], int(node)) for op, node in zip(words[::2], words[1::2], strict=True))


def _genotype(normal: str, reduce: str) -> Genotype:
    return Genotype(normal=_edges(normal), reduce=_edges(reduce))


GENOTYPES: dict[str, Genotype] = {
    # Liu et al. 2019
    "DARTS_V1": _genotype(
        "sep3 1 sep3 0 skip 0 sep3 1 skip 0 sep3 1 sep3 0 skip 2",
        "max 0 max 1 skip 2 max 0 max 0 skip 2 skip 2 avg 0",
    ),
    "DARTS_V2": _genotype(
        "sep3 0 sep3 1 sep3 0 sep3 1 sep3 1 skip 0 skip 0 dil3 2",
        "max 0 max 1 skip 2 max 1 max 0 skip 2 skip 2 max 1",
    ),
    # Chen et al. 2019
    "PDARTS": _genotype(
        "skip 0 dil3 1 skip 0 sep3 1 sep3 1 sep3 3 sep3 0 dil5 4",
        "avg 0 sep5 1 sep3 0 dil5 2 max 0 dil3 1 dil3 1 dil5 3",
    ),
    # Xu et al. 2020
    "PC_DARTS_cifar": _genotype(
        "sep3 1 skip 0 sep3 0 dil3 1 sep5 0 sep3 1 avg 0 dil3 1",
        "sep5 1 max 0 sep5 1 sep5 2 sep3 0 sep3 3 sep3 1 sep3 2",
    ),
    "PC_DARTS_image": _genotype(
        "skip 1 sep3 0 sep3 0 skip 1 sep3 1 sep3 3 sep3 1 dil5 4",
        "sep3 0 skip 1 dil5 2 max 1 sep3 2 sep3 1 sep5 0 sep3 3",
    ),
    # Li et al. 2021, searched on FER2013 by its authors on all three splits
    "Auto_FERNet": _genotype(
        "sep3 0 conv3 1 dil5 0 conv1 2 ghost 2 dil5 3 skip 0 conv1 1",
        "max 0 max 1 max 0 dil5 2 avg 1 skip 2 avg 0 sep3 2",
    ),
}


def require_operations(genotype: Genotype, where: str) -> Genotype:
    """The genotype itself; an operation that OPERATIONS has not is an InputError that lists those it has."""
    unknown = sorted({op for op, _ in genotype.normal + genotype.reduce} - set(OPERATIONS))
    if unknown:
        raise InputError(f"{where}: unknown operation {', '.join(unknown)}; known: {', '.join(OPERATIONS)}")
    return genotype


def find(name_or_path: str) -> GenotypeFile:
    """A published genotype by name, a genotype.json, or the one in a search run's folder."""
    if name_or_path in GENOTYPES:
        return GenotypeFile(
            genotype=GENOTYPES[name_or_path],
            name=name_or_path,
            space="darts",
            method="published",
            dataset="published",
        )
    path = Path(name_or_path)
    if path.is_dir():
        path = path / "genotype.json"
        if not path.exists():
            raise InputError(f"{name_or_path}: no genotype.json in this folder; has its search finished an epoch?")
    if not path.exists():
        raise InputError(f"genotype not found: {name_or_path} is neither a file nor one of {', '.join(GENOTYPES)}")
    found = GenotypeFile.load(path)
    require_operations(found.genotype, str(path))
    return found
