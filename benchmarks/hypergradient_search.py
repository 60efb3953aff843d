"""How near each hypergradient comes to the truth while a search goes on: w from scratch, minibatches, λ moving.

One search of a small supernet (3 cells, C = 4, 12×12) on FER2013's faces: w by SGD, λ by Adam along the direct term.
The carried adjoint and the best responses go along with it and learn from its batches; for Δ-STN without linearization
that is what its own search does, since its general weights take the plain step. The truth at a checkpoint is the
implicit hypergradient of all images by 16 terms of Neumann's series. Direct terms and responses are means
over 8 batches.

    python benchmarks/hypergradient_search.py --data fer2013.zip --seeds 3 --out hypergradient-search.json
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from hypergradient import SPACE, cosine, spread
from hypergradient_picture import draw_search
from torch import Tensor

from fer_nas.artifacts import write_json
from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.implicit import Neumann
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.products import outer_gradients
from fer_nas.bilevel.protocol import InnerStep, Params, descend
from fer_nas.bilevel.response import split_weights
from fer_nas.bilevel.soba import CarriedAdjoint
from fer_nas.bilevel.stn import STN
from fer_nas.bilevel.unrolled import SecondOrder
from fer_nas.config import DataConfig
from fer_nas.data.load import load
from fer_nas.data.sampling import subset
from fer_nas.runtime import cosine as cosine_schedule
from fer_nas.runtime import generator
from fer_nas.search.methods import FEATURE_SCALE
from fer_nas.space.supernet import Supernet
from fer_nas.tasks.cells import CellSearch, responsive

SIDE, BATCH, DRAWS = 12, 32, 8
RATE, MOMENTUM, ARCH_RATE = 0.05, 0.9, 3e-3
RATE_LAST = 0.001  # with --like-a-search
STEP = InnerStep(learning_rate=RATE, momentum=MOMENTUM)
FORMS: dict[str, dict[str, Any]] = {
    "Δ-STN, Adam 3e-4": {"rate": 3e-4},
    "Δ-STN, Adam 3e-3": {"rate": 3e-3},
    "STN as published": {"published": True},
}
LONGER: dict[str, dict[str, Any]] = {
    "Δ-STN, Adam 3e-4": {"rate": 3e-4, "every": 2},
    "its running mean over 100": {"rate": 3e-4, "every": 2, "average": 0.99},
    "β 0.99": {"rate": 3e-4, "every": 2, "beta": 0.99},
    "β 0.99, 1e-3": {"rate": 1e-3, "every": 2, "beta": 0.99},
    "128 images every 8": {"rate": 3e-4, "batch": 128, "every": 8},
    "128 images every 8, 1e-3": {"rate": 1e-3, "batch": 128, "every": 8},
    "128 images": {"rate": 3e-4, "batch": 128, "every": 2},
    "STN as published": {"published": True},
}
"""With --like-a-search: the own form, and what might bring it on faster, at its price but for the last two."""


class Learned:
    """A best response that learns beside the search; its general weights are the search's."""

    def __init__(
        self,
        supernet: Supernet,
        layout: Any,
        seed: int,
        *,
        rate: float = 0.0,
        batch: int = BATCH,
        every: int = 1,
        beta: float = 0.9,
        average: float = 0.0,
        published: bool = False,
    ) -> None:
        self.batch, self.every, self.average = batch, every, average
        self.task = CellSearch(
            supernet,
            SPACE,
            "auto",
            learner=responsive(
                supernet, layout, by_cell=not published, rescale_std=0.01 if published else 0.0,
                generator=generator(seed, "response"),
            ),
        )  # fmt: skip
        self.response = split_weights({name: w.detach() for name, w in self.task.weights().items()})[1]
        scale = 1.0 if published else 0.1
        noise = Perturbation(scale=scale, learn=False, pairs=not published, seed=seed)
        if published:
            self.method: STN = STN(perturbation=noise, outer_noise=False, gradient_clip=5.0)
        else:

            def features(hyper: Tensor) -> Tensor:
                return FEATURE_SCALE * self.task.features(hyper)

            self.method = DeltaSTN(
                perturbation=noise, outer_noise=False, features=features, adam_rate=rate, gradient_clip=5.0,
                linearize=False,
            )  # fmt: skip
        if self.method._adam:
            self.method._adam.beta = beta
        self.step, self.mean = STEP, self.response

    def all_weights(self, weights: Params, response: Params) -> Params:
        """The plain network's weights, by the names that they have here, and the response's."""
        names = split_weights(dict(self.task.weights()))[0]
        return {name: weights[name.removesuffix("_elem")] for name in names} | response

    def learn(self, weights: Params, hyper: Tensor, batch: Any) -> None:
        slope, _ = self.method.perturbed_slope(
            self.task, self.all_weights(weights, self.response), self.response, hyper, batch
        )
        self.response, self.step = self.method.response_step(self.response, slope, self.step)
        self.mean = {n: torch.lerp(w.detach(), self.mean[n], self.average) for n, w in self.response.items()}

    def response_term(self, weights: Params, hyper: Tensor, vals: list[Any]) -> Tensor:
        found = [
            self.method.hypergradient(self.task, self.all_weights(weights, self.mean), hyper, v, v, STEP).response
            for v in vals
        ]
        return torch.stack(found).mean(0)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """like_a_search: the weights' rate falls by a cosine and λ moves at the published rate of Adam."""

    data: str
    steps: int = 240
    images: int = 256  # for w, and as many for λ
    like_a_search: bool = False

    @property
    def checkpoints(self) -> tuple[int, ...]:
        return self.steps // 3, 2 * self.steps // 3, self.steps

    @property
    def arch_rate(self) -> float:
        return 3e-4 if self.like_a_search else ARCH_RATE

    def rate(self, number: int) -> float:
        return cosine_schedule(RATE, RATE_LAST, (number - 1) / self.steps) if self.like_a_search else RATE

    @property
    def forms(self) -> dict[str, dict[str, Any]]:
        return LONGER if self.like_a_search else FORMS


