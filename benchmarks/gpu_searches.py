"""How long the searches of the papers take on a GPU: a few epochs of each by its own command, and what all would take.

The first epoch of a kind (λ frozen, λ learning) compiles and records; the others take as long as each other, so
that the whole takes the start of the command + for each kind its first epoch and the median of the others for the
rest. PC-DARTS has λ frozen in 15 of its 50 epochs; what all would take if λ learned in all 50 is told beside it.
The record is written after each run.

    python benchmarks/gpu_searches.py --fer2013 fer2013.zip --cifar10 cifar10.zip --out gpu.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPOCHS = 50  # of each of these papers' searches
SEARCHES = {
    # name: (data set, options, epochs with λ frozen, aim in minutes on one H100)
    "PC-DARTS-STN on FER2013": ("fer2013", ["--space", "pc-darts", "--method", "darts-stn"], 15, 5),
    "first order on FER2013": ("fer2013", ["--method", "darts-1st"], 0, 10),
    "second order on FER2013": ("fer2013", ["--method", "darts-2nd"], 0, 30),
    "PC-DARTS on CIFAR-10": ("cifar10", ["--space", "pc-darts", "--method", "darts-1st"], 15, 18),
    "first order on CIFAR-10": ("cifar10", ["--method", "darts-1st"], 0, 55),
}


def projected(seconds: list[float], epochs: int) -> float:
    """Seconds of `epochs` epochs of a kind, from those of the first and of some others."""
    return seconds[0] + (epochs - 1) * statistics.median(seconds[1:]) if epochs else 0.0


def run(data: Path, options: list[str], waiting: int, epochs: int, device: str, more: list[str]) -> dict[str, Any]:
    """Seconds of `epochs` epochs of each kind as the record has them, and what all would take.

    waiting: how many of all epochs have λ frozen.
    """
    frozen = epochs if waiting else 0
    with tempfile.TemporaryDirectory() as folder:
        out, begun = Path(folder) / "run", time.perf_counter()
        words = ["search", "--preset", "paper", "--data", str(data), "--device", device, "--out", str(out)]
        words += ["--epochs", str(frozen + epochs), "--warmup-epochs", str(frozen), *options, *more]
        subprocess.run([sys.executable, "-m", "fer_nas", *words], check=True, stdout=sys.stderr)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        config = json.loads((out / "config.json").read_text())["config"]
        source = json.loads((out / "genotype.json").read_text())["source"]
    seconds, command = [row["seconds"] for row in rows], time.perf_counter() - begun
    start, learning = command - sum(seconds), seconds[frozen:]
    whole = start + projected(seconds[:frozen], waiting) + projected(learning, EPOCHS - waiting)
    return {
        "options": [*options, *more],
        "device": source["device"],
        "batch_size": config["run"]["batch_size"],
        "frozen_epoch_seconds": seconds[:frozen],
        "epoch_seconds": learning,
        "start_seconds": start,
        "whole_minutes": whole / 60,
        "whole_minutes_without_frozen": (start + projected(learning, EPOCHS)) / 60,
        "peak_memory_mib": rows[-1]["peak_memory_mib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer2013", type=Path)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--epochs", type=int, default=3, help="of each kind, at least 2")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="searches whose name holds this")
    parser.add_argument("--out", type=Path, required=True)
    wish, more = parser.parse_known_args()
    if wish.epochs < 2 or not (wish.fer2013 or wish.cifar10):
        parser.error("give --fer2013 or --cifar10, and --epochs of at least 2")
    record: dict[str, Any] = {}
    for name, (which, options, waiting, aim) in SEARCHES.items():
        data = getattr(wish, which)
        if data is None or wish.only not in name:
            continue
        record[name] = found = run(data, options, waiting, wish.epochs, wish.device, more)
        found["aim_minutes"] = aim
        wish.out.write_text(json.dumps(record, indent=2))
        frozen, learning = (
            ", ".join(f"{s:.1f}" for s in found[kind]) for kind in ("frozen_epoch_seconds", "epoch_seconds")
        )
        kinds = (
            f"{waiting} with λ frozen (here {frozen} s), the others of {learning} s" if frozen else f"of {learning} s"
        )
        print(
            f"{name}, {found['device']}, batch {found['batch_size']}: {EPOCHS} epochs, {kinds}, would take "
            f"{found['whole_minutes']:.1f} minutes (aim {aim}; with λ learning in all "
            f"{found['whole_minutes_without_frozen']:.1f}); {found['peak_memory_mib']:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
