"""How long each stage of a frame takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

STAGES = ("grab", "detect", "track", "crop", "classify", "draw", "show")


class Stages:
    """Seconds of the frame in work by stage; with `keep` those of every frame, else only the last one's."""

    def __init__(self, keep: bool = False) -> None:
        self.now = dict.fromkeys(STAGES, 0.0)
        self.kept: dict[str, list[float]] | None = {name: [] for name in STAGES} if keep else None

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.now[name] += time.perf_counter() - start

    def next_frame(self) -> float:
        """End the frame; the seconds that it took without waiting for the source, the window and detection."""
        rest = sum(seconds for name, seconds in self.now.items() if name not in ("grab", "detect", "show"))
        if self.kept is not None:
            for name, seconds in self.now.items():
                self.kept[name].append(seconds)
        self.now = dict.fromkeys(STAGES, 0.0)
        return rest
