"""A function's forward and backward pass on a GPU, recorded once as CUDA graphs and replayed.

A supernet's pass is thousands of kernels, most of them shorter than the time in which Python starts one. Replayed they
start each other. A recording holds for one set of shapes; its inputs are copied to where it reads them, and its outputs
are copied from where it writes them, so that to its caller it is the function itself.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Function = Callable[[Sequence[Tensor]], Tensor]
"""Of tensors alone: it reads nothing else that changes, draws nothing at random and never waits for the GPU."""

SEEN_BEFORE = 2
"""Calls of a new kind that run as they are, before one is recorded: odd last batches are not worth it."""
KEPT = 6
"""Recordings; what comes beyond them runs as it is."""


class Replay:
    """One function's recordings. They share their memory, so that between a forward pass and its backward pass no other
    one is replayed: what is asked for meanwhile runs as it is."""

    def __init__(self) -> None:
        self.recordings: dict[Hashable, Recording] = {}
        self.seen: dict[Hashable, int] = {}
        self.refused: set[Hashable] = set()
        self.pool: Any = None
        self.open: weakref.ref[Any] | None = None  # to the forward pass whose backward pass is still to come

    def __call__(self, function: Function, inputs: Sequence[Tensor], kind: Hashable = None) -> Tensor:
        """function(inputs), differentiable once. kind: what else the function depends on."""
        if self.open is not None and self.open() is not None:
            return function(inputs)
        wanted = tuple(x.requires_grad for x in inputs) if torch.is_grad_enabled() else (False,) * len(inputs)
        key = (kind, wanted, tuple((x.shape, x.dtype) for x in inputs))
        if key not in self.recordings:
            self.seen[key] = self.seen.get(key, 0) + 1
            if self.seen[key] <= SEEN_BEFORE or key in self.refused or len(self.recordings) >= KEPT:
                return function(inputs)
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            try:
                self.recordings[key] = Recording(function, inputs, wanted, self.pool)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # what a driver or a library cannot record is not known beforehand
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                warnings.warn(f"runs without CUDA graphs, which is slower: {reason}", stacklevel=2)
                self.refused.add(key)
                return function(inputs)
        recording = self.recordings[key]
        return _Replayed.apply(self, recording, *inputs) if any(wanted) else recording.forward(inputs)


class Recording:
    """The graphs of one kind of call, and the tensors that they read and write."""

    def __init__(self, function: Function, inputs: Sequence[Tensor], wanted: tuple[bool, ...], pool: Any) -> None:
        self.wanted = [place for place, one in enumerate(wanted) if one]
        self.inputs = [
            torch.empty_like(x).copy_(x.detach()).requires_grad_(one) for x, one in zip(inputs, wanted, strict=True)
        ]
        self.leaves = [self.inputs[place] for place in self.wanted]
        self._rehearse(function)
        self.graph, self.backward_graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=pool):
            out = function(self.inputs)
        self.out = out.detach()
        if self.leaves:
            self.slope = torch.ones_like(self.out)
            with torch.cuda.graph(self.backward_graph, pool=pool):
                found = torch.autograd.grad(out, self.leaves, self.slope, allow_unused=True)
                self.reached = [place for place, g in zip(self.wanted, found, strict=True) if g is not None]
                self.flat = torch.cat([_in_memory_order(g, x) for g, x in zip(found, self.leaves, strict=True)
                                       if g is not None])  # fmt: skip
            self.views = _views([self.inputs[place] for place in self.reached])

    def _rehearse(self, function: Function) -> None:
        """What a first run sets up cannot be recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                out = function(self.inputs)
                if self.leaves:
                    torch.autograd.grad(out, self.leaves, torch.ones_like(out), allow_unused=True)
        torch.cuda.current_stream().wait_stream(stream)

    @torch.no_grad()
    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        torch._foreach_copy_(self.inputs, [x.detach() for x in inputs])
        self.graph.replay()
        return self.out.clone()

    def backward(self, g: Tensor) -> list[Tensor | None]:
        """One gradient an input, None where it has none."""
        self.slope.copy_(g)
        self.backward_graph.replay()
        flat = self.flat.clone()
        found: list[Tensor | None] = [None] * len(self.inputs)
        for place, view in zip(self.reached, self.views, strict=True):
            found[place] = torch.as_strided(flat, *view)
        return found


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replay: Replay, recording: Recording, *inputs: Tensor) -> Tensor:
        ctx.replay, ctx.recording, ctx.done = replay, recording, False
        replay.open = weakref.ref(ctx)
        return recording.forward(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.done:
            raise RuntimeError("a replayed pass goes backward once: what lay between has been overwritten")
        ctx.done, ctx.replay.open = True, None
        return None, None, *ctx.recording.backward(g)


def _in_memory_order(g: Tensor, like: Tensor) -> Tensor:
    """g's numbers as one vector, in the order in which `like` of the same shape holds its own."""
    strides: tuple[int, ...] = like.stride()
    order = sorted(range(like.dim()), key=lambda side: -strides[side])
    return g.permute(order).reshape(-1)


def _views(tensors: Sequence[Tensor]) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Shape, strides and start of each tensor's numbers in one vector that holds them all in memory order."""
    found, start = [], 0
    for tensor in tensors:
        found.append((tuple(tensor.shape), tensor.stride(), start))
        start += tensor.numel()
    return found
