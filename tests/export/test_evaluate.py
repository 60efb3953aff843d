"""Evaluation of an ONNX file on the tables and folders that users have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import fer_nas
from fer_nas.artifacts import Genotype, ModelMetadata
from fer_nas.classes import FACE_CLASSES
from fer_nas.config import DataConfig
from fer_nas.data.load import load
from fer_nas.errors import InputError
from fer_nas.export.evaluate import evaluate
from fer_nas.export.onnx import export, to_onnx

SEVEN = FACE_CLASSES[:7]
GENOTYPE = Genotype(
    normal=(("skip_connect", 0), ("skip_connect", 1)), normal_concat=(2,),
    reduce=(("skip_connect", 0), ("skip_connect", 1)), reduce_concat=(2,),
)  # fmt: skip


class Bands(nn.Module):
    """Class k where columns 6k to 6k + 5 are bright, which is right for the cases; never answers `wrong`."""

    def __init__(self, wrong: int | None = None) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d((48, 6))
        bonus = torch.zeros(7)
        if wrong is not None:
            bonus[wrong] = -1000.0
        self.register_buffer("bonus", bonus)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x).flatten(1)[:, :7] / 16 + self.bonus


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Never answers `disgust`."""
    metadata = ModelMetadata(
        classes=SEVEN, input_size=48, channels=1, dataset="x", labels="fer2013", genotype=GENOTYPE,
        test_accuracy=None, test_count=None, fer_nas_version=fer_nas.__version__, opset=18,
    )  # fmt: skip
    images = torch.randint(0, 256, (256, 1, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("evaluate") / "bands.onnx"
    return to_onnx(Bands(wrong=1), metadata, images, path).path


@pytest.mark.parametrize("source", ["fer.csv", "icml.csv"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_tables_give_the_known_result(source: str, split: str, model: Path, cases: Path) -> None:
    found = evaluate(model, DataConfig(data=str(cases / source)), split, batch_size=5)
    assert (found["n"], found["correct"], found["accuracy"]) == (14, 12, pytest.approx(12 / 14))
    assert found["recall"] == {name: 0.0 if name == "disgust" else 1.0 for name in SEVEN}
    assert found["classes"] == list(SEVEN) and found["split"] == split
    assert [row[index] for index, row in enumerate(found["confusion"])] == [2, 0, 2, 2, 2, 2, 2]


def test_folder_and_table_agree_although_folders_sort_otherwise(model: Path, cases: Path) -> None:
    table = evaluate(model, DataConfig(data=str(cases / "fer.csv")), "test")
    folder = evaluate(model, DataConfig(data=str(cases / "folder")), "test")
    assert folder["recall"] == table["recall"] and folder["classes"] == list(SEVEN)


def test_same_count_as_pytorch(model: Path, cases: Path) -> None:
    part = load(DataConfig(data=str(cases / "fer.csv"))).splits["test"]
    expected = int((Bands(wrong=1)(part.images.float()).argmax(1) == part.labels()).sum())
    assert evaluate(model, DataConfig(data=str(cases / "fer.csv")), "test")["correct"] == expected


def test_large_colour_pictures_are_resized_and_greyed(model: Path, cases: Path, tmp_path: Path) -> None:
    for file in (cases / "folder").rglob("*.png"):
        copy = tmp_path / file.relative_to(cases / "folder")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            image.resize((96, 96), Image.Resampling.NEAREST).convert("RGB").save(copy)
    found = evaluate(model, DataConfig(data=str(tmp_path)), "test")
    assert (found["n"], found["correct"]) == (14, 12)


def test_other_classes_are_refused(model: Path, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("happy", "sad"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (48, 48)).save(tmp_path / split / name / "1.png")
    with pytest.raises(
        InputError, match=r"bands\.onnx knows angry, .*; .* has happy, sad: give the data set"
    ) as caught:
        evaluate(model, DataConfig(data=str(tmp_path)), "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "split", "message"),
    [
        ("fer.csv", "test_largest", r"no images in split 'test_largest'; it has .*test"),
        ("nowhere.csv", "test", r"nowhere\.csv"),
        ("fer.csv", "unlabelled", r"no images in split"),
    ],
)
def test_what_is_not_there_is_named(data: str, split: str, message: str, model: Path, cases: Path) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model, DataConfig(data=str(cases / data)), split)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"kind": "search", "config": {}}', r"is a search; train what it found first"),
        ('{"kind": "other"}', r"config\.json: not the configuration of a training run"),
        ("[]", r"config\.json: not the configuration of a training run"),
        ('{"kind": "train"', r"is not a readable run configuration"),
        ('{"kind": "train"}', r"no best\.safetensors in .*; this run has not finished an epoch"),
    ],
)
def test_folders_that_hold_no_trained_network(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    for use in (lambda: evaluate(tmp_path, DataConfig(), "test"), lambda: export(tmp_path)):
        with pytest.raises(InputError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_missing_model_and_a_folder_that_is_no_run(cases: Path, tmp_path: Path) -> None:
    config = DataConfig(data=str(cases / "fer.csv"))
    with pytest.raises(InputError, match=r"model not found: .*gone\.onnx"):
        evaluate(tmp_path / "gone.onnx", config, "test")
    with pytest.raises(InputError, match="is not a run folder"):
        evaluate(tmp_path, config, "test")
