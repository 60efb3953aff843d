"""The derived network: a genotype's cells, stacked.

Shapes: B batch, K classes. Input (B, C_in, S, S) with values 0 to 255; output logits (B, K).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fer_nas.artifacts import Edge, Genotype
from fer_nas.parallel import SharedBatchNorm
from fer_nas.space.genotypes import require_operations
from fer_nas.space.operations import OPERATIONS
from fer_nas.space.skeleton import CellPlan, Normalize, Stem, choose_stem, plan_cells, preprocess


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Zero a whole example's path with `probability` and scale the rest up to keep the mean (Larsson et al. 2017)."""
    keep = 1.0 - probability
    mask = torch.empty(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * (mask / keep)


class Cell(nn.Module):
    """A discrete cell: every node adds two operations on earlier nodes; the output concatenates some nodes."""

    def __init__(self, edges: tuple[Edge, ...], concat: tuple[int, ...], plan: CellPlan) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = preprocess(plan, affine=True)
        self.concat = concat
        self.sources = [source for _, source in edges]
        self.operations = nn.ModuleList(
            OPERATIONS[op](plan.channels, 2 if plan.reduction and source < 2 else 1, True) for op, source in edges
        )

    def forward(self, s0: Tensor, s1: Tensor, drop_path_probability: float) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in range(len(self.sources) // 2):
            terms = []
            for edge in (2 * node, 2 * node + 1):
                operation = self.operations[edge]
                term = operation(states[self.sources[edge]])
                if self.training and drop_path_probability > 0 and not isinstance(operation, nn.Identity):
                    term = drop_path(term, drop_path_probability)
                terms.append(term)
            states.append(terms[0] + terms[1])
        return torch.cat([states[node] for node in self.concat], dim=1)


class AuxiliaryHead(nn.Module):
    """A second classifier at 2/3 of the depth, for training only.

    The published head pools 5×5 with stride 3, which fits two image sizes; pooling to 2×2 gives the same shapes at
    32 pixels and fits every size.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False), SharedBatchNorm(128), nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False), SharedBatchNorm(768), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class Network(nn.Module):
    """A trainable network of `layers` cells. In training mode `auxiliary_logits` holds the auxiliary head's output."""

    def __init__(
        self,
        genotype: Genotype,
        *,
        classes: int,
        c_in: int = 3,
        image_size: int = 32,
        channels: int = 36,
        layers: int = 20,
        stem: str = "auto",
        auxiliary: bool = False,
        dropout: float = 0.0,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        require_operations(genotype, "genotype")
        self.normalize = Normalize(mean or (127.5,) * c_in, std or (127.5,) * c_in)
        self.stem = Stem(choose_stem(stem, image_size), c_in, channels)
        widths = len(genotype.normal_concat), len(genotype.reduce_concat)
        plans = plan_cells(self.stem, channels, layers, *widths)
        cells = []
        for plan in plans:
            edges = genotype.reduce if plan.reduction else genotype.normal
            concat = genotype.reduce_concat if plan.reduction else genotype.normal_concat
            cells.append(Cell(edges, concat, plan))
        self.cells = nn.ModuleList(cells)
        out = [plan.channels * widths[plan.reduction] for plan in plans]
        self.auxiliary_at = 2 * layers // 3
        self.auxiliary = AuxiliaryHead(out[self.auxiliary_at], classes) if auxiliary else None
        self.auxiliary_logits: Tensor | None = None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(out[-1], classes)
        self.drop_path_probability = 0.0

    def forward(self, x: Tensor) -> Tensor:
        s0, s1 = self.stem(self.normalize(x))
        self.auxiliary_logits = None
        for layer, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1, self.drop_path_probability)
            if self.training and self.auxiliary is not None and layer == self.auxiliary_at:
                self.auxiliary_logits = self.auxiliary(s1)
        return self.classifier(self.dropout(s1.mean((2, 3))))
