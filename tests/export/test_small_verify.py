"""Smaller files of a model, and `fer-nas verify`, on drawn faces and, where it is there, on FER2013."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fer_nas_live import classifier, models
from torch import Tensor, nn
from typer.testing import CliRunner

import fer_nas
from fer_nas.artifacts import Genotype, ModelMetadata
from fer_nas.cli import app
from fer_nas.config import DataConfig
from fer_nas.data.drawn import DRAWN_CLASSES, drawn_faces
from fer_nas.data.load import load
from fer_nas.errors import FerNasError, InputError
from fer_nas.export import small
from fer_nas.export.onnx import to_onnx
from fer_nas.export.runtime import open_model
from fer_nas.export.verify import verify

GENOTYPE = Genotype(
    normal=(("skip_connect", 0), ("skip_connect", 1)), normal_concat=(2,),
    reduce=(("skip_connect", 0), ("skip_connect", 1)), reduce_concat=(2,),
)  # fmt: skip


class Net(nn.Module):
    """Two convolutions and a linear layer, wide enough that weights are most of the file."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 5, stride=3), nn.ReLU(), nn.Conv2d(24, 48, 3, stride=2), nn.ReLU(), nn.Flatten()
        )
        self.head = nn.Linear(48 * 49, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x / 128 - 1))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Drawn faces as a table in FER2013's form: 350 training, 200 validation, 70 test images."""
    lines = ["emotion,pixels,Usage"]
    for name, part in drawn_faces(350, 200, 70, seed=1).splits.items():
        usage = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}[name]
        for image, label in zip(part.images, part.labels().tolist(), strict=True):
            lines.append(f"{label},{' '.join(map(str, image.flatten().tolist()))},{usage}")
    file = tmp_path_factory.mktemp("faces") / "fer2013.csv"
    file.write_text("\n".join(lines) + "\n")
    return DataConfig(data=str(file))


