"""What a best response costs beside its plain network: memory of weights, gradients and momentum, and time of a step.

Three networks on random images: REFERENCE's MNIST MLP and Fashion CNN, and a small supernet with all its λ. Memory is
that of all tensors alive after a step, batch and module left out. Times are medians of pairs: a plain SGD step and a
step on φ with λ+ε (one λ a batch, or one an example), taken in turn.

    python benchmarks/response_cost.py --steps 20 --threads 1
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import InnerStep, Params, descend, gradients
from fer_nas.bilevel.response import best_response, split_weights, with_response
from fer_nas.bilevel.stn import STN
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES

STEP = InnerStep(learning_rate=0.01, momentum=0.9)


@dataclass
class Classifier:
    """Implements NetworkTask; λ reaches the network through its best-response layers alone."""

    network: nn.Module
    more: tuple[Any, ...] = ()

    def weights(self) -> Params:
        return {name: w.detach() for name, w in self.network.named_parameters()}

    def outputs(self, weights: Params, hyper: Tensor, batch: Any, response: Tensor | None = None) -> Tensor:
        return with_response(self.network, weights, response, batch[0], *self.more)

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: Any, response: Tensor | None = None
    ) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch[1])

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Any, response: Tensor | None = None) -> Tensor:
        return self.inner_criterion(self.outputs(weights, hyper, batch, response), weights, hyper, batch, response)

    outer_loss = inner_loss


def mlp() -> tuple[nn.Module, int, tuple[int, ...], tuple[Any, ...]]:
    layers = [nn.Flatten(), nn.Linear(784, 1200), nn.ReLU(), nn.Linear(1200, 1200), nn.ReLU(), nn.Linear(1200, 10)]
    return nn.Sequential(*layers), 3, (128, 1, 28, 28), ()


def cnn() -> tuple[nn.Module, int, tuple[int, ...], tuple[Any, ...]]:
    body = [nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2), nn.ReLU()]
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 1024), nn.ReLU(), nn.Linear(1024, 10)]
    return nn.Sequential(*body, *head), 6, (128, 1, 28, 28), ()


def supernet() -> tuple[nn.Module, int, tuple[int, ...], tuple[Any, ...]]:
    space = SPACES["darts"]
    mixture = torch.full((space.edges, len(space.operations)), 1 / len(space.operations))
    net = Supernet(space, classes=7, c_in=1, image_size=24, channels=8, layers=3)
    return net, 2 * mixture.numel(), (32, 1, 24, 24), ({"normal": mixture, "reduce": mixture},)


NETWORKS = {"mnist-mlp": mlp, "fashion-cnn": cnn, "supernet": supernet}


def alive() -> int:
    """Bytes of the distinct storages of all tensors that Python holds."""
    gc.collect()
    found = (x.untyped_storage() for x in gc.get_objects() if isinstance(x, Tensor))
    return sum({storage.data_ptr(): storage.nbytes() for storage in found}.values())


def held(task: Classifier, batch: Any, response: Tensor | None) -> int:
    """Bytes of parameters, gradients and momentum after one step."""
    weights = {name: w.clone().requires_grad_() for name, w in task.weights().items()}
    before = alive() - sum(w.nbytes for w in weights.values())
    slope, _ = gradients(task.inner_loss(weights, torch.zeros(1), batch, response), weights)
    weights, step = STEP.take(weights, slope)
    # Only what lives on: the old leaves go, the new weights, their gradient and the momentum stay.
    size = alive() - before
    assert step.velocity and slope
    return size


def paired(calls: dict[str, Callable[[], None]], steps: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds of each call, taken in turn; the first two rounds are warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(steps + 2):
        for name, call in calls.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            begun = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_ >= 2:
                times[name].append(1000 * (time.perf_counter() - begun))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    wish = parser.parse_args()
    torch.set_num_threads(wish.threads)
    torch.manual_seed(0)
    device = torch.device(wish.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {wish.threads} thread(s)"
    print(f"torch {torch.__version__}, {name}, seed 0, {wish.steps} pairs; ms: median (quartiles)")
    for title in wish.networks:
        network, n, shape, more = NETWORKS[title]()
        more = tuple({key: m.to(device) for key, m in part.items()} for part in more)
        plain = Classifier(network.to(device), more)
        tuned = Classifier(best_response(network, n), more)
        batch = torch.rand(shape, device=device), torch.randint(0, 7, shape[:1], device=device)
        hyper = torch.zeros(n, device=device)
        general, response = split_weights(tuned.weights())
        sizes = [held(plain, batch, None), held(tuned, batch, hyper)]
        count = [sum(w.numel() for w in part.values()) for part in (general, response)]
        print(f"\n{title}: {count[0]:,} weights, {count[1]:,} more for the response in n = {n}")
        print(
            f"  memory  plain {sizes[0] / 2**20:.1f} MiB, self-tuning {sizes[1] / 2**20:.1f}: "
            f"{sizes[1] / sizes[0]:.2f}×"
        )

        def step_of(method: Any, task: Classifier, hyper: Tensor = hyper, batch: Any = batch) -> Callable[[], None]:
            state = [task.weights(), STEP]

            def call() -> None:
                state[:] = method.fit(task, state[0], hyper, [batch], state[1])

            return call

        class Plain:
            fit = staticmethod(descend)

        calls = {
            "plain": step_of(Plain, plain),
            "stn, λ per batch": step_of(STN(perturbation=Perturbation(scale=0.1)), tuned),
            "stn, λ per example": step_of(STN(perturbation=Perturbation(scale=0.1, per="example")), tuned),
            "delta-stn, plain forward": step_of(DeltaSTN(linearize=False, perturbation=Perturbation(scale=0.1)), tuned),
            "delta-stn": step_of(DeltaSTN(perturbation=Perturbation(scale=0.1)), tuned),
        }
        times = paired(calls, wish.steps, device)
        for kind, ms in times.items():
            low, middle, high = statistics.quantiles(ms, n=4)
            ratios = [a / b for a, b in zip(ms, times["plain"], strict=True)]
            print(f"  {kind:<25} {middle:8.1f} ({low:.1f}–{high:.1f}), {statistics.median(ratios):.2f}× a plain step")


if __name__ == "__main__":
    main()
