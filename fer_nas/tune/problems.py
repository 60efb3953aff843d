"""The PROBLEMS: which network on which split of which images, and the hyperparameters that are tuned on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from fer_nas.bilevel.hyper import HyperLayout, Part, bounded, integer, positive
from fer_nas.bilevel.response import best_response
from fer_nas.config import TuneConfig
from fer_nas.data.load import load
from fer_nas.data.sampling import stratified, subset
from fer_nas.data.split import DataSet, Split
from fer_nas.errors import InputError
from fer_nas.runtime import generator
from fer_nas.tasks.tuning import Tuning, layer_names
from fer_nas.tasks.tuning_networks import Cnn, Mlp

VALIDATION_SHARE = 0.15  # of the training images, where the source has no split for it; MacKay et al. 2019
DROPOUT = partial(bounded, 0.0, 0.95, start=0.05)
CUTOUT = {"cutout.holes": integer(0, 4, start=1), "cutout.length": integer(0, 24, start=4)}
DECAY_START, SMOOTHING_START = 1e-4, 0.05


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A row of PROBLEMS. own_split: train and validation as the source has them; otherwise 15 % of both validate."""

    network: type[Mlp] | type[Cnn]
    dataset: str
    own_split: bool
    cutout: bool


PROBLEMS: dict[str, Problem] = {
    "mnist-mlp": Problem(network=Mlp, dataset="mnist", own_split=False, cutout=False),
    "fashion-cnn": Problem(network=Cnn, dataset="fashion-mnist", own_split=False, cutout=True),
    "fer-cnn": Problem(network=Cnn, dataset="fer2013", own_split=True, cutout=True),
}


@dataclass(frozen=True, kw_only=True)
class Images:
    """The splits of one seed. wrong: bool (N,), which training labels were replaced, where some were."""

    train: Split
    val: Split
    test: Split | None
    classes: int
    wrong: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return tuple(self.train.images.shape[1:])  # type: ignore[return-value]


def _dropout(problem: Problem, network: nn.Module, images: Images) -> dict[str, Part]:
    rates = {f"dropout.{place}": DROPOUT() for place in problem.network.places}
    return rates | (CUTOUT if problem.cutout else {})


def _continuous(problem: Problem, network: nn.Module, images: Images) -> dict[str, Part]:
    decays = {f"decay.{name}": positive(start=DECAY_START) for name in layer_names(network)}
    return decays | {"smoothing": bounded(0.0, 0.5, start=SMOOTHING_START)}


def _pixels(problem: Problem, network: nn.Module, images: Images) -> dict[str, Part]:
    return {"pixels": bounded(0.0, 2.0, start=1.0, shape=images.shape[1:])}


def _examples(problem: Problem, network: nn.Module, images: Images) -> dict[str, Part]:
    return {"examples": bounded(0.0, 1.0, start=0.5, shape=(len(images.train),))}


FAMILIES: dict[str, Callable[[Problem, nn.Module, Images], dict[str, Part]]] = {
    "dropout": _dropout,
    "continuous": _continuous,
    "pixels": _pixels,
    "examples": _examples,
}


def read(config: TuneConfig) -> DataSet:
    """The data set of the problem, whole; `images` thins it out."""
    return load(replace(config.data, limit=None), seed=config.run.seed)


def images(config: TuneConfig, dataset: DataSet, seed: int) -> Images:
    """Split and thinned out by the seed; the same for every method. --limit counts train and val together where val is
    cut from train."""
    problem, limit = PROBLEMS[config.problem], config.data.limit
    train, val = dataset.train, dataset.splits["val"]
    if not problem.own_split:
        both = _joined(train, val)
        if limit is not None:
            both = both.take(subset(both.labels(), limit, seed))
        train, val = (
            both.take(rows) for rows in stratified(both.labels(), (1 - VALIDATION_SHARE, VALIDATION_SHARE), seed)
        )
    elif limit is not None:
        train = train.take(subset(train.labels(), limit, seed))
    if min(len(train), len(val)) < 2:
        raise InputError(
            f"{config.data.data}: {len(train)} training and {len(val)} validation images are too few; raise --limit, "
            "or give more data"
        )
    found = Images(train=train, val=val, test=dataset.splits.get("test"), classes=len(dataset.classes))
    return _with_wrong_labels(found, config.wrong_labels, seed) if config.hyperparameters == "examples" else found


def _joined(first: Split, second: Split) -> Split:
    return Split(
        images=torch.cat([first.images, second.images]),
        targets=torch.cat([first.targets, second.targets]),
        names=first.names + second.names,
    )


def _with_wrong_labels(found: Images, share: float, seed: int) -> Images:
    """`share` of the training labels, drawn by the seed, replaced by one of the other classes, each as likely."""
    labels = found.train.labels()
    draw = generator(seed, "wrong labels")
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=draw)[: round(share * len(labels))]] = True
    other = (labels + torch.randint(1, found.classes, labels.shape, generator=draw)) % found.classes
    return replace(found, train=replace(found.train, targets=torch.where(wrong, other, labels)), wrong=wrong)


def task(config: TuneConfig, found: Images, seed: int, *, response: bool) -> Tuning:
    """The network, drawn by the seed, with or without best-response layers, and λ's layout."""
    problem = PROBLEMS[config.problem]
    mean, std = found.train.channel_statistics()
    torch.manual_seed(seed)
    network: nn.Module = problem.network(found.shape, found.classes, config.width, mean, std)
    layout = HyperLayout({**FAMILIES[config.hyperparameters](problem, network, found)})
    if response:
        network = best_response(network, layout.size, generator=generator(seed, "response"))
    return Tuning(network.to(found.train.images.device), problem.network.places, layout)
