"""Best-response layers: weights that are a function of λ (MacKay et al. 2019, section 3.1).

    W(r) = W_elem + (V r) ⊙row W_hyper        b(r) = b_elem + (C r) ⊙ b_hyper

r, the response vector (n,), is λ itself (STN) or its distance from the present λ (Δ-STN). A layer has
D_out(2·D_in + n) + D_out(2 + n) parameters, D_in the fan-in. `weight_elem` and `bias_elem` are the plain layer's own
parameters; `layer.weight` and `layer.bias` are W(r) and b(r), so whatever reads them (the layer's own forward, a fused
form, an export) sees the weights at r.

Shapes: n length of r, B examples, O = D_out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fer_nas.bilevel.protocol import Params
from fer_nas.bilevel.slots import Reads, seen_by, slots, written
from fer_nas.errors import InputError

RESPONSE_SUFFIXES = ("_hyper", "_rescale")
"""How the names of the parameters end that only the response reads: W_hyper, b_hyper; V, C."""

HYPER_STARTS = ("uniform", "zero", "copy")


class BestResponse(nn.Module):
    """The part of a best-response layer that its plain class lacks; `_swap` puts it before that class.

    `response` is a buffer that holds zeros: the layer alone is plain. `with_response` hands it another value.
    """

    plain_class: type[nn.Module]
    weight_elem: Tensor
    weight_hyper: Tensor
    weight_rescale: Tensor
    bias_elem: Tensor | None
    bias_hyper: Tensor
    bias_rescale: Tensor
    response: Tensor
    reads: Reads
    response_size: int

    @property
    def weight(self) -> Tensor:
        return self._at(self.weight_elem, self.weight_rescale, self.weight_hyper)

    @property
    def bias(self) -> Tensor | None:
        return None if self.bias_elem is None else self._at(self.bias_elem, self.bias_rescale, self.bias_hyper)

    def _at(self, elem: Tensor, rescale_On: Tensor, hyper: Tensor) -> Tensor:
        if self.response.dim() != 1:
            raise InputError(
                f"{type(self).__name__} has no one weight: each example has its own λ; perturb λ per batch where "
                "something reads the weights themselves (a penalty, a fused layer)"
            )
        scale = (rescale_On @ self.response).view(-1, *[1] * (elem.dim() - 1))
        return torch.addcmul(elem, scale, hyper)

    def forward(self, x: Tensor) -> Tensor:
        """r (n,): one pass with W(r). r (B, n), a row per example of x: [W_elem x + b_elem] + (Vr) ⊙ W_hyper x + …

        Both go through the plain class's own forward, which has only to be linear in its weight.
        """
        if self.response.dim() == 1:
            return super().forward(x)
        if len(self.response) != len(x):
            raise InputError(
                f"{type(self).__name__}: {len(self.response)} response vectors for an input of {len(x)} rows; "
                "perturb λ per batch where a network folds other dimensions into the batch"
            )
        still = {"response": torch.zeros_like(self.response[0])}
        general = functional_call(self, still, (x,))
        as_elem = {"weight_elem": self.weight_hyper}
        if self.bias_elem is not None:
            as_elem["bias_elem"] = torch.zeros_like(self.bias_elem)
        along = functional_call(self, {**still, **as_elem}, (x,))
        out = general + self._rows(self.response @ self.weight_rescale.T, along) * along
        if self.bias_elem is not None:
            out = out + self._rows(self.response @ self.bias_rescale.T * self.bias_hyper, along)
        return out

    def _rows(self, scale_BO: Tensor, like: Tensor) -> Tensor:
        shape = [len(scale_BO)] + [1] * (like.dim() - 1)
        shape[-1 if isinstance(self, nn.Linear) else 1] = scale_BO.shape[1]
        return scale_BO.view(shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, n={len(self.response)}"


def best_response(
    module: nn.Module,
    n: int,
    *,
    hyper: str = "uniform",
    rescale_std: float = 0.01,
    keep: bool = True,
    reads: Callable[[str], Reads] | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A copy of the module whose every Linear and Conv2d, subclasses too, is a best-response layer in n inputs.

    The module itself stays plain. A layer used twice in it is one layer in the copy. The defaults are the published
    start; with rescale_std=0, or hyper="zero", the copy computes at first what the module does, at any r.

    hyper: W_hyper, b_hyper start uniform ±1/√fan_in (published), at zero, or as a copy of W_elem, b_elem.
    rescale_std: V, C ~ N(0, rescale_std²); 0.01 as published.
    keep: W_elem, b_elem are the module's present weights; otherwise they are drawn uniform ±1/√fan_in.
    reads: layer's name → the part of r that this layer sees (a cell type its own logits); all of r otherwise.
    InputError: n < 1, an unknown start, one that no gradient leaves, or no layer that could be swapped.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"best_response makes a network self-tuning, and {module!r} is no nn.Module")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n, the number of inputs of a best response, is {n!r}; it must be a whole number, 1 or more")
    if hyper not in HYPER_STARTS:
        raise InputError(f"hyper={hyper!r} is no start of W_hyper; choose one of {', '.join(HYPER_STARTS)}")
    if not 0 <= rescale_std < float("inf"):
        raise InputError(f"rescale_std={rescale_std} is no standard deviation; it must be 0 or more")
    if hyper == "zero" and rescale_std == 0:
        raise InputError("W_hyper = 0 and V = 0 together have no gradient; let hyper be uniform or rescale_std > 0")
    if any(True for _ in response_layers(module)):
        raise InputError(f"{type(module).__name__} has best-response layers already; give its plain network")
    module = copy.deepcopy(module)
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise InputError(f"{type(module).__name__} has no Linear or Conv2d layer: nothing in it can respond to λ")
    for name, layer in layers:
        part = reads(name) if reads else slice(None)
        seen = len(seen_by(part, torch.empty(n)))
        if not seen:
            raise InputError(f"layer {name!r} would read none of the {n} inputs ({part})")
        _swap(name, layer, seen)
        layer.reads, layer.response_size = part, n  # type: ignore[assignment, attr-defined]
        _start(layer, hyper, rescale_std, keep, generator)  # type: ignore[arg-type]
    return module


def response_layers(module: nn.Module) -> Iterator[tuple[str, BestResponse]]:
    """Name and layer, each layer once."""
    return ((name, layer) for name, layer in module.named_modules() if isinstance(layer, BestResponse))


def with_response(module: nn.Module, weights: Params, response: Tensor | None, *inputs: Any, **keywords: Any) -> Any:
    """module(*inputs) with these weights, all its best-response layers at `response`; None is r = 0.

    response: (n,) for the whole batch, or (B, n), a row per example. Weights that are tied need one name. A pure
    function of its arguments: it composes with torch.func and has derivatives of any order.
    """
    given = _one_name_a_slot(module, weights)
    if response is not None:
        for name, layer in response_layers(module):
            if response.shape[-1] != layer.response_size or response.dim() not in (1, 2):
                raise InputError(
                    f"a response of shape {tuple(response.shape)} for layers that read {layer.response_size} inputs; "
                    f"give ({layer.response_size},), or (B, {layer.response_size}) for one per example"
                )
            given[f"{name}.response" if name else "response"] = seen_by(layer.reads, response)
    return functional_call(module, given, inputs, keywords, tie_weights=False)


def _one_name_a_slot(module: nn.Module, weights: Params) -> Params:
    """The weights under every name that a tied tensor has, and a module that stands in several places under one.

    functional_call's own rule for ties leaves such a module with the given weights (pytorch issue 164759, torch 2.14).
    """
    first: dict[nn.Module, str] = {}
    prefix = {path: first.setdefault(m, path) for path, m in module.named_modules(remove_duplicate=False)}
    given = {}
    for name, w in weights.items():
        path, _, leaf = name.rpartition(".")
        path = prefix.get(path, path)
        given[f"{path}.{leaf}" if path else leaf] = w
    names: dict[Tensor, list[str]] = {}
    for m, path in first.items():
        for leaf, tensor in m.named_parameters(recurse=False):
            names.setdefault(tensor, []).append(f"{path}.{leaf}" if path else leaf)
    for group in names.values():
        value = next((given[name] for name in group if name in given), None)
        if len(group) > 1 and value is not None:
            given |= {name: given.get(name, value) for name in group}
    return given


def split_weights(weights: Params) -> tuple[Params, Params]:
    """(general, response): what a plain network has too, and what only the response reads."""
    response = {name: w for name, w in weights.items() if name.endswith(RESPONSE_SUFFIXES)}
    return {name: w for name, w in weights.items() if name not in response}, response


class _Reader(nn.Module):
    """Calls nothing; gives W(r), b(r) of the best-response layers by their plain names."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> Params:
        found = {}
        for name, layer in response_layers(self.module):
            for kind, value in (("weight", layer.weight), ("bias", layer.bias)):
                if value is not None:
                    found[f"{name}.{kind}" if name else kind] = value
        return found


