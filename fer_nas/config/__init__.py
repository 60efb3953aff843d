"""Every setting of a run, one frozen dataclass per concern (standard library only).

A field's `help` is its documentation and the help text of its command-line option; `choices` are the values it takes,
`low` and `high` its bounds.
"""

from __future__ import annotations

from fer_nas.config.search import (
    SEARCH_METHODS,
    SPACES,
    TUNABLE,
    ArchConfig,
    ChecksConfig,
    ResponseConfig,
    SearchConfig,
    TuningConfig,
    WeightsConfig,
)
from fer_nas.config.shared import AugmentConfig, DataConfig, NetworkConfig, RunConfig
from fer_nas.config.train import RecipeConfig, TrainConfig
from fer_nas.config.tune import TuneConfig, TuneRunConfig

__all__ = [
    "SEARCH_METHODS",
    "SPACES",
    "TUNABLE",
    "ArchConfig",
    "AugmentConfig",
    "ChecksConfig",
    "DataConfig",
    "NetworkConfig",
    "RecipeConfig",
    "ResponseConfig",
    "RunConfig",
    "SearchConfig",
    "TrainConfig",
    "TuneConfig",
    "TuneRunConfig",
    "TuningConfig",
    "WeightsConfig",
]
