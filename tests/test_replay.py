"""Recorded passes: when one is recorded, and, on a GPU, that it is the pass itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fer_nas import replay
from fer_nas.replay import KEPT, SEEN_BEFORE, Replay, _in_memory_order, _views
from fer_nas.space import fast_kernels
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES, find_space
from fer_nas.tasks.cells import CellSearch, responsive


class OnTheCpu(replay.Recording):
    """In place of graphs: the function itself, at copies of its inputs."""

    made = 0

    def __init__(self, function: Any, inputs: Sequence[Tensor], wanted: tuple[bool, ...], pool: Any) -> None:
        type(self).made += 1
        self.function, self.wanted = function, wanted

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        self.here = [x.detach().clone().requires_grad_(one) for x, one in zip(inputs, self.wanted, strict=True)]
        with torch.enable_grad():
            self.found = self.function(self.here)
        return self.found.detach()

    def backward(self, g: Tensor) -> list[Tensor | None]:
        found = iter(torch.autograd.grad(self.found, [x for x in self.here if x.requires_grad], g))
        return [next(found) if one else None for one in self.wanted]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[OnTheCpu]:
    monkeypatch.setattr(replay, "Recording", OnTheCpu)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    OnTheCpu.made = 0
    return OnTheCpu


def product(inputs: Sequence[Tensor]) -> Tensor:
    return inputs[0] * inputs[1].sum()


def pair(*, size: int = 3, second: bool = True) -> list[Tensor]:
    return [torch.arange(1.0, size + 1).requires_grad_(), torch.tensor([2.0, 5.0]).requires_grad_(second)]


def slopes(run: Any, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    wanted = [x for x in inputs if x.requires_grad]
    return list(torch.autograd.grad(run(product, inputs).sum(), wanted))


def test_what_is_asked_for_again_is_recorded_once(recorded: type[OnTheCpu]) -> None:
    run = Replay()
    for call in range(SEEN_BEFORE + 3):
        assert recorded.made == (call > SEEN_BEFORE)
        assert [g.tolist() for g in slopes(run, pair())] == [[7.0, 7.0, 7.0], [6.0, 6.0]]  # type: ignore[union-attr]
    assert recorded.made == 1


def test_other_shapes_gradients_or_kinds_are_others(recorded: type[OnTheCpu]) -> None:
    run = Replay()
    for _ in range(SEEN_BEFORE + 1):
        slopes(run, pair())
        slopes(run, pair(size=4))
        slopes(run, pair(second=False))
        with torch.no_grad():
            run(product, pair())
        run(product, [x.detach() for x in pair()], "another kind")
    assert recorded.made == len(run.recordings) == 5


def test_only_so_many_are_kept(recorded: type[OnTheCpu]) -> None:
    run = Replay()
    for size in range(1, KEPT + 4):
        for _ in range(SEEN_BEFORE + 2):
            assert slopes(run, pair(size=size))[0].tolist() == [7.0] * size  # type: ignore[union-attr]
    assert recorded.made == KEPT


def test_nothing_is_replayed_between_a_pass_and_its_backward_pass(recorded: type[OnTheCpu]) -> None:
    """They share their memory. A pass whose result is thrown away holds nobody up."""
    run = Replay()
    for _ in range(SEEN_BEFORE + 1):
        slopes(run, pair())
    (only,) = run.recordings.values()
    assert isinstance(only, OnTheCpu)
    first, second = pair(), pair()
    second[0].data += 1
    open_one = run(product, first)
    seen = only.here
    other = run(product, second)
    assert only.here is seen  # the second ran as it is
    assert torch.autograd.grad(other.sum(), second[1])[0].tolist() == [9.0, 9.0]
    assert torch.autograd.grad(open_one.sum(), first[1])[0].tolist() == [6.0, 6.0]
    del open_one
    run(product, first)
    run(product, first)
    assert only.here is not seen


def test_a_replayed_pass_goes_backward_once(recorded: type[OnTheCpu]) -> None:
    run = Replay()
    for _ in range(SEEN_BEFORE + 1):
        slopes(run, pair())
    out = run(product, pair()).sum()
    out.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="goes backward once"):
        out.backward()


def test_what_cannot_be_recorded_runs_as_it_is_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(replay, "Recording", refused)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    run = Replay()
    for _ in range(SEEN_BEFORE):
        slopes(run, pair())
    with pytest.warns(UserWarning, match="runs without CUDA graphs, which is slower: operation not permitted"):
        slopes(run, pair())
    assert [g.tolist() for g in slopes(run, pair())] == [[7.0] * 3, [6.0, 6.0]]  # type: ignore[union-attr]


def test_gradients_come_back_in_the_strides_of_their_inputs() -> None:
    torch.manual_seed(0)
    shapes = (8, 1, 3, 3), (8, 4, 1, 1), (5, 6), (3,), (2, 3, 4, 5), ()
    tensors = [torch.randn(shape) for shape in shapes]
    tensors = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in tensors]
    values = [torch.randn(x.shape) for x in tensors]
    flat = torch.cat([_in_memory_order(g, x) for g, x in zip(values, tensors, strict=True)])
    for x, g, view in zip(tensors, values, _views(tensors), strict=True):
        back = torch.as_strided(flat, *view)
        assert torch.equal(back, g) and back.stride() == x.stride()


class Waits(TorchDispatchMode):
    """Counts what waits for a GPU or copies to it, none of which a graph can hold."""

    FORBIDDEN = ("lift_fresh", "_local_scalar_dense", "nonzero", "_to_copy", "masked_select", "index_put")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(word in str(function) for word in self.FORBIDDEN):
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def task(
    space: str, form: str, responds: bool, graphs: bool = False, device: str = "cpu", recompute: bool = False
) -> CellSearch:
    torch.manual_seed(0)
    found = find_space(space, None)
    net = Supernet(found, classes=3, c_in=1, image_size=8, channels=4, layers=2).double().to(device)
    learner = None
    if responds:
        layout, draw = CellSearch(net, found).layout, torch.Generator().manual_seed(0)
        learner = responsive(net, layout, by_cell=True, rescale_std=0.01, generator=draw)
    return CellSearch(net, found, form, learner=learner, graphs=graphs, recompute=recompute)


def one_pass(made: CellSearch, seed: int, responds: bool, device: str = "cpu") -> list[Tensor | None]:
    """Logits, and gradients by λ, what the layers read, and all weights."""
    torch.manual_seed(seed)
    weights = {n: (w + 0.01 * torch.randn_like(w)).detach().requires_grad_() for n, w in made.weights().items()}
    hyper, images = torch.randn(made.layout.size).double().to(device).requires_grad_(), 255 * torch.rand(3, 1, 8, 8)
    response = (0.1 * torch.randn_like(hyper)).detach().requires_grad_() if responds else None
    out = made.logits(weights, hyper, images.double().to(device), response)
    inputs = [hyper, *([] if response is None else [response]), *weights.values()]
    return [out.detach(), *torch.autograd.grad(out, inputs, torch.ones_like(out).cumsum(0), allow_unused=True)]


@pytest.mark.parametrize("space", ["darts", "pc-darts", "i-darts", "fer"])
@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_pass_neither_waits_nor_copies(
    space: str, form: str, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its second time on, also in what the fast form does on a GPU without kernels of its own."""
    monkeypatch.setattr(fast_kernels, "on_gpu", lambda x: True)
    monkeypatch.setattr(fast_kernels, "by_triton", lambda x: False)
    responds = space in ("darts", "fer")
    made = task(space, form, responds, recompute=recompute)
    one_pass(made, 0, responds)
    weights, hyper, images = made.weights(), made.initial_hyper(torch.Generator()).double(), torch.ones(3, 1, 8, 8)
    hyper, images, response = hyper.requires_grad_(), images.double(), torch.zeros(made.layout.size).double()
    with Waits() as watch:
        out = made.logits(weights, hyper, images, response if responds else None)
        torch.autograd.grad(out, [hyper, *weights.values()], torch.ones_like(out), allow_unused=True)
    assert not watch.found


def test_what_differs_from_pass_to_pass_is_not_recorded() -> None:
    assert task("darts", "fast", False, graphs=True).replay is not None
    assert task("gdas", "fast", False, graphs=True).replay is None  # other operations run each time
    assert task("darts", "fast", False).replay is None
    assert SPACES["gdas"].samples


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("space", ["darts", "pc-darts", "i-darts"])
@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize(("responds", "recompute"), [(False, False), (True, False), (True, True)])
def test_a_replayed_pass_is_the_pass(space: str, form: str, responds: bool, recompute: bool) -> None:
    """In float64, against the plain form without graphs; the norm's epsilon is a float32 in kernels of our own."""
    plain = task(space, "plain", responds, device="cuda")
    graphs = task(space, form, responds, graphs=True, device="cuda", recompute=recompute)
    for seed in range(SEEN_BEFORE + 3):
        expected, found = (one_pass(made, seed, responds, "cuda") for made in (plain, graphs))
        largest = max(x.abs().max() for x in expected if x is not None)
        for a, b in zip(expected, found, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a - b).abs().max() < 1e-6 * largest  # type: ignore[operator]
    assert graphs.replay is not None and len(graphs.replay.recordings) == 1
