"""How near each method's hypergradient of an architecture search comes to the truth.

The truth is the whole derivative of L_val(w_T(λ), λ), w_T after T more full-batch momentum steps from weights that
have nearly converged, by reverse-mode unrolling; it is checked by retraining at λ ± δu. The supernet is small (3 cells,
C = 4, 12×12, two nodes, five operations) and so are the data (FER2013's faces with its official labels, 128 for w, 256
for λ), since second derivatives and hundreds of steps of every method are needed. w stays frozen while a method learns
its response.

    python benchmarks/hypergradient.py --data fer2013.zip --seeds 3 --out hypergradient.json

Cosines: `total` of the whole hypergradient to the truth's, `bounded` the same with the response cut to half the direct
term's norm, as a search cuts it, `response` of what a method adds to the direct term.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from hypergradient_picture import draw
from torch import Tensor

from fer_nas.artifacts import write_json
from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.first_order import FirstOrder
from fer_nas.bilevel.implicit import Neumann
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import Hypergradient, InnerStep, Method, Params, descend
from fer_nas.bilevel.response import split_weights
from fer_nas.bilevel.soba import CarriedAdjoint, within
from fer_nas.bilevel.stn import STN
from fer_nas.bilevel.unrolled import SecondOrder, Unrolled
from fer_nas.config import DataConfig
from fer_nas.data.load import load
from fer_nas.data.sampling import subset
from fer_nas.errors import FerNasError
from fer_nas.runtime import generator
from fer_nas.search.methods import FEATURE_SCALE
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SearchSpace
from fer_nas.tasks.cells import CellSearch, responsive

SPACE = SearchSpace(
    name="small", operations=("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "conv_1x1"), nodes=2
)
TRAIN, VAL, SIDE, BATCH = 128, 256, 12, 32
RATE, MOMENTUM, STEPS, T = 0.05, 0.9, 800, 100
STEP = InnerStep(learning_rate=RATE, momentum=MOMENTUM)
PHI_STEPS = (50, 100, 200)
Examples = tuple[Tensor, Tensor]


class Case:
    """One seed and one scale of λ: a supernet trained at λ, and the truth there."""

    def __init__(self, data: str, seed: int, scale: float) -> None:
        found = load(DataConfig(data=data, image_size=SIDE), seed=seed)
        rows = subset(found.train.labels(), TRAIN + VAL, seed)
        rows = rows[torch.randperm(len(rows), generator=generator(seed, "rows"))]
        images, labels = found.train.images[rows].float(), found.train.labels()[rows]
        self.train, self.val = (images[:TRAIN], labels[:TRAIN]), (images[TRAIN:], labels[TRAIN:])
        torch.manual_seed(seed)
        mean, std = found.train.channel_statistics()
        shape = {"classes": len(found.classes), "c_in": 1, "image_size": SIDE, "channels": 4, "layers": 3}
        self.supernet = Supernet(SPACE, **shape, mean=mean, std=std)
        self.task = CellSearch(self.supernet, SPACE)
        self.seed = seed
        self.hyper = scale * torch.randn(self.task.layout.size, generator=generator(seed, "arch"))
        weights, step = {n: w.detach() for n, w in self.task.weights().items()}, STEP
        for number in range(STEPS):
            step = InnerStep(
                learning_rate=RATE * (1 - number / STEPS) + 0.005, momentum=MOMENTUM, velocity=step.velocity
            )
            weights, step = descend(self.task, weights, self.hyper, [self.train], step)
        self.weights: Params = {name: w.detach() for name, w in weights.items()}
        self.supernet.load_state_dict(self.supernet.state_dict() | self.weights)
        self.train_loss = self.task.inner_loss(self.weights, self.hyper, self.train).item()
        self.truth = self.unrolled(Unrolled(), self.hyper)

    def unrolled(self, method: Unrolled, hyper: Tensor) -> Hypergradient:
        moved, step = method.fit(self.task, self.weights, hyper, [self.train] * T, STEP)
        return method.hypergradient(self.task, moved, hyper, self.train, self.val, step)

    def check(self, delta: float = 0.02) -> dict[str, float]:
        """The truth along a unit direction of its own against a central difference of retrained networks."""
        u = self.truth.total / self.truth.total.norm()
        losses = []
        for sign in (1.0, -1.0):
            hyper = self.hyper + sign * delta * u
            moved, _ = descend(self.task, self.weights, hyper, [self.train] * T, STEP)
            losses.append(self.task.outer_loss(moved, hyper, self.val).item())
        return {"along": (self.truth.total @ u).item(), "retrained": (losses[0] - losses[1]) / (2 * delta)}

    def batches(self, size: int | None, what: str) -> Iterator[tuple[Examples, Examples]]:
        """Endless pairs of training and validation images: `size` of those for w, None for all, and all of λ's."""
        draw = generator(self.seed, what)
        while True:
            if size is None:
                yield self.train, self.val
                continue
            images, labels = self.train
            rows = torch.randperm(len(images), generator=draw)[:size]
            yield (images[rows], labels[rows]), self.val

    def figures(self, found: Hypergradient) -> dict[str, float]:
        truth = self.truth.total - self.truth.direct
        return {
            "total": cosine(found.direct + found.response, self.truth.total),
            "bounded": cosine(found.direct + within(found.response, 0.5 * found.direct.norm()), self.truth.total),
            "response": cosine(found.response, truth),
            "ratio": (found.response.norm() / found.direct.norm()).item(),
        }


