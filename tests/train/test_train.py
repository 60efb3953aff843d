"""Training: what its folder holds, that it learns, image sizes, batches and targets of every kind, what ends it."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import fer_nas
from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.config import DataConfig, TrainConfig
from fer_nas.data.load import load
from fer_nas.errors import FerNasError, InputError
from fer_nas.export.evaluate import evaluate
from fer_nas.export.trained import open_trained
from fer_nas.settings import from_dict
from fer_nas.train.average import MovingAverage
from fer_nas.train.result import predict
from fer_nas.train.spec import load_network, read_run
from fer_nas.train.start import train

Trained = Callable[..., RunFolder]
FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
COLUMNS = "epoch train_loss val_loss val_accuracy best_accuracy best_epoch learning_rate seconds peak_memory_mib"
FILES = (
    "config.json metrics.jsonl genotype.json checkpoint.pt best.safetensors last.safetensors test.json confusion.png "
    "curves.png"
)


def test_what_a_run_leaves(
    straight: RunFolder, cases: Path, configured: Callable[..., TrainConfig], two_nodes: GenotypeFile
) -> None:
    assert {path.name for path in straight.path.iterdir()} == set(FILES.split())
    saved = json.loads((straight / "config.json").read_text())
    assert saved["kind"] == "train" and saved["fer_nas_version"] == fer_nas.__version__
    config, spec = read_run(straight)
    assert config == configured(cases / "fer.csv", epochs=4) == from_dict(TrainConfig, saved["config"])
    assert (spec.genotype, spec.classes, spec.input_size, spec.channels) == (two_nodes.genotype, FER_CLASSES, 16, 1)
    assert GenotypeFile.load(straight / "genotype.json") == two_nodes


def test_record_of_every_epoch(straight: RunFolder) -> None:
    rows = straight.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert set(row) == set(COLUMNS.split())
        assert all(math.isfinite(value) for value in row.values())
    best = max(rows, key=lambda row: row["val_accuracy"])  # the first of equals
    assert (rows[-1]["best_epoch"], rows[-1]["best_accuracy"]) == (best["epoch"], best["val_accuracy"])
    assert rows[0]["learning_rate"] == pytest.approx(0.1), "the end of one epoch of warm-up"
    assert 0 < rows[-1]["learning_rate"] < 0.02, "the cosine's last step"


def test_result_is_that_of_the_best_weights(straight: RunFolder, cases: Path) -> None:
    result = json.loads((straight / "test.json").read_text())
    data = load(DataConfig(data=str(cases / "fer.csv"), image_size=16))
    network = load_network(straight, "best")
    right = predict(network, data.splits["test"]).argmax(1) == data.splits["test"].labels()
    assert (result["correct"], result["n"]) == (int(right.sum()), 14)
    chosen = predict(network, data.splits["val"]).argmax(1) == data.splits["val"].labels()
    assert result["val_count"] == 14 and result["val_accuracy"] == pytest.approx(chosen.float().mean().item())
    assert result["device"].startswith("CPU")
    without_head = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary."))
    assert result["parameters"] == without_head and result["flops"] > 0
    assert sum(map(sum, result["confusion"])) == 14


def test_moving_average_by_hand() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.0)
    average = MovingAverage(network, 0.25)
    torch.nn.init.constant_(network.weight, 1.0)
    average.update(network)
    assert average.network.weight.item() == pytest.approx(9 / 11), "(1 + 1)/(10 + 1) is under the decay"
    average.update(network)
    average.update(network)
    assert average.network.weight.item() == pytest.approx(1 - 2 / 11 * 0.25 * 0.25)


@pytest.mark.parametrize("image_size", [28, 44, 50, 96])
def test_auxiliary_head_at_every_image_size(image_size: int, tmp_path: Path, cases: Path, trained: Trained) -> None:
    run = trained(cases / "fer.csv", tmp_path / "run", image_size=image_size, limit=8, progressive=1.0)
    assert any(name.startswith("auxiliary.") for name in load_file(run / "best.safetensors"))
    assert load_network(run)(torch.zeros(1, 1, image_size, image_size)).shape == (1, 7)


@pytest.mark.parametrize("batch_size", [34, 64])
def test_batches_that_do_not_divide_the_set(batch_size: int, cases: Path, tmp_path: Path, trained: Trained) -> None:
    run = trained(cases / "fer.csv", tmp_path / "run", batch_size=batch_size)
    (row,) = run.metrics()
    assert math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])
    assert json.loads((run / "test.json").read_text())["val_count"] == 14


def test_votes_as_targets(cases: Path, tmp_path: Path, trained: Trained) -> None:
    lines = (cases / "fer.csv").read_text().splitlines()
    votes = ["Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    column = {"angry": 4, "disgust": 5, "fear": 6, "happy": 1, "sad": 3, "surprise": 2, "neutral": 0}
    for number, line in enumerate(lines[1:]):
        label, _, usage = line.split(",")
        row = [0] * 10
        row[column[FER_CLASSES[int(label)]]] = 7
        row[0] += 3
        votes.append(f"{usage},fer{number:07d}.png,{','.join(map(str, row))}")
    (tmp_path / "fer2013.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "fer2013new.csv").write_text("\n".join(votes) + "\n")
    run = trained(tmp_path / "fer2013.csv", tmp_path / "run", labels="ferplus", label_smoothing=0.0)
    _, spec = read_run(run)
    assert spec.classes == (*FER_CLASSES, "contempt") and spec.labels == "ferplus"
    result = json.loads((run / "test.json").read_text())
    assert (result["n"], result["test_largest"]["n"]) == (14, 14)
    assert run.metrics()[0]["train_loss"] > 0.6, "a network cannot beat the entropy of the votes"


EASY = {
    "epochs": 10, "channels": 8, "layers": 4, "image_size": 32, "stem": "stride2", "flip": False, "shift": 0.0,
    "rotate": 0.0, "scale": 0.0, "ema": 0.0, "dropout": 0.0, "erase": 0.0, "drop_path": 0.0, "progressive": 1.0,
    "label_smoothing": 0.0, "auxiliary": False,
}  # fmt: skip


@pytest.mark.parametrize("name", ["fer.csv", "folder"])
def test_it_learns_the_classes_of_table_and_folders(name: str, cases: Path, tmp_path: Path, trained: Trained) -> None:
    """Whatever the form of the data, output 6 is neutral; in the folders' alphabet it would be output 4."""
    run = trained(cases / name, tmp_path / "run", **EASY)
    rows = run.metrics()
    assert rows[-1]["train_loss"] < 0.3 * rows[0]["train_loss"]
    assert open_trained(run.path).metadata.classes == FER_CLASSES, "what an export writes into the ONNX file"
    found = evaluate(run.path, DataConfig(data=str(cases / "folder")))
    assert found["accuracy"] > 0.8 and found["recall"]["neutral"] == 1.0


