"""The METHODS table: each way of learning λ is a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.first_order import FirstOrder
from fer_nas.bilevel.implicit import ConjugateGradient, Neumann
from fer_nas.bilevel.protocol import Method
from fer_nas.bilevel.soba import CarriedAdjoint
from fer_nas.bilevel.stn import STN
from fer_nas.bilevel.unrolled import SecondOrder, Unrolled
from fer_nas.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """make(**knobs) → a method with these knobs, the others at their defaults."""

    name: str
    make: Callable[..., Method]
    summary: str


METHODS: dict[str, MethodRow] = {
    row.name: row
    for row in (
        MethodRow(name="darts-1st", make=FirstOrder, summary="direct term only"),
        MethodRow(name="darts-2nd", make=SecondOrder, summary="one unrolled step, finite differences"),
        MethodRow(name="unrolled", make=Unrolled, summary="back-propagation through the last inner steps"),
        MethodRow(name="neumann", make=Neumann, summary="implicit, the inverse by a Neumann series"),
        MethodRow(name="conjugate-gradient", make=ConjugateGradient, summary="implicit, the inverse solved for"),
        MethodRow(name="soba", make=CarriedAdjoint, summary="implicit, the adjoint carried from step to step"),
        MethodRow(name="stn", make=STN, summary="best response, learned around perturbed λ"),
        MethodRow(name="delta-stn", make=DeltaSTN, summary="centred best response of the linearized network"),
    )
}


def find_method(name: str) -> MethodRow:
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
