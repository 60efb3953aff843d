"""The supernet: every edge of every cell is a mixture of all operations, weighted by a relaxation of λ.

Shapes: B batch, K classes, E edges of a cell, O operations. Input (B, C_in, S, S), values 0 to 255; logits (B, K).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from fer_nas.space.disturb import Disturbance
from fer_nas.space.recompute import recomputed
from fer_nas.space.relax import Active
from fer_nas.space.skeleton import CellPlan, Normalize, Stem, choose_stem, plan_cells, preprocess
from fer_nas.space.variants import SearchSpace


class MixedCell(nn.Module):
    def __init__(self, space: SearchSpace, plan: CellPlan, kept_EO: Tensor | None = None) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = preprocess(plan, affine=False)
        self.nodes, self.channels = space.nodes, plan.channels
        # Edges stand node by node, each node's by source.
        self.strides = [
            2 if plan.reduction and source < 2 else 1 for node in range(space.nodes) for source in range(2 + node)
        ]
        self.edges = nn.ModuleList(space.edge(space.columns, plan.channels, stride) for stride in self.strides)
        if kept_EO is not None:
            for edge, row in zip(self.edges, kept_EO.tolist(), strict=True):
                for name, keep in zip(space.operations, row, strict=True):
                    if not keep and name != "none":
                        del edge.operations[name]  # type: ignore[union-attr, operator]

    def forward(
        self,
        s0: Tensor,
        s1: Tensor,
        mixture_EO: Tensor,
        active: Active | None = None,
        disturb: Disturbance | None = None,
    ) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        edge = 0
        for _ in range(self.nodes):
            parts = [
                self.edges[place](state, mixture_EO[place], None if active is None else active[place], disturb)
                for place, state in enumerate(states, edge)
            ]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            edge += len(states)
            states.append(total)
        return torch.cat(states[2:], dim=1)


class Supernet(nn.Module):
    """forward(x, {"normal": (E, O), "reduce": (E, O)}): the mixtures are arguments, so λ lives outside the network.
    O counts the space's `columns`.

    active: which operations run, by kind of cell, edge and operation; all where it is not given. disturb: dropout and
    drop-path of a training step. recompute: activation checkpointing, cell by cell.

    It has no buffers that change and keeps no λ: with torch.func.functional_call its weights are arguments too.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        classes: int,
        c_in: int = 3,
        image_size: int = 32,
        channels: int = 16,
        layers: int = 8,
        stem: str = "auto",
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        kept: dict[str, Tensor] | None = None,
    ) -> None:
        """kept: by kind of cell, (E, O) bool: the operations that there are on each edge; all where not given."""
        super().__init__()
        self.kept = kept
        self.normalize = Normalize(mean or (127.5,) * c_in, std or (127.5,) * c_in)
        self.stem = Stem(choose_stem(stem, image_size), c_in, channels)
        for module in self.stem.modules():
            if isinstance(module, nn.BatchNorm2d):  # batch statistics here too: see operations.batch_norm
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
        plans = plan_cells(self.stem, channels, layers, space.nodes, space.nodes)
        self.kinds = ["reduce" if plan.reduction else "normal" for plan in plans]
        self.cells = nn.ModuleList(
            MixedCell(space, plan, None if kept is None else kept[kind])
            for kind, plan in zip(self.kinds, plans, strict=True)
        )
        self.classifier = nn.Linear(plans[-1].channels * space.nodes, classes)

    def forward(
        self,
        x: Tensor,
        mixtures: dict[str, Tensor],
        active: dict[str, Active] | None = None,
        disturb: Disturbance | None = None,
        recompute: bool = False,
    ) -> Tensor:
        s0, s1 = self.stem(self.normalize(x))
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            run = partial(recomputed, cell) if recompute else cell
            s0, s1 = s1, run(s0, s1, mixtures[kind], None if active is None else active[kind], disturb)
        features = s1.mean((2, 3))
        return self.classifier(features if disturb is None else disturb.features(features))
