"""Tuning by whole trainings: random search and Bayesian optimization (TPE), both by Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from fer_nas.bilevel.hyper import HyperLayout, Part
from fer_nas.bilevel.protocol import descend
from fer_nas.config import TuneConfig
from fer_nas.runtime import generator
from fer_nas.tune.methods import Rival
from fer_nas.tune.problems import Images, task
from fer_nas.tune.training import Point, Stream, first_step, score

DECAY_RANGE = (1e-6, 1e-1)  # searched on a logarithmic scale
FIRST_AT_RANDOM = 4  # trials before TPE's model; Optuna's ten would leave a short budget none of its own


def sampler(name: str, seed: int) -> BaseSampler:
    if name == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=FIRST_AT_RANDOM)


def suggested(trial: optuna.Trial, layout: HyperLayout) -> dict[str, Any]:
    """A value for each part: uniform in its range, whole numbers uniform, decays log-uniform in DECAY_RANGE."""
    return {name: _suggest(trial, name, part) for name, part in layout.typed.items()}


def _suggest(trial: optuna.Trial, name: str, part: Part) -> float:
    if part.kind == "integer":
        return trial.suggest_int(name, int(part.low), int(part.high))
    if part.kind == "positive":
        return trial.suggest_float(name, *DECAY_RANGE, log=True)
    inset = 1e-6 * (part.high - part.low)  # the ends themselves are infinite in λ
    return trial.suggest_float(name, part.low + inset, part.high - inset)


def tune(config: TuneConfig, rival: Rival, images: Images, seed: int) -> Iterator[Point | None]:
    """Endless: trainings of --trial-epochs each; a Point after each epoch, None after each round of steps.

    Every training starts from the same weights and sees the same batches. A trial's worth is its lowest validation
    loss; one whose loss is not finite ends at once and counts as failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize", sampler=sampler(rival.name, seed))
    spent = 0.0
    for number in count(1):
        trial = study.ask()
        best = math.inf
        for point in train(config, images, seed, lambda layout: suggested(trial, layout)):  # noqa: B023
            if point is None:
                yield None
                continue
            last = point.epochs
            yield replace(point, trial=number, epochs=spent + last)
            if not math.isfinite(point.loss):
                break
            best = min(best, point.loss)
        spent += last
        study.tell(trial, best) if math.isfinite(best) else study.tell(trial, state=TrialState.FAIL)


def train(
    config: TuneConfig, images: Images, seed: int, choose: Callable[[HyperLayout], dict[str, Any]]
) -> Iterator[Point | None]:
    """One training of --trial-epochs at the λ that `choose` gives."""
    problem = task(config, images, seed, response=False)
    hyper = problem.layout.vector(choose(problem.layout)).to(images.train.images.device)
    weights, step = problem.weights(), first_step(config)
    stream = Stream(images.train, config.batch_size, seed, "train")
    torch.manual_seed(generator(seed, "masks").initial_seed())
    for epoch in range(1, config.trial_epochs + 1):
        while stream.epochs < epoch:
            weights, step = descend(problem, weights, hyper, stream.take(config.train_steps), step)
            yield None
        loss, accuracy = score(problem, weights, hyper, images.val)
        yield Point(task=problem, weights=weights, hyper=hyper, response=None, loss=loss, accuracy=accuracy,
                    epochs=stream.epochs)  # fmt: skip