def cosine(a: Tensor, b: Tensor) -> float:
    size = a.norm() * b.norm()
    return (a @ b / size).item() if size > 0 else 0.0


def mean_of(case: Case, method: Method, size: int | None, draws: int) -> Hypergradient:
    """The mean hypergradient of `draws` batches, of a method that carries nothing."""
    found = [
        method.hypergradient(case.task, case.weights, case.hyper, train, val, STEP)
        for (train, val), _ in zip(case.batches(size, "plain"), range(draws), strict=False)
    ]
    direct, response = (torch.stack([getattr(f, part) for f in found]).mean(0) for part in ("direct", "response"))
    return Hypergradient(direct=direct, response=response, loss=found[0].loss)


def plain_methods() -> dict[str, Method]:
    scale = RATE / (1 - MOMENTUM)
    return {
        "first order": FirstOrder(),
        "second order": SecondOrder(),
        **{f"implicit, K = {k}": Neumann(terms=k, scale=scale) for k in (1, 10, 100)},
    }


def carried(case: Case, size: int | None, steps: int) -> Iterator[tuple[int, Hypergradient]]:
    method = CarriedAdjoint(clip=None, exact=False)
    for number, (train, val) in zip(range(1, steps + 1), case.batches(size, "soba"), strict=False):
        found = method.hypergradient(case.task, case.weights, case.hyper, train, val, STEP)
        if number in PHI_STEPS:
            yield number, found


Features = Callable[[Tensor], Tensor]


def learned_methods(case: Case) -> dict[str, Callable[[], STN]]:
    """The published best response and the project's own, in its variants."""

    def features(hyper: Tensor) -> Tensor:
        return FEATURE_SCALE * case.task.features(hyper)

    def own(
        kind: type[STN], *, pairs: bool = True, raw: bool = False, rate: float = 3e-3, **knobs: Any
    ) -> Callable[[], STN]:
        return lambda: kind(
            perturbation=Perturbation(scale=0.1, learn=False, pairs=pairs, seed=case.seed),
            outer_noise=False,
            features=None if raw else features,
            adam_rate=rate,
            **knobs,
        )

    published = {"outer_noise": False, "gradient_clip": 5.0}
    return {
        "STN as published": lambda: STN(perturbation=Perturbation(scale=1.0, learn=False, seed=case.seed), **published),
        "STN": own(STN),
        "Δ-STN": own(DeltaSTN),
        "Δ-STN without linearization": own(DeltaSTN, linearize=False),
        "… at a search's rate of Adam": own(DeltaSTN, linearize=False, rate=3e-4),
        "… and without pairs": own(DeltaSTN, linearize=False, pairs=False),
        "… and raw λ": own(DeltaSTN, linearize=False, raw=True),
    }


