"""The model session: what it refuses, what it answers, where it runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from fer_nas_live import classifier, models
from onnx import helper

from fer_nas.classes import FACE_CLASSES
from fer_nas.errors import InputError
from fer_nas.export.runtime import open_model


@pytest.fixture(scope="module")
def crops():
    return [np.random.default_rng(k).uniform(0, 255, (1, 48, 48)).astype(np.float32) for k in range(5)]


def test_reads_what_the_model_says_of_itself(model):
    loaded = classifier.load(model, "cpu")
    assert loaded.classes == FACE_CLASSES and loaded.input_size == 48 and loaded.metadata.channels == 1
    assert loaded.provider == "CPUExecutionProvider"


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_a_batch_is_its_single_runs(model, crops, count):
    loaded = classifier.load(model, "cpu")
    batch = loaded.classify(crops[:count])
    assert batch.shape == (count, 8) and batch.dtype == np.float32
    for row, crop in zip(batch, crops, strict=False):
        assert np.allclose(row, loaded.classify([crop])[0], atol=1e-5)
        assert np.isclose(row.sum(), 1, atol=1e-5)


def test_one_call_for_all_faces(model, crops, monkeypatch):
    loaded = classifier.load(model, "cpu")
    calls = []
    monkeypatch.setattr(classifier, "_run", lambda session, images: calls.append(images.shape))
    loaded.classify(crops)
    loaded.classify([])
    assert calls == [(5, 1, 48, 48)]


def test_colour_models_work(make_model, tmp_path):
    loaded = classifier.load(make_model(tmp_path / "rgb.onnx", channels=3, size=32, classes=FACE_CLASSES[:7]), "cpu")
    assert loaded.classify([np.zeros((3, 32, 32), np.float32)]).shape == (1, 7)


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 100, b"<html></html>"])
def test_files_that_are_no_model(tmp_path, content, capfd):
    file = tmp_path / "odd.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"odd\.onnx") as raised:
        classifier.load(file, "cpu")
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_a_folder_and_a_truncated_model(tmp_path, model):
    with pytest.raises(InputError, match="cannot read the model"):
        classifier.load(tmp_path)
    data = model.read_bytes()
    (tmp_path / "half.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"half\.onnx"):
        classifier.load(tmp_path / "half.onnx")


def test_the_application_and_evaluation_say_the_same_of_a_broken_file(tmp_path):
    (tmp_path / "odd.onnx").write_bytes(b"garbage")
    said = []
    for opener in (classifier.load, open_model):
        with pytest.raises(InputError, match=r"odd\.onnx is not a usable ONNX model: ") as raised:
            opener(tmp_path / "odd.onnx")
        said.append(str(raised.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"metadata": {}}, "not a model that fer-nas exported"),
        ({"classes": ("airplane", "car")}, "not a model of facial expressions: it tells airplane, car apart"),
        ({"outputs": 5}, r"answers \(2, 5\) for two images; its metadata names 8"),
        ({"softmax": False}, "not probabilities"),
        ({"batch": 1}, "does not take two images"),
        ({"channels": 2}, "asks for 2 channels"),
    ],
)
def test_models_of_another_kind(make_model, tmp_path, settings, reason, capfd):
    with pytest.raises(InputError, match=reason) as raised:
        classifier.load(make_model(tmp_path / "other.onnx", **settings), "cpu")
    assert "other.onnx" in str(raised.value) and "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("change", [{"input_size": "64"}, {"classes": "happy"}, {"genotype": "{}"}, {"classes": "[]"}])
def test_metadata_that_does_not_fit(model, tmp_path, change):
    loaded = onnx.load(str(model))
    strings = {entry.key: entry.value for entry in loaded.metadata_props} | change
    helper.set_model_props(loaded, strings)
    onnx.save(loaded, str(tmp_path / "changed.onnx"))
    with pytest.raises(InputError, match=r"changed\.onnx"):
        classifier.load(tmp_path / "changed.onnx", "cpu")


def test_a_gpu_that_is_not_there_is_an_error_and_auto_is_not(model, monkeypatch):
    monkeypatch.setattr(classifier, "gpu_problem", lambda provider: "no NVIDIA driver was found on this machine")
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(InputError, match=rf"--provider {provider}: no NVIDIA driver.*auto or cpu"):
            classifier.load(model, provider)
    assert classifier.load(model, "auto").provider == "CPUExecutionProvider"
    with pytest.raises(InputError, match="choose from auto"):
        classifier.load(model, "directml")


def test_a_silent_fall_back_to_the_cpu_is_an_error(model, monkeypatch, capfd):
    monkeypatch.setattr(classifier, "gpu_problem", lambda provider: None)
    real = classifier._session
    monkeypatch.setattr(classifier, "_session", lambda path, data, provider: real(path, data, "cpu"))
    with pytest.raises(InputError, match="fell back to CPUExecutionProvider"):
        classifier.load(model, "cuda")
    assert classifier.load(model, "auto").provider == "CPUExecutionProvider"
    assert capfd.readouterr() == ("", "")


def test_a_build_without_cuda_says_so(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "onnxruntime-gpu" in classifier.gpu_problem("cuda")


def test_models_are_found_in_both_places(tmp_path, monkeypatch, model):
    package = tmp_path / "app" / "fer_nas_live"
    for folder, names in (
        (package / "models", ["b.onnx"]),
        (tmp_path / "exports", ["a.onnx", models.DEFAULT_MODEL]),
    ):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(model.read_bytes())
    monkeypatch.setattr(models, "__file__", str(package / "models.py"))
    assert [path.name for path in models.find()] == [models.DEFAULT_MODEL, "b.onnx", "a.onnx"]
    assert models.default_model() == tmp_path / "exports" / models.DEFAULT_MODEL
    assert models.resolve("a") == models.resolve("a.onnx") == tmp_path / "exports" / "a.onnx"
    assert models.resolve(str(model)) == model
    with pytest.raises(InputError, match=r"model not found: c; released models: .*, b, a"):
        models.resolve("c")
    models.default_model().unlink()
    with pytest.raises(InputError, match="--model FILE"):
        models.default_model()


def test_io_binding_answers_what_a_plain_run_does(model, crops):
    """The way of CUDA and TensorRT, on the CPU provider; a transposed batch is one that is not contiguous."""
    session = classifier.load(model, "cpu").session
    images = np.stack(crops)
    turned = np.ascontiguousarray(images.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    for batch in (images, turned, images[:1]):
        assert np.array_equal(classifier._run_bound(session, batch), classifier._run(session, batch))