def test_truncated_picture_is_named_before_the_first_epoch(
    cases: Path, tmp_path: Path, configured: Callable[..., TrainConfig], two_nodes: GenotypeFile
) -> None:
    shutil.copytree(cases / "folder", tmp_path / "folder")
    shutil.copy(cases / "trunc.jpg", tmp_path / "folder" / "train" / "happy" / "trunc.jpg")
    console = Console(file=io.StringIO())
    run, _ = train(configured(tmp_path / "folder", limit=None), two_nodes, tmp_path / "run", console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert told.index("happy/trunc.jpg") < told.index("epoch 1")
    used = load(read_run(run)[0].data)
    names = {name for split in used.splits.values() for name in split.names}
    assert len(names) == 63 and not any("trunc" in name for name in names), "the others all count"
    assert len(run.metrics()) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, r"--batch-size is 1; BatchNorm needs at least 2 images a batch"),
        ({"momentum": 0.0}, r"--momentum is 0; .*--no-nesterov"),
        ({"device": "cuda"}, r"--device cuda: .*; use --device cpu"),
        ({"data": "no/such.csv"}, r"no/such.csv: no such file or folder"),
    ],
)
def test_refused_before_the_first_epoch(
    settings: dict[str, object], message: str, cases: Path, tmp_path: Path, trained: Trained
) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=message):
        trained(cases / "fer.csv", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists(), "no empty folder stays behind"


def test_table_without_labels(cases: Path, tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(InputError, match=r"test\.csv.*emotion.*pixels") as caught:
        trained(cases / "test.csv", tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_loss_that_is_not_finite_ends_the_run(cases: Path, tmp_path: Path, trained: Trained) -> None:
    with pytest.raises(FerNasError, match=r"^epoch \d, (step \d|validation): the loss is (nan|inf)") as caught:
        trained(cases / "fer.csv", tmp_path / "run", learning_rate=1e30, gradient_clip=1e30, epochs=3)
    assert caught.value.exit_code == 1


def test_a_run_is_never_overwritten(straight: RunFolder, cases: Path, trained: Trained) -> None:
    before = (straight / "best.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"already holds a run; go on with --resume"):
        trained(cases / "fer.csv", straight.path)
    assert (straight / "best.safetensors").read_bytes() == before
