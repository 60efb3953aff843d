"""Lanes of the fast form: no lane of a fork touches memory that another one writes, and nothing runs beside them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fer_nas.space import fast_kernels, fast_lanes
from fer_nas.space.fast import fast_logits
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import find_space

VIEWS = ("view", "as_strided", "permute", "transpose", "slice", "select", "expand", "unsqueeze", "detach", "t.default",
         "alias", "split", "unbind")  # fmt: skip


class Watched(TorchDispatchMode):
    """What each lane of a fork reads and writes, by memory's address; nothing is freed, so that none comes twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lane: str | None = None
        self.forked = False
        self.reads: dict[str, set[int]] = {}
        self.writes: dict[str, set[int]] = {}
        self.kept: list[Tensor] = []
        self.forks: Counter[int] = Counter()
        self.faults: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = function(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.kept += made
        if any(word in str(function) for word in VIEWS):
            return out
        if self.forked and self.lane is None:
            self.faults.append(f"{function} beside the lanes")
        if self.lane is not None:
            old = {x.untyped_storage().data_ptr() for x in given}
            changed = {
                x.untyped_storage().data_ptr()
                for place, argument in enumerate(function._schema.arguments)
                if argument.alias_info is not None and argument.alias_info.is_write
                for x in tree_leaves(args[place] if place < len(args) else kwargs.get(argument.name))
                if isinstance(x, Tensor)
            }
            self.reads.setdefault(self.lane, set()).update(old)
            self.writes.setdefault(self.lane, set()).update(changed, {x.untyped_storage().data_ptr() for x in made})
        return out

    def join(self) -> None:
        for lane, written in self.writes.items():
            for other in self.reads:
                if other != lane and written & (self.reads[other] | self.writes[other]):
                    self.faults.append(f"{other} uses what {lane} writes")
        self.forks[len(self.writes)] += 1
        self.reads, self.writes, self.forked = {}, {}, False


class Fork:
    """In place of streams: tells the watch where it is."""

    watch: Watched

    def __init__(self, like: Tensor, forks: bool) -> None:
        assert forks and not self.watch.forked
        self.watch.forked = True
        self.later: list[Callable[[], None]] = []
        self.entered: list[str] = []

    @contextlib.contextmanager
    def lane(self, name: str) -> Iterator[None]:
        if name in self.entered and self.entered[-1] != name:
            self.watch.faults.append(f"{name} goes on after {self.entered[-1]}")
        self.entered.append(name)
        self.watch.lane = name
        yield
        self.watch.lane = None

    def after(self, work: Callable[[], None]) -> None:
        self.later.append(work)

    def join(self) -> None:
        self.watch.join()
        for work in self.later:
            work()


@pytest.mark.parametrize("space", ["darts", "pc-darts", "fer"])
@pytest.mark.parametrize("size", [7, 8])
def test_lanes_do_not_meet(space: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    found = find_space(space, None)
    net = Supernet(found, classes=3, c_in=1, image_size=size, channels=8, layers=3, stem="cifar").double()
    weights, images = dict(net.named_parameters()), 255 * torch.rand(2, 1, size, size).double()
    shape = found.edges, len(found.operations)
    mixtures = {kind: torch.rand(shape).double().requires_grad_() for kind in ("normal", "reduce")}

    def run() -> list[Tensor]:
        out = fast_logits(net, weights, mixtures, images)
        g = torch.ones_like(out).cumsum(1)
        return [out, *torch.autograd.grad(out, [*weights.values(), *mixtures.values()], g, allow_unused=True)]

    expected = run()
    monkeypatch.setattr(fast_kernels, "on_gpu", lambda x: True)
    monkeypatch.setattr(fast_kernels, "by_triton", lambda x: False)
    run()  # what is made once and kept
    Fork.watch = Watched()
    monkeypatch.setattr(fast_lanes, "Fork", Fork)
    monkeypatch.setattr(fast_lanes, "wanted", lambda x: True)
    with Fork.watch:
        lanes = run()
    assert not Fork.watch.faults
    assert max(Fork.watch.forks) >= 5, Fork.watch.forks
    for a, b in zip(expected, lanes, strict=True):
        torch.testing.assert_close(a, b)


def test_without_a_gpu_everything_runs_in_turn() -> None:
    with fast_lanes.lanes():
        assert not fast_lanes.wanted(torch.ones(1))
    fork, order = fast_lanes.Fork(torch.ones(1), False), []
    with fork.lane("one"):
        fork.after(lambda: order.append("after"))
        order.append("then")
    fork.join()
    assert order == ["after", "then"]
