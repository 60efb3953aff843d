"""What `--tune` is worth: hyperparameters of training tuned inside a search, against the defaults and random search.

For each seed, on the same faces:

- untuned: a search by Δ-STN; its network trained with the default recipe;
- tuned: the same search with `--tune`; its network trained with the recipe that the search found;
- random: the untuned search's network trained for a few epochs with recipes drawn uniformly from the same ranges, until
  these trainings have taken as long as the tuned search; then trained with the recipe whose validation loss was lowest.

    python benchmarks/tuned_recipe.py --data fer2013.zip --labels ferplus --seeds 3 --out tuned

All networks have the same channels and cells and are trained equally long. Validation loss and accuracy are those of
the epoch with the best accuracy on PublicTest; PrivateTest chooses nothing and is not shown. A stopped run goes
on.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fer_nas.artifacts import GenotypeFile, RunFolder, write_json
from fer_nas.config import TUNABLE

NAMES = ("dropout", "erase", "rotate", "shift", "brightness", "label_smoothing")
SEARCH = ("--preset", "cpu", "--method", "darts-delta-stn", "--epochs", "6", "--limit", "4800")
SKELETON = ("--preset", "cpu", "--image-size", "24", "--stem", "stride2", "--layers", "4", "--channels", "12")
TRAIN = (*SKELETON, "--limit", "9600")
EPOCHS, TRIAL_EPOCHS = 12, 3
ARMS = ("untuned", "tuned", "random")


class Comparison:
    def __init__(self, out: Path, common: Sequence[str]) -> None:
        self.out, self.common = out, common

    def run(self, verb: str, place: Path, words: Sequence[str], done: str) -> Path:
        """One run of the program, unless its folder holds `done` already; a half-finished one goes on."""
        if not (place / done).exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            new = not (place / "config.json").exists()
            given = [*words, *self.common, "--out", str(place)] if new else ["--resume", str(place)]
            print(f"{verb} {place.name}", flush=True)
            with place.with_suffix(".log").open("a") as log:
                subprocess.run([sys.executable, "-m", "fer_nas", verb, *given], check=True, stdout=log, stderr=log)
        return place

    def search(self, seed: int, tuned: bool) -> Path:
        words = [*SEARCH, "--seed", str(seed), *(("--tune", ",".join(NAMES)) if tuned else ())]
        return self.run("search", self.out / f"search-{'tuned' if tuned else 'untuned'}-{seed}", words, "cells.png")

    def train(self, name: str, genotype: Path, seed: int, epochs: int, recipe: dict[str, float]) -> dict[str, Any]:
        """The figures of the epoch with the best validation accuracy."""
        words = [str(genotype), *TRAIN, "--seed", str(seed), "--epochs", str(epochs), "--no-recipe"]
        for key, value in recipe.items():
            words += [f"--{key.replace('_', '-')}", f"{value:.6g}"]
        rows = RunFolder.open(self.run("train", self.out / name, words, "test.json")).metrics()
        best = max(rows, key=lambda row: row["val_accuracy"])
        return {
            "val_loss": best["val_loss"], "val_accuracy": best["val_accuracy"],
            "seconds": sum(row["seconds"] for row in rows), "recipe": recipe,
        }  # fmt: skip

    def seed(self, seed: int) -> dict[str, Any]:
        plain, tuned = self.search(seed, False), self.search(seed, True)
        recipe = dict(GenotypeFile.load(tuned / "genotype.json").recipe)
        budget = sum(row["seconds"] for row in RunFolder.open(tuned).metrics())
        draw, trials, spent = random.Random(seed), list[dict[str, Any]](), 0.0
        while spent < budget:
            drawn = {name: draw.uniform(*TUNABLE[name]) for name in NAMES}
            trials.append(self.train(f"trial-{seed}-{len(trials)}", plain, seed, TRIAL_EPOCHS, drawn))
            spent += trials[-1]["seconds"]
        chosen = min(trials, key=lambda trial: trial["val_loss"])["recipe"]
        return {
            "seed": seed, "search_seconds": budget, "trials": len(trials), "trial_seconds": spent,
            "untuned": self.train(f"train-untuned-{seed}", plain, seed, EPOCHS, {}),
            "tuned": self.train(f"train-tuned-{seed}", tuned, seed, EPOCHS, recipe),
            "random": self.train(f"train-random-{seed}", plain, seed, EPOCHS, chosen),
            "tuned recipe on the untuned cell": self.train(f"train-moved-{seed}", plain, seed, EPOCHS, recipe),
        }  # fmt: skip


def mean(values: Sequence[float], digits: int) -> str:
    text = f"{statistics.fmean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line an arm, mean ± standard deviation over seeds; then the values of each seed."""
    lines = ["| recipe | val loss | val accuracy % |", "| --- | --- | --- |"]
    for arm in (*ARMS, "tuned recipe on the untuned cell"):
        loss, accuracy = ([row[arm][name] for row in rows] for name in ("val_loss", "val_accuracy"))
        lines.append(f"| {arm} | {mean(loss, 3)} | {mean([100 * x for x in accuracy], 1)} |")
    lines += ["", f"| recipe | seed | {' | '.join(NAMES)} |", "| --- | --- |" + " --- |" * len(NAMES)]
    for arm in ("tuned", "random"):
        for row in rows:
            values = " | ".join(f"{row[arm]['recipe'][name]:.3g}" for name in NAMES)
            lines.append(f"| {arm} | {row['seed']} | {values} |")
    budget = mean([row["search_seconds"] for row in rows], 0), mean([row["trial_seconds"] for row in rows], 0)
    lines += [
        "",
        f"tuned searches {budget[0]} s, random search {budget[1]} s in {[row['trials'] for row in rows]} trials",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="FER2013, in any form that fer-nas reads")
    parser.add_argument("--labels", default="fer2013", choices=("fer2013", "ferplus"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; the record is tuned.json in it")
    options = parser.parse_args()
    common = ["--data", options.data, "--labels", options.labels, "--threads", "1", "--device", "cpu"]
    comparison = Comparison(options.out, common)
    rows = [comparison.seed(seed) for seed in range(options.seeds)]
    write_json(options.out / "tuned.json", rows)
    print(table(rows))


if __name__ == "__main__":
    main()