def plain_weights(module: nn.Module, weights: Params, response: Tensor | None) -> Params:
    """The plain network's weights at r (n,), by the plain names, differentiable: what a weight decay punishes."""
    rest = {name: w for name, w in split_weights(weights)[0].items() if not name.endswith("_elem")}
    found = slots(module, response_layers)
    if found and (response is None or response.shape == (found[0].size,)):
        return rest | written(found, weights, response)
    return rest | with_response(_Reader(module), {f"module.{name}": w for name, w in weights.items()}, response)


def folded(module: nn.Module, response: Tensor | None = None) -> nn.Module:
    """A plain network: a copy in which W(r), b(r) are ordinary parameters; None is r = 0."""
    module = copy.deepcopy(module)
    for _, layer in response_layers(module):
        if response is not None:
            layer.response = seen_by(layer.reads, response.detach())
        found = {kind: getattr(layer, kind) for kind in ("weight", "bias")}
        for kind in found:
            for leaf in ("elem", "hyper", "rescale"):
                layer._parameters.pop(f"{kind}_{leaf}", None)
        del layer.response, layer.reads, layer.response_size
        layer.__class__ = layer.plain_class  # type: ignore[assignment]
        for kind, value in found.items():
            layer.register_parameter(kind, None if value is None else nn.Parameter(value.detach()))
    return module


