"""Settings: presets, overrides, bounds, and the way to JSON and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fer_nas.config import DataConfig, SearchConfig, TrainConfig
from fer_nas.errors import InputError
from fer_nas.presets import SEARCH_PRESETS, TRAIN_PRESETS
from fer_nas.settings import build, flat_fields, from_dict, override, search_config, to_dict
from fer_nas.space.variants import SPACES

ALL = [(SearchConfig, SEARCH_PRESETS, name) for name in SEARCH_PRESETS] + [
    (TrainConfig, TRAIN_PRESETS, name) for name in TRAIN_PRESETS
]
FIELDS = [(config, name) for config in (SearchConfig, TrainConfig) for name in flat_fields(config)]


@pytest.mark.parametrize(("config", "presets", "name"), ALL)
def test_presets_are_possible_and_survive_json(config: type, presets: dict[str, dict[str, Any]], name: str) -> None:
    made = build(config, presets, name, {})
    assert from_dict(config, json.loads(json.dumps(to_dict(made)))) == made


def test_published_settings() -> None:
    search, train = build(SearchConfig, SEARCH_PRESETS, "paper", {}), build(TrainConfig, TRAIN_PRESETS, "paper", {})
    assert (search.run.epochs, search.run.batch_size, search.network.channels, search.network.layers) == (50, 64, 16, 8)
    assert (search.weights.learning_rate, search.weights.learning_rate_min, search.weights.weight_decay) == (
        0.025, 0.001, 3e-4,
    )  # fmt: skip
    assert (search.arch.arch_learning_rate, search.arch.arch_weight_decay) == (3e-4, 1e-3)
    assert (train.run.epochs, train.run.batch_size, train.network.channels, train.network.layers) == (600, 96, 36, 20)
    assert (train.recipe.drop_path, train.recipe.auxiliary, train.recipe.auxiliary_weight) == (0.2, True, 0.4)
    assert train.augment.cutout == 16 and train.recipe.learning_rate_min == 0


def test_a_single_setting_overrides_the_preset_and_nothing_else() -> None:
    made = build(SearchConfig, SEARCH_PRESETS, "tiny", {"epochs": 7})
    assert made.run.epochs == 7
    assert override(made, {"epochs": SEARCH_PRESETS["tiny"]["epochs"]}) == build(
        SearchConfig, SEARCH_PRESETS, "tiny", {}
    )


@pytest.mark.parametrize(("config", "name"), FIELDS)
def test_every_field_has_a_help_text_and_takes_its_own_default(config: type, name: str) -> None:
    path, leaf, _ = flat_fields(config)[name]
    assert leaf.metadata["help"].endswith(".")
    value: Any = config()
    for part in path:
        value = getattr(value, part)
    assert override(config(), {name: value}) == config()


def test_a_gradient_may_be_unbounded() -> None:
    made = override(SearchConfig(), {"gradient_clip": float("inf")})
    assert from_dict(SearchConfig, json.loads(json.dumps(to_dict(made)))) == made


def test_choices_of_the_space_are_the_spaces() -> None:
    assert flat_fields(SearchConfig)["space"][1].metadata["choices"] == tuple(SPACES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "--epochs is 0; it must be at least 1"),
        ({"limit": 1}, "--limit is 1; it must be at least 2"),
        ({"seed": -1}, "--seed is -1; it must be at least 0"),
        ({"learning_rate": float("nan")}, "--learning-rate is nan; give a finite number"),
        ({"learning_rate": float("inf")}, "--learning-rate is inf; give a finite number"),
        ({"threads": 1025}, "--threads is 1025; it must be at most 1024"),
        ({"dropout": 1.5}, "--dropout is 1.5; it must be at most 0.99"),
        ({"drop_path": 1.0}, "--drop-path is 1.0; it must be at most 0.99"),
        ({"label_smoothing": 3.0}, "--label-smoothing is 3.0; it must be at most 1"),
        ({"erase": float("nan")}, "--erase is nan; give a finite number"),
        ({"stem": "round"}, "--stem is 'round'; choose from auto, cifar, stride2, imagenet"),
        ({"labels": "votes"}, "--labels is 'votes'; choose from fer2013, ferplus"),
        ({"epochs": "60"}, "--epochs is '60'; it must be of type int"),
        ({"epochs": True}, "--epochs is True; it must be of type int"),
        ({"epochs": None}, "--epochs is None; it must be of type int"),
        ({"flip": 1}, "--flip is 1; it must be of type bool"),
    ],
)
def test_impossible_values(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        override(TrainConfig(), settings)
    assert str(caught.value) == message
    value = to_dict(TrainConfig())
    (name,) = settings
    *path, last = flat_fields(TrainConfig)[name][0]
    part = value
    for key in path:
        part = part[key]
    part[last] = settings[name]
    with pytest.raises(InputError) as caught:
        from_dict(TrainConfig, value, "run/config.json")
    assert str(caught.value) == f"run/config.json: {message}"


def test_whole_numbers_and_none_where_they_are_meant() -> None:
    assert override(TrainConfig(), {"learning_rate": 1, "limit": None}).learning_rate == 1


def test_unknown_setting_and_preset() -> None:
    with pytest.raises(InputError, match=r"unknown setting 'epoch'; known: adjoint_damping"):
        override(SearchConfig(), {"epoch": 3})
    with pytest.raises(InputError, match=r"--preset is 'huge'; choose from paper, cpu, tiny"):
        build(SearchConfig, SEARCH_PRESETS, "huge", {})


@pytest.mark.parametrize(
    ("value", "odd"), [({"data": "x"}, "contempt, .*votes"), (["data"], "list"), (None, "NoneType"), ("", "str")]
)
def test_json_that_is_no_configuration(value: Any, odd: str) -> None:
    with pytest.raises(InputError, match=rf"config\.json: does not fit this version's DataConfig: {odd}"):
        from_dict(DataConfig, value)


@pytest.mark.parametrize(
    ("given", "operations"),
    [
        ({}, "fer"),
        ({"space": "pc-darts"}, "fer"),
        ({"space": "auto-fernet"}, None),
        ({"space": "fer"}, None),
        ({"space": "auto-fernet", "operations": "darts"}, "darts"),
    ],
)
def test_a_space_that_is_its_operations_keeps_them(given: dict[str, str], operations: str | None) -> None:
    """Preset cpu puts those of `fer` in place of DARTS's eight alone."""
    assert search_config("cpu", given).arch.operations == operations
