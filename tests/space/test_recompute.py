"""Activation checkpointing: the same numbers, and nothing kept of a cell between forward and backward."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from fer_nas.space.disturb import Disturbance, SkipDropout
from fer_nas.space.fast import fast_logits
from fer_nas.space.fast_backward import CellPass
from fer_nas.space.fast_plan import Saved
from fer_nas.space.supernet import MixedCell, Supernet
from fer_nas.space.variants import SPACES

Logits = Callable[..., Tensor]


class Given:
    """A network, images, and other weights than its own."""

    def __init__(self, space: str) -> None:
        torch.manual_seed(0)
        self.space = SPACES[space]
        net = Supernet(self.space, classes=3, c_in=1, image_size=8, channels=8, layers=3, stem="cifar")
        self.net, self.images = net.double(), 255 * torch.rand(2, 1, 8, 8).double()
        self.weights = {name: (1.1 * w).detach().requires_grad_() for name, w in self.net.named_parameters()}
        shape = self.space.edges, len(self.space.operations)
        self.mixtures = {
            kind: torch.softmax(torch.randn(shape).double(), -1).requires_grad_() for kind in ("normal", "reduce")
        }

    def plain(self, recompute: bool, *more: Any) -> Tensor:
        active, disturb = more or (None, None)
        return functional_call(self.net, self.weights, (self.images, self.mixtures, active, disturb, recompute))

    def fast(self, recompute: bool, *more: Any) -> Tensor:
        return fast_logits(self.net, self.weights, self.mixtures, self.images, *more, recompute=recompute)

    def slopes(self, out: Tensor) -> list[Tensor]:
        inputs = [*self.weights.values(), *self.mixtures.values()]
        return [g for g in torch.autograd.grad(out.square().sum(), inputs, allow_unused=True) if g is not None]


def same(given: Given, kept: Tensor, recomputed: Tensor) -> None:
    assert torch.equal(kept, recomputed)
    for a, b in zip(given.slopes(kept), given.slopes(recomputed), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize("space", ["darts", "pc-darts", "auto-fernet"])
def test_same_outputs_and_gradients(space: str, form: str) -> None:
    given = Given(space)
    logits: Logits = getattr(given, form)
    same(given, logits(False), logits(True))


def test_same_numbers_are_drawn() -> None:
    given = Given("darts")

    def disturb() -> Disturbance:
        draw = torch.Generator().manual_seed(1)
        return Disturbance(generator=draw, dropout=0.3, drop_path=0.3, skips=SkipDropout(0.5, 3))

    same(given, given.plain(False, None, disturb()), given.plain(True, None, disturb()))
    assert not torch.equal(given.plain(False), given.plain(False, None, disturb()))


def test_what_does_not_run_stays_out() -> None:
    given = Given("gdas")
    active = {kind: [[place == edge % 8 for place in range(8)] for edge in range(14)] for kind in ("normal", "reduce")}
    same(given, given.plain(False, active, None), given.plain(True, active, None))


def test_plain_cells_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    given, runs, own = Given("darts"), list[MixedCell](), MixedCell.forward

    def counted(self: MixedCell, *given: Any) -> Tensor:
        runs.append(self)
        return own(self, *given)

    monkeypatch.setattr(MixedCell, "forward", counted)
    given.slopes(given.plain(True))
    assert runs == [*given.net.cells, *reversed(given.net.cells)]  # type: ignore[call-overload]


def test_fast_cells_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources' tensors are there for one cell at a time."""
    given, own = Given("darts"), CellPass.backward
    sources = 5 * len(given.net.cells)

    def saved() -> int:
        gc.collect()
        return sum(type(one) is Saved for one in gc.get_objects())

    def looked(self: CellPass, *given: Any) -> Any:
        alive.append(saved())
        return own(self, *given)

    monkeypatch.setattr(CellPass, "backward", looked)
    for recompute, before, within in ((False, sources, [15, 10, 5]), (True, 0, [5, 5, 5])):
        alive: list[int] = []
        out = given.fast(recompute)
        assert saved() == before
        given.slopes(out)
        assert alive == within
        del out


def test_without_gradients() -> None:
    given = Given("darts")
    with torch.no_grad():
        assert torch.equal(given.fast(True), given.fast(False)) and torch.equal(given.plain(True), given.plain(False))
