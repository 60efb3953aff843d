"""What onnxruntime's session settings cost and bring for a released model on this machine's CPU.

For each setting: milliseconds of wall and of CPU time a call, median of `--calls` after warm-up, for 1 and 4 faces.

    python benchmarks/session_options.py
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import onnxruntime
from fer_nas_live import models

LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the released one")
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    wish = parser.parse_args()
    path = models.resolve(wish.model)
    data = path.read_bytes()
    print(f"{path.name}, onnxruntime {onnxruntime.__version__}; ms of wall / of CPU a call")
    for threads in wish.threads:
        for level, value in LEVELS.items():
            for spin in ("0", "1") if threads > 1 else ("0",):
                for arena in (True, False):
                    options = onnxruntime.SessionOptions()
                    options.intra_op_num_threads = threads
                    options.graph_optimization_level = value
                    options.enable_cpu_mem_arena = arena
                    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
                    begun = time.process_time()
                    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
                    made = 1000 * (time.process_time() - begun)
                    cells = [timed(session, faces, wish.calls) for faces in (1, 4)]
                    print(
                        f"threads {threads}, graph {level:<5}, spin {spin}, arena {arena!s:<5}: "
                        + "; ".join(
                            f"{n} face(s) {wall:.2f} / {cpu:.2f}" for n, (wall, cpu) in zip((1, 4), cells, strict=True)
                        )
                        + f"; made in {made:.0f} ms of CPU",
                        flush=True,
                    )


def timed(session: onnxruntime.InferenceSession, faces: int, calls: int) -> tuple[float, float]:
    """Median wall and CPU milliseconds of a call."""
    shape = session.get_inputs()[0].shape
    feed = {session.get_inputs()[0].name: np.full((faces, *shape[1:]), 128, np.float32)}
    wall, cpu = [], []
    for _ in range(calls + 5):
        w, c = time.perf_counter(), time.process_time()
        session.run(None, feed)
        wall.append(1000 * (time.perf_counter() - w))
        cpu.append(1000 * (time.process_time() - c))
    return statistics.median(wall[5:]), statistics.median(cpu[5:])


if __name__ == "__main__":
    main()
