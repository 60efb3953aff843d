"""How long a pass takes with each number of CPU threads, in a process of its own.

What torch's libraries set up for one number of threads they keep: a run in the same process would not compute to the
last digit what a run does that has its number from the start. The images are noise of the data's shape.

    python -m fer_nas.trial    # what `loop.with_threads` writes on stdin → seconds by number of threads, as JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fer_nas.artifacts import Genotype, RunFolder
from fer_nas.config import SearchConfig, TrainConfig
from fer_nas.data.split import noise
from fer_nas.runtime import time_threads
from fer_nas.search.run import Search
from fer_nas.settings import from_dict
from fer_nas.train.run import Training
from fer_nas.train.spec import NetworkSpec


def passes(about: dict[str, Any]) -> Callable[[], None]:
    """A pass of the search or training that is described, from which nothing is kept."""
    dataset = noise(about["count"], about["classes"], about["channels"], about["image_size"])
    folder, quiet = RunFolder(Path("trial")), Console(quiet=True)  # nothing is written
    if about["kind"] == "search":
        return Search(from_dict(SearchConfig, about["config"]), folder, dataset, quiet).trial
    dataset = replace(dataset, splits=dataset.splits | {"val": dataset.train})  # which a training asks for
    spec = NetworkSpec.of(Genotype.from_dict(about["genotype"]), "", dataset)
    return Training(from_dict(TrainConfig, about["config"]), spec, folder, dataset, quiet).trial


if __name__ == "__main__":
    print(json.dumps(time_threads(passes(json.load(sys.stdin)))))
