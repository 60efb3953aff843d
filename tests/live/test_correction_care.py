"""Priors, the face at rest, 'unsure', blurred faces, steady labels, time per expression."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from fer_nas_live import classifier, correction, drawing, film
from fer_nas_live.crops import EXACT
from fer_nas_live.detectors import Detector
from fer_nas_live.faces import UNSURE, Face
from fer_nas_live.recognizer import Recognizer
from fer_nas_live.sources import Frame
from fer_nas_live.telling import TOLD, Summary
from fer_nas_live.tracking import Track, Tracker

from fer_nas.artifacts import ModelMetadata
from fer_nas.errors import InputError


@pytest.fixture(scope="module")
def loaded(model):
    return classifier.load(model, "cpu")


def metadata(loaded, **extra) -> ModelMetadata:
    from dataclasses import replace

    shares = dict.fromkeys(loaded.classes, 1 / len(loaded.classes))
    return replace(loaded.metadata, extra={"class_shares": shares | extra})


def track(probabilities, since=0.0):
    return Track(
        id=1, box=(0, 0, 9, 9), probabilities=np.array(probabilities), since=since, seen=since, classified=since
    )


def test_a_prior_is_bayes_rule(loaded):
    about = metadata(loaded)
    made = correction.make("happy=0.5", 0.0, about)
    k = loaded.classes.index("happy")
    before = np.full(8, 0.1)
    before[k] = 0.3
    after = made.apply(track(before), 9.0)
    odds = before / np.delete(before, k).sum()
    prior_odds = 0.5 / 0.5 / ((1 / 8) / (7 / 8))
    assert after[k] / (1 - after[k]) == pytest.approx(odds[k] * prior_odds) and after.sum() == pytest.approx(1)
    given = correction.parse_prior("happy=0.5,sad=0.1", about)
    assert given.sum() == pytest.approx(1) and given[loaded.classes.index("neutral")] == pytest.approx(0.4 / 6)


@pytest.mark.parametrize("text", ["happy", "happy=2", "happy=0.1,happy=0.2", "happy=0.6,sad=0.5", "x=0.1", ""])
def test_wrong_priors_are_named(loaded, text):
    with pytest.raises(InputError, match="--prior"):
        correction.make(text, 0.0, metadata(loaded))


def test_a_prior_needs_to_know_what_was_learned_from(loaded):
    with pytest.raises(InputError, match="class shares"):
        correction.make("happy=0.5", 0.0, loaded.metadata)


def test_the_baseline_makes_a_resting_face_neutral_and_shows_the_change(loaded):
    made = correction.make(None, 1.0, metadata(loaded))
    sad, neutral, happy = (loaded.classes.index(name) for name in ("sad", "neutral", "happy"))
    rest = np.full(8, 0.02)
    rest[sad], rest[neutral], rest[happy] = 0.6, 0.2, 0.08  # a face that looks sad at rest
    person = track(rest)
    for n in range(10):
        made.learn(person, rest, n / 10)
        assert made.apply(person, n / 10).argmax() == sad, "not while it is learned"
    at_rest = made.apply(person, 1.5)
    assert at_rest.argmax() == neutral and at_rest[neutral] == pytest.approx(correction.AT_REST)
    smile = np.full(8, 0.02)
    smile[sad], smile[neutral], smile[happy] = 0.15, 0.05, 0.7
    person.probabilities = smile
    assert made.apply(person, 2.0).argmax() == happy
    made.learn(person, smile, 2.0)
    assert person.rests == 10, "learned no more after the time"


def recognizer(loaded, boxes, **options):
    detector = Detector("fake", lambda image: [(*box, 0.9) for box in boxes], EXACT)
    return Recognizer(detector, loaded, options.pop("tracker", Tracker(0.0)), **options)


def test_below_the_threshold_a_face_is_unsure(loaded):
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    for threshold, unsure in ((0.0, False), (1.0, True)):
        (face,) = recognizer(loaded, [(20, 20, 90, 90)], threshold=threshold).faces(Frame(image, 0, 0.0), False)
        assert (face.label == UNSURE) is unsure and face.label in (*loaded.classes, UNSURE)
        assert face.shown.rstrip("?") in loaded.classes and face.shown.endswith("?") is unsure


def test_blurred_faces_are_not_recognizable_and_the_rest_stays(loaded):
    (image,) = film.frames(1)
    box = tuple(map(round, film.face_at(0, 0, 1)))
    x, y, w, h = box
    changed = drawing.blurred(image, [box])
    before, after = image[y : y + h, x : x + w].astype(float), changed[y : y + h, x : x + w].astype(float)
    edges = [np.abs(np.diff(part, axis=1)).mean() for part in (before, after)]
    assert edges[1] < 0.2 * edges[0]
    far = np.ones(image.shape[:2], bool)
    far[max(0, y - h) : y + 2 * h, max(0, x - w) : x + 2 * w] = False
    assert np.array_equal(image[far], changed[far]) and not np.array_equal(image, changed)


def flips(labels):
    return sum(a != b for a, b in itertools.pairwise(labels))


def followed(smoothing, rows, fps):
    tracker, labels = Tracker(smoothing), []
    for n, row in enumerate(rows):
        (now,) = tracker.update([(10, 10, 50, 50)], row[None], n / fps)
        labels.append(tracker.choose(now, now.probabilities))
    return labels


@pytest.mark.parametrize("fps", [10, 30, 60])
def test_labels_are_steady_and_answer_within_half_a_second(fps):
    """A constant expression with noise: at most a fifth of the raw label's flips; a step is shown within 0.5 s."""
    rng = np.random.default_rng(fps)
    logits = np.array([1.0, 0.9, 0.0, 0.0]) + rng.normal(0, 0.6, (60 * fps, 4))
    rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    raw, steady = flips(followed(0.0, rows, fps)), flips(followed(0.3, rows, fps))
    assert raw > 60 and steady <= raw / 5
    step = np.repeat(np.array([[0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0]]), [2 * fps, fps], axis=0)
    labels = followed(0.3, step, fps)
    assert labels[2 * fps - 1] == 0 and (labels.index(1) - 2 * fps) / fps < 0.5


