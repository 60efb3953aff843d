"""A live source read in a thread of its own, so that frames never queue up: only the newest one waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from fer_nas_live.sources import Frame, Source

LOOK_UP = 0.1
"""Seconds between two looks at whether the program is asked to stop."""
LEAVE = 3.0
"""Seconds that the reading thread gets to finish; a camera that hangs in its driver is left behind."""


def newest_only(source: Source, stopped: Callable[[], bool]) -> Source:
    """The same source, but iterating skips what became old meanwhile; a source that is not live stays as it is."""
    if not source.live:
        return source
    reader = Newest(source, stopped)
    return replace(source, frames=iter(reader), close=reader.close)


class Newest:
    """Reads `source` on and on; iterating yields the newest frame, and waits for one that is fresh.

    A frame older than half the source's interval is passed over for the next one, so that with a consumer that
    takes c seconds a frame is shown at most c + interval/2 after it was grabbed. An error of the source comes to
    the consumer after the last frame.
    """

    def __init__(self, source: Source, stopped: Callable[[], bool]) -> None:
        self.dropped = 0
        self._source, self._stopped = source, stopped
        self._change = threading.Condition()
        self._frame: Frame | None = None
        self._ended = self._closing = False
        self._error: Exception | None = None
        self._interval = 0.0
        self._thread = threading.Thread(target=self._read, name="capture", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        last = None
        try:
            for frame in self._source.frames:
                with self._change:
                    if last is not None:
                        gap = min(1.0, frame.grabbed - last)
                        self._interval = gap if not self._interval else 0.9 * self._interval + 0.1 * gap
                    last = frame.grabbed
                    self.dropped += self._frame is not None
                    self._frame = frame
                    self._change.notify()
                    if self._closing:
                        return
        except Exception as error:  # handed to the consumer, who raises it
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._change:
                while not self._ended and not self._fresh():
                    if self._stopped():
                        return
                    self._change.wait(LOOK_UP)
                frame, self._frame = self._frame, None
                if frame is None:
                    break
            yield frame
        if self._error is not None:
            raise self._error

    def _fresh(self) -> bool:
        if self._frame is None:
            return False
        return not self._interval or time.monotonic() - self._frame.grabbed <= self._interval / 2

    def close(self) -> None:
        """Let the thread finish its frame, then close the source; one that hangs is left to the end of the program."""
        self._closing = True
        self._thread.join(LEAVE)
        if not self._thread.is_alive():
            self._source.close()