def learned(
    case: Case, method: STN, size: int | None, steps: int, *, published: bool
) -> Iterator[tuple[int, Hypergradient]]:
    """The response's parameters alone are trained; the published form starts at V ~ N(0, 0.01²), the others at 0."""
    learner = responsive(
        case.supernet, case.task.layout, by_cell=not published, rescale_std=0.01 if published else 0.0,
        generator=generator(case.seed, "response"),
    )  # fmt: skip
    task = CellSearch(case.supernet, SPACE, learner=learner)
    weights, step = {name: w.detach() for name, w in task.weights().items()}, STEP
    response = split_weights(weights)[1]
    pairs = case.batches(size, "phi")
    for number, (train, _) in zip(range(1, steps + 1), pairs, strict=False):
        slope, _ = method.perturbed_slope(task, weights | response, response, case.hyper, train)
        response, step = method.response_step(response, slope, step)
        if number in PHI_STEPS:
            yield number, method.hypergradient(task, weights | response, case.hyper, train, case.val, STEP)


def study(case: Case, steps: int, wanted: list[str] | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(name: str, batch: int | None, after: int | None, found: Hypergradient) -> None:
        rows.append({"method": name, "batch": batch, "steps": after, **case.figures(found)})

    for size in (None, BATCH):
        for name, method in plain_methods().items():
            if wanted and name not in wanted:
                continue
            try:
                add(name, size, None, mean_of(case, method, size, 1))
            except FerNasError as error:  # a series that does not converge: minibatches have larger eigenvalues
                say(f"  {name}, batch {size or 'all'}: {error}")
        for after, found in [] if wanted and "carried adjoint" not in wanted else carried(case, size, steps):
            add("carried adjoint", size, after, found)
        for name, make in learned_methods(case).items():
            if wanted and name not in wanted:
                continue
            began = time.process_time()
            try:
                for after, found in learned(case, make(), size, steps, published=name.endswith("published")):
                    add(name, size, after, found)
            except FerNasError as error:
                say(f"{name}: {error}")
            say(f"  {name}, batch {size or 'all'}: {time.process_time() - began:.0f} s")
    return rows


def spread(values: list[float]) -> str:
    text = f"{statistics.fmean(values):.2f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.2f}"


def table(cases: list[dict[str, Any]]) -> str:
    """Markdown: a line a method, steps and batch; cosines as mean ± standard deviation over seeds."""
    scales = list(dict.fromkeys(case["scale"] for case in cases))
    parts = [part for part in ("total", "bounded", "response") if part in cases[0]["rows"][0]]
    head = " | ".join(f"{part}, λ scale {s:g}" for s in scales for part in parts)
    lines = [f"| method | φ steps | batch | {head} |", "| --- | --- | --- |" + " --- |" * (len(parts) * len(scales))]
    keys = dict.fromkeys((r["method"], r["steps"], r["batch"]) for case in cases for r in case["rows"])
    for key in keys:
        cells = []
        for scale in scales:
            rows = [
                r
                for case in cases
                if case["scale"] == scale
                for r in case["rows"]
                if (r["method"], r["steps"], r["batch"]) == key
            ]
            cells += [spread([r[part] for r in rows]) if rows else "–" for part in parts]
        name, steps, batch = key
        lines.append(f"| {name} | {steps or '–'} | {batch or 'all'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="FER2013, in any form that fer-nas reads")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scales", default="0.001,1", help="standard deviations of λ")
    parser.add_argument("--steps", type=int, default=200, help="steps on φ, and of the carried adjoint")
    parser.add_argument("--methods", help="some of the table's names, with semicolons; all where not given")
    parser.add_argument("--out", type=Path, required=True, help="record; a run that was stopped goes on from it")
    parser.add_argument("--picture", type=Path, help="PNG of the cosines over the steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.seeds):
        for scale in (float(text) for text in options.scales.split(",")):
            if any((case["seed"], case["scale"]) == (seed, scale) for case in done):
                continue
            began = time.process_time()
            case = Case(options.data, seed, scale)
            truth = case.truth
            about = {
                "seed": seed, "scale": scale, "train_loss": case.train_loss, "check": case.check(),
                "truth_ratio": (truth.response.norm() / truth.direct.norm()).item(),
                "truth_cosine": cosine(truth.response, truth.direct),
            }  # fmt: skip
            print(f"{about}  {time.process_time() - began:.0f} s", flush=True)
            wanted = options.methods.split(";") if options.methods else None
            rows = study(case, options.steps, wanted, lambda line: print(line, flush=True))
            done.append(about | {"rows": rows})
            write_json(options.out, done)
    print(table(done))
    if options.picture:
        draw(done, options.picture)


if __name__ == "__main__":
    main()
