"""A study of searches: every line of a plan with every seed, the network that each derives at equal size, one table.

Searches and trainings are runs of `fer-nas search` and `fer-nas train` in processes of their own, whose folders anyone
can open; a study that was stopped goes on from them. Validation chooses epochs and genotypes, the test split is read
once for each training, and chooses nothing.
"""

from __future__ import annotations

import subprocess
import sys
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fer_nas.artifacts import Genotype, GenotypeFile, RunFolder, read_json, write_json, write_text
from fer_nas.config import DataConfig
from fer_nas.data.load import require
from fer_nas.errors import FerNasError, InputError
from fer_nas.report.study import draw_study, markdown
from fer_nas.runtime import Interrupted, choose_device
from fer_nas.settings import override
from fer_nas.space.decode import count_skips
from fer_nas.space.network import Network
from fer_nas.studies.plans import PLANS, SCALES, SETTINGS, Line, Options

CHANNELS = range(2, 129)
"""Among which a derived network's are chosen."""
SIGINT = 130
STOPPED = "stopped; the same command goes on"


@dataclass(frozen=True, kw_only=True)
class Study:
    """What `fer-nas study` was asked for; `cifar10` is read by plans that search on it.

    only: lines of the plan that are run, all where None. seeds: how many, from first_seed on.
    """

    plan: str
    scale: str
    data: str
    labels: str = "fer2013"
    votes: str | None = None
    cifar10: str | None = None
    seeds: int = 3
    first_seed: int = 0
    only: list[str] | None = None
    threads: int = 1
    device: str = "auto"

    @property
    def all_seeds(self) -> range:
        return range(self.first_seed, self.first_seed + self.seeds)


