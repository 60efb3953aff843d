"""`fer-nas bench search`: what a step of a search costs on this machine, for each method and form of the supernet.

A step is the search's own (λ once, then w once), on images of noise. All searches stand side by side in one process and
take turns, so what disturbs the machine disturbs all of them; ratios are formed within a turn, and medians over turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import fer_nas
from fer_nas.artifacts import RunFolder
from fer_nas.config import SPACES, SearchConfig
from fer_nas.data.split import noise
from fer_nas.errors import FerNasError, InputError
from fer_nas.progress import say
from fer_nas.runtime import choose_device, describe_device, enough_memory, many_steps, peak_memory_mib
from fer_nas.search.methods import METHODS, needs_plain_form
from fer_nas.search.run import Search
from fer_nas.search.state import build
from fer_nas.settings import override

FORMS = {
    "plain": "the definition, channels first",
    "channels-last": "the definition, channels last",
    "recomputed": "the definition, channels last, with activation checkpointing",
    "compiled": "the definition, channels last, each cell by torch.compile",
    "graphed": "the definition, channels last, its passes replayed as CUDA graphs",
    "fast": "the same function with fewer and larger kernels",
    "fast-recomputed": "the fast form with activation checkpointing",
    "fast-graphed": "the fast form, its passes replayed as CUDA graphs",
}
GRAPHED = ("graphed", "fast-graphed")
RECOMPUTED = ("recomputed", "fast-recomputed")
CLASSES = 10
WARM_UP, WARM_UP_GRAPHED = 2, 10
"""Steps before the timed ones, the second with momentum; graphs are recorded in them."""


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """steps: timed steps of each search, after those that warm up. A method of best responses may be followed by
    `:published`, the form of its paper."""

    methods: tuple[str, ...] = ("darts-1st", "darts-2nd")
    forms: tuple[str, ...] = ("plain", "fast")
    space: str = "darts"
    batch_size: int = 16
    channels: int = 16
    layers: int = 8
    image_size: int = 32
    steps: int = 5
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("forms", FORMS), ("methods", None)):
            given = getattr(self, name)
            if not given or len(set(given)) < len(given):
                raise InputError(f"--{name} is {','.join(given)!r}; give one or more, each once, with commas")
            for word in given:
                if known is not None and word not in known:
                    raise InputError(f"--{name}: {word!r} is none of {', '.join(known)}")
        for word in self.methods:
            name, _, response = word.partition(":")
            if METHODS.get(name) is None or METHODS[name].make is None:
                known_names = ", ".join(key for key, row in METHODS.items() if row.make is not None)
                raise InputError(f"--methods: {name!r} is none of {known_names}")
            if response and not METHODS[name].response:
                raise InputError(f"--methods: {word!r}; only best responses have a form: darts-stn:published")
            if response not in ("", "published", "own"):
                raise InputError(f"--methods: {word!r}; the forms of a best response are published and own")
        if self.space not in SPACES:
            raise InputError(f"--space: {self.space!r} is none of {', '.join(SPACES)}")
        for word in self.methods:
            kept = [form for form in self.forms if form == "recomputed"]
            if kept and needs_plain_form(self.config(word, "plain")):
                raise InputError(
                    f"--forms recomputed: {word} differentiates the network twice or forward, which needs all of a "
                    "pass; time it by itself with --forms plain"
                )
            fast = [form for form in self.forms if form.startswith("fast")]
            if fast and needs_plain_form(self.config(word, fast[0])):
                raise InputError(
                    f"--forms {fast[0]}: {word} differentiates the network twice or forward, which the fast form "
                    "cannot; time it by itself with --forms plain"
                )
        if self.space == "p-darts":
            raise InputError("--space p-darts: its stages are supernets of darts; time that with --layers 5, 11 or 17")
        if self.batch_size < 2:
            raise InputError("--batch-size is 1; BatchNorm needs at least 2 images a batch")

    def config(self, method: str, form: str) -> SearchConfig:
        name, _, response = method.partition(":")
        return override(
            SearchConfig(),
            {
                "method": name,
                **({"response": response} if response else {}),
                "space": self.space,
                "form": "fast" if form.startswith("fast") else "plain",
                "graphs": form in GRAPHED,
                "recompute": form in RECOMPUTED,
                "batch_size": self.batch_size,
                "channels": self.channels,
                "layers": self.layers,
                "device": self.device,
            },
        )


class Contestant:
    """One search: a method with one form of the supernet."""

    def __init__(self, options: BenchOptions, method: str, form: str) -> None:
        config = options.config(method, form)
        dataset = noise(4 * options.batch_size, CLASSES, 3, options.image_size)
        self.search = Search(config, RunFolder(Path("bench")), dataset, Console(quiet=True))  # nothing is written
        if form == "plain":
            self.search.state = build(config, dataset, self.search.device, memory_format=torch.contiguous_format)
        supernet = self.search.state.task.supernet
        if form == "compiled":
            for cell in supernet.cells:
                cell.compile()
        self.batch = next(iter(self.search.start_epoch()))

    def step(self) -> tuple[float, float]:
        """Seconds of wall and of CPU time."""
        device = self.search.device
        wall, cpu = time.perf_counter(), time.process_time()
        self.search.one_step(self.batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - wall, time.process_time() - cpu


Keep = Callable[[dict[str, Any]], None]


def run(options: BenchOptions, notes: Console, keep: Keep = lambda record: None) -> dict[str, Any]:
    """The record: settings, machine, and a row for each method and form; `keep` gets it as far as it is each time."""
    device = choose_device(options.device)
    asked = [form for form in options.forms if form in GRAPHED]
    if asked and device.type != "cuda":
        raise InputError(f"--forms {asked[0]}: CUDA graphs need a GPU; leave it out: --forms plain,fast")
    before = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        with enough_memory(), many_steps():
            return _measure(options, device, notes, keep)
    finally:
        torch.set_num_threads(before)


def _measure(options: BenchOptions, device: torch.device, notes: Console, keep: Keep) -> dict[str, Any]:
    entries: dict[tuple[str, str], Contestant] = {}
    memory: dict[tuple[str, str], dict[str, float | None]] = {}
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    left_out: dict[str, str] = {}
    warm_up: dict[str, list[float]] = {}

    def record() -> dict[str, Any]:
        rows = [_row(key, times, memory[key], options) for key in times if times[key]]
        about = {"fer_nas_version": fer_nas.__version__, "torch": torch.__version__, "device": describe_device(device)}
        return about | {"options": asdict(options), "rows": rows, "warm_up": warm_up, "left_out": left_out}

    for method in options.methods:
        for form in options.forms:
            say(notes, f"{method}, {form}: memory, and steps to warm up")
            try:
                others = 0.0
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                    others = torch.cuda.memory_allocated(device) / 2**20
                made = Contestant(options, method, form)
                steps = range(WARM_UP_GRAPHED if form in GRAPHED else WARM_UP)
                warm_up[f"{method}, {form}"] = [made.step()[0] for _ in steps]
            except InputError:
                raise
            except Exception as error:  # what a compiler or its backend raises is not known beforehand
                if form != "compiled":
                    raise
                left_out[f"{method}, {form}"] = (str(error).splitlines() or [type(error).__name__])[0]
                continue
            entries[method, form] = made
            memory[method, form] = _memory(options, method, form, device, others)
            keep(record())
    times |= {key: [] for key in entries}
    order = list(entries)
    with many_steps():  # once more, for the searches that were made since
        for turn in range(options.steps):
            say(notes, f"turn {turn + 1} of {options.steps}")
            for place in range(len(order)):  # another one begins each turn, so that none always follows the same
                key = order[(place + turn) % len(order)]
                times[key].append(entries[key].step())
            keep(record())
    return record()


def _row(
    key: tuple[str, str],
    times: dict[tuple[str, str], list[tuple[float, float]]],
    memory: dict[str, float | None],
    options: BenchOptions,
) -> dict[str, Any]:
    """Figures of one contestant; `speedup` is against the same method in the first form, `relative_cpu` its CPU time as
    a share of the first row's in the same turn: for a method of two kinds of step the mean counts."""
    wall, cpu = ([one[i] for one in times[key]] for i in (0, 1))
    first = times.get((key[0], options.forms[0]), times[key])
    relative = [b / max(a[1], 1e-9) for a, b in zip(next(iter(times.values())), cpu, strict=False)]
    return {
        "method": key[0],
        "form": key[1],
        "images_per_second": options.batch_size / statistics.median(wall),
        "step_seconds": spread(wall),
        "cpu_seconds": spread(cpu),
        "speedup": spread([a[0] / b for a, b in zip(first, wall, strict=True)]),
        "speedup_cpu": spread([a[1] / max(b, 1e-9) for a, b in zip(first, cpu, strict=True)]),
        "relative_cpu": spread(relative) | {"mean": statistics.mean(relative)},
        **memory,
        "steps": [{"wall": a, "cpu": b} for a, b in times[key]],
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _memory(
    options: BenchOptions, method: str, form: str, device: torch.device, others: float
) -> dict[str, float | None]:
    """Peak memory in MiB, and what of it was there before the first step; on a CPU from a process of its own.

    others: what the searches beside it hold on a GPU.
    """
    if device.type == "cuda":
        return {"peak_memory_mib": (peak_memory_mib(device) or 0.0) - others, "memory_before_mib": None}
    words = json.dumps({**asdict(options), "methods": [method], "forms": [form]})
    child = subprocess.run(
        [sys.executable, "-c", "from fer_nas.search import bench; bench.report_memory()"],
        input=words,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise FerNasError(f"{method}, {form}: the process that measures memory failed: {last}")
    return json.loads(child.stdout.splitlines()[-1])


def report_memory() -> None:
    """In a process of its own: two steps; before and peak as JSON to stdout."""
    read: dict[str, Any] = json.load(sys.stdin)
    given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in read.items()}
    options = BenchOptions(**given)
    if options.threads:
        torch.set_num_threads(options.threads)
    made = Contestant(options, options.methods[0], options.forms[0])
    before = _resident_peak_mib()
    for _ in range(2):  # the second one has momentum buffers
        made.step()
    print(json.dumps({"peak_memory_mib": _resident_peak_mib(), "memory_before_mib": before}))


def _resident_peak_mib() -> float | None:
    """Largest resident size; where Linux tells it, without what a parent process held."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return peak_memory_mib(torch.device("cpu"))
