"""Only the newest frame, when to detect, and following a face in between."""

from __future__ import annotations

import itertools
import threading
import time

import cv2
import numpy as np
import pytest
from fer_nas_live import bench, film
from fer_nas_live.flow import Flow
from fer_nas_live.newest import newest_only
from fer_nas_live.schedule import LONGEST, Schedule, file_rhythm
from fer_nas_live.sources import Frame, Source

from fer_nas.errors import InputError

IMAGE = np.zeros((4, 4, 3), np.uint8)


def camera(frames, closed=None):
    return Source(kind="camera", name="c", frames=frames, close=(closed or []).append, fps=50.0)


def test_a_slow_consumer_gets_new_frames_only():
    source = bench.simulated_camera([IMAGE], 50, 1.2)
    reader = newest_only(source, lambda: False)
    seen, ages = [], []
    for frame in reader.frames:
        ages.append(time.monotonic() - frame.grabbed)
        seen.append(frame.index)
        time.sleep(0.1)
    reader.close()
    assert 2 <= len(seen) <= 13 and all(b > a for a, b in itertools.pairwise(seen))
    assert max(ages) < 0.6, "60 frames that queue up would be seconds old"


def test_files_lose_no_frame():
    frames = [Frame(IMAGE, n, n / 25) for n in range(20)]
    source = Source(kind="video", name="v", frames=iter(frames), close=lambda: None, fps=25)
    assert newest_only(source, lambda: False) is source


def test_an_error_of_the_source_comes_after_its_last_frame():
    def frames():
        yield Frame(IMAGE, 0, 0.0)
        raise InputError("camera 0 stopped")

    reader, seen = newest_only(Source(kind="camera", name="c", frames=frames(), close=lambda: None), lambda: False), []
    with pytest.raises(InputError, match="camera 0 stopped"):
        seen.extend(frame.index for frame in reader.frames)
    reader.close()
    assert seen == [0]


def test_waiting_ends_when_the_program_is_stopped():
    never, stopped = threading.Event(), threading.Event()

    def frames():
        never.wait(5)
        yield Frame(IMAGE, 0, 0.0)

    closed = []
    source = Source(kind="camera", name="c", frames=frames(), close=lambda: closed.append(1))
    reader = newest_only(source, stopped.is_set)
    threading.Timer(0.1, stopped.set).start()
    assert list(reader.frames) == []
    never.set()
    reader.close()
    assert closed == [1]


def test_the_rhythm_of_files_is_fixed():
    schedule = Schedule(every=6)
    due = []
    for n in range(12):
        due.append(schedule.due(following=1))
        if due[-1]:
            schedule.began()
            schedule.detected(10.0 * n)
        schedule.spent(5.0)
    assert [n for n, value in enumerate(due) if value] == [5, 11]
    assert [file_rhythm(fps) for fps in (2, 10, 25, 30, 60)] == [1, 2, 6, 8, 15]
    assert schedule.due(following=0), "no face: at once"


@pytest.mark.parametrize(
    ("detection", "rest", "every"),
    [(0.001, 0.001, 1), (0.04, 0.003, 2), (0.1, 0.013, 5), (0.1, 1.0, 12), (9.0, 1.0, 15)],
)
def test_k_adapts_to_the_budget(detection, rest, every):
    """k = ⌈D / (B − R)⌉, B − R at least a quarter of B = 1/30 s, k at most what LONGEST allows."""
    schedule = Schedule(budget=1 / 30)
    for _ in range(200):
        schedule.due(1)
        schedule.spent(rest)
        schedule.detected(detection)
    assert schedule.every == every and every <= LONGEST * 30


@pytest.mark.parametrize(("dx", "dy", "scale"), [(0, 0, 1.0), (7, -4, 1.0), (-5, 3, 1.06), (2, 2, 0.94)])
def test_flow_finds_a_shift_and_a_scale(dx, dy, scale):
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.uniform(0, 255, (48, 64, 3)), (320, 240), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    box = (100.0, 70.0, 80.0, 90.0)
    middle = np.array([140.0, 115.0])
    matrix = np.array([[scale, 0, 0], [0, scale, 0]], np.float64)
    matrix[:, 2] = middle * (1 - scale) + np.array([dx, dy])
    flow = Flow(320)
    flow.look(picture)
    assert flow.follow([box]) == [None], "nothing before the first frame"
    flow.look(cv2.warpAffine(picture, matrix, (320, 240)))
    (found,) = flow.follow([box])
    wanted = (middle[0] + dx - 40 * scale, middle[1] + dy - 45 * scale, 80 * scale, 90 * scale)
    assert np.allclose(found, wanted, atol=1.5)


def test_flow_says_when_a_face_is_lost():
    rng = np.random.default_rng(1)
    flow = Flow(320)
    for _ in range(2):
        flow.look(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    assert flow.follow([(100.0, 70.0, 80.0, 90.0)]) == [None]
    flow.look(np.zeros((100, 50, 3), np.uint8))  # another size
    assert flow.follow([(10.0, 7.0, 8.0, 9.0)]) == [None]


def test_flow_follows_the_films_face():
    flow, box = Flow(320), film.face_at(0, 0, 1)
    for n, image in enumerate(film.frames(12)):
        flow.look(image)
        if n:
            (box,) = flow.follow([box])
    wanted = film.face_at(11, 0, 1)
    miss = np.abs(np.array(box) - wanted)
    assert miss.max() < 0.1 * wanted[2]
