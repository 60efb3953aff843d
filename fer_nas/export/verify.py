"""`fer-nas verify`: what an exported file is worth on a split, how well its probabilities are meant, what it costs.

Shapes: N images, K classes, C channels, S side in pixels.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from fer_nas.config import DataConfig
from fer_nas.data.split import title
from fer_nas.export.images import load_for, match_channels, part_of
from fer_nas.export.runtime import INPUT, OUTPUT, open_model, run_model
from fer_nas.train.metrics import calibration_error, summary

BATCHES = (1, 4)
"""Faces in a call whose time is taken."""
CALLS, WARM_UP = 200, 20


def verify(model: Path, config: DataConfig, split: str = "val", *, seed: int = 0, calls: int = CALLS) -> dict[str, Any]:
    """metrics.summary of an .onnx file on a split, with calibration error, latency by batch and bytes.

    `latency_ms`: batch → median, p95 and CPU time of a call on one thread. InputError where the data set has other
    classes than the model, or no such split.
    """
    session, metadata = open_model(model, threads=1)
    data = load_for(model, metadata, config, seed)
    part = part_of(data, split, config.data)
    images = match_channels(part.images, metadata.channels).cpu()
    probabilities_NK = run_model(session, images)
    labels_N = part.labels().cpu()
    return {
        "model": str(model),
        "precision": metadata.precision,
        "bytes": Path(model).stat().st_size,
        "dataset": data.name,
        "labels": data.labels,
        "split": split,
        **summary(labels_N, probabilities_NK.argmax(1), metadata.classes),
        "calibration_error": calibration_error(labels_N, probabilities_NK),
        "latency_ms": {str(batch): latency(session, images[:batch], calls) for batch in BATCHES},
        "threads": 1,
        "calls": calls,
    }


def latency(session: onnxruntime.InferenceSession, images_NCSS: Tensor, calls: int) -> dict[str, float]:
    """Milliseconds of a call on these images after a warm-up: median and p95 of wall time, median of CPU time."""
    feed = {INPUT: images_NCSS.to(torch.float32).numpy()}
    wall, cpu = [], []
    for _ in range(WARM_UP + calls):
        begun, used = time.perf_counter(), time.process_time()
        session.run([OUTPUT], feed)
        wall.append(1000 * (time.perf_counter() - begun))
        cpu.append(1000 * (time.process_time() - used))
    wall, cpu = wall[WARM_UP:], cpu[WARM_UP:]
    p95 = statistics.quantiles(wall, n=20)[-1] if len(wall) > 1 else wall[0]
    return {"median": statistics.median(wall), "p95": p95, "cpu_median": statistics.median(cpu)}


def lines(value: dict[str, Any]) -> list[str]:
    """The figures for people."""
    times = (
        f"{batch} face{'s' if batch != '1' else ''} {ms['median']:.2f} ms "
        f"(p95 {ms['p95']:.2f}, CPU {ms['cpu_median']:.2f})"
        for batch, ms in value["latency_ms"].items()
    )
    return [
        f"{value['model']}: {value['precision']}, {value['bytes']:,} bytes",
        f"{title(value['dataset'], value['labels'])} {value['split']} accuracy {100 * value['accuracy']:.2f} % "
        f"({value['correct']} of n = {value['n']}), macro-F1 {100 * value['macro_f1']:.2f} %, "
        f"expected calibration error {100 * value['calibration_error']:.2f} %",
        f"a call on one thread, median of {value['calls']}: {'; '.join(times)}",
    ]
