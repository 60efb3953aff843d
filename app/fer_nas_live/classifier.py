"""An exported model and the onnxruntime session that runs it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from fer_nas.artifacts import ModelMetadata
from fer_nas.classes import FACE_CLASSES
from fer_nas.errors import InputError, unusable_model
from fer_nas_live import models, yunet
from fer_nas_live.machine import usable_cores
from fer_nas_live.quiet import quiet_stderr

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)
"""onnxruntime's exceptions; they share no base class of their own."""
THREADS = 1
"""A second thread costs a network this small more than it brings, most of all on a busy machine (docs/live.md)."""


@dataclass(frozen=True)
class Classifier:
    """`provider` is the execution provider that onnxruntime really uses, `why` what led to it."""

    session: onnxruntime.InferenceSession
    metadata: ModelMetadata
    provider: str
    path: Path
    why: str = "asked for"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.metadata.classes

    @property
    def input_size(self) -> int:
        return self.metadata.input_size

    def classify(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """(N,K) float32 probabilities of N crops (channels,S,S), 0 to 255, in one call; N may be 0."""
        if not len(crops):
            return np.zeros((0, len(self.classes)), np.float32)
        return _run(self.session, np.stack(crops).astype(np.float32, copy=False))


def _run(session: onnxruntime.InferenceSession, images_NCSS: np.ndarray) -> np.ndarray:
    if session.get_providers()[0] != PROVIDERS["cpu"]:
        return _run_bound(session, images_NCSS)
    return session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: images_NCSS})[0]


def _run_bound(session: onnxruntime.InferenceSession, images_NCSS: np.ndarray) -> np.ndarray:
    """The same by I/O binding: on a GPU the answer stays there until it is whole, and one copy brings it back."""
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, np.ascontiguousarray(images_NCSS))
    binding.bind_output(session.get_outputs()[0].name)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


def load(path: Path, provider: str = "auto") -> Classifier:
    """The model in `path` on 'cpu', 'cuda', 'tensorrt', or 'auto': CUDA where it works, else the CPU.

    InputError for a file that is no FER model and for a provider that is asked for and cannot be had.
    """
    path = Path(path)
    if provider != "auto" and provider not in PROVIDERS:
        raise InputError(f"--provider is {provider!r}; choose from auto, {', '.join(PROVIDERS)}")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"model not found: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read the model {path}: {error.strerror or error}") from None
    if wrong := models.what_is_wrong(path, data):
        raise InputError(f"{path} {wrong}")
    problem = None if provider == "cpu" else gpu_problem("cuda" if provider == "auto" else provider)
    if problem and provider != "auto":
        raise InputError(f"--provider {provider}: {problem}; use --provider auto or cpu")
    wanted = "cpu" if problem else "cuda" if provider == "auto" else provider
    session = _session(path, data, wanted)
    used = session.get_providers()[0]
    if provider not in ("auto", "cpu") and used != PROVIDERS[provider]:
        raise InputError(
            f"--provider {provider}: onnxruntime fell back to {used}; its {provider} libraries "
            "are missing or do not fit this GPU driver (run `fer-nas doctor`)"
        )
    metadata = ModelMetadata.from_strings(session.get_modelmeta().custom_metadata_map, str(path))
    _check(session, metadata, path)
    return Classifier(session, metadata, used, path, _why(provider, used, problem))


def _why(asked: str, used: str, problem: str | None) -> str:
    if asked != "auto":
        return "asked for"
    if used == PROVIDERS["cuda"]:
        return "auto: CUDA works"
    return f"auto: {problem or 'CUDA was there, but its libraries could not be loaded; run `fer-nas doctor`'}"


def gpu_problem(provider: str) -> str | None:
    """Why CUDA or TensorRT cannot be used here, in words; None where nothing speaks against it."""
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        return "this onnxruntime is built without it (install onnxruntime-gpu)"
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "no NVIDIA driver was found on this machine"
    return None


def _session(path: Path, data: bytes, provider: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: every problem is checked and told below
    options.intra_op_num_threads = max(1, min(THREADS, usable_cores()))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the core to the detector
    onnxruntime.set_default_logger_severity(4)
    chain = {"cpu": ["cpu"], "cuda": ["cuda", "cpu"], "tensorrt": ["tensorrt", "cuda", "cpu"]}[provider]
    try:
        with quiet_stderr(), contextlib.redirect_stdout(io.StringIO()):
            if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()  # finds CUDA that was installed as Python packages
            return onnxruntime.InferenceSession(data, options, providers=[_with_options(name) for name in chain])
    except ORT_ERRORS as error:
        raise unusable_model(path, error) from None


def _with_options(provider: str) -> str | tuple[str, dict[str, str]]:
    """The provider as onnxruntime takes it. TensorRT builds an engine for minutes: it is kept in the cache folder."""
    folder = yunet.cache_dir() if provider == "tensorrt" else None
    if folder is None:
        return PROVIDERS[provider]
    place = folder / "tensorrt"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError:  # the engine is built at every start instead
        return PROVIDERS[provider]
    return PROVIDERS[provider], {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(place),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(place),
    }


def _check(session: onnxruntime.InferenceSession, metadata: ModelMetadata, path: Path) -> None:
    """Refuse a model whose classes are not expressions or whose graph does not do what its metadata says."""
    strange = [str(name) for name in metadata.classes if name not in FACE_CLASSES]
    if strange or not metadata.classes:
        raise InputError(
            f"{path} is not a model of facial expressions: it tells {', '.join(strange) or 'nothing'} apart"
        )
    if metadata.channels not in (1, 3) or not 1 <= metadata.input_size <= 4096:
        raise InputError(f"{path}: asks for {metadata.channels} channels of {metadata.input_size} pixels; 1 or 3 work")
    size = metadata.input_size
    try:
        with quiet_stderr():
            answer = _run(session, np.full((2, metadata.channels, size, size), 128, np.float32))
    except ORT_ERRORS as error:
        reason = (str(error).split(" : ")[-1].strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: does not take two images of {metadata.channels}×{size}×{size}: {reason}") from None
    if answer.shape != (2, len(metadata.classes)):
        raise InputError(f"{path}: answers {answer.shape} for two images; its metadata names {len(metadata.classes)}")
    if not (np.isfinite(answer).all() and (answer >= 0).all() and np.allclose(answer.sum(1), 1, atol=1e-2)):
        raise InputError(f"{path}: its output is not probabilities; export it again with `fer-nas export`")
