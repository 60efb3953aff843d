"""A video file decoded in a thread of its own, a few frames ahead: none is dropped, none waits for the codec."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import replace

from fer_nas_live.sources import Frame, Source

FRAMES = 4
"""Decoded frames that may wait, each with its picture in memory."""


def read_ahead(source: Source) -> Source:
    """The same source with its frames decoded ahead; one that is no video file stays as it is."""
    if source.kind != "video":
        return source
    reader = Ahead(source)
    return replace(source, frames=iter(reader), close=reader.close)


class Ahead:
    """Iterating yields the source's frames in their order; an error of the source comes after its last frame."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frames: queue.Queue[Frame | Exception | None] = queue.Queue(FRAMES)
        self._closing = False
        self._thread = threading.Thread(target=self._read, name="decoder", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        end: Exception | None = None
        try:
            for frame in self._source.frames:
                self._frames.put(frame)
                if self._closing:
                    return
        except Exception as error:  # handed to the consumer, who raises it
            end = error
        self._frames.put(end)

    def __iter__(self) -> Iterator[Frame]:
        while isinstance(item := self._frames.get(), Frame):
            yield item
        if item is not None:
            raise item

    def close(self) -> None:
        """Let the thread finish its frame, then close the source."""
        self._closing = True
        while self._thread.is_alive():
            while not self._frames.empty():
                self._frames.get()
            self._thread.join(0.05)
        self._source.close()
