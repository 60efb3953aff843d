"""The ONNX writer on small networks that have every kind of layer an exported network has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import fer_nas
from fer_nas.artifacts import Genotype, ModelMetadata
from fer_nas.classes import FACE_CLASSES
from fer_nas.errors import FerNasError, InputError
from fer_nas.export import onnx as exporter
from fer_nas.export.runtime import open_model, run_model

GENOTYPE = Genotype(normal=(("sep_conv_3x3", 0), ("skip_connect", 1)), normal_concat=(2,),
                    reduce=(("max_pool_3x3", 0), ("avg_pool_3x3", 1)), reduce_concat=(2,))  # fmt: skip


class Small(nn.Module):
    """Convolution, depthwise pair, pools, a padded and shifted view, concat, BatchNorm with statistics."""

    def __init__(self, channels: int = 1, classes: int = 7) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6))
        self.depthwise = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, 1, 2, 2, groups=6, bias=False),
            nn.Conv2d(6, 6, 1, bias=False),
            nn.BatchNorm2d(6),
        )
        self.even, self.odd = nn.Conv2d(6, 3, 1, 2), nn.Conv2d(6, 3, 1, 2)
        self.norm = nn.BatchNorm2d(6)
        self.max_pool, self.avg_pool = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.drop = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(18, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem((x - 127.5) / 63.0)
        x = self.depthwise(x) + x
        shifted = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        halves = self.norm(torch.cat([self.even(x), self.odd(shifted)], 1))
        x = torch.cat([halves, self.max_pool(x), self.avg_pool(x)], 1)
        return self.classifier(self.drop(self.pool(x).flatten(1)))


class Tiny(nn.Module):
    """Adaptive pooling behind a convolution; `shift` moves its logits, but not while it is exported."""

    def __init__(self, channels: int, shift: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(4, 7)
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.features(x / 255).flatten(1))
        return logits if torch.compiler.is_exporting() else logits + self.shift * torch.arange(7)


def make(channels: int = 1, classes: int = 7, size: int = 32) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Small(channels, classes)
        for _ in range(3):  # running statistics away from 0 and 1
            network(torch.rand(8, channels, size, size) * 255)
    return network.eval()


def images(count: int = 256, channels: int = 1, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def metadata(channels: int = 1, classes: int = 7, size: int = 32) -> ModelMetadata:
    return ModelMetadata(
        classes=FACE_CLASSES[:classes],
        input_size=size,
        channels=channels,
        dataset="fer2013",
        labels="fer2013",
        genotype=GENOTYPE,
        test_accuracy=0.5,
        test_count=14,
        fer_nas_version=fer_nas.__version__,
        opset=exporter.OPSET,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> exporter.ExportResult:
    network = make().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    result = exporter.to_onnx(network, metadata(), images(), path)
    assert network.training and network.drop.training, "export must leave the network as it was"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    return result


def test_result_states_file_size_images_and_difference(written: exporter.ExportResult) -> None:
    assert written.path.stat().st_size == written.size
    assert written.checked == 256
    assert 0 <= written.max_difference <= 1e-4


def test_file_moved_alone_loads(written: exporter.ExportResult, tmp_path: Path) -> None:
    assert [file.name for file in written.path.parent.iterdir()] == ["model.onnx"]
    moved = shutil.copy(written.path, tmp_path / "über 表 50%d.onnx")
    session, _ = open_model(Path(moved))
    expected = make()(images(4).float()).softmax(1).detach()
    torch.testing.assert_close(run_model(session, images(4)), expected, rtol=0, atol=1e-4)


def test_any_batch_gives_the_rows_of_single_runs(written: exporter.ExportResult) -> None:
    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    x = images(5).numpy().astype(np.float32)
    single = np.concatenate([session.run(None, {"image": x[row : row + 1]})[0] for row in range(5)])
    for batch in (1, 2, 5):
        (found,) = session.run(["probabilities"], {"image": x[:batch]})
        assert found.shape == (batch, 7) and found.dtype == np.float32
        np.testing.assert_allclose(found, single[:batch], rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)


def test_graph_interface_and_opset(written: exporter.ExportResult) -> None:
    model = onnx.load(written.path)
    (graph_input,), (output,) = model.graph.input, model.graph.output
    shape = [dim.dim_param or dim.dim_value for dim in graph_input.type.tensor_type.shape.dim]
    assert (graph_input.name, shape) == ("image", ["batch", 1, 32, 32])
    assert output.name == "probabilities"
    assert [item.version for item in model.opset_import if item.domain == ""] == [18]
    assert written.metadata.opset == 18


def test_metadata_comes_back(written: exporter.ExportResult) -> None:
    _, found = open_model(written.path)
    assert found == written.metadata == metadata()
    props = {item.key: item.value for item in onnx.load(written.path).metadata_props}
    assert json.loads(props["classes"]) == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert (props["input_size"], props["test_accuracy"], props["opset"]) == ("32", "0.5", "18")


def test_no_notes_of_the_exporter_are_left(written: exporter.ExportResult) -> None:
    model = onnx.load(written.path)
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        assert not part.metadata_props and not part.doc_string
    assert not graph.value_info and not model.functions
    content = written.path.read_bytes()
    for note in (b"stack_trace", b"pkg.torch", b"test_to_onnx", b".py"):
        assert note not in content


def test_convolutions_have_taken_in_their_batch_norm(written: exporter.ExportResult) -> None:
    kinds = [node.op_type for node in onnx.load(written.path).graph.node]
    assert kinds.count("Conv") == 5
    assert kinds.count("BatchNormalization") == 1  # the one behind a concat


@pytest.mark.parametrize(("size", "channels"), [(28, 3), (44, 1), (50, 1), (64, 1), (96, 1)])
def test_every_input_size(size: int, channels: int, tmp_path: Path) -> None:
    check_images = images(256, channels, size)
    result = exporter.to_onnx(Tiny(channels), metadata(channels, 7, size), check_images, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", channels, size, size]


def test_a_file_that_differs_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the file before")
    with pytest.raises(
        FerNasError, match=r"model.onnx not written: on 256 images .* differs .* by up to 0\.0"
    ) as caught:
        exporter.to_onnx(Tiny(1, shift=1e-2), metadata(), images(), path)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    assert path.read_bytes() == b"the file before"
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_not_a_number_is_not_equal(written: exporter.ExportResult) -> None:
    expected = torch.full((256, 7), float("nan"))
    with pytest.raises(FerNasError, match="differs from PyTorch by up to nan"):
        exporter.check(written.path, expected, images(), written.path)


def test_another_label_fails_but_a_tie_does_not(written: exporter.ExportResult) -> None:
    session, _ = open_model(written.path)
    found = run_model(session, images())
    top = found.topk(2, 1)
    for nudge, fails in ((2e-5, True), (1e-7, False)):
        expected = found.clone()  # the second class of row 0 now leads by `nudge`
        middle = top.values[0].mean()
        session_like = found.clone()
        expected[0, top.indices[0, 1]], expected[0, top.indices[0, 0]] = middle + nudge, middle
        session_like[0, top.indices[0, 0]], session_like[0, top.indices[0, 1]] = middle + 1e-6, middle
        if fails:
            with pytest.raises(FerNasError, match="1 of 256 images get another label"):
                exporter.compare(session_like, expected, written.path)
        else:
            assert exporter.compare(session_like, expected, written.path) < 1e-5


def test_class_names_must_fit_the_outputs(tmp_path: Path) -> None:
    with pytest.raises(FerNasError, match="7 outputs for 8 class names"):
        exporter.to_onnx(make(), metadata(classes=8), images(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot write"):
        exporter.to_onnx(make(), metadata(), images(), tmp_path / "file" / "model.onnx")


@pytest.mark.parametrize("content", [None, b"", b"no protobuf at all", "plain"])
def test_files_that_are_no_fer_model(content: bytes | str | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:  # a valid model of somebody else
        value = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy"]
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
        path.write_bytes(model.SerializeToString())
    expected = {None: "model not found", "plain": "not a model that fer-nas exported"}.get(
        content, "is not a usable ONNX model: "
    )
    with pytest.raises(InputError, match=expected) as caught:
        open_model(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
