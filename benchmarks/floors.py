"""Two floors under one step of a search: its arithmetic, and the bytes that have to move.

Both are counted from the network's shapes (the supernet on torch's meta device, nothing is computed): multiply-adds of
all convolutions and the classifier; bytes as every convolution and pool reads its input and writes its output once,
with ReLU, norms, mixtures and sums taken for free, as if all were fused. Backward reads the output's gradient and
writes the input's; for the weights' gradient it reads the input once more. The machine's speed is measured beside it:
a matrix product (1024², float32) and a copy of 128 MiB, best of ten by CPU time, one thread.

    python benchmarks/floors.py
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import find_space

# Method → (forward passes, backward passes to the inputs, backward passes to the weights) of one step.
PASSES = {"darts-1st": (2, 2, 1), "darts-2nd": (5, 5, 3)}


class Count(TorchDispatchMode):
    """Multiply-adds, and elements read and written, of one forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.products, self.read, self.written = 0, 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("convolution", "max_pool2d_with_indices", "avg_pool2d", "addmm"):
            result = out[0] if isinstance(out, tuple) else out
            source = args[1] if name == "addmm" else args[0]
            self.read += source.numel()
            self.written += result.numel()
            if name == "convolution":
                self.products += result.numel() * args[1][0].numel()
            if name == "addmm":
                self.products += result.numel() * source.shape[1]
        return out


def best(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of ten."""
    times = []
    for _ in range(10):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="darts")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=32)
    wish = parser.parse_args()
    torch.set_num_threads(1)
    space = find_space(wish.space)
    with torch.device("meta"), Count() as count, torch.no_grad():
        net = Supernet(
            space, classes=10, image_size=wish.image_size, channels=wish.channels, layers=wish.layers, stem="cifar"
        )
        mixture = torch.empty(space.edges, len(space.operations))
        images = torch.empty(wish.batch_size, 3, wish.image_size, wish.image_size)
        net(images, {"normal": mixture, "reduce": mixture})
    a, b = torch.randn(2, 1024, 1024)
    flops = 2 * 1024**3 / best(lambda: a @ b)
    source, target = torch.ones(2, 2**25)
    bandwidth = 2 * 4 * 2**25 / best(lambda: target.copy_(source))
    print(f"one forward pass: {count.products / 1e9:.3f} G multiply-adds; read {4 * count.read / 2**20:.0f} MiB, "
          f"written {4 * count.written / 2**20:.0f} MiB")  # fmt: skip
    print(f"this core: {flops / 1e9:.1f} GFLOP/s in a matrix product, {bandwidth / 1e9:.1f} GB/s in a copy")
    for method, (forward, inner, outer) in PASSES.items():
        work = 2 * count.products * (forward + inner + outer)
        moved = 4 * ((forward + inner) * (count.read + count.written) + outer * count.read)
        print(f"{method}: {work / 1e9:.1f} GFLOP, at least {work / flops:.2f} s; {moved / 2**30:.2f} GiB, at least "
              f"{moved / bandwidth:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
