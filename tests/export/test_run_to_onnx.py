"""A run that `fer-nas train` wrote, exported and scored again: the same counts in all of them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import onnxruntime
import pytest
from rich.console import Console

from fer_nas.artifacts import Genotype, GenotypeFile, RunFolder
from fer_nas.config import DataConfig, TrainConfig
from fer_nas.errors import InputError
from fer_nas.export.evaluate import evaluate
from fer_nas.export.onnx import ExportResult, export
from fer_nas.export.runtime import open_model
from fer_nas.presets import TRAIN_PRESETS
from fer_nas.settings import build
from fer_nas.train.start import train

GENOTYPE = Genotype(
    normal=(("sep_conv_3x3", 0), ("skip_connect", 1), ("skip_connect", 1), ("skip_connect", 2)),
    normal_concat=(2, 3),
    reduce=(("max_pool_3x3", 0), ("skip_connect", 1), ("avg_pool_3x3", 0), ("skip_connect", 2)),
    reduce_concat=(2, 3),
)
FILE = GenotypeFile(genotype=GENOTYPE, name="two nodes", space="darts", method="by hand", dataset="none")
SMALL = {
    "epochs": 2,
    "channels": 8,
    "layers": 3,
    "batch_size": 16,
    "threads": 1,
    "auxiliary": True,
    "dropout": 0.2,
    "drop_path": 0.1,
}


def trained(data: Path, out: Path, **overrides: object) -> Path:
    config = build(TrainConfig, TRAIN_PRESETS, "tiny", SMALL | {"data": str(data), "device": "cpu", **overrides})
    train(config, FILE, out, Console(file=io.StringIO()))
    return out


@pytest.fixture(scope="module")
def run(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs on the 35 images of fer.csv, copied so that it can go away."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(cases / "fer.csv", folder / "fer.csv")
    return trained(folder / "fer.csv", folder / "run")


@pytest.fixture(scope="module")
def exported(run: Path) -> ExportResult:
    return export(run)


def test_default_place_and_what_was_checked(run: Path, exported: ExportResult) -> None:
    assert exported.path == run / "model.onnx" and exported.path.is_file()
    assert exported.source == "14 val, 35 train, 207 blended" and exported.checked == 256
    assert exported.max_difference <= 1e-4


def test_metadata_says_what_the_run_says(run: Path, exported: ExportResult) -> None:
    _, found = open_model(exported.path)
    test = json.loads((run / "test.json").read_text())
    assert found.classes == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert (found.input_size, found.channels, found.labels) == (48, 1, "fer2013")
    assert found.genotype == GENOTYPE
    assert (found.test_accuracy, found.test_count) == (test["accuracy"], 14)
    assert found.extra["checkpoint"] == "best" and found.extra["genotype_name"] == "two nodes"
    assert found.extra["macro_f1"] == test["macro_f1"]


def test_log_checkpoint_and_onnx_count_the_same_images(run: Path, exported: ExportResult) -> None:
    data = DataConfig(data=str(run.parent / "fer.csv"))
    log = json.loads((run / "test.json").read_text())
    found = [evaluate(model, data, "test") for model in (run, exported.path)]
    assert [item["runtime"] for item in found] == ["torch cpu", "onnxruntime cpu"]
    for item in found:
        assert (item["correct"], item["n"], item["confusion"]) == (log["correct"], 14, log["confusion"])


def test_last_epoch_of_a_run_at_28_pixels(cases: Path, tmp_path: Path) -> None:
    run = trained(cases / "fer.csv", tmp_path / "run", image_size=28, epochs=1)
    last = export(run, tmp_path / "last.onnx", checkpoint="last")
    assert last.metadata.extra["checkpoint"] == "last"
    assert last.metadata.test_accuracy is None and last.metadata.test_count is None, "test.json scores the best epoch"
    session = onnxruntime.InferenceSession(last.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, 28, 28]


def test_what_a_user_can_get_wrong(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--checkpoint is 'first'; choose from best, last"):
        export(run, checkpoint="first")
    with pytest.raises(InputError, match=r"must end with \.onnx"):
        export(run, tmp_path / "model.pt")
    moved = Path(shutil.copytree(run, tmp_path / "run"))
    config = json.loads((moved / "config.json").read_text())
    config["config"]["data"]["data"] = str(tmp_path / "gone.csv")
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"is checked on the images of .*, which cannot be read: .*gone\.csv"
    ) as caught:
        export(moved)
    assert "\n" not in str(caught.value)
    (moved / "best.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"best\.safetensors"):
        export(moved)
    (moved / "last.safetensors").unlink()
    with pytest.raises(InputError, match=r"no last\.safetensors in .*; this run has not finished its last epoch"):
        export(moved, checkpoint="last")


def test_genotype_of_the_run_is_the_file_beside_it(run: Path, exported: ExportResult) -> None:
    assert GenotypeFile.load(RunFolder.open(run) / "genotype.json").genotype == exported.metadata.genotype