def run(setting: Setting, seed: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    found = load(DataConfig(data=setting.data, image_size=SIDE), seed=seed)
    count = setting.images
    rows = subset(found.train.labels(), 2 * count, seed)
    rows = rows[torch.randperm(len(rows), generator=generator(seed, "rows"))]
    images, labels = found.train.images[rows].float(), found.train.labels()[rows]
    train, val = (images[:count], labels[:count]), (images[count:], labels[count:])
    torch.manual_seed(seed)
    mean, deviation = found.train.channel_statistics()
    supernet = Supernet(
        SPACE, classes=len(found.classes), c_in=1, image_size=SIDE, channels=4, layers=3, mean=mean, std=deviation
    )
    task, plain = CellSearch(supernet, SPACE, "auto"), CellSearch(supernet, SPACE)
    hyper = task.initial_hyper(generator(seed, "arch")).requires_grad_()
    adam = torch.optim.Adam([hyper], setting.arch_rate, betas=(0.5, 0.999))
    weights: Params = {name: w.detach() for name, w in task.weights().items()}
    draw = generator(seed, "batches")

    def batch(part: tuple[Tensor, Tensor], size: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(count, generator=draw)[:size]
        return part[0][chosen], part[1][chosen]

    step = STEP
    adjoint = CarriedAdjoint(clip=None, exact=False, every=2)
    learners = {name: Learned(supernet, task.layout, seed, **form) for name, form in setting.forms.items()}
    results = []
    for number in range(1, setting.steps + 1):
        step = replace(step, learning_rate=setting.rate(number))
        here, out = batch(train, BATCH), batch(val, BATCH)
        point = hyper.detach()
        found_here = adjoint.hypergradient(task, weights, point, here, out, step)
        for learner in learners.values():
            if number % learner.every == 0:
                learner.learn(weights, point, here if learner.batch == BATCH else batch(train, learner.batch))
        hyper.grad = found_here.direct
        adam.step()
        weights, step = descend(task, weights, hyper.detach(), [here], step)
        weights = {name: w.detach() for name, w in weights.items()}
        if number in setting.checkpoints:
            results += checkpoint(plain, weights, hyper.detach(), train, val, batch, step, adjoint, learners, number)
            say(f"seed {seed}, step {number}: " + "; ".join(
                f"{r['method']} {r['total']:.2f}" for r in results if r["steps"] == number))  # fmt: skip
    return results


def checkpoint(
    task: CellSearch, weights: Params, hyper: Tensor, train: Any, val: Any, batch: Any, step: InnerStep,
    adjoint: CarriedAdjoint, learners: dict[str, Learned], number: int,
) -> list[dict[str, Any]]:  # fmt: skip
    truth = Neumann(terms=16, scale=RATE).hypergradient(task, weights, hyper, train, val, STEP)
    wanted = truth.total - truth.direct
    vals = [batch(val, BATCH) for _ in range(DRAWS)]
    trains = [batch(train, BATCH) for _ in range(DRAWS)]
    direct = torch.stack([outer_gradients(task, weights, hyper, v)[1] for v in vals]).mean(0)
    pairs = list(zip(trains, vals, strict=True))
    second = torch.stack(
        [SecondOrder().hypergradient(task, weights, hyper, t, v, step).response for t, v in pairs]
    ).mean(0)
    carried = copy.deepcopy(adjoint).hypergradient(task, weights, hyper, trains[0], vals[0], step).response
    terms = {"first order": torch.zeros_like(direct), "second order": second, "carried adjoint": carried}
    terms |= {name: learner.response_term(weights, hyper, vals) for name, learner in learners.items()}
    about = {
        "steps": number,
        "truth_ratio": (wanted.norm() / truth.direct.norm()).item(),
        "truth_cosine": cosine(wanted, truth.direct),
    }
    rows = []
    for name, response in terms.items():
        bound = 0.5 * direct.norm()
        clipped = response * (bound / response.norm().clamp_min(1e-12)).clamp_max(1)
        rows.append(
            about
            | {
                "method": name,
                "total": cosine(direct + response, truth.total),
                "clipped": cosine(direct + clipped, truth.total),
                "response": cosine(response, wanted),
                "ratio": (response.norm() / direct.norm()).item(),
            }
        )
    return rows


def table(done: list[dict[str, Any]], *parts: str) -> str:
    """Markdown: some of a checkpoint's figures for each method, as mean ± deviation over seeds."""
    rows = [row for run in done for row in run["rows"]]
    steps = sorted({row["steps"] for row in rows})
    lines = [
        "| method | " + " | ".join(f"step {n}" for n in steps) + " |",
        "| --- |" + " --- |" * len(steps),
    ]
    for name in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for n in steps:
            here = [row for row in rows if (row["method"], row["steps"]) == (name, n)]
            cells.append(" / ".join(spread([row[part] for row in here]) for part in parts))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="FER2013, in any form that fer-nas reads")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="record; a run that was stopped goes on from it")
    parser.add_argument("--picture", type=Path, help="PNG of the cosines over the steps")
    parser.add_argument("--steps", type=int, default=240, help="length of the search; looked at after each third")
    parser.add_argument("--images", type=int, default=256, help="for w, and as many for λ")
    parser.add_argument(
        "--like-a-search",
        action="store_true",
        help="the weights' rate falls to 0.001 by a cosine, λ moves at 3e-4; the response learns in other ways too",
    )
    options = parser.parse_args()
    setting = Setting(
        data=options.data, steps=options.steps, images=options.images, like_a_search=options.like_a_search
    )
    torch.set_num_threads(1)
    done: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.seeds):
        if any(run["seed"] == seed for run in done):
            continue
        began = time.process_time()
        rows = run(setting, seed, lambda line: print(line, flush=True))
        done.append({"seed": seed, "rows": rows, "cpu_seconds": time.process_time() - began})
        write_json(options.out, done)
    print("Cosine of the whole to the truth, as it is / cut to half the direct term:")
    print(table(done, "total", "clipped"))
    print("Of the response: cosine to the true one / size as a share of the direct term:")
    print(table(done, "response", "ratio"))
    if options.picture:
        draw_search(done, options.picture)


if __name__ == "__main__":
    main()
