"""The comparison: every method on every seed, each on the same budget, one after the other.

A pair of method and seed that is finished stands in results.json and is never run again; one that was stopped starts
over when the run is resumed, since its budget is measured in one go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import fer_nas
from fer_nas.artifacts import RunFolder, read_json, write_json
from fer_nas.config import TuneConfig
from fer_nas.data.load import require
from fer_nas.data.split import DataSet
from fer_nas.errors import FerNasError, InputError
from fer_nas.progress import Columns, EpochTable, number, percent, say, seconds
from fer_nas.report.tuning import draw_tuning
from fer_nas.runtime import Interrupted, StopFlag, choose_device, describe_device, enough_memory
from fer_nas.settings import from_dict, to_dict
from fer_nas.tune import gradient
from fer_nas.tune.methods import Rival, chosen
from fer_nas.tune.problems import PROBLEMS, Images, images, read, task
from fer_nas.tune.record import Results, Trace, summary
from fer_nas.tune.training import Clock, Point

COLUMNS: Columns = {
    "method": ("method", str),
    "seed": ("seed", str),
    "val_loss": ("val loss", number),
    "val_accuracy": ("val accuracy", percent),
    "test_accuracy": ("test accuracy", percent),
    "epochs": ("epochs", lambda value: f"{value:.1f}"),
    "trials": ("trainings", lambda value: str(value or 1)),
    "seconds": ("time", seconds),
}


def clock_kind(config: TuneConfig, device: torch.device) -> str:
    if config.run.clock == "auto":
        return "cpu" if device.type == "cpu" else "wall"
    if config.run.clock == "cpu" and device.type != "cpu":
        raise InputError(f"--clock cpu does not see what {device} does; use --clock wall")
    return config.run.clock


def points(config: TuneConfig, rival: Rival, found: Images, seed: int) -> Iterator[Point | None]:
    if not rival.whole:
        return gradient.tune(config, rival, found, seed)
    from fer_nas.tune import whole  # Optuna, which the other methods do without

    return whole.tune(config, rival, found, seed)


class Comparison:
    """One run in its folder."""

    def __init__(self, config: TuneConfig, folder: RunFolder, dataset: DataSet, console: Console) -> None:
        self.config, self.folder, self.dataset, self.console = config, folder, dataset, console
        self.device = choose_device(config.run.device)
        self.clock = clock_kind(config, self.device)
        self.seeds = range(config.run.seed, config.run.seed + config.run.seeds)
        first = images(config, dataset, self.seeds[0])
        self.layout = task(config, first, self.seeds[0], response=False).layout
        self.rivals = chosen(config, self.layout.size)
        self.counts = f"{len(first.train):,} training and {len(first.val):,} validation images"
        self.results = Results(folder)

    def warm_up(self, rival: Rival, found: Images, seed: int) -> None:
        """Two rounds that are thrown away: what is loaded and compiled at a first use is nobody's running time."""
        for _ in islice(points(replace(self.config, warmup_epochs=0), rival, found, seed), 2):
            pass

    def one_pair(self, rival: Rival, seed: int, found: Images, tell: Any) -> None:
        """Run until the budget is spent; what is evaluated after that does not count."""
        run = self.config.run
        trace = Trace(rival.name, seed, found.wrong)
        reason, used = "", 0.0
        try:
            self.warm_up(rival, found, seed)
            clock = Clock(self.clock)
            for point in points(self.config, rival, found, seed):
                used = clock.seconds()
                if used > run.budget:
                    break
                if point is not None:
                    self.folder.append_metrics(trace.add(point, used))
                tell(used)
            else:
                reason = "its loss is no longer a finite number"
        except FerNasError as error:
            if isinstance(error, Interrupted | InputError):
                raise
            reason = str(error)
        if reason:
            say(self.console, f"note: {rival.name}, seed {seed}: stopped after {used:.0f} s: {reason}; "
                "lower --learning-rate or --hyper-learning-rate")  # fmt: skip
        elif trace.best is None:
            say(self.console, f"note: {rival.name}, seed {seed}: no epoch ended within {run.budget:g} s with a finite "
                "loss; raise --budget, or lower --limit or --width")  # fmt: skip
        elif rival.make is not None and trace.row["epochs"] <= self.config.warmup_epochs:
            say(self.console, f"note: {rival.name}, seed {seed}: λ has not moved: the budget ended within the warm-up "
                f"of {self.config.warmup_epochs} epochs; raise --budget, or lower --warmup-epochs")  # fmt: skip
        self.results.add(trace.result(found, min(used, run.budget)))

    def run(self) -> dict[str, Any]:
        run = self.config.run
        pairs = [(rival, seed) for seed in self.seeds for rival in self.rivals]
        title = (
            f"{self.config.problem} on {self.dataset.name}, {self.config.hyperparameters}: {self.layout.size:,} "
            f"hyperparameters, {self.counts}; {run.budget:g} s of {self.clock} time each, "
            f"{describe_device(self.device)}"
        )
        if PROBLEMS[self.config.problem].dataset != self.dataset.name.split("-images")[0].split("-csv")[0]:
            say(self.console, f"note: {self.config.problem} is meant for {PROBLEMS[self.config.problem].dataset}")
        self.results.drop_unfinished()
        with (
            enough_memory(),
            StopFlag.watch() as stop,
            EpochTable(title, COLUMNS, len(pairs), 100, self.console, words=("run", "percent")) as table,
        ):
            table.rows.extend(self.results.rows)
            ready: tuple[int, Images] | None = None
            for place, (rival, seed) in enumerate(pairs, 1):
                if (rival.name, seed) in self.results.done:
                    continue
                if ready is None or ready[0] != seed:
                    ready = seed, on_device(images(self.config, self.dataset, seed), self.device)

                def tell(used: float, place: int = place) -> None:
                    table.step(place, min(99, int(100 * used / run.budget)))
                    if stop.signal is not None:
                        raise Interrupted(
                            stop.signal,
                            "stopped; what is finished is kept; go on with: "
                            f'fer-nas tune --resume "{self.folder.path}"',
                        )

                self.one_pair(rival, seed, ready[1], tell)
                table.add(self.results.rows[-1])
                table.step(place, 100)
        return self.finish()

    def finish(self) -> dict[str, Any]:
        """summary.json and tuning.png; a comparison in which nothing came to a result is a FerNasError."""
        rows = self.results.rows
        if not any("val_loss" in row for row in rows):
            raise FerNasError("no method came to a result; raise --budget, or lower --limit, --width or the rates")
        found = {
            "problem": self.config.problem,
            "dataset": self.dataset.name,
            "hyperparameters": self.config.hyperparameters,
            "clock": self.clock,
            "budget": self.config.run.budget,
            "device": describe_device(self.device),
            "train_count": rows[0]["train_count"],
            "val_count": rows[0]["val_count"],
            "test_count": next((row["test_count"] for row in rows if "test_count" in row), None),
            "methods": summary(rows),
        }
        write_json(self.folder / "summary.json", found)
        draw_tuning(self.folder.metrics(), found, self.folder / "tuning.png")
        return found


