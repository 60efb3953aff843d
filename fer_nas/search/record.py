"""What a search shows of an epoch, and what it writes down of its hypergradient."""

from __future__ import annotations

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Hypergradient
from fer_nas.progress import Columns, number, percent, seconds


def share(value: float | None) -> str:
    """Of the response and the direct term; – where nothing responds."""
    if value is None:
        return "–"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.1g}"


COLUMNS: Columns = {
    "epoch": ("epoch", str),
    "train_loss": ("train loss", number),
    "val_loss": ("val loss", number),
    "val_accuracy": ("val accuracy", percent),
    "arch_entropy": ("λ entropy", number),
    "response_ratio": ("|resp|/|dir|", share),
    "response_cosine": ("cos", share),
    "skips_normal": ("skips n", str),
    "skips_reduce": ("skips r", str),
    "seconds": ("time", seconds),
}


def columns(more: Columns) -> Columns:
    """The table's with further ones before the time."""
    return {**{name: row for name, row in COLUMNS.items() if name != "seconds"}, **more, "seconds": COLUMNS["seconds"]}


def rounded(mixtures: dict[str, Tensor]) -> dict[str, list[list[float]]]:
    """By kind of cell, edge and operation."""
    return {name: [[round(x, 5) for x in edge] for edge in part.tolist()] for name, part in mixtures.items()}


class ResponseRecord:
    """Over the λ steps of an epoch: |response|/|direct|, and the cosine of the two.

    Sums stay on the device until they are read, once an epoch. A step without a response counts for neither.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, found: Hypergradient, part: slice) -> None:
        """part: the architecture's entries of λ; training hyperparameters have no direct term."""
        direct, response = found.direct[part].double(), found.response[part].double()
        sizes = direct.norm(), response.norm()
        there = (sizes[0] > 0) & (sizes[1] > 0)
        cosine = direct @ response / (sizes[0] * sizes[1])
        figures = torch.stack([sizes[1] / sizes[0], cosine, torch.ones_like(cosine)])
        self.sums += torch.where(there, figures, torch.zeros_like(figures))

    def row(self) -> dict[str, float | None]:
        """The epoch's means, None where nothing responded; and begins anew."""
        ratio, cosine, count = self.sums.tolist()
        self.sums.zero_()
        if not count:
            return {"response_ratio": None, "response_cosine": None}
        return {"response_ratio": ratio / count, "response_cosine": cosine / count}
