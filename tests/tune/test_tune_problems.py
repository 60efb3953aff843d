"""Splits, wrong labels, batches and what Optuna suggests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from fer_nas.config import TuneConfig
from fer_nas.errors import InputError
from fer_nas.settings import override
from fer_nas.tune.methods import RIVALS, chosen
from fer_nas.tune.problems import FAMILIES, PROBLEMS, images, read, task
from fer_nas.tune.training import Stream
from fer_nas.tune.whole import sampler, suggested


@pytest.fixture(scope="module")
def small(settings: Callable[..., dict[str, Any]]) -> Callable[..., TuneConfig]:
    return lambda **more: override(TuneConfig(), settings(**more))


def test_fifteen_percent_validate_and_official_splits_stay(small: Callable[..., TuneConfig]) -> None:
    """35 training and 14 validation images of the table: 42 and 7 for MNIST's network, as they are for FER's."""
    dataset = read(small())
    sizes = {}
    for problem in PROBLEMS:
        found = images(small(problem=problem), dataset, 0)
        assert not set(found.train.names) & set(found.val.names)
        assert found.test is not None
        sizes[problem] = (len(found.train), len(found.val), len(found.test))
    assert sizes == {"mnist-mlp": (42, 7, 14), "fashion-cnn": (42, 7, 14), "fer-cnn": (35, 14, 14)}
    assert len(images(small(problem="fer-cnn", limit=14), dataset, 0).train) == 14
    thinned = images(small(limit=28), dataset, 0)
    assert (len(thinned.train), len(thinned.val)) == (21, 7)
    with pytest.raises(InputError, match="7 training and 0 validation images are too few; raise --limit"):
        images(small(limit=7), dataset, 0)


def test_splits_follow_the_seed_alone(small: Callable[..., TuneConfig]) -> None:
    dataset = read(small())
    first, again, other = (images(small(), dataset, seed).val.names for seed in (5, 5, 6))
    assert first == again != other


def test_wrong_labels(small: Callable[..., TuneConfig]) -> None:
    config = small(hyperparameters="examples", wrong_labels=0.4)
    clean, spoiled = (images(c, read(config), 3) for c in (small(), config))
    assert clean.wrong is None and spoiled.wrong is not None
    assert int(spoiled.wrong.sum()) == round(0.4 * len(spoiled.train))
    assert torch.equal(clean.train.labels() != spoiled.train.labels(), spoiled.wrong)
    assert torch.equal(clean.val.targets, spoiled.val.targets)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("family", FAMILIES)
def test_lambda_of_every_problem(problem: str, family: str, small: Callable[..., TuneConfig]) -> None:
    config = small(problem=problem, hyperparameters=family)
    found = images(config, read(config), 0)
    layout = task(config, found, 0, response=False).layout
    cnn = problem != "mnist-mlp"
    size = {"dropout": 6 if cnn else 3, "continuous": 5 if cnn else 4, "pixels": 144, "examples": len(found.train)}
    assert layout.size == size[family]
    values = layout.readable(layout.initial())
    if family == "dropout":
        assert values["dropout.input"] == pytest.approx(0.05)
        assert not cnn or (values["cutout.holes"], values["cutout.length"]) == (1, 4)
    if family == "continuous":
        assert values["smoothing"] == pytest.approx(0.05)
        assert [v for name, v in values.items() if name != "smoothing"] == pytest.approx([1e-4] * (layout.size - 1))


def test_networks_start_alike_with_and_without_a_response(small: Callable[..., TuneConfig]) -> None:
    config = small()
    found = images(config, read(config), 0)
    plain, bent = (task(config, found, 2, response=flag) for flag in (False, True))
    for name, weight in plain.weights().items():
        assert torch.equal(weight, bent.weights()[name + "_elem"])


def test_every_image_once_an_epoch_in_one_order_for_all(small: Callable[..., TuneConfig]) -> None:
    found = images(small(), read(small()), 0)
    first, second = (Stream(found.train, 8, 1, "train") for _ in range(2))
    steps = len(first.bounds)
    epochs = [torch.cat([batch.rows for batch in first.take(steps)]) for _ in range(2)]
    assert first.epochs == 2
    for rows in epochs:
        assert torch.equal(rows.sort().values, torch.arange(len(found.train)))
    assert not torch.equal(*epochs)
    assert torch.equal(torch.cat([batch.rows for batch in second.take(steps)]), epochs[0])
    batch = second.take(1)[0]
    assert torch.equal(batch.images, found.train.images[batch.rows].float())
    assert torch.equal(batch.targets, found.train.targets[batch.rows])


@pytest.mark.parametrize("family", ["dropout", "continuous"])
def test_suggestions_lie_within_the_ranges(family: str, small: Callable[..., TuneConfig]) -> None:
    config = small(problem="fashion-cnn", hyperparameters=family)
    layout = task(config, images(config, read(config), 0), 0, response=False).layout
    seen = []
    for name in ("random", "bayes", "random"):
        study = optuna.create_study(sampler=sampler(name, 4))
        values = [suggested(study.ask(), layout) for _ in range(20)]
        seen.append(values[:3])
        for value in values:
            back = layout.readable(layout.vector(value, torch.float64))
            assert back == pytest.approx(value, rel=1e-6)
    assert seen[0] == seen[2]


def test_rivals_are_chosen_by_name() -> None:
    config = override(TuneConfig(), {"methods": " stn, random,fixed ", "hyperparameters": "dropout"})
    assert [rival.name for rival in chosen(config, 3)] == ["stn", "random", "fixed"]


@pytest.mark.parametrize(
    ("methods", "family", "size", "words"),
    [
        ("", "dropout", 3, "--methods is empty"),
        ("stn,annealing", "dropout", 3, "'annealing' is unknown; choose from stn, delta-stn"),
        ("stn,stn", "dropout", 3, "names stn twice"),
        ("stn,unrolled", "dropout", 3, "act only through sampled masks"),
        ("neumann", "dropout", 3, "no derivative passes"),
        ("truncated", "dropout", 3, "take --hyperparameters continuous"),
        ("random", "examples", 2000, "at most 50"),
        ("bayes", "pixels", 784, "search 784 hyperparameters by whole trainings"),
    ],
)
def test_impossible_choices_say_why(methods: str, family: str, size: int, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        chosen(override(TuneConfig(), {"methods": methods, "hyperparameters": family}), size)


def test_every_rival_is_in_the_help() -> None:
    from fer_nas.config import TuneRunConfig

    text = TuneRunConfig.__dataclass_fields__["methods"].metadata["help"]
    assert all(name in text for name in RIVALS)


def test_mnist_as_published(data_root: Path) -> None:
    """15 % of the 60,000 validate."""
    config = override(TuneConfig(), {"data": str(data_root), "dataset": "mnist"})
    found = images(config, read(config), 0)
    assert (len(found.train), len(found.val), len(found.test or ())) == (51_000, 9_000, 10_000)
