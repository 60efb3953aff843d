"""What is drawn stays inside, does not hide faces, and changes nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fer_nas_live import drawing
from fer_nas_live.faces import UNSURE, Face
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_nas.classes import FACE_CLASSES


def face(box, label="happy", number=0):
    values = np.full(8, 0.02)
    values[FACE_CLASSES.index(label)] = 0.86
    return Face(face=number, track=number + 1, box=box, score=0.9, label=label, probabilities=values)


def common(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    return max(0, width) * max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))


def test_every_class_has_its_own_colour():
    assert set(drawing.COLOURS) == {*FACE_CLASSES, UNSURE}
    colours = np.array(list(drawing.COLOURS.values()), float)
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 999 * np.eye(9)
    assert distance.min() > 40


def test_the_frame_itself_is_left_alone():
    frame = np.full((240, 320, 3), 90, np.uint8)
    made = drawing.annotate(frame, [face((100, 60, 80, 90))], FACE_CLASSES, fps=25.0)
    assert (frame == 90).all() and made.shape == frame.shape and made.dtype == np.uint8
    assert not np.array_equal(made, frame)
    assert np.array_equal(drawing.annotate(frame, [], FACE_CLASSES), frame)


def test_the_label_shows_the_class_colour_and_the_inside_of_the_face_stays():
    frame = np.full((480, 640, 3), 90, np.uint8)
    for label in FACE_CLASSES:
        made = drawing.annotate(frame, [face((300, 200, 100, 120), label)], FACE_CLASSES)
        assert (made[210:310, 310:390] == 90).all()
        text = f"{label} 86%"
        x, y, w, h = drawing.label_rect(frame, (300, 200, 100, 120), text, drawing.unit(frame))
        near = np.abs(made[y : y + h, x : x + w].astype(int) - drawing.COLOURS[label]).max(-1) < 20
        assert near.mean() > 0.5 and y + h <= 200


def test_an_unsure_face_shows_its_guess_with_a_question_mark_in_a_colour_of_its_own(monkeypatch):
    frame, box = np.full((480, 640, 3), 90, np.uint8), (300, 200, 100, 120)
    doubtful = replace(face(box), label=UNSURE, guess="happy")
    assert doubtful.shown == "happy?" and face(box).shown == "happy"
    texts = []
    draw = drawing.draw_label
    monkeypatch.setattr(drawing, "draw_label", lambda *args: (texts.append(args[2]), draw(*args)))
    made = drawing.annotate(frame, [doubtful], FACE_CLASSES)
    assert texts == ["happy? 86%"]
    x, y, w, h = drawing.label_rect(frame, box, texts[0], drawing.unit(frame))
    near = np.abs(made[y : y + h, x : x + w].astype(int) - drawing.colour_of(UNSURE)).max(-1) < 20
    assert near.mean() > 0.5


@pytest.mark.parametrize("box", [(0, 0, 100, 120), (540, 0, 100, 120), (0, 360, 100, 120), (540, 360, 100, 120)])
def test_labels_and_bars_stay_inside_and_apart(box):
    frame = np.zeros((480, 640, 3), np.uint8)
    size = drawing.unit(frame)
    label = drawing.label_rect(frame, box, "surprise 100%", size)
    width, height = drawing.bars_size(FACE_CLASSES, 10)
    bars = drawing.bars_rect(frame, box, width, height, [box, label], force=False)
    assert bars is not None and not common(bars, box) and not common(bars, label) and not common(label, box)
    for x, y, w, h in (label, bars):
        assert x >= 0 and y >= 0 and x + w <= 640 and y + h <= 480


def test_a_face_that_fills_the_frame_still_gets_its_bars_and_a_crowd_does_not():
    frame = np.zeros((480, 640, 3), np.uint8)
    width, height = drawing.bars_size(FACE_CLASSES, 10)
    everything = (0, 0, 640, 480)
    assert drawing.bars_rect(frame, everything, width, height, [everything], force=True) is not None
    assert drawing.bars_rect(frame, everything, width, height, [everything], force=False) is None
    assert drawing.bars_rect(frame[:50], (0, 0, 9, 9), width, height, [], force=True) is None


def test_bars_grow_with_the_probability():
    images = []
    for share in (0.1, 0.5, 1.0):
        image = np.zeros((200, 300, 3), np.uint8)
        drawing.draw_bars(image, (10, 10, 280, 180), ["happy", "sad"], np.array([share, 1 - share]), 12)
        images.append((np.abs(image.astype(int) - drawing.COLOURS["happy"]).max(-1) < 12).sum())
    assert images[0] < images[1] < images[2]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.lists(
        st.tuples(st.integers(0, 199), st.integers(0, 199), st.integers(1, 200), st.integers(1, 200)),
        max_size=4,
    ),
)
def test_any_frame_and_any_boxes_can_be_drawn(shape, boxes):
    frame = np.zeros((*shape, 3), np.uint8)
    made = drawing.annotate(frame, [face(box, number=k) for k, box in enumerate(boxes)], FACE_CLASSES, fps=12.0)
    assert made.shape == frame.shape


def test_an_8k_frame_with_fifty_faces():
    frame = np.zeros((4320, 7680, 3), np.uint8)
    faces = [face((700 * (k % 10) + 50, 800 * (k // 10) + 50, 300, 350), number=k) for k in range(50)]
    assert drawing.annotate(frame, faces, FACE_CLASSES).any()
