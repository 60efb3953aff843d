"""The fast form of the supernet: the same function of (weights, mixtures, images) with fewer and larger kernels.

Weights keep the plain form's names, so a checkpoint of one form is a checkpoint of the other. Differentiable once:
exact second derivatives (create_graph) need the plain form.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fer_nas.space import fast_layout as layout
from fer_nas.space import fast_norms as norms
from fer_nas.space.disturb import Disturbance
from fer_nas.space.edge import FullEdge, PartialEdge
from fer_nas.space.fast_cell import FastCell
from fer_nas.space.fast_plan import DILATED, SEPARABLE, SKIPS, CellFormPlan, SourcePlan
from fer_nas.space.operations import FactorizedReduce
from fer_nas.space.relax import Active
from fer_nas.space.supernet import MixedCell, Supernet


def has_fast_form(net: Supernet) -> bool:
    """All edges run their operations on all channels, or all on a part of them."""
    return all(type(edge) in (FullEdge, PartialEdge) for cell in net.cells for edge in cell.edges)  # type: ignore[union-attr]


FAST_OPERATIONS = frozenset(
    {"none", "max_pool_3x3", "avg_pool_3x3", *SKIPS, "conv_1x1", "conv_3x3", *SEPARABLE,
     *DILATED}
)  # fmt: skip
"""Operations with a form of their own; every other one runs by its plain module inside the fast cell."""


_PLANS: WeakKeyDictionary[MixedCell, CellFormPlan] = WeakKeyDictionary()
"""Plans in which all operations run: a cell's structure does not change."""


def plan_cell(cell: MixedCell, active: Active | None = None) -> CellFormPlan:
    """How a cell's edges are gone through, from its edges' lists of operations."""
    if active is not None:
        return _plan(cell, active)
    if cell not in _PLANS:
        _PLANS[cell] = _plan(cell, None)
    return _PLANS[cell]


def _plan(cell: MixedCell, active: Active | None) -> CellFormPlan:
    edges = [edge for edge in cell.edges if isinstance(edge, FullEdge)]
    assert len(edges) == len(cell.edges), "the fast form knows full edges"
    operations = edges[0].names
    sources = []
    for source in range(1 + cell.nodes):
        own = []
        for node in range(max(0, source - 1), cell.nodes):
            own.append((sum(2 + i for i in range(node)) + source, node))
        runs: dict[str, tuple[int, ...]] = {}
        for place_of_operation, name in enumerate(operations):
            if name != "none":
                runs[name] = tuple(
                    place
                    for place, (edge, _) in enumerate(own)
                    if name in edges[edge].operations and (active is None or active[edge][place_of_operation])
                )
        sources.append(SourcePlan(cell.strides[own[0][0]], tuple(own), runs))
    modules = {
        f"{number}/{name}": module
        for number, edge in enumerate(edges)
        for name, module in edge.operations.items()
        if name not in FAST_OPERATIONS
    }
    names = tuple(name for name, _ in cell.named_parameters() if name.startswith("edges."))
    first = edges[0]
    channels, order = (first.inner, tuple(first.order)) if isinstance(first, PartialEdge) else (cell.channels, None)
    return CellFormPlan(operations, cell.nodes, channels, tuple(sources), names, modules, order)


def _preprocess(module: nn.Module, prefix: str, weights: dict[str, Tensor], relu_NHWC: Tensor) -> Tensor:
    """A cell's input behind ReLU brought to its channels and resolution: 1×1 convolutions, BatchNorm."""
    if isinstance(module, FactorizedReduce):
        parts = zip(layout.halves(relu_NHWC), ("even.weight", "odd.weight"), strict=True)
        out = torch.cat([part @ weights[prefix + name].flatten(1).t() for part, name in parts], dim=3)
    else:
        out = relu_NHWC @ weights[prefix + "1.weight"].flatten(1).t()
    return norms.Standardize.apply(layout.matrix(out)).view_as(out)


def fast_logits(
    net: Supernet,
    weights: dict[str, Tensor],
    mixtures: dict[str, Tensor],
    images: Tensor,
    active: dict[str, Active] | None = None,
    disturb: Disturbance | None = None,
    recompute: bool = False,
) -> Tensor:
    """What `functional_call(net, weights, (images, mixtures))` gives, (B, K); of a disturbance dropout alone.

    weights: by the plain form's names: parameters, a step ahead, a best response. Where none of them needs a gradient,
    none is computed. active: "normal" and "reduce" → which operations run. recompute: activation checkpointing, cell
    by cell.
    """
    x = net.normalize(images).contiguous(memory_format=torch.channels_last)
    stem = {name.removeprefix("stem."): w for name, w in weights.items() if name.startswith("stem.")}
    first, second = functional_call(net.stem, stem, (x,))
    s0 = layout.nhwc(first)
    s1 = s0 if second is first else layout.nhwc(second)
    relu0 = torch.relu(s0)
    relu1 = relu0 if s1 is s0 else torch.relu(s1)
    for number, (kind, cell) in enumerate(zip(net.kinds, net.cells, strict=True)):
        assert isinstance(cell, MixedCell)
        plan = plan_cell(cell, None if active is None else active[kind])
        prefix = f"cells.{number}."
        x0 = _preprocess(cell.preprocess0, prefix + "preprocess0.", weights, relu0)
        x1 = _preprocess(cell.preprocess1, prefix + "preprocess1.", weights, relu1)
        edges = [weights[prefix + name] for name in plan.names]
        mixture = mixtures[kind]
        if active is not None and plan.order is not None:  # what passes by does so with the weights of what runs
            mixture = mixture * torch.tensor(active[kind], dtype=mixture.dtype, device=mixture.device)
        state = FastCell.apply(plan, torch.is_grad_enabled(), recompute, x0, x1, mixture, *edges)
        relu0, relu1 = relu1, torch.relu(state) if cell is not net.cells[-1] else state
    features = state.mean((1, 2))
    if disturb is not None:
        assert not disturb.drop_path and disturb.skips is None, "drop-path and dropout of skips need the plain form"
        features = disturb.features(features)
    return F.linear(features, weights["classifier.weight"], weights["classifier.bias"])