@pytest.mark.parametrize("threshold", [0.5, 0.55])
def test_unsure_is_steady_and_answers_within_half_a_second(threshold):
    """An expression around the threshold with noise: at most a third of the changes; a step is as fast as without."""

    def shown(rows):
        tracker, plain, steady = Tracker(0.3), [], []
        for n, row in enumerate(rows):
            (now,) = tracker.update([(10, 10, 50, 50)], row[None], n / 30)
            label, largest = tracker.choose(now, now.probabilities), float(now.probabilities.max())
            plain.append(label if largest >= threshold else -1)
            steady.append(label if tracker.is_sure(now, largest, threshold) else -1)
        return plain, steady

    rng = np.random.default_rng(0)
    first = threshold + rng.normal(0, 0.1, 1800)
    plain, steady = shown(np.stack([first, 0.8 * (1 - first), 0.2 * (1 - first)], 1))
    assert flips(plain) > 60 and flips(steady) <= flips(plain) / 3
    plain, steady = shown(np.repeat(np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05]]), [60, 30], axis=0))
    assert steady[59] == 0 and steady.index(1) == plain.index(1) < 60 + 0.5 * 30


def face(number, label):
    return Face(face=0, track=number, box=(0, 0, 1, 1), score=1.0, label=label, probabilities=np.ones(1))


def test_the_summary_tells_the_time_by_expression():
    summary = Summary(detector="d", provider="p", model="m")
    for n in range(31):
        people = [face(1, "happy" if n > 20 else "sad")] + ([face(2, "fear")] if n < 11 else [])
        summary.count(people, n / 10, n / 10)
    assert summary.track_lines() == ["face 1: sad 2.0 s, happy 1.0 s", "face 2: fear 1.0 s"]
    assert summary.line().startswith("31 frames, up to 2 faces at once (")
    short = Summary(detector="d", provider="p", model="m")
    for n, label in enumerate(["sad", "sad", "fear"]):
        short.count([face(1, label), *[face(2, "sad")] * (n == 2)], n, [0.0, 1.0, 1.04][n])
    assert short.track_lines() == ["face 1: sad 1.0 s", "face 2: less than 0.1 s"]
    short.count([], 3, 2.0)
    assert "4 frames, up to 2 faces at once, none in 1 of them (sad 75 %, fear 25 %)" in short.line()
    many = Summary(detector="d", provider="p", model="m")
    for n in range(2):
        many.count([face(k, "sad") for k in range(TOLD + 3)], n, n / 10)
    assert len(many.track_lines()) == TOLD + 1 and many.track_lines()[-1] == "and 3 faces that were seen for less"
