"""Triton's kernels compiled for GPUs that are not here; run by test_gpu_form.py in a process of its own.

What a pass of the supernet starts is written down instead of run, and compiled for each capability as Triton's own
launch would: numbers that divide by 16, ones, and those that are not specialized are told apart. A line of JSON each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.func import functional_call
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from fer_nas.space import fast_kernels
from fer_nas.space.fast import fast_logits
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES

POINTERS = {torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32"}


@dataclass(frozen=True)
class Launch:
    """What a kernel is compiled for."""

    kernel: JITFunction[Any]
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[int, Any], ...]
    multiples: tuple[int, ...]  # arguments that divide by 16
    options: tuple[tuple[str, Any], ...]

    def compiled(self, capability: int) -> Any:
        source = ASTSource(
            self.kernel,
            dict(self.signature),
            {(place,): value for place, value in self.constants},
            {(place,): [["tt.divisibility", 16]] for place in self.multiples},
        )
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(self.options))


def noted(kernel: JITFunction[Any], given: dict[str, Any], options: dict[str, Any]) -> Launch:
    signature, constants, multiples = [], [], []
    for place, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if parameter.is_constexpr or (type(value) is int and value == 1 and not parameter.do_not_specialize):
            kind = "constexpr"
            constants.append((place, value))
        elif isinstance(value, Tensor):
            kind = POINTERS[value.dtype]
        else:
            kind = "fp32" if isinstance(value, float) else "i32"
        if kind.startswith("*") and value.data_ptr() % 16 == 0:
            multiples.append(place)
        if kind == "i32" and not parameter.do_not_specialize and value % 16 == 0:
            multiples.append(place)
        signature.append((parameter.name, kind))
    return Launch(kernel, tuple(signature), tuple(constants), tuple(multiples), tuple(options.items()))


def launches(channels: int) -> dict[Launch, int]:
    """Of a forward and a backward pass of supernets with full and with partial channels, and how often."""
    found: dict[Launch, int] = {}

    def note(kernel: JITFunction[Any], *values: Any, grid: Any, warmup: bool, **named: Any) -> None:
        given = dict(zip(kernel.arg_names, values, strict=False))
        given |= {name: value for name, value in named.items() if name in kernel.arg_names}
        options = {name: value for name, value in named.items() if name not in kernel.arg_names}
        launch = noted(kernel, given, options)
        found[launch] = found.get(launch, 0) + 1

    JITFunction.run = note
    fast_kernels.on_gpu = fast_kernels.by_triton = lambda x: True
    for name in ("darts", "pc-darts"):
        space = SPACES[name]
        net = Supernet(space, classes=3, c_in=1, image_size=13, channels=channels, layers=3)
        x, weights = torch.rand(2, 1, 13, 13), dict(net.named_parameters())
        shape = space.edges, len(space.operations)
        mixtures = {kind: torch.softmax(torch.randn(shape), -1).requires_grad_() for kind in ("normal", "reduce")}
        assert functional_call(net, weights, (x, mixtures)).shape == (2, 3)
        out = fast_logits(net, weights, mixtures, x)
        torch.autograd.grad(out.sum(), [*weights.values(), *mixtures.values()], allow_unused=True)
    return found


if __name__ == "__main__":
    for launch, times in launches(16).items():
        for capability in map(int, sys.argv[1:]):
            made = launch.compiled(capability)
            row = {"kernel": launch.kernel.__name__, "launches": times, "constants": [v for _, v in launch.constants]}
            print(json.dumps(row | {"capability": capability, "shared": made.metadata.shared}))
