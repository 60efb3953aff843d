"""What the fast form does with pictures on a CPU, compiled by Numba: parities, and columns of zeros between.

Shapes: N pictures of H × W pixels with C channels, (N, H, W, C), contiguous.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fer_nas.space.cpu_kernels import array, compiled


@compiled
def _to_parities(x: Any, out: Any) -> None:
    """(N, H, W, C) → (4, N, ⌈H/2⌉, ⌈W/2⌉, C); zeros fill up."""
    pictures, height, width, channels = x.shape
    for parity in range(4):
        down, right = parity // 2, parity % 2
        for n in range(pictures):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    inside = 2 * i + down < height and 2 * j + right < width
                    for c in range(channels):
                        out[parity, n, i, j, c] = x[n, 2 * i + down, 2 * j + right, c] if inside else x.dtype.type(0)


@compiled
def _add_from_parities(to: Any, parts: Any, first: int, row: Any) -> None:
    """to (N, H, W, C) += what is in the C columns from `first` on of (4, N, ⌈H/2⌉, ⌈W/2⌉, K), times `row`."""
    pictures, height, width, channels = to.shape
    for parity in range(4):
        down, right = parity // 2, parity % 2
        for n in range(pictures):
            for i in range((height + 1 - down) // 2):
                for j in range((width + 1 - right) // 2):
                    target = to[n, 2 * i + down, 2 * j + right]
                    part = parts[parity, n, i, j, first : first + channels]
                    for c in range(channels):
                        target[c] += part[c] * row[c]


@compiled
def _between_columns(x: Any, memory: Any) -> None:
    """fast_convs._between_columns: memory is (N·H·(W + 1) + 1, C)."""
    pictures, height, width, _ = x.shape
    channels = memory.shape[1]
    flat, length = memory.reshape(memory.size), width * channels
    flat[:channels] = 0
    start = channels
    for n in range(pictures):
        for i in range(height):
            row, target = x[n, i].reshape(length), flat[start : start + length]
            for t in range(length):
                target[t] = row[t]
            flat[start + length : start + length + channels] = 0
            start += length + channels


def to_parities(x: Tensor) -> Tensor:
    n, h, w, c = x.shape
    out = x.new_empty(4 * n, (h + 1) // 2, (w + 1) // 2, c)
    _to_parities(array(x), out.numpy().reshape(4, n, *out.shape[1:]))
    return out


def add_from_parities(to: Tensor, parts: Tensor, first: int = 0, row: Tensor | None = None) -> None:
    """to (N, H, W, C) += its parities (4·N, ⌈H/2⌉, ⌈W/2⌉, K), of the K columns C from `first` on, times `row`."""
    n, h, w, c = to.shape
    view = array(parts).reshape(4, n, (h + 1) // 2, (w + 1) // 2, -1)
    _add_from_parities(to.numpy(), view, first, np.ones(c, view.dtype) if row is None else array(row))


def between_columns(x: Tensor) -> Tensor:
    n, h, w, c = x.shape
    memory = x.new_empty(n * h * (w + 1) + 1, c)
    _between_columns(array(x), memory.numpy())
    return memory
