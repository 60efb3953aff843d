"""λ as one unconstrained vector with named, typed parts.

A part's kind says how a value follows from its numbers u in the vector (MacKay et al. 2019, section 4.1):

    logits    value = u                                     (architecture parameters, categories)
    bounded   value = low + (high − low)·sigmoid(u)
    positive  value = low + softplus(u)
    integer   value = floor(low + (high + 1 − low)·sigmoid(u)), at most high; its gradient is that of the unfloored
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from fer_nas.errors import InputError

Shape = tuple[int, ...]
KINDS = ("logits", "bounded", "positive", "integer")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One named part of λ: `shape` many values of one kind that all begin at `start`."""

    kind: str
    shape: Shape = ()
    low: float = 0.0
    high: float = math.inf
    start: float = 0.0

    def check(self, name: str) -> None:
        """InputError for a range or a start that no number in the vector could stand for."""
        if self.kind not in KINDS:
            raise InputError(f"hyperparameter {name!r} is of kind {self.kind!r}; known: {', '.join(KINDS)}")
        if any(side < 1 for side in self.shape):
            raise InputError(f"hyperparameter {name!r} has shape {self.shape}; every side must be 1 or more")
        if not isfinite(self.start):
            raise InputError(f"hyperparameter {name!r} starts at {self.start}; give a finite number")
        if self.kind == "logits":
            return
        wanted = "a finite low" if self.kind == "positive" else "a finite low below a finite high"
        if not isfinite(self.low) or (self.kind != "positive" and not (isfinite(self.high) and self.low < self.high)):
            raise InputError(f"hyperparameter {name!r} has range {self.low:g} to {self.high:g}; it needs {wanted}")
        whole = self.kind == "integer"
        if whole and not all(float(x).is_integer() for x in (self.low, self.high, self.start)):
            raise InputError(f"hyperparameter {name!r} is a whole number; so must its low, high and start be")
        inside = self.low <= self.start <= self.high if whole else self.low < self.start < self.high
        if not inside:
            between = "within" if whole else "strictly within"
            raise InputError(
                f"hyperparameter {name!r} starts at {self.start:g}; it must lie {between} {self.low:g} to {self.high:g}"
            )

    def value(self, free: Tensor) -> Tensor:
        """The constrained value; differentiable."""
        if self.kind == "logits":
            return free
        if self.kind == "positive":
            return self.low + softplus(free)
        width = self.high - self.low
        if self.kind == "bounded":
            return self.low + width * torch.sigmoid(free)
        smooth = self.low + (width + 1) * torch.sigmoid(free)
        # Straight-through, so that a loss which reads the whole number still reaches λ.
        return smooth + (smooth.detach().floor().clamp(self.low, self.high) - smooth.detach())

    def free(self, value: Tensor) -> Tensor:
        """The inverse of `value`; a whole number comes from the middle of its step, so that ±½ of it stays there."""
        if self.kind == "logits":
            return value
        if self.kind == "positive":
            return softplus_inverse(value - self.low)
        width = self.high - self.low
        if self.kind == "bounded":
            return torch.logit((value - self.low) / width)
        return torch.logit((value - self.low + 0.5) / (width + 1))


def logits(*shape: int) -> Part:
    return Part(kind="logits", shape=shape)


def bounded(low: float, high: float, *, start: float, shape: Shape = ()) -> Part:
    return Part(kind="bounded", low=low, high=high, start=start, shape=shape)


def positive(*, start: float, low: float = 0.0, shape: Shape = ()) -> Part:
    return Part(kind="positive", low=low, start=start, shape=shape)


def integer(low: int, high: int, *, start: int, shape: Shape = ()) -> Part:
    """A whole number from low to high, both included."""
    return Part(kind="integer", low=low, high=high, start=start, shape=shape)


@dataclass(frozen=True)
class HyperLayout:
    """Part name → Part, or shape for logits, in the order in which the parts stand in the vector.

    A vector is (n,), or (B, n) where each example has its own λ; the parts then have a first dimension B too.
    """

    parts: dict[str, Shape | Part]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("λ has no part: give at least one hyperparameter (n = 0)")
        for name, part in self.parts.items():
            if not isinstance(part, Part | tuple):
                raise InputError(
                    f"hyperparameter {name!r} is {part!r}; give bounded(…), positive(…), integer(…) or logits(…)"
                )
        for name, part in self.typed.items():
            part.check(name)

    @property
    def typed(self) -> dict[str, Part]:
        return {name: part if isinstance(part, Part) else logits(*part) for name, part in self.parts.items()}

    @property
    def size(self) -> int:
        return sum(prod(part.shape) for part in self.typed.values())

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of the vector, one a part in its shape, still unconstrained; gradients flow through."""
        if vector.shape[-1:] != (self.size,):
            raise InputError(f"a vector of shape {tuple(vector.shape)} for {self.size} hyperparameters")
        shapes = {name: part.shape for name, part in self.typed.items()}
        pieces = torch.split(vector, [prod(shape) for shape in shapes.values()], dim=-1)
        lead = vector.shape[:-1]
        return {name: piece.view((*lead, *shapes[name])) for name, piece in zip(shapes, pieces, strict=True)}

    def values(self, vector: Tensor) -> dict[str, Tensor]:
        """What the parts mean: constrained values by name; gradients flow through."""
        return {name: self.typed[name].value(piece) for name, piece in self.split(vector).items()}

    def vector(self, values: dict[str, Any], dtype: torch.dtype | None = None) -> Tensor:
        """The inverse of `values`: numbers, lists or tensors by name → λ (n,). A part that is left out is at its start.

        InputError for a name that λ does not have, or a value outside its part's range.
        """
        unknown = sorted(set(values) - set(self.parts))
        if unknown:
            raise InputError(f"no hyperparameter {unknown[0]!r}; known: {', '.join(self.parts)}")
        pieces = []
        for name, part in self.typed.items():
            value = torch.as_tensor(values.get(name, part.start), dtype=torch.float64)
            free = part.free(value)
            if not torch.isfinite(free).all():
                raise InputError(f"{name} = {value.tolist()} is outside its range, {part.low:g} to {part.high:g}")
            pieces.append(free.expand(part.shape).reshape(-1))
        return torch.cat(pieces).to(dtype or torch.get_default_dtype())

    def initial(self, dtype: torch.dtype | None = None) -> Tensor:
        """λ (n,) with every part at its start."""
        return self.vector({}, dtype)

    def readable(self, vector: Tensor) -> dict[str, Any]:
        """The values as Python numbers and nested lists, for a record or a screen."""
        return {name: value.tolist() for name, value in self.values(vector.detach()).items()}


def softplus_inverse(value: Tensor) -> Tensor:
    """log(exp(value) − 1), in a form that overflows nowhere; NaN or −∞ for what softplus cannot give."""
    return value + torch.log(-torch.expm1(-value))
