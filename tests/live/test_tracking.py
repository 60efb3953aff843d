"""Ids over frames, and smoothing against its closed form."""

from __future__ import annotations

import math

import numpy as np
from fer_nas_live.tracking import FORGET_AFTER, Tracker, overlap

SURE, UNSURE = np.array([1.0, 0.0]), np.array([0.0, 1.0])


def ids(tracker, boxes, time):
    return [track.id for track in tracker.update(boxes, np.tile(SURE, (len(boxes), 1)), time)]


def test_overlap():
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == 50 / 150
    assert overlap((0, 0, 10, 10), (10, 0, 10, 10)) == 0


def test_faces_keep_their_ids_when_the_order_changes():
    tracker = Tracker()
    assert ids(tracker, [(0, 0, 10, 10), (50, 0, 10, 10)], 0.0) == [1, 2]
    assert ids(tracker, [(2, 0, 10, 10), (48, 0, 10, 10)], 0.1) == [1, 2]
    assert ids(tracker, [(48, 0, 10, 10)], 0.2) == [2]
    assert ids(tracker, [(1, 0, 10, 10), (30, 0, 10, 10), (48, 0, 10, 10)], 0.3) == [1, 3, 2]


def test_each_face_is_matched_once_and_the_best_pair_first():
    tracker = Tracker()
    ids(tracker, [(0, 0, 10, 10)], 0.0)
    assert ids(tracker, [(0, 0, 10, 10), (1, 0, 10, 10)], 0.1) == [1, 2]
    assert ids(tracker, [(1, 0, 10, 10)], 0.2) == [2]


def test_a_lost_face_is_forgotten_in_time():
    tracker = Tracker()
    ids(tracker, [(0, 0, 10, 10)], 0.0)
    assert ids(tracker, [], 0.5) == []
    assert ids(tracker, [(0, 0, 10, 10)], FORGET_AFTER) == [1]
    assert ids(tracker, [(0, 0, 10, 10)], 2.1 * FORGET_AFTER) == [2]


def test_unrelated_pictures_get_new_ids():
    tracker = Tracker()
    ids(tracker, [(0, 0, 10, 10)], 0.0)
    tracker.forget()
    assert ids(tracker, [(0, 0, 10, 10)], 0.0) == [2]


def test_smoothing_follows_its_time_constant_at_any_frame_rate():
    for steps in (1, 4, 25):
        tracker = Tracker(smoothing=0.5)
        tracker.update([(0, 0, 9, 9)], SURE[None], 0.0)
        for step in range(1, steps + 1):
            (track,) = tracker.update([(0, 0, 9, 9)], UNSURE[None], step / steps)
        assert np.allclose(track.probabilities, [math.exp(-2), 1 - math.exp(-2)])


def test_without_smoothing_each_frame_stands_alone():
    tracker = Tracker(smoothing=0.0)
    tracker.update([(0, 0, 9, 9)], SURE[None], 0.0)
    (track,) = tracker.update([(0, 0, 9, 9)], UNSURE[None], 0.0)
    assert np.array_equal(track.probabilities, UNSURE)


def sure_over(largest, threshold=0.5, smoothing=0.3):
    tracker = Tracker(smoothing)
    (track,) = tracker.update([(0, 0, 9, 9)], [SURE], 0.0)
    return [tracker.is_sure(track, value, threshold) for value in largest]


def test_unsure_does_not_flicker_around_the_threshold():
    noisy = [0.52, 0.49, 0.52, 0.49, 0.59, 0.61, 0.51, 0.5, 0.49, 0.51]
    assert sure_over(noisy) == [True, False, False, False, False, True, True, True, False, False]
    assert sure_over(noisy, smoothing=0.0) == [value >= 0.5 for value in noisy]


def test_each_face_is_sure_or_unsure_for_itself_and_a_high_threshold_can_be_passed():
    tracker = Tracker(0.3)
    one, other = tracker.update([(0, 0, 9, 9), (50, 0, 9, 9)], [SURE, SURE], 0.0)
    assert not tracker.is_sure(one, 0.4, 0.5) and tracker.is_sure(other, 0.52, 0.5)
    assert not tracker.is_sure(one, 0.52, 0.5) and tracker.is_sure(other, 0.52, 0.5)
    assert sure_over([0.96, 0.98, 0.99], threshold=0.97) == [False, False, True]
    assert sure_over([0.2, 0.0], threshold=0.0) == [True, True]


def test_another_class_than_the_one_that_became_unsure_is_shown_from_the_threshold_on():
    tracker = Tracker(0.3)
    (track,) = tracker.update([(0, 0, 9, 9)], [SURE], 0.0)
    assert not tracker.is_sure(track, 0.49, 0.5) and not tracker.is_sure(track, 0.52, 0.5)
    track.label = 1
    assert tracker.is_sure(track, 0.52, 0.5)
    assert not tracker.is_sure(track, 0.49, 0.5) and not tracker.is_sure(track, 0.52, 0.5)
