"""Tuning during one training: λ follows its gradient while the weights follow λ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import torch

from fer_nas.bilevel.protocol import Method, descend
from fer_nas.config import TuneConfig
from fer_nas.runtime import generator
from fer_nas.tune.methods import Rival
from fer_nas.tune.problems import Images, task
from fer_nas.tune.training import Point, Stream, first_step, score


def tune(config: TuneConfig, rival: Rival, images: Images, seed: int) -> Iterator[Point | None]:
    """Endless: after each round of weight and λ steps None, or a Point where an epoch has ended.

    `fixed` has no method: its λ stays at the start. Ends after the first Point whose loss is not finite.
    """
    method: Method | None = rival.make(config, seed) if rival.make else None
    problem = task(config, images, seed, response=method is not None and method.needs_response)
    weights, step = problem.weights(), first_step(config)
    hyper = problem.layout.initial().to(images.train.images.device).requires_grad_()
    optimizer = torch.optim.RMSprop([hyper], lr=config.hyper_learning_rate)
    train = Stream(images.train, config.batch_size, seed, "train")
    val = Stream(images.val, config.batch_size, seed, "val")
    torch.manual_seed(generator(seed, "masks").initial_seed())
    for epoch in count(1):
        while train.epochs < epoch:
            group = train.take(config.train_steps)
            if method is None:
                weights, step = descend(problem, weights, hyper, group, step)
            else:
                weights, step = method.fit(problem, weights, hyper, group, step)
            if method is not None and train.epochs > config.warmup_epochs:
                found = method.hypergradient(problem, weights, hyper, group[-1], val.take(1)[0], step)
                hyper.grad = found.total
                optimizer.step()
            yield None
        here = hyper.detach().clone()
        response = here if rival.reads_hyper else None
        loss, accuracy = score(problem, weights, here, images.val, response)
        yield Point(
            task=problem, weights=weights, hyper=here, response=response,
            loss=loss, accuracy=accuracy, epochs=train.epochs,
        )  # fmt: skip
        if not math.isfinite(loss):
            return