def on_device(found: Images, device: torch.device) -> Images:
    return replace(
        found,
        train=found.train.to(device),
        val=found.val.to(device),
        test=None if found.test is None else found.test.to(device),
    )


def tune(config: TuneConfig, out: Path | None, console: Console) -> tuple[RunFolder, dict[str, Any]]:
    """A new comparison in a new folder; the folder and summary.json's value."""
    clock_kind(config, choose_device(config.run.device))
    chosen(config, 0)
    if config.run.budget <= 0:
        raise InputError("--budget is 0; give each method some seconds")
    torch.set_num_threads(config.run.threads)
    require(config.data)
    say(console, f"reading {config.data.data}")
    dataset = read(config)
    for note in dataset.notes:
        say(console, f"note: {note}")
    folder = RunFolder.create(out, f"tune-{config.problem}")
    try:
        comparison = Comparison(config, folder, dataset, console)
    except FerNasError:
        folder.discard_empty()
        raise
    write_json(
        folder / "config.json", {"kind": "tune", "fer_nas_version": fer_nas.__version__, "config": to_dict(config)}
    )
    say(console, f"run folder: {folder.path}")
    return folder, comparison.run()


def resume(path: Path, console: Console) -> tuple[RunFolder, dict[str, Any]]:
    """Go on with a comparison: what is finished is kept, what was stopped starts over."""
    folder = RunFolder.open(path)
    saved = read_json(folder / "config.json", "run configuration")
    if not isinstance(saved, dict) or saved.get("kind") != "tune":
        kind = saved.get("kind") if isinstance(saved, dict) else None
        raise InputError(f"{path} is a {kind} run and no comparison; see fer-nas {kind or 'search'} --resume")
    config = from_dict(TuneConfig, saved["config"], str(folder / "config.json"))
    torch.set_num_threads(config.run.threads)
    return folder, Comparison(config, folder, read(config), console).run()
