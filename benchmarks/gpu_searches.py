"""How long the searches of the papers take on a GPU: a few epochs of each by its own command, and what all would take.

The first epoch of a run compiles and records; the others take as long as each other, so that the whole takes the start
of the command + the first epoch + 49 times the median of the others. λ learns in every epoch here, also where the paper
has it wait (PC-DARTS: 15 of 50 epochs), so that the figure is too large rather than too small. The record is written
after each run.

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
    # name: (data set, options, aim in minutes on one H100)
    "PC-DARTS-STN on FER2013": ("fer2013", ["--space", "pc-darts", "--method", "darts-stn"], 5),
    "first order on FER2013": ("fer2013", ["--method", "darts-1st"], 10),
    "second order on FER2013": ("fer2013", ["--method", "darts-2nd"], 30),
    "PC-DARTS on CIFAR-10": ("cifar10", ["--space", "pc-darts", "--method", "darts-1st"], 18),
    "first order on CIFAR-10": ("cifar10", ["--method", "darts-1st"], 55),
}


def run(data: Path, options: list[str], epochs: int, device: str, more: list[str]) -> dict[str, Any]:
    """Seconds of each epoch as the record has them, and of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        out, begun = Path(folder) / "run", time.perf_counter()
        words = ["search", "--preset", "paper", "--data", str(data), "--device", device, "--out", str(out)]
        words += ["--epochs", str(epochs), "--warmup-epochs", "0", *options, *more]
        subprocess.run([sys.executable, "-m", "fer_nas", *words], check=True, stdout=sys.stderr)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        config = json.loads((out / "config.json").read_text())["config"]
        source = json.loads((out / "genotype.json").read_text())["source"]
    seconds, command = [row["seconds"] for row in rows], time.perf_counter() - begun
    start = command - sum(seconds)
    return {
        "options": [*options, *more],
        "device": source["device"],
        "batch_size": config["run"]["batch_size"],
        "epoch_seconds": seconds,
        "start_seconds": start,
        "whole_minutes": (start + seconds[0] + (EPOCHS - 1) * statistics.median(seconds[1:])) / 60,
        "peak_memory_mib": rows[-1]["peak_memory_mib"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fer2013", type=Path)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--epochs", type=int, default=3, help="of each, at least 2")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="", help="searches whose name holds this")
    parser.add_argument("--out", type=Path, required=True)
    wish, more = parser.parse_known_args()
    if wish.epochs < 2 or not (wish.fer2013 or wish.cifar10):
        parser.error("give --fer2013 or --cifar10, and --epochs of at least 2")
    record: dict[str, Any] = {}
    for name, (which, options, aim) in SEARCHES.items():
        data = getattr(wish, which)
        if data is None or wish.only not in name:
            continue
        record[name] = found = run(data, options, wish.epochs, wish.device, more)
        found["aim_minutes"] = aim
        wish.out.write_text(json.dumps(record, indent=2))
        seconds = ", ".join(f"{s:.1f}" for s in found["epoch_seconds"])
        print(
            f"{name}, {found['device']}, batch {found['batch_size']}: epochs of {seconds} s; {EPOCHS} would take "
            f"{found['whole_minutes']:.1f} minutes (aim {aim}); {found['peak_memory_mib']:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
