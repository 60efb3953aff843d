"""What each trick of the supernet's fast form is worth: a step with it, and the same step without it, taking turns.

Times are CPU seconds of a darts-1st step, one thread; the ratio is without / with, median and range over the turns.

    python benchmarks/tricks.py --layers 3
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_nas.runtime import many_steps
from fer_nas.search.bench import BenchOptions, Contestant
from fer_nas.space import fast_convs as convs
from fer_nas.space import fast_forward, fast_kernels
from fer_nas.space import fast_layout as layout
from fer_nas.space.fast_backward import CellPass


def avg_pool(x: Tensor, stride: int) -> Tensor:
    return layout.nhwc(F.avg_pool2d(layout.nchw(x), 3, stride, 1, count_include_pad=False))


def avg_pool_backward(g: Tensor, x: Tensor, stride: int) -> Tensor:
    found = torch.ops.aten.avg_pool2d_backward(
        layout.nchw(g), layout.nchw(x), [3, 3], [stride, stride], [1, 1], False, False, None
    )
    return layout.nhwc(found)


def wide_weight_gradient(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return convs.conv_backward(g, x, weight, 1, (2, 2), weight.shape[0], [False, True, False])[1]


def strided_weight_gradient(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return convs.conv_backward(g, x, weight, 2, (2, 2), weight.shape[0], [False, True, False])[1]


def products(d: Tensor, points: list[Tensor]) -> Tensor:
    width = points[0].shape[0]
    return torch.cat([d[:, i * width : (i + 1) * width] @ point.t() for i, point in enumerate(points)], dim=1)


def depthwise_backward(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """The input's gradient by oneDNN's backward."""
    nchw, split = layout.nchw, convs._split_weight_gradient(layout.nchw(x), weight.shape[-1], stride)
    here = with_weight and split is None
    padding = (weight.shape[-1] // 2,) * 2
    dx, dw, _ = convs.conv_backward(nchw(g), nchw(x), weight, stride, padding, len(weight), [True, here, False])
    if with_weight and split is not None:
        dw = split(nchw(g), nchw(x), weight)
    return layout.nhwc(dx), dw if with_weight else None


_backward = CellPass.backward


def backward_everywhere(self: CellPass, g: Tensor, wanted: tuple[bool, bool]) -> Any:
    return _backward(self, g, (True, True))


TRICKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "edges of a source side by side, to 1 MiB": (fast_forward, {"CHUNK_BYTES": 1}),
    "average pool as a depthwise convolution": (convs, {"avg_pool": avg_pool, "avg_pool_backward": avg_pool_backward}),
    "5×5 weight gradient as two of 5×3": (convs, {"_wide_weight_gradient": wide_weight_gradient}),
    "5×5 weight gradient with stride 2 as four without": (convs, {"_strided_weight_gradient": strided_weight_gradient}),
    "1×1 convolutions into one buffer": (convs, {"products": products}),
    "input gradients as convolutions": (convs, {"depthwise_backward": depthwise_backward}),
    "nothing back to the stem in the λ step": (CellPass, {"backward": backward_everywhere}),
    "norms, sums and parities in Numba": (fast_kernels, {"THREADS": 0}),
    "oneDNN's matrix products (where they are taken)": (torch.backends.mkldnn.matmul, {"fp32_precision": "none"}),  # type: ignore[attr-defined]
}
"""Trick → (module, what stands there without it)."""


@contextmanager
def without(where: Any, others: dict[str, Any]) -> Iterator[None]:
    before = {name: getattr(where, name) for name in others}
    for name, value in others.items():
        setattr(where, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(where, name, value)


def with_weight_gradients(made: Contestant) -> Callable[[], None]:
    """The λ step as it was with gradients of the weights, which nothing reads."""
    state = made.search.state
    task = state.task

    def step() -> None:
        point = state.arch.detach().requires_grad_()
        loss = task.outer_loss(task.weights(), point, made.batch[1])
        torch.autograd.grad(loss, [point, *task.weights().values()], allow_unused=True)

    return step


def arch_step(made: Contestant) -> Callable[[], None]:
    state = made.search.state
    task = state.task

    def step() -> None:
        point = state.arch.detach().requires_grad_()
        loss = task.outer_loss({name: w.detach() for name, w in task.weights().items()}, point, made.batch[1])
        torch.autograd.grad(loss, [point])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=16)
    wish = parser.parse_args()
    torch.set_num_threads(1)
    options = BenchOptions(
        batch_size=wish.batch_size, channels=wish.channels, layers=wish.layers, device="cpu", threads=1
    )
    made = {form: Contestant(options, "darts-1st", form) for form in ("plain", "channels-last", "fast")}
    with many_steps():
        times = take_turns(made, wish.turns)
    print(f"batch {wish.batch_size}, 32×32, C={wish.channels}, {wish.layers} cells, n = {wish.turns}")
    for name in made:
        print(
            f"{name}: {statistics.median(times[name]):.3f} s; {ratio(times[name], times['fast'])} times the fast form's"
        )
    for name in (*TRICKS, COLLECTOR):
        print(f"without {name}: {ratio(times[name], times['fast'])}")
    print(f"λ step with weights' gradients: {ratio(times['λ and unread gradients'], times['λ alone'])}")


COLLECTOR = "keeping Python's collector from what was there before and from each step"


def take_turns(made: dict[str, Contestant], turns: int) -> dict[str, list[float]]:
    """CPU seconds by name; what the first turn gives is left out."""
    fast = made["fast"]
    times: dict[str, list[float]] = {
        name: [] for name in (*made, *TRICKS, COLLECTOR, "λ alone", "λ and unread gradients")
    }
    for turn in range(turns + 1):
        row = {form: contestant.step()[1] for form, contestant in made.items()}
        for name, (where, others) in TRICKS.items():
            with without(where, others):
                row[name] = fast.step()[1]
        thresholds = gc.get_threshold()
        gc.unfreeze()
        gc.set_threshold(700, *thresholds[1:])
        row[COLLECTOR] = fast.step()[1]
        gc.set_threshold(*thresholds)
        gc.freeze()
        row["λ alone"], row["λ and unread gradients"] = (
            timed(make(fast)) for make in (arch_step, with_weight_gradients)
        )
        for name, seconds in row.items() if turn else ():
            times[name].append(seconds)
    return times


def timed(work: Callable[[], None]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def ratio(a: list[float], b: list[float]) -> str:
    values = [x / y for x, y in zip(a, b, strict=True)]
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
