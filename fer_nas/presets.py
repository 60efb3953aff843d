"""Presets, and which settings only some methods and spaces read (standard library only)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fer_nas.config import SEARCH_METHODS

_STN = TUNING_METHODS = ("darts-stn", "darts-delta-stn")
_LEARNING = tuple(name for name in SEARCH_METHODS if name != "random")
READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("max_skips", "stable_epochs", "auxiliary_skip"), _LEARNING),
    **dict.fromkeys(("stage_layers", "stage_operations", "stage_warmup", "skip_dropout"), ("p-darts",)),
    "temperature": ("gdas",),
    "temperature_min": ("gdas",),
    "solve_batch": ("implicit",),
    "terms": ("implicit", "--check-response", "--trust"),
    **dict.fromkeys(("adjoint_rate", "adjoint_damping", "adjoint_every"), ("soba",)),
    "response_clip": ("soba", *_STN),
    **dict.fromkeys(("response", "response_input", "response_reads", "response_start", "response_rate"), _STN),
    **dict.fromkeys(("sigma", "learn_sigma", "entropy_weight", "pairs", "perturb"), _STN),
    **dict.fromkeys(("linearize", "response_every", "response_batch"), ("darts-delta-stn",)),
    **dict.fromkeys(("tune_rate", "tune_sigma"), ("--tune",)),
    "hessian_iterations": _LEARNING,
    "check_response": tuple(name for name in _LEARNING if name != "darts-1st"),
    "check_batches": ("--check-response", "--trust"),
    "trust": ("soba", *_STN),
}
"""Settings of a search that only some methods and spaces read; for the others they are refused."""
OWN_OPERATIONS = ("auto-fernet", "fer")
"""Spaces that are their operations: a preset's do not take their place."""
IN_PLACE_OF = {"p-darts": {"layers": "stage_layers", "warmup_epochs": "stage_warmup"}}
"""Space → a setting that it does not read → the one that it reads instead."""
TUNE_READ_BY: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("perturbation", "perturb", "entropy_weight"), ("stn", "delta-stn", "centred-stn")),
    "neumann_terms": ("neumann",),
    "trial_epochs": ("random", "bayes"),
    "wrong_labels": ("examples",),
}
"""The same for `fer-nas tune`, with its methods and kinds of hyperparameters."""


@dataclass(frozen=True, kw_only=True)
class ResponseForm:
    """A best response with all that can be chosen of it; the fields are those of ResponseConfig."""

    response_clip: float
    response_input: str
    response_reads: str
    response_start: float
    response_rate: float
    sigma: float
    learn_sigma: bool
    pairs: bool
    linearize: bool
    response_every: int


RESPONSE_FORMS = {
    # σ and its learning, V's start and SGD for all of φ as in the papers; λ itself is read, by every layer.
    "published": ResponseForm(
        response_clip=0.0, response_input="raw", response_reads="all", response_start=0.01, response_rate=0.0,
        sigma=1.0, learn_sigma=True, pairs=False, linearize=True, response_every=1,
    ),
    # V = 0 makes the first steps those of first order; pairs and Adam let φ learn from noisy batches; the bound keeps a
    # response that is not learned yet below the direct term.
    "own": ResponseForm(
        response_clip=0.5, response_input="softmax", response_reads="cell", response_start=0.0, response_rate=3e-4,
        sigma=0.1, learn_sigma=False, pairs=True, linearize=False, response_every=2,
    ),
}  # fmt: skip
"""What --response stands for; each option of the same name changes one thing of it."""
SOBA_CLIP = 0.5  # of --response-clip

_TINY_AUGMENT = {"rotate": 5.0, "shift": 0.04, "scale": 0.05}
SEARCH_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "cpu": {"epochs": 8, "warmup_epochs": 1, "channels": 8, "layers": 3, "batch_size": 32, "limit": 9600,
            "operations": "fer", "stem": "stride2", "image_size": 24, "learning_rate": 0.1, "learning_rate_min": 0.01,
            "arch_learning_rate": 1e-2, "arch_weight_decay": 0.0, "stage_layers": "3,4,5", "stage_warmup": 1},
    "tiny": {"epochs": 3, "channels": 4, "layers": 3, "batch_size": 32, "limit": 700, "arch_learning_rate": 1e-2,
             "learning_rate": 0.1, "stage_layers": "1,2,3", "stage_warmup": 0, **_TINY_AUGMENT},
}  # fmt: skip
PAPER_OF_SPACE: dict[str, dict[str, Any]] = {
    "pc-darts": {"batch_size": 256, "learning_rate": 0.1, "learning_rate_min": 0.0, "arch_learning_rate": 6e-4,
                 "warmup_epochs": 15},
    "gdas": {"epochs": 250, "batch_size": 256, "weight_decay": 5e-4},
    "p-darts": {"epochs": 75, "batch_size": 96, "learning_rate_min": 0.0, "arch_learning_rate": 6e-4},
}  # fmt: skip
"""What preset `paper` sets for a space whose own paper differs from that of DARTS (Xu et al. 2020; Dong and Yang 2019,
whose Nesterov momentum the searches here do not have; Chen et al. 2019)."""
TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"cutout": 16, "shift": 0.125, "rotate": 0.0, "scale": 0.0, "brightness": 0.0, "contrast": 0.0},
    "cpu": {"epochs": 40, "channels": 16, "layers": 6, "batch_size": 64, "learning_rate": 0.1, "auxiliary": False,
            "drop_path": 0.0, "ema": 0.999, "nesterov": True, "warmup_epochs": 1, "weight_decay": 5e-4},
    "tiny": {"epochs": 5, "warmup_epochs": 1, "channels": 8, "layers": 4, "batch_size": 32, "learning_rate": 0.1,
             "auxiliary": False, "drop_path": 0.0, "ema": 0.98, "nesterov": True, **_TINY_AUGMENT},
}  # fmt: skip