@cache
def _class_for(plain: type[nn.Module]) -> type[nn.Module]:
    return type(f"BestResponse{plain.__name__}", (BestResponse, plain), {"plain_class": plain})


def _swap(name: str, layer: nn.Module, n: int) -> None:
    """In place, so that a layer which several places share stays shared: its class and its parameters change."""
    if not isinstance(layer._parameters.get("weight"), nn.Parameter) or any(
        isinstance(p, nn.parameter.UninitializedParameter) for p in layer.parameters()
    ):
        raise InputError(
            f"layer {name!r} ({type(layer).__name__}) has no weight of its own: run a lazy layer once, and take "
            "weight norms and other parametrizations off, before making it a best response"
        )
    for kind in ("weight", "bias"):
        elem = layer._parameters.pop(kind)
        layer.register_parameter(f"{kind}_elem", elem)
        if elem is not None:
            layer.register_parameter(f"{kind}_hyper", nn.Parameter(torch.empty_like(elem)))
            layer.register_parameter(f"{kind}_rescale", nn.Parameter(elem.new_empty(len(elem), n)))
    layer.register_buffer("response", layer.weight_elem.new_zeros(n), persistent=False)  # type: ignore[operator]
    layer.__class__ = _class_for(type(layer))  # type: ignore[arg-type]


@torch.no_grad()
def _start(layer: BestResponse, hyper: str, rescale_std: float, keep: bool, generator: torch.Generator | None) -> None:
    """Draws on the CPU, so that one seed gives one network on every device."""
    bound = layer.weight_elem[0].numel() ** -0.5
    for kind in ("weight", "bias"):
        elem = getattr(layer, f"{kind}_elem")
        if elem is None:
            continue
        along, rescale = getattr(layer, f"{kind}_hyper"), getattr(layer, f"{kind}_rescale")
        if not keep:
            elem.copy_(torch.empty(elem.shape).uniform_(-bound, bound, generator=generator))
        if hyper == "uniform":
            along.copy_(torch.empty(along.shape).uniform_(-bound, bound, generator=generator))
        else:
            along.copy_(elem if hyper == "copy" else torch.zeros_like(elem))
        rescale.copy_(rescale_std * torch.randn(rescale.shape, generator=generator))
