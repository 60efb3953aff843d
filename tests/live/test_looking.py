"""Detection in a thread of its own, files decoded ahead, and several faces classified in turn."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fer_nas_live import film
from fer_nas_live.ahead import FRAMES, read_ahead
from fer_nas_live.crops import EXACT
from fer_nas_live.detectors import Detection
from fer_nas_live.looking import Look, carried
from fer_nas_live.recognizer import Recognizer
from fer_nas_live.schedule import Schedule
from fer_nas_live.sources import Frame, Source
from fer_nas_live.stages import Stages
from fer_nas_live.tracking import Tracker, overlap

from fer_nas.errors import InputError

PICTURES = list(film.frames(26))


class FilmDetector:
    """Knows where the film's face is in every frame it is shown; as slow as it is told."""

    name, framing, limit = "film", EXACT, int

    def __init__(self, seconds: float = 0.0, hidden: tuple[int, ...] = ()) -> None:
        self.seconds, self.hidden, self.asked, self.threads = seconds, hidden, [], set()

    def detect(self, frame: np.ndarray, side: int = 640) -> list[Detection]:
        (number,) = (n for n, picture in enumerate(PICTURES) if picture is frame)
        self.asked.append(number)
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        if number in self.hidden:
            return []
        return [Detection(*(round(value) for value in film.face_at(number, 0, 1)), score=0.9)]


def look(detector: FilmDetector, schedule: Schedule, count: int, pause: float = 0.0) -> list[list]:
    tracker = Tracker(0.0)
    looking = Look(detector, tracker, schedule, Stages())  # type: ignore[arg-type]
    current, found = [], []
    for n, picture in enumerate(PICTURES[:count]):
        time.sleep(pause)
        seen = looking.seen(Frame(picture, n, n / 30), current)
        some = np.full((len(seen), 2), 0.5)
        current = tracker.update([one.box for one in seen], list(some), n / 30, [one.track for one in seen])
        found.append([(track.id, *track.box) for track in current])
    return found


def test_files_give_the_same_on_fast_and_on_slow_machines():
    fast, slow = FilmDetector(), FilmDetector(0.03)
    assert look(fast, Schedule(every=6), 20) == look(slow, Schedule(every=6), 20)
    assert fast.asked == slow.asked == [0, 6, 12, 18]
    assert any(name.startswith("detection") for name in slow.threads)


def test_the_face_is_where_it_is_although_its_detection_is_of_an_earlier_frame():
    for n, faces in enumerate(look(FilmDetector(), Schedule(every=6), 26)):
        ((track, *box),) = faces
        assert track == 1 and overlap(tuple(box), film.face_at(n, 0, 1)) > 0.7, n


def test_a_face_that_comes_in_between_is_brought_to_the_present_frame():
    """Live: the first frame shows nobody, a slow detection of a later one finds a face that has moved since."""
    found = look(FilmDetector(0.05, hidden=(0,)), Schedule(budget=1 / 30), 26, pause=0.01)
    first = next(n for n, faces in enumerate(found) if faces)
    assert first >= 4, "the loop did not wait for the detection"
    ((_, *box),) = found[first]
    assert overlap(tuple(box), film.face_at(first, 0, 1)) > 0.6


def test_live_frames_do_not_wait_for_the_detector():
    detector, schedule = FilmDetector(0.2), Schedule(budget=1 / 30)
    tracker = Tracker(0.0)
    looking, longest = Look(detector, tracker, schedule, Stages()), 0.0  # type: ignore[arg-type]
    current: list = []
    for n, picture in enumerate(PICTURES):
        start = time.perf_counter()
        seen = looking.seen(Frame(picture, n, n / 30), current)
        if n:
            longest = max(longest, time.perf_counter() - start)
        current = tracker.update(
            [one.box for one in seen], [np.ones(2)] * len(seen), n / 30, [one.track for one in seen]
        )
        time.sleep(0.02)
    assert len(detector.asked) >= 2 and longest < 0.15


def test_carried_boxes_move_and_grow_as_the_followed_one_did():
    assert carried((10, 10, 20, 20), (0, 0, 40, 40), (6, 4, 40, 40)) == (16, 14, 20, 20)
    assert carried((10, 10, 20, 20), (0, 0, 40, 40), (-20, -20, 80, 80)) == (0, 0, 40, 40)


def video(frames, closed=None) -> Source:
    return Source(kind="video", name="v", frames=frames, close=lambda: (closed or []).append(1), fps=25.0)


def test_reading_ahead_drops_nothing_and_keeps_few_frames():
    decoded = []

    def frames():
        for n in range(40):
            decoded.append(n)
            yield Frame(PICTURES[0], n, n / 25)

    closed: list[int] = []
    source = read_ahead(video(frames(), closed))
    seen = []
    for frame in source.frames:
        seen.append(frame.index)
        if len(seen) == 3:
            time.sleep(0.2)
            assert len(decoded) <= 3 + FRAMES + 2, "a whole film in memory"
    source.close()
    assert seen == list(range(40)) and not source.live


def test_an_error_of_the_file_comes_after_its_last_frame():
    def frames():
        yield Frame(PICTURES[0], 0, 0.0)
        raise InputError("v: cut")

    source, seen = read_ahead(video(frames())), []
    with pytest.raises(InputError, match="v: cut"):
        seen.extend(frame.index for frame in source.frames)
    source.close()
    assert seen == [0]


def test_closing_early_ends_the_thread():
    source = read_ahead(video(Frame(PICTURES[0], n, n / 25) for n in range(10**9)))
    assert next(source.frames).index == 0
    before = threading.active_count()
    source.close()
    assert threading.active_count() == before - 1


def test_pictures_and_cameras_are_not_read_ahead():
    for kind in ("picture", "folder", "camera", "stream"):
        source = Source(kind=kind, name="s", frames=iter(()), close=lambda: None)
        assert read_ahead(source) is source


class Counting:
    """A classifier that counts the faces it is given."""

    classes, input_size = ("a", "b"), 8

    class metadata:
        channels = 1

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def classify(self, crops) -> np.ndarray:
        self.sizes.append(len(crops))
        return np.tile(np.array([[0.25, 0.75]], np.float32), (len(crops), 1))


@pytest.mark.parametrize(
    ("faces", "smoothing", "sizes"),
    [(1, 0.3, [1] * 6), (4, 0.3, [4, 2, 2, 2, 2, 2]), (4, 0.0, [4] * 6), (3, 0.3, [3, 1, 2, 1, 2, 1])],
)
def test_several_smoothed_faces_are_classified_in_turn(faces, smoothing, sizes):
    boxes = [Detection(150 * n + 5, 40, 100, 100, 1.0) for n in range(faces)]
    model = Counting()
    detector = SimpleNamespace(name="fixed", framing=EXACT, limit=int, detect=lambda image, side: boxes)
    recognizer = Recognizer(detector, model, Tracker(smoothing), schedule=Schedule(every=1))  # type: ignore[arg-type]
    times = []
    for n in range(6):
        found = recognizer.faces(Frame(PICTURES[0], n, n / 30), True)
        assert [face.track for face in found] == list(range(1, faces + 1))
        times.append([track.classified for track in recognizer.tracker.tracks])
    assert model.sizes == sizes
    oldest = [n / 30 - min(stamps) for n, stamps in enumerate(times)]
    assert max(oldest) <= 1 / 30 + 1e-9, "every face at least on every second frame"