class Runner:
    """Runs what is missing of a study in its folder, `jobs` of its runs at a time."""

    def __init__(self, study: Study, out: Path, note: Callable[[str], None], jobs: int = 1) -> None:
        self.study, self.out, self.note, self.jobs = study, out, note, jobs
        self.plan, self.scale = PLANS[study.plan].only(study.only), SCALES[study.scale]

    def run(self) -> dict[str, Any]:
        """Everything, then the tables: study.json's value."""
        self.each([partial(self.derive, line, seed) for seed in self.study.all_seeds for line in self.plan.lines])
        again = [line for name in self.plan.retrained for line in self.plan.lines if line.name == name]
        self.each([partial(self.train, line, self.best(line), setting) for line in again for setting in SETTINGS])
        found = self.result()
        write_json(self.out / "study.json", found)
        write_text(self.out / "study.md", markdown(found))
        draw_study(found, self.out / "study.png")
        return found

    def each(self, tasks: Sequence[Callable[[], None]]) -> None:
        """All of them; the first that fails ends it, after those that have begun."""
        if self.jobs == 1:
            for task in tasks:
                task()
            return
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                for begun in as_completed([pool.submit(task) for task in tasks]):
                    begun.result()
            except KeyboardInterrupt:  # the runs have it too
                pool.shutdown(cancel_futures=True)
                raise Interrupted(2, STOPPED) from None
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def derive(self, line: Line, seed: int) -> None:
        """A search, and the training of the network that it derives."""
        self.search(line, seed)
        self.train(line, seed, "as in the table")

    def place(self, line: Line, seed: int, setting: str | None = None) -> Path:
        name = f"{plain(line.name)}-{seed}"
        return self.out / "searches" / name if setting is None else self.out / "trainings" / f"{name}-{plain(setting)}"

    def search(self, line: Line, seed: int) -> None:
        place, images = self.place(line, seed), self.study.cifar10 if line.on == "cifar10" else self.study.data
        labels = () if line.on == "cifar10" else self.labels
        if not (place / "cells.png").exists():
            words = ["--data", str(images), *labels, *self.scale.search, *line.search]
            self.command("search", place, [*words, *self.common(seed)])

    def train(self, line: Line, seed: int, setting: str) -> None:
        place = self.place(line, seed, setting)
        if (place / "test.json").exists():
            return
        channels = self.channels(GenotypeFile.load(self.place(line, seed) / "genotype.json").genotype)
        words = ["--data", self.study.data, *self.labels, *self.scale.train]
        words += ["--layers", str(self.scale.layers), "--channels", str(channels), "--no-recipe", *SETTINGS[setting]]
        self.command("train", place, [*words, *self.common(seed)], [str(self.place(line, seed))])

    @property
    def labels(self) -> Options:
        votes = () if self.study.votes is None else ("--votes", self.study.votes)
        return ("--labels", self.study.labels, *votes)

    def common(self, seed: int) -> Options:
        return ("--seed", str(seed), "--threads", str(self.study.threads), "--device", self.study.device)

    def channels(self, genotype: Genotype) -> int:
        """At which the derived network is nearest to the scale's number of parameters."""
        size = 32 if self.study.scale == "paper" else 24

        def parameters(channels: int) -> int:
            with torch.device("meta"):
                network = Network(
                    genotype, classes=7, c_in=1, image_size=size, channels=channels, layers=self.scale.layers
                )
            return sum(p.numel() for p in network.parameters())

        wanted = self.scale.parameters
        enough = bisect_left(CHANNELS, wanted, hi=len(CHANNELS) - 1, key=parameters)  # it grows with the channels
        around = CHANNELS[max(0, enough - 1) : enough + 1]
        return min(around, key=lambda channels: abs(parameters(channels) - wanted))

    def command(self, verb: str, place: Path, words: Sequence[str], arguments: Sequence[str] = ()) -> None:
        """One run, new or resumed, with its output in a log beside the folder. FerNasError where it fails."""
        new = not (place / "config.json").exists()
        given = [*arguments, *words, "--out", str(place)] if new else ["--resume", str(place)]
        place.parent.mkdir(parents=True, exist_ok=True)
        log = place.with_suffix(".log")
        self.note(f"{verb} {place.name}{'' if new else ', resumed'}")
        with (
            log.open("a", encoding="utf-8") as lines,
            subprocess.Popen([sys.executable, "-m", "fer_nas", verb, *given], stdout=lines, stderr=lines) as process,
        ):
            try:
                code = process.wait()
            except KeyboardInterrupt:  # the run has it too, and keeps what it has
                process.wait()
                code = SIGINT
        if code == SIGINT:
            raise Interrupted(2, STOPPED)
        if code:
            raise FerNasError(f"{verb} {place.name} {ending(code, log)}; see {log}")

    def figures(self, line: Line, seed: int, setting: str = "as in the table") -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.place(line, seed, setting) / "test.json", "test figures")
        return found

    def best(self, line: Line) -> int:
        """The seed whose derived network validation prefers."""
        return max(self.study.all_seeds, key=lambda seed: self.figures(line, seed)["val_accuracy"])

    def result(self) -> dict[str, Any]:
        rows = []
        for line in self.plan.lines:
            seeds = []
            for seed in self.study.all_seeds:
                epochs = RunFolder.open(self.place(line, seed)).metrics()
                found = GenotypeFile.load(self.place(line, seed) / "genotype.json").genotype
                last, trained = (epochs[-1] if epochs else {}), self.figures(line, seed)
                seeds.append(
                    {
                        "seed": seed,
                        "supernet_val_accuracy": last.get("val_accuracy"),
                        **{name: last.get(name) for name in ("arch_entropy", "response_ratio", "response_cosine")},
                        "skips_normal": count_skips(found.normal),
                        "genotype": found.to_dict(),
                        "search_seconds": sum(row["seconds"] for row in epochs),
                        "peak_memory_mib": max((row["peak_memory_mib"] for row in epochs), default=None),
                        **{name: trained[name] for name in ("val_accuracy", "accuracy", "parameters", "flops", "n")},
                    }
                )
            rows.append({"name": line.name, "options": list(line.search), "on": line.on, "seeds": seeds})
        retrained = [
            {"name": path.name, "setting": setting, "seed": seed, "line": name, **self._kept(path)}
            for name in self.plan.retrained
            for line in self.plan.lines
            if line.name == name
            for seed in self.study.all_seeds
            for setting in SETTINGS
            if seed == self.best(line) and (path := self.place(line, seed, setting)).exists()
        ]
        asked = ("plan", "scale", "labels", "seeds", "first_seed", "threads", "device")
        about = {name: getattr(self.study, name) for name in asked}
        scale = {"search": list(self.scale.search), "train": list(self.scale.train), "target": self.scale.parameters}
        return about | {"options": scale, "rows": rows, "retrained": retrained}

    @staticmethod
    def _kept(path: Path) -> dict[str, Any]:
        found = read_json(path / "test.json", "test figures")
        return {name: found[name] for name in ("val_accuracy", "accuracy", "n")}


