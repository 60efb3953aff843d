"""Small trainings of a cell with two nodes, and one of four epochs that was never stopped."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from fer_nas.artifacts import Genotype, GenotypeFile, RunFolder
from fer_nas.config import TrainConfig
from fer_nas.presets import TRAIN_PRESETS
from fer_nas.settings import build
from fer_nas.train.start import train

GENOTYPE = Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1), ("skip_connect", 1), ("dil_conv_3x3", 2)),
    normal_concat=(2, 3),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 0), ("skip_connect", 2)),
    reduce_concat=(2, 3),
)
SMALL = {
    "channels": 4, "layers": 3, "limit": 40, "batch_size": 12, "image_size": 16, "threads": 1, "device": "cpu",
    "auxiliary": True, "dropout": 0.2, "drop_path": 0.3, "ema": 0.9, "label_smoothing": 0.1, "progressive": 0.5,
    "erase": 0.3,
}  # fmt: skip


def configure(source: Path, **settings: object) -> TrainConfig:
    return build(TrainConfig, TRAIN_PRESETS, "tiny", SMALL | {"data": str(source), "epochs": 1} | settings)


@pytest.fixture(scope="session")
def small_settings() -> dict[str, object]:
    return dict(SMALL)


@pytest.fixture(scope="session")
def two_nodes() -> GenotypeFile:
    return GenotypeFile(genotype=GENOTYPE, name="two nodes", space="darts", method="by hand", dataset="none")


@pytest.fixture(scope="session")
def configured() -> Callable[..., TrainConfig]:
    """configured(data, **settings)"""
    return configure


@pytest.fixture(scope="session")
def trained(two_nodes: GenotypeFile) -> Callable[..., RunFolder]:
    """trained(data, out, genotype=…, **settings): a training in this process."""

    def run(source: Path, out: Path, genotype: GenotypeFile = two_nodes, **settings: object) -> RunFolder:
        return train(configure(source, **settings), genotype, out, Console(file=io.StringIO()))[0]

    return run


@pytest.fixture(scope="session")
def straight(cases: Path, trained: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four epochs, never stopped."""
    return trained(cases / "fer.csv", tmp_path_factory.mktemp("straight") / "run", epochs=4)
