"""Stages of P-DARTS: what the settings make, which operations stay, and a search that goes through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fer_nas.config import SEARCH_PRESETS, SearchConfig
from fer_nas.errors import InputError
from fer_nas.search.stages import FEWEST, max_skips, plan, strongest
from fer_nas.settings import build, override, search_config

Configured = Callable[..., SearchConfig]


def staged(**settings: object) -> SearchConfig:
    return override(SearchConfig(), {"space": "p-darts", "epochs": 75} | settings)


def test_published_stages() -> None:
    """Chen et al. 2019, as --preset paper --space p-darts sets them."""
    config = search_config("paper", {"space": "p-darts"})
    assert (config.run.epochs, config.run.batch_size, config.arch.arch_learning_rate) == (75, 96, 6e-4)
    stages = plan(config)
    assert [(s.first, s.last, s.layers, s.operations, s.warmup, s.skip_dropout) for s in stages] == [
        (1, 25, 5, 8, 10, 0.0), (26, 50, 11, 5, 10, 0.4), (51, 75, 17, 3, 10, 0.7),
    ]  # fmt: skip
    assert max_skips(config) == 2 and max_skips(override(config, {"max_skips": 5})) == 5
    last = stages[2]
    assert [last.learns(epoch) for epoch in (51, 60, 61, 75)] == [False, False, True, True]
    assert (last.dropout(51), last.dropout(75)) == (0.7, pytest.approx(0.7 / 25))
    rates = [last.learning_rate(epoch, 0.025, 0.0) for epoch in (51, 75)]
    assert rates[0] == 0.025 and rates[1] < 1e-3 and last.passed(75) == 1.0


def test_other_spaces_have_one_stage() -> None:
    config = build(SearchConfig, SEARCH_PRESETS, "cpu", {})
    (only,) = plan(config)
    assert (only.first, only.last, only.layers, only.operations, only.warmup) == (1, 8, 3, 8, 1)
    assert plan(override(config, {"epochs": 1}))[0].warmup == 0 and max_skips(config) is None


def test_epochs_are_shared_out() -> None:
    for epochs, lengths in ((3, [1, 1, 1]), (8, [3, 2, 3]), (10, [3, 4, 3])):
        stages = plan(staged(epochs=epochs))
        assert [s.last - s.first + 1 for s in stages] == lengths
        assert [s.first for s in stages] == [1, *(s.last + 1 for s in stages[:-1])] and stages[-1].last == epochs
        assert all(s.learns(s.last) for s in stages), "λ moves in each"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stage_layers": "5,11"}, r"name 2, 3 and 3 stages; give one number for each stage in all three"),
        ({"stage_layers": "5,x,17"}, r"--stage-layers is '5,x,17'; give whole numbers"),
        ({"stage_layers": "5,1.5,17"}, r"--stage-layers is '5,1.5,17'; give whole numbers"),
        ({"stage_layers": "0,1,2"}, r"every stage needs at least one cell"),
        ({"stage_operations": "8,9,3"}, r"begin with 8, all operations of the space"),
        ({"stage_operations": "8,5,2"}, r"end with at least 3"),
        ({"operations": "auto-fernet"}, r"begin with 11, all operations of the space"),
        ({"skip_dropout": "0,0.5,1"}, r"--skip-dropout is 0,0.5,1; every rate lies in \[0, 1\)"),
        ({"skip_dropout": "0,nan,0"}, r"give finite numbers"),
        ({"epochs": 2}, r"--epochs is 2, for all stages together; 3 stages need an epoch each"),
    ],
)
def test_settings_that_make_no_stages(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(staged(**settings))


def test_settings_that_stages_do_not_read() -> None:
    for name, instead in (("layers", "--stage-layers"), ("warmup_epochs", "--stage-warmup")):
        with pytest.raises(InputError, match=f"is not read by p-darts; give {instead}"):
            search_config("cpu", {"space": "p-darts", name: 3})
        search_config("cpu", {name: 3})
    with pytest.raises(InputError, match="--stage-layers is read by p-darts only"):
        search_config("cpu", {"stage_layers": "1,2,3"})
    for preset in ("tiny", "cpu"):
        plan(search_config(preset, {"space": "p-darts"}))
    assert search_config("cpu", {"space": "pc-darts"}).run.batch_size == 32
    assert search_config("paper", {"space": "pc-darts", "epochs": 7}).run == replace(
        SearchConfig().run, batch_size=256, epochs=7
    )


def test_the_strongest_operations_stay() -> None:
    mixture = torch.tensor([[0.3, 0.1, 0.3, 0.3], [0.1, 0.2, 0.3, 0.4]])
    first = strongest(mixture, None, 3)
    assert first.tolist() == [[True, False, True, True], [False, True, True, True]]
    assert strongest(mixture.flip(1), first, 2).tolist() == [[True, False, False, True], [False, True, True, False]]
    assert FEWEST == 3
