"""Parts of a fast cell that do not depend on each other, side by side on a GPU.

Most kernels of a cell are too short to fill a GPU. In a recorded pass (`replay.py`) operations therefore have lanes,
streams of their own, which fork from the stream that they meet again in. The allocator gives a lane memory that only
work of that lane has used, so that no lane may write what another one reads until they have met, and what a lane gives
away is freed by itself or after the meeting. The main stream does nothing in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

_wanted = False
_streams: dict[tuple[torch.device, str], torch.cuda.Stream] = {}


@contextlib.contextmanager
def lanes() -> Iterator[None]:
    """Cells that begin in this block have lanes, if they are on a GPU. Started one by one by Python it does not pay."""
    global _wanted
    before, _wanted = _wanted, True
    try:
        yield
    finally:
        _wanted = before


def wanted(x: Tensor) -> bool:
    return _wanted and x.is_cuda


class Fork:
    """From here to `join` there are lanes; without them everything runs in turn, at once."""

    def __init__(self, like: Tensor, forks: bool) -> None:
        self.device, self.forks = like.device, forks
        self.main = torch.cuda.current_stream(self.device) if forks else None
        self.used: list[torch.cuda.Stream] = []
        self.later: list[Callable[[], None]] = []

    @contextlib.contextmanager
    def lane(self, name: str) -> Iterator[None]:
        """What runs in this block runs beside the other lanes' work, behind all that this lane has done."""
        if self.main is None:
            yield
            return
        stream = _streams.setdefault((self.device, name), torch.cuda.Stream(self.device))
        stream.wait_stream(self.main)
        self.used.append(stream)
        with torch.cuda.stream(stream):
            yield

    def after(self, work: Callable[[], None]) -> None:
        """What writes where several lanes would: when they have met; at once where there are none."""
        if self.forks:
            self.later.append(work)
        else:
            work()

    def join(self) -> None:
        for stream in self.used:
            assert self.main is not None
            self.main.wait_stream(stream)
        for work in self.later:
            work()
        self.later.clear()
