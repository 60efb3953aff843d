"""Which kernels the fast form takes for a tensor: torch's operations, or its own in Triton or Numba."""

from __future__ import annotations

import torch
from torch import Tensor

try:
    from fer_nas.space import gpu_check, gpu_depthwise, gpu_kernels, gpu_points, gpu_terms
except ImportError:  # torch for a CPU, and Windows, have no Triton
    gpu_check = gpu_depthwise = gpu_kernels = gpu_points = gpu_terms = None  # type: ignore[assignment]

try:
    from fer_nas.space import cpu_kernels, cpu_pictures
except ImportError:  # Numba is not there for every Python and machine
    cpu_kernels = cpu_pictures = None  # type: ignore[assignment]

THREADS = 2
"""Up to so many of torch's threads a kernel of Numba's on one is the faster way (1 and 2 were measured)."""


def on_gpu(x: Tensor) -> bool:
    """Where a call costs more than the memory that it saves: the edges of a source go together there."""
    return x.is_cuda


def by_triton(x: Tensor) -> bool:
    """Whether Triton's kernels serve this tensor."""
    return gpu_check is not None and on_gpu(x) and gpu_check.agree(x.device)


def by_points(d_MC: Tensor, channels: int) -> bool:
    """Whether Triton's 1×1 convolutions do, of so many channels an edge."""
    return by_triton(d_MC) and gpu_points.serves(d_MC, channels)


def by_numba(x: Tensor) -> bool:
    """Whether Numba's kernels serve this tensor."""
    return cpu_kernels is not None and not on_gpu(x) and torch.get_num_threads() <= THREADS
