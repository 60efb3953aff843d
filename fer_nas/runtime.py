"""What every long command needs: a device, seeds, a clean stop, checkpoints, memory figures."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import math
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from fer_nas.artifacts import atomic_path
from fer_nas.errors import FerNasError, InputError


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA where it is; a GPU that is asked for and not there is an error, never a silent CPU run."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device is {name!r}; choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        if device.index is None and os.environ.get("LOCAL_RANK", "").isdigit():  # a process of torchrun has its own GPU
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if not torch.cuda.is_available():
            why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
            raise InputError(f"--device {name}: {why}; use --device cpu, or see `fer-nas doctor`")
        if device.index is not None and device.index >= torch.cuda.device_count():
            raise InputError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    elif device.type != "cpu":
        raise InputError(f"--device is {name!r}; choose auto, cpu, cuda or cuda:N")
    return device


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"CPU, {count} thread{'s' if count > 1 else ''}"


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by all of `parts` (seed, epoch, what it is for), the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def cosine(first: float, last: float, progress: float) -> float:
    """Cosine schedule from `first` at progress 0 to `last` at progress 1."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


class Interrupted(FerNasError):
    """Ctrl-C or SIGTERM was honoured: the step is finished and the checkpoint written. Exit code 130 or 143."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopFlag:
    """Set by SIGINT and SIGTERM while the block runs; a second signal stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        # os.write, not print: a handler may run in the middle of another write.
        os.write(2, b"stopping after this step; once more stops at once and loses what follows the last checkpoint\n")

    @classmethod
    @contextlib.contextmanager
    def watch(cls) -> Iterator[StopFlag]:
        flag = cls()
        before = {number: signal.signal(number, flag._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield flag
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers, strings, lists and dictionaries only, so that loading can refuse anything that runs code."""
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's remarks on files that are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"no checkpoint in {path.parent}; this run stopped before its first one") from None
    except pickle.UnpicklingError:
        raise InputError(f"{path} is not a checkpoint of fer-nas, or holds code, which is never run") from None
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as a checkpoint (cut short?): {reason}") from None
    if not isinstance(state, dict):
        raise InputError(f"{path} is not a checkpoint of fer-nas")
    return state


@contextlib.contextmanager
def fits_checkpoint(path: Path) -> Iterator[None]:
    """While a checkpoint is put back: one of another network or with parts missing is an InputError."""
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} does not fit this run's config.json: {reason}") from None


@contextlib.contextmanager
def many_steps() -> Iterator[None]:
    """Around thousands of like steps: Python's collector leaves alone what was there before (looking through torch's
    modules took 6 % of a search's step) and waits for more than a step's objects, which go without it; and matrix
    products on a CPU are oneDNN's where those are as exact and faster."""
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, thresholds = products.fp32_precision, gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, *thresholds[1:])
    if before == "none" and onednn_products():
        products.fp32_precision = ONEDNN
    try:
        yield
    finally:
        products.fp32_precision = before
        gc.set_threshold(*thresholds)
        gc.unfreeze()


OBJECTS = 50_000
"""New objects before Python's collector looks for those that hold each other; a step of eight cells makes half of them
at most."""

ONEDNN = "bf16"
"""What makes torch hand float32 products to oneDNN. It permits bfloat16, which oneDNN takes only where the CPU has
instructions for whole tiles (AMX); elsewhere it stays with float32."""


GAIN = 1.5
"""oneDNN is taken where it is that much faster. On one AMD CPU it was twice as fast as MKL, which used half of the
vectors there; on another one it was 1.06 times as fast, and its calls cost more. Neither is near the limit, and CPU
time on one thread does not depend on what else runs, so that a run resumes, and one seed comes again, as it began."""


@cache
def onednn_products() -> bool:
    """Whether oneDNN's float32 products are as exact as float32 is on this machine, and clearly faster.

    Without bfloat16 in the CPU torch does not hand products over, and nothing changes.
    """
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, draw = products.fp32_precision, generator("products")
    a, b = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((4096, 32), (32, 32)))
    near, other = a.float(), b.float()
    seconds: dict[str, list[float]] = {before: [], ONEDNN: []}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        products.fp32_precision = ONEDNN
        off = (near @ other).double() - near.double() @ other.double()
        for _ in range(60):
            for way, taken in seconds.items():
                products.fp32_precision = way
                start = time.thread_time()
                near @ other
                taken.append(time.thread_time() - start)
    finally:
        products.fp32_precision = before
        torch.set_num_threads(threads)
    return bool(off.norm() < 1e-6 * (a @ b).norm()) and GAIN * min(seconds[ONEDNN]) < min(seconds[before])


GAIN_OF_FEWER = 0.9
"""Of fewer threads' time to more's, where the fewer are taken: what is nearer may be noise."""


def threads_are_open() -> bool:
    """Whether there is a number of CPU threads to choose: several cores, and no OMP_NUM_THREADS."""
    return torch.get_num_threads() > 1 and "OMP_NUM_THREADS" not in os.environ


def time_threads(step: Callable[[], object]) -> dict[int, float]:
    """Seconds of a step with all of torch's CPU threads, and with halves of them down to one.

    A step of small networks is hundreds of short calls, for which threads may cost more than they bring.
    """
    found, count = {}, torch.get_num_threads()
    while count:
        torch.set_num_threads(count)
        step()  # starts the threads
        found[count] = min(_seconds(step) for _ in range(2))
        count //= 2
    return found


def fastest_threads(seconds: dict[int, float]) -> int:
    """Of `time_threads`, from most to fewest; fewer where they are clearly faster."""
    chosen, *fewer = seconds
    for count in fewer:
        if seconds[count] < GAIN_OF_FEWER * seconds[chosen]:
            chosen = count
    return chosen


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@contextlib.contextmanager
def enough_memory(or_else: str = "") -> Iterator[None]:
    """An allocation that fails, on a GPU or the CPU, is a FerNasError that says what to lower, or else to do."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        lower = "--batch-size, --channels, --layers or --image-size"
        raise FerNasError(f"out of memory; lower {lower}{or_else}") from None


def require_finite(loss: float, where: str) -> None:
    if not math.isfinite(loss):
        raise FerNasError(
            f"{where}: the loss is {loss}; lower --learning-rate, or look at the data with `fer-nas data`"
        )


def global_random_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that dropout and drop-path draw from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def peak_memory_mib(device: torch.device) -> float | None:
    """CUDA: the largest allocation so far. CPU: the process's largest resident size; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None  # the standard library has no figure for it there
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