@pytest.fixture(scope="module")
def model(faces: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a moment, so that accuracy means something."""
    torch.manual_seed(0)
    train = load(faces).splits["train"]
    net, images, labels = Net(), train.images.float(), train.labels()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(8):
        for rows in torch.randperm(350).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
    metadata = ModelMetadata(
        classes=DRAWN_CLASSES, input_size=48, channels=1, dataset="fer2013", labels="fer2013", genotype=GENOTYPE,
        test_accuracy=0.5, test_count=70, fer_nas_version=fer_nas.__version__, opset=18,
        extra={"seed": 0, "macro_f1": 0.4},
    )  # fmt: skip
    return to_onnx(net.eval(), metadata, train.images[:256], tmp_path_factory.mktemp("small") / "net.onnx").path


@pytest.fixture(scope="module")
def int8(model: Path, faces: DataConfig) -> small.SmallModel:
    return small.int8(model, faces, model.with_name("net.int8.onnx"))


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def test_int8_is_small_and_as_right(int8: small.SmallModel, model: Path) -> None:
    assert int8.size == int8.path.stat().st_size <= 0.45 * model.stat().st_size
    assert int8.float_accuracy > 0.4 and int8.accuracy >= int8.float_accuracy - small.MOST_LOST
    session, metadata = open_model(int8.path)
    assert metadata == int8.metadata and metadata.precision == "int8" and metadata.classes == DRAWN_CLASSES
    assert metadata.test_count == 70 and metadata.extra["val_accuracy"] == int8.accuracy
    assert "macro_f1" not in metadata.extra, "a figure of the float file"
    assert "QuantizeLinear" in kinds(int8.path) and session.get_inputs()[0].type == "tensor(float)"


def test_weights_are_signed_bytes_per_channel_of_seven_bits(int8: small.SmallModel) -> None:
    arrays = [onnx.numpy_helper.to_array(part) for part in onnx.load(str(int8.path)).graph.initializer]
    weights = [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) == 3 and all(array.min() >= -64 and array.max() <= 64 for array in weights)
    scales = [array.shape for array in arrays if array.dtype == np.float32 and array.ndim == 1]
    assert (24,) in scales and (48,) in scales


def test_same_calibration_same_bytes(int8: small.SmallModel, model: Path, faces: DataConfig, tmp_path: Path) -> None:
    again = small.int8(model, faces, tmp_path / "again.onnx")
    assert hashlib.sha256(again.path.read_bytes()).digest() == hashlib.sha256(int8.path.read_bytes()).digest()


def test_fp16(model: Path, faces: DataConfig, tmp_path: Path) -> None:
    half = small.float16(model, faces, tmp_path / "net.fp16.onnx")
    assert half.size <= 0.55 * model.stat().st_size and half.accuracy == pytest.approx(half.float_accuracy, abs=0.005)
    assert half.metadata.precision == "float16"


def test_harmful_operations_stay_in_float_and_a_bad_file_is_not_written(model, faces, tmp_path, monkeypatch) -> None:
    """Accuracies are made up; what is kept, and what is written, is real."""
    told = iter([0.9, 0.6, 0.899])
    monkeypatch.setattr(small, "_accuracy", lambda proto, original, split: next(told, 0.9))
    made = small.int8(model, faces, tmp_path / "kept.onnx")
    assert len(made.kept) == 2 and kinds(made.path).count("DequantizeLinear") > 0
    floats = [p for p in onnx.load(str(made.path)).graph.initializer if len(p.dims) > 1 and p.data_type == 1]
    assert len(floats) == 2, "the weights of two operations"
    monkeypatch.setattr(small, "_accuracy", lambda proto, original, split: 0.9 if proto is original.proto else 0.5)
    for name, maker in small.MAKERS.items():
        with pytest.raises(FerNasError, match=r"not written: .* loses 40.00 points of 90.00 %") as raised:
            monkeypatch.setattr(
                small, "_accuracy", lambda proto, original, split: 0.9 if np.isnan(original.accuracy) else 0.5
            )
            maker(model, faces, tmp_path / f"bad.{name}.onnx")
        assert "\n" not in str(raised.value) and raised.value.exit_code == 1
    assert [file.name for file in tmp_path.iterdir()] == ["kept.onnx"]


def test_small_files_are_not_made_smaller(int8: small.SmallModel, faces: DataConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is int8 already; give the float32 file"):
        small.float16(int8.path, faces, tmp_path / "x.onnx")


def test_the_live_session_takes_every_precision(
    int8: small.SmallModel, model: Path, faces: DataConfig, tmp_path: Path
) -> None:
    half = small.float16(model, faces, tmp_path / "net.fp16.onnx")
    crops = [image.numpy().astype(np.float32) for image in load(faces).splits["test"].images[:20]]
    expected = classifier.load(model, "cpu").classify(crops)
    for path in (int8.path, half.path):
        assert np.abs(classifier.load(path, "cpu").classify(crops) - expected).max() < 0.1


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_verify(precision: str, int8: small.SmallModel, model: Path, faces: DataConfig) -> None:
    file = model if precision == "float32" else int8.path
    value = verify(file, faces, "val", calls=5)
    wanted = int8.float_accuracy if precision == "float32" else int8.accuracy
    assert (value["precision"], value["n"], value["split"]) == (precision, 200, "val")
    assert value["accuracy"] == pytest.approx(wanted) and value["bytes"] == file.stat().st_size
    assert 0 < value["calibration_error"] < 0.5 and 0 < value["macro_f1"] <= 1
    assert set(value["latency_ms"]) == {"1", "4"} and all(
        0 < ms["median"] <= ms["p95"] for ms in value["latency_ms"].values()
    )
    assert json.loads(json.dumps(value)) == value


def test_as_commands(model: Path, faces: DataConfig, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(model.read_bytes())
    made = CliRunner().invoke(app, ["export", str(file), "--int8", "--fp16", "--calibrate", faces.data])
    assert made.exit_code == 0, made.stderr
    assert "net.int8.onnx" in made.stdout and "net.fp16.onnx" in made.stdout and "(n = 200)" in made.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.fp16.onnx", "net.int8.onnx", "net.onnx"]
    told = CliRunner().invoke(app, ["verify", str(tmp_path / "net.int8.onnx"), "--split", "test", "--data", faces.data])
    assert told.exit_code == 0 and "fer2013 test accuracy" in told.stdout and "calibration error" in told.stdout
    as_json = CliRunner().invoke(app, ["verify", str(file), "--json", "--data", faces.data])
    assert json.loads(as_json.stdout)["precision"] == "float32"
    for words, text in (
        (["export", str(file)], "give --int8 or --fp16"),
        (["export", str(file), "--calibrate", "x"], "--calibrate goes with"),
        (["export", str(file), "--int8", "--calibrate", "gone"], "gone: no such file"),
        (["export", str(file), "--int8"], "give the images with --calibrate"),
        (["verify", str(tmp_path)], "is a folder; give an .onnx file"),
    ):
        refused = CliRunner().invoke(app, words)
        assert refused.exit_code == 2 and text in refused.stderr and refused.stderr.splitlines()[-1].count(text) == 1


def test_released_int8_on_real_faces(data_root: Path) -> None:
    """The released int8 file, where there is one, on FER+ validation faces: near its float file."""
    found = {path.stem: path for path in models.find()}
    if "fer-nas-ferplus.int8" not in found:
        pytest.skip("no int8 model is released")
    data = DataConfig(data=str(data_root / "fer2013.zip"), labels="ferplus", limit=200)
    files = [found[name] for name in ("fer-nas-ferplus", "fer-nas-ferplus.int8")]
    exact, quantized = (verify(file, data, "val", calls=5) for file in files)
    assert quantized["bytes"] <= 0.45 * exact["bytes"]
    assert quantized["accuracy"] >= exact["accuracy"] - 0.005
