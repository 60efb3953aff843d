"""What the operations of a source add to its nodes, on a GPU in Triton: all of them in one pass over the nodes' sums.

Shapes as in fast_cell.py: sums (nodes, M, C); outputs of operations (M, k·C), k consecutive nodes side by side, or as
the parities of a picture (`layout.to_parities`), whose pixels are found where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

MOST = 4  # outputs that a kernel adds
TILE = 1024  # numbers that a program holds at a time


@dataclass(frozen=True)
class Term:
    """An operation's outputs for `edges` nodes from `node` on, and where their columns begin in the norm's row.

    y (M, edges·C) may be some columns of more.
    """

    y: Tensor
    row: int
    node: int
    edges: int
    parity: bool


@triton.jit
def _term(y, row, first, pixel, at, own, channel, mask, inside, columns, PARITY: tl.constexpr):  # type: ignore[no-untyped-def]
    line = pixel
    if PARITY:
        line = at
    value = tl.load(y + line.to(tl.int64)[:, None] * columns + (own + channel)[None, :], mask=mask, other=0.0)
    return value * tl.load(row + first + own + channel, mask=inside, other=0.0)[None, :]


@triton.jit(
    do_not_specialize=[
        "first0", "first1", "first2", "first3", "columns0_v", "columns1_v", "columns2_v", "columns3_v", "node",
        "images", "height", "width", "channels_v",
    ]
)  # fmt: skip
def _add(  # type: ignore[no-untyped-def]
    sums, y0, y1, y2, y3, row, first0, first1, first2, first3, columns0_v, columns1_v, columns2_v, columns3_v, node,
    images, height, width, channels_v,
    COUNT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr, P3: tl.constexpr,
    V: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    channels = channels_v * V
    pixels = images * height * width
    pixel = tl.program_id(0) * BM + tl.arange(0, BM)
    channel, edge = tl.program_id(1) * BC + tl.arange(0, BC), tl.program_id(2)
    inside = channel < channels
    mask = (pixel < pixels)[:, None] & inside[None, :]
    w, line = pixel % width, pixel // width
    h, n = line % height, line // height
    at = (((h % 2) * 2 + w % 2) * images + n) * ((height + 1) // 2) + h // 2
    at = at * ((width + 1) // 2) + w // 2
    own = edge * channels
    place = ((node + edge).to(tl.int64) * pixels + pixel)[:, None] * channels + channel[None, :]
    total = tl.load(sums + place, mask=mask, other=0.0)
    total += _term(y0, row, first0, pixel, at, own, channel, mask, inside, columns0_v * V, P0)
    if COUNT > 1:
        total += _term(y1, row, first1, pixel, at, own, channel, mask, inside, columns1_v * V, P1)
    if COUNT > 2:
        total += _term(y2, row, first2, pixel, at, own, channel, mask, inside, columns2_v * V, P2)
    if COUNT > 3:
        total += _term(y3, row, first3, pixel, at, own, channel, mask, inside, columns3_v * V, P3)
    tl.store(sums + place, total, mask=mask)


def add(sums: Tensor, terms: list[Term], row: Tensor, shape: tuple[int, int, int]) -> None:
    """To `sums` the terms times `row`, by column. Terms of the same nodes go together."""
    waiting = list(terms)
    while waiting:
        lead = waiting[0]
        group = [term for term in waiting if (term.node, term.edges) == (lead.node, lead.edges)][:MOST]
        waiting = [term for term in waiting if not any(term is taken for taken in group)]
        _together(sums, group, row, shape)


def _together(sums: Tensor, group: list[Term], row: Tensor, shape: tuple[int, int, int]) -> None:
    lead, (images, height, width), channels = group[0], shape, sums.shape[2]
    wide = next(w for w in (16, 4, 1) if channels % w == 0)
    v = min(wide, 4)
    filled = group + [lead] * (MOST - len(group))  # the rest is not read
    parities = {f"P{place}": term.parity for place, term in enumerate(filled)}
    grid = (triton.cdiv(images * height * width, TILE // wide), channels // wide, lead.edges)
    _add[grid](
        sums, *(term.y for term in filled), row, *(term.row for term in filled),
        *(term.y.stride(0) // v for term in filled), lead.node, images, height, width, channels // v,
        COUNT=len(group), **parities, V=v, BM=TILE // wide, BC=wide,
    )  # fmt: skip
