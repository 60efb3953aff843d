"""Images and matrices of the fast form.

Shapes: N images, H × W pixels, C channels; M = N·H·W pixels of the batch. Images are (N, H, W, C) in memory, so that a
matrix (M, C) is a view of them.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor
from torch.nn import functional as F

from fer_nas.space import fast_kernels as kernels

T = TypeVar("T")


def matrix(x_NHWC: Tensor) -> Tensor:
    return x_NHWC.reshape(-1, x_NHWC.shape[-1])


def some(value: T | None) -> T:
    """A value that is there by construction."""
    assert value is not None
    return value


def nchw(x_NHWC: Tensor) -> Tensor:
    """The same memory in torch's order of dimensions (channels-last)."""
    return x_NHWC.permute(0, 3, 1, 2)


def nhwc(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.permute(0, 2, 3, 1).contiguous()


def halves(x_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    """What a factorized reduction reads: every second pixel, and every second one shifted by a row and a column.

    An odd side needs one more row and column behind the shifted view.
    """
    h, w = x_NHWC.shape[1:3]
    return x_NHWC[:, ::2, ::2], F.pad(x_NHWC, (0, 0, 0, w % 2, 0, h % 2))[:, 1::2, 1::2]


def repeat_channels(x_NHWC: Tensor, times: int) -> Tensor:
    if times == 1:
        return x_NHWC
    n, h, w, c = x_NHWC.shape
    return x_NHWC.unsqueeze(3).expand(n, h, w, times, c).reshape(n, h, w, times * c)


def sum_channels(x_NHWC: Tensor, times: int) -> Tensor:
    """Backward of `repeat_channels`."""
    if times == 1:
        return x_NHWC
    n, h, w, c = x_NHWC.shape
    parts = x_NHWC.view(n, h, w, times, c // times)
    if kernels.on_gpu(x_NHWC):
        return parts.sum(3)
    first, *others = parts.unbind(3)  # torch's sum over so few takes two to ten times as long
    total = first + others[0]
    for other in others[1:]:
        total.add_(other)
    return total


def to_parities(x_NHWC: Tensor) -> Tensor:
    """(N, H, W, C) → (4·N, ⌈H/2⌉, ⌈W/2⌉, C): even and odd rows and columns as pictures of their own; zeros fill up.

    A convolution with dilation 2 is one without dilation on these.
    """
    if kernels.by_numba(x_NHWC):
        return kernels.cpu_pictures.to_parities(x_NHWC.contiguous())
    n, h, w, c = x_NHWC.shape
    if h % 2 or w % 2:
        x_NHWC = F.pad(x_NHWC, (0, 0, 0, w % 2, 0, h % 2))
    h, w = (h + 1) // 2, (w + 1) // 2
    return x_NHWC.reshape(n, h, 2, w, 2, c).permute(2, 4, 0, 1, 3, 5).reshape(4 * n, h, w, c)


def add_from_parities(to_NHWC: Tensor, x_4NHWC: Tensor) -> None:
    """to += the picture that these are the parities of."""
    if kernels.by_numba(to_NHWC):
        kernels.cpu_pictures.add_from_parities(to_NHWC, x_4NHWC)
    else:
        to_NHWC.add_(from_parities(x_4NHWC, *to_NHWC.shape[1:3]))


def from_parities(x_4NHWC: Tensor, height: int, width: int) -> Tensor:
    n, h, w, c = x_4NHWC.shape[0] // 4, *x_4NHWC.shape[1:]
    back = x_4NHWC.reshape(2, 2, n, h, w, c).permute(2, 3, 0, 4, 1, 5).reshape(n, 2 * h, 2 * w, c)
    return back[:, :height, :width]
