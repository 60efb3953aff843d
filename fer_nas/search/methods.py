"""The methods of a search: rows of METHODS with the settings of a search, by the names that users know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.first_order import FirstOrder
from fer_nas.bilevel.hyper import HyperLayout
from fer_nas.bilevel.implicit import Neumann
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import Method
from fer_nas.bilevel.soba import CarriedAdjoint
from fer_nas.bilevel.stn import STN
from fer_nas.bilevel.unrolled import SecondOrder
from fer_nas.config import ResponseConfig, SearchConfig
from fer_nas.presets import RESPONSE_FORMS, SOBA_CLIP, ResponseForm

FEATURE_SCALE = 8.0
"""Of softmax(λ) where best responses read it: an entry is near 1/O, and moves by a tenth of what its logit does."""

Features = Callable[[Tensor], Tensor]


def form(config: ResponseConfig) -> ResponseForm:
    """--response with the options beside it."""
    base = RESPONSE_FORMS[config.response]
    given = {item.name: getattr(config, item.name) for item in fields(base)}
    return replace(base, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class Row:
    """make: (configuration, features of λ, its layout) → the method; None where nothing is learned.

    twice: it differentiates L_train twice, which the supernet's fast form cannot. response: it needs best-response
    layers.
    """

    make: Callable[[SearchConfig, Features, HyperLayout], Method] | None
    twice: bool = False
    response: bool = False


def needs_plain_form(config: SearchConfig) -> bool:
    """Whether the method differentiates the network twice or forward, or has another λ for each example."""
    if METHODS[config.arch.method].response and config.response.perturb == "example":
        return True
    if config.arch.method == "darts-delta-stn":
        return form(config.response).linearize
    return METHODS[config.arch.method].twice


def _soba(config: SearchConfig, features: Features, layout: HyperLayout) -> Method:
    chosen = config.response
    clip = SOBA_CLIP if chosen.response_clip is None else chosen.response_clip
    return CarriedAdjoint(
        rate=chosen.adjoint_rate,
        damping=chosen.adjoint_damping,
        every=chosen.adjoint_every,
        clip=clip or None,
        exact=False,
    )


def _best_response(kind: type[STN], config: SearchConfig, features: Features, layout: HyperLayout) -> Method:
    """Training hyperparameters in λ have their own σ and rate, and stand outside the bound on the response."""
    chosen, tuning = form(config.response), config.tuning
    knobs: dict[str, Any] = {"linearize": chosen.linearize, "every": chosen.response_every} if kind is DeltaSTN else {}
    scale: float | Tensor = chosen.sigma
    rate: float | Tensor = config.arch.arch_learning_rate
    if tuning.tune:
        logits = torch.cat([torch.full((prod(p.shape),), p.kind == "logits") for p in layout.typed.values()])
        knobs["clip_part"] = slice(0, int(logits.sum()))
        scale, rate = torch.where(logits, scale, tuning.tune_sigma), torch.where(logits, rate, tuning.tune_rate)
    return kind(
        perturbation=Perturbation(
            scale=scale,
            learn=chosen.learn_sigma,
            learning_rate=rate,
            entropy_weight=config.response.entropy_weight,
            pairs=chosen.pairs,
            per=config.response.perturb,
            seed=config.run.seed,
        ),
        outer_noise=chosen.learn_sigma,
        features=features if chosen.response_input == "softmax" else None,
        adam_rate=chosen.response_rate or None,
        gradient_clip=config.weights.gradient_clip,
        clip=chosen.response_clip or None,
        **knobs,
    )


METHODS: dict[str, Row] = {
    "darts-1st": Row(make=lambda config, features, layout: FirstOrder()),
    "darts-2nd": Row(make=lambda config, features, layout: SecondOrder()),
    "implicit": Row(make=lambda config, features, layout: Neumann(terms=config.response.terms), twice=True),
    "soba": Row(make=_soba),
    "darts-stn": Row(make=partial(_best_response, STN), response=True),
    "darts-delta-stn": Row(make=partial(_best_response, DeltaSTN), response=True),
    "random": Row(make=None),
}
