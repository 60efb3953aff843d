"""An exported model through onnxruntime: open it, and run it on uint8 images.

Shapes: N images, C channels, S side in pixels, K classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from fer_nas.artifacts import ModelMetadata
from fer_nas.errors import InputError, unusable_model

INPUT, OUTPUT = "image", "probabilities"


def open_model(path: Path, threads: int | None = None) -> tuple[onnxruntime.InferenceSession, ModelMetadata]:
    """A CPU session of a model that fer-nas exported, and its metadata; anything else is an InputError.

    threads: default torch's number.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model not found: {path}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they come as exceptions too
    options.intra_op_num_threads = threads or torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # onnxruntime's errors are private classes without a common base
        raise unusable_model(path, error) from None
    return session, ModelMetadata.from_strings(session.get_modelmeta().custom_metadata_map, str(path))


def run_model(session: onnxruntime.InferenceSession, images_NCSS: Tensor, batch_size: int = 64) -> Tensor:
    """float32 (N, K) probabilities of uint8 images, a batch at a time."""
    parts = [
        session.run([OUTPUT], {INPUT: chunk.cpu().numpy().astype(np.float32)})[0]
        for chunk in images_NCSS.split(batch_size)
    ]
    return torch.from_numpy(np.concatenate(parts))