def ending(code: int, log: Path) -> str:
    """How a run ended, with its own words where it had time for some."""
    if code < 0:
        return f"was ended by signal {-code} (out of memory?); the same command goes on"
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    why = f": {said[-1].strip().removeprefix('fer-nas: ')}" if said else ""
    return f"ended with {code}{why}{'' if code == 2 else '; the same command goes on'}"


def plain(name: str) -> str:
    """A name as part of a folder's."""
    return name.lower().replace("δ", "delta").replace(" ", "-")


def chosen(plan: str, names: Sequence[str]) -> list[str]:
    """What --only names, in the plan's order and once each; Δ may be written out. InputError for other names."""
    lines = {plain(line.name): line.name for line in PLANS[plan].lines}
    found = {plain(name.strip()) for name in names if name.strip()}
    unknown = [name.strip() for name in names if name.strip() and plain(name.strip()) not in lines]
    if unknown or not found:
        what = f"no line {unknown[0]!r}" if unknown else "no line without a name"
        raise InputError(f"--only: the plan {plan} has {what}; choose from {', '.join(lines.values())}")
    return [name for key, name in lines.items() if key in found]


def check(study: Study, out: Path) -> Study:
    """The study with its lines in the plan's order, and its plan.json in the folder.

    InputError for what cannot be run, or a folder that holds another study.
    """
    for value, table, option in ((study.plan, PLANS, "PLAN"), (study.scale, SCALES, "--scale")):
        if value not in table:
            raise InputError(f"{option} is {value!r}; choose from {', '.join(table)}")
    if study.only is not None:
        study = replace(study, only=chosen(study.plan, study.only))
    reads = any(line.on == "cifar10" for line in PLANS[study.plan].only(study.only).lines)
    if reads and study.cifar10 is None:
        raise InputError(f"the plan {study.plan} searches on CIFAR-10 too; give it with --cifar10")
    if study.cifar10 is not None and not reads:
        raise InputError("--cifar10: no line that is run searches on it; leave it out")
    if study.first_seed + study.seeds > 2**63:
        raise InputError(f"--first-seed is {study.first_seed}; seeds end at 2^63 - 1")
    asked = asdict(study)
    kept = out / "plan.json"
    if kept.exists():
        known = read_json(kept, "study")
        # An earlier version's file has no line for options that it did not know.
        if not isinstance(known, dict) or asdict(Study(plan="", scale="", data="")) | known != asked:
            raise InputError(f"{out} holds a study with other options; give another --out, or the same options")
        return study  # what it needs beside is looked at by the runs that are left, which may be none
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; give another --out")
    require(override(DataConfig(), {"data": study.data, "labels": study.labels, "votes": study.votes}))
    if study.cifar10 is not None and not Path(study.cifar10).exists():
        raise InputError(f"--cifar10 {study.cifar10}: no such file or folder")
    choose_device(study.device)
    write_json(kept, asked)
    return study
