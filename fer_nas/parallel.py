"""One run in several processes that share the images of each batch (torchrun starts them); with one, all is identity.

Every process holds the same weights and λ and works on its rows of a batch. What makes the result that of one process
on the whole batch, whatever the method: `replicated` adds up the gradients of weights and λ over the processes,
`shared_mean` weighs the processes' losses by their images, and `everywhere` adds up the sums that BatchNorm needs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fer_nas.errors import FerNasError, InputError

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # how long a process waits for another that says nothing


def count() -> int:
    """How many processes share this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Which one this is, from 0; number 0 writes the files."""
    return dist.get_rank() if count() > 1 else 0


def local_number() -> int | None:
    """The GPU of this process among those of its machine; None where torchrun did not start it."""
    value = os.environ.get("LOCAL_RANK")
    return int(value) if value and value.isdigit() else None


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """While it lasts, processes started by torchrun work together: by NCCL on GPUs, by gloo on the CPU."""
    if int(os.environ.get("WORLD_SIZE", "1") or 1) <= 1:
        yield
        return
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_number() or 0)
    try:
        dist.init_process_group("nccl" if gpu else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FerNasError(f"the processes of this run do not find each other: {reason}") from None
    try:
        yield
        leave_together()
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def leave_together() -> None:
    """The first process still writes when others are done; gloo may abort in one that another has left."""
    try:
        dist.barrier()
    except RuntimeError:
        raise FerNasError("another process of this run has stopped; go on with --resume") from None


def _add_up(value: Tensor, operation: Any = None) -> Tensor:
    """The sum over all processes, in place."""
    try:
        dist.all_reduce(value, op=operation or dist.ReduceOp.SUM)
    except RuntimeError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FerNasError(f"another process of this run has stopped; go on with --resume ({reason[:120]})") from None
    return value


class _Everywhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _add_up(value.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Everywhere.apply(gradient)


class _EverywhereMany(torch.autograd.Function):
    """Several tensors in one call, and back."""

    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> tuple[Tensor, ...]:
        flat = _add_up(torch.cat([value.reshape(-1) for value in values]))
        pieces = flat.split([value.numel() for value in values])
        return tuple(piece.view_as(value).clone() for piece, value in zip(pieces, values, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return _EverywhereMany.apply(*gradients)


class _Replicated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return _EverywhereMany.apply(*gradients)


class _Report(torch.autograd.Function):
    """The sum for the eye; each process's gradient stays its own, since `replicated` adds them up."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _add_up(value.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def everywhere(value: Tensor) -> Tensor:
    """Σ over the processes, differentiable."""
    return _Everywhere.apply(value) if count() > 1 else value


def replicated(weights: dict[str, Tensor], *more: Tensor) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The same values; their gradients are those of the whole batch."""
    if count() == 1:
        return weights, list(more)
    values = [*weights.values(), *more]
    learned = [place for place, value in enumerate(values) if value.requires_grad]
    if learned:  # the others stay without a gradient, so that none is computed for them
        for place, value in zip(learned, _Replicated.apply(*(values[p] for p in learned)), strict=True):
            values[place] = value
    return dict(zip(weights, values, strict=False)), values[len(weights) :]


def shared_mean(mean: Tensor, images: int) -> Tensor:
    """The mean over the whole batch from this process's mean over `images` images."""
    if count() == 1:
        return mean
    total = _add_up(mean.new_tensor(float(images)))
    return _Report.apply(mean * (images / total))


def rows(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """This process's rows of each tensor of a batch."""
    return tuple(value[number() :: count()] for value in values) if count() > 1 else tuple(values)


def refuse_small_batches(bounds: Sequence[tuple[int, int]]) -> None:
    smallest = min((end - start for start, end in bounds), default=0)
    if smallest < count():
        raise InputError(
            f"--batch-size: the smallest batch of an epoch has {smallest} images for {count()} processes; "
            "choose another size or fewer processes"
        )


def any_of(value: bool, device: torch.device) -> bool:
    """Whether it is so in any process."""
    if count() == 1:
        return value
    return bool(_add_up(torch.tensor(float(value), device=device), dist.ReduceOp.MAX))


def agreed(value: T) -> T:
    """Number 0's value."""
    if count() == 1:
        return value
    box = [value]
    try:
        dist.broadcast_object_list(box, src=0)
    except RuntimeError:
        raise FerNasError("the first process of this run has stopped; its message says why") from None
    return box[0]


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose batch statistics are those of all processes' images; with one process, nn.BatchNorm2d.

    One exchange: every process's count, mean and sum of squares around its own mean (Chan et al. 1983). Where no
    gradient is recorded every process sees the same whole batch (validation), and its own statistics are all.
    """

    def forward(self, x_BCHW: Tensor) -> Tensor:
        batch_statistics = self.training or self.running_mean is None
        if count() == 1 or not batch_statistics or not torch.is_grad_enabled():
            return super().forward(x_BCHW)
        channels = x_BCHW.shape[1]
        pixels = x_BCHW.numel() / channels
        variance, mean = torch.var_mean(x_BCHW, (0, 2, 3), correction=0)
        own = torch.cat([mean, variance, mean.new_tensor([pixels])])
        before, after = number(), count() - 1 - number()
        all_PS = everywhere(nn.functional.pad(own[None], (0, 0, before, after)))
        mean_PC, variance_PC, pixels_P1 = all_PS.split([channels, channels, 1], 1)
        total = pixels_P1.sum()
        mean = (pixels_P1 * mean_PC).sum(0) / total
        variance = (pixels_P1 * (variance_PC + (mean_PC - mean).square())).sum(0) / total
        if self.training and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                rate = self.momentum if self.momentum is not None else 0.1
                self.running_mean.lerp_(mean, rate)
                self.running_var.lerp_(variance * (total / (total - 1)), rate)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        y = (x_BCHW - mean[:, None, None]) * torch.rsqrt(variance + self.eps)[:, None, None]
        return y if self.weight is None else y * self.weight[:, None, None] + self.bias[:, None, None]
