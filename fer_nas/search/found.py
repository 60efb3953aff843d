"""What a search has found, as its genotype.json says it; a cell that is drawn instead of searched."""

from __future__ import annotations

from typing import Any

from fer_nas.artifacts import Genotype, GenotypeFile, RunFolder
from fer_nas.config import SearchConfig
from fer_nas.data.split import DataSet
from fer_nas.report.pictures import draw_cells
from fer_nas.runtime import generator
from fer_nas.search.random_cells import draw_genotype
from fer_nas.space.variants import find_space


def genotype_file(config: SearchConfig, dataset: DataSet, genotype: Genotype, source: dict[str, Any]) -> GenotypeFile:
    arch = config.arch
    space = find_space(arch.space, arch.operations)
    return GenotypeFile(
        genotype=genotype,
        name=f"{arch.method}-{dataset.name}",
        space=arch.space,
        method=arch.method,
        dataset=dataset.name,
        labels=dataset.labels,
        seed=config.run.seed,
        source=source | {"operations": list(space.operations)},
    )


def draw(config: SearchConfig, folder: RunFolder, dataset: DataSet) -> None:
    """`--method random`: a cell drawn by the seed."""
    space = find_space(config.arch.space, config.arch.operations)
    genotype = draw_genotype(space, generator(config.run.seed, "cells"))
    genotype_file(config, dataset, genotype, {}).save(folder / "genotype.json")
    draw_cells(genotype, folder / "cells.png")
