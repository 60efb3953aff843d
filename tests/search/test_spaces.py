"""Spaces and samplers: what each one's definition says, and which part of λ learns."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.bilevel.response import response_layers
from fer_nas.config import SearchConfig
from fer_nas.runtime import generator, load_checkpoint
from fer_nas.search.methods import METHODS
from fer_nas.search.random_cells import draw_cell
from fer_nas.search.start import resume
from fer_nas.search.state import State
from fer_nas.search.state import build as build_state
from fer_nas.space.decode import decode
from fer_nas.space.edge import SHARES, FullEdge
from fer_nas.space.relax import edge_weights, edges_into, entropy, sample, softmax_per_node
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES, find_space

Searched = Callable[..., RunFolder]
StateOf = Callable[..., State]
NEW = ("pc-darts", "gdas", "i-darts")


@pytest.fixture(scope="module")
def state_of(configured: Callable[..., SearchConfig], cases: Path) -> StateOf:
    from fer_nas.data.load import load

    def build(**settings: object) -> State:
        chosen = {"space": "darts", "operations": "fer", "layers": 3, "terms": 1} | settings
        config = configured(cases / "fer.csv", **chosen)
        return build_state(config, load(config.data, seed=0), torch.device("cpu"))

    return build


def examples(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, 1, 16, 16, generator=draw), torch.randint(0, 7, (count,), generator=draw)


@pytest.mark.parametrize("method", ["darts-2nd", "soba", "darts-stn"])
@pytest.mark.parametrize("space", NEW)
def test_which_part_of_lambda_has_which_gradient(space: str, method: str, state_of: StateOf) -> None:
    """Two steps of λ and w, as the search makes them; every pair stands in test_pairs.py."""
    state = state_of(space=space, method=method, layers=1)
    batch, task = examples(), state.task
    for number in range(2):
        task.sample(generator(number))
        step = state.inner_step(0.9, 3e-4)
        found = state.method.hypergradient(task, task.weights(), state.arch, batch, batch, step)
        assert found.total.isfinite().all() and found.total.abs().max() > 0
        state.accept(*state.method.fit(task, task.weights(), state.arch.detach(), [batch], step))
    task.sample(generator(1))
    found = state.method.hypergradient(task, task.weights(), state.arch, batch, batch, state.inner_step(0.9, 3e-4))
    assert found.response.abs().max() > 0
    for name, part in task.layout.split(found.total).items():
        # The one cell reduces; normal cells' λ moves only what a best response lets read it, stem and classifier.
        assert (part.abs().max() > 0) == (name.startswith("reduce") or METHODS[method].response), name


@pytest.mark.parametrize("space", NEW)
def test_a_search_in_each_space(space: str, searched: Searched, cases: Path, tmp_path: Path) -> None:
    run = searched(cases / "fer.csv", tmp_path / "run", space=space, operations="fer")
    found = GenotypeFile.load(run / "genotype.json")
    assert (found.space, found.source["operations"]) == (space, list(SPACES["fer"].operations))
    assert 0 < run.metrics()[-1]["arch_entropy"] <= math.log(8) + 1e-6


def test_a_stopped_gdas_draws_the_same_operations(
    searched: Searched, interrupted: Searched, cases: Path, tmp_path: Path
) -> None:
    settings = {"space": "gdas", "operations": "fer"}
    straight = searched(cases / "fer.csv", tmp_path / "straight", **settings)
    mine, theirs = (load_checkpoint(run / "checkpoint.pt")["arch"] for run in (interrupted(**settings), straight))
    assert torch.equal(mine, theirs)


def test_gdas_runs_one_operation_of_each_edge(state_of: StateOf) -> None:
    """Counted by what the operations' modules are called, in the plain form; `none` has no module."""
    state = state_of(space="gdas", form="plain")
    calls: list[str] = []
    for name, module in state.task.supernet.named_modules():
        words = name.split(".")
        if len(words) == 6 and words[4] == "operations":  # cells.0.edges.3.operations.sep_conv_3x3
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    task = state.task
    for number in range(3):
        calls.clear()
        task.sample(generator(number))
        task.inner_loss(task.weights(), state.arch, examples())
        _, active = task.used(state.arch)
        assert active is not None
        drawn = [
            f"cells.{cell}.edges.{edge}.operations.{task.space.operations[row.index(True)]}"
            for cell, kind in enumerate(task.supernet.kinds)
            for edge, row in enumerate(active[kind])
        ]
        assert len(drawn) == 14 * len(task.supernet.kinds)
        assert sorted(calls) == sorted(name for name in drawn if not name.endswith(".none"))


def test_gdas_draws_by_the_mixture_and_passes_the_softmax_gradient() -> None:
    arch = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64, requires_grad=True)
    draws = torch.distributions.Gumbel(0.0, 1.0)
    torch.manual_seed(0)
    share = sum(bool(sample(arch, draws.sample((1, 2)).double(), 1.0)[1][0, 1]) for _ in range(4000)) / 4000
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 4000))
    noise = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    weights, runs = sample(arch, noise, 2.0)
    assert weights.detach()[runs].item() == pytest.approx(1.0) and weights.detach()[~runs].item() == pytest.approx(
        0.0, abs=1e-15
    )
    soft = torch.softmax((torch.log_softmax(arch, 1) + noise) / 2, 1)
    mine, wanted = (torch.autograd.grad(value[0, 1], [arch], retain_graph=True)[0] for value in (weights, soft))
    torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("method", ["darts-2nd", "darts-stn"])
def test_gdas_in_both_forms(method: str, state_of: StateOf) -> None:
    found = []
    for form in ("plain", "fast"):
        state = state_of(space="gdas", method=method, form=form)
        assert state.task.fast == (form == "fast")
        state.task.sample(generator(5))
        batch, step = examples(), state.inner_step(0.9, 3e-4)
        found.append(state.method.hypergradient(state.task, state.task.weights(), state.arch, batch, batch, step))
    torch.testing.assert_close(found[0].direct, found[1].direct, rtol=1e-3, atol=1e-6)


def test_pc_darts_supernet_has_the_parameters_of_its_definition() -> None:
    """Operations have C/4 channels; everything else is that of the full supernet. Counted without building an edge."""

    def separable(channels: int, kernel: int) -> int:
        return 2 * (channels * kernel**2 + channels**2)

    def edge(channels: int, stride: int) -> int:
        total = separable(channels, 3) + separable(channels, 5)
        total += sum(channels * kernel**2 + channels**2 for kernel in (3, 5))
        return total + (channels * channels if stride == 2 else 0)  # the skip connection of a reduction

    full, partial = (Supernet(SPACES[name], classes=10) for name in ("darts", "pc-darts"))
    change = 0
    for cell in full.cells:
        for stride in cell.strides:
            change += edge(cell.channels // SHARES, stride) - edge(cell.channels, stride)

    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert count(partial) == count(full) + change


def test_pc_darts_weighs_edges(state_of: StateOf) -> None:
    state = state_of(space="pc-darts")
    assert state.task.layout.size == 2 * (14 * 8 + 14)
    beta = torch.arange(14.0)
    weights = edge_weights(beta)
    assert [part.sum().item() for part in weights.split(edges_into(beta))] == pytest.approx([1.0] * 4)
    arch = {kind: torch.zeros(14, 8) for kind in ("normal", "reduce")} | {
        "normal_edges": beta,
        "reduce_edges": torch.zeros(14),
    }
    chosen = decode(SPACES["pc-darts"].mixtures(arch), SPACES["pc-darts"]).normal
    assert [source for _, source in chosen] == [0, 1, 1, 2, 2, 3, 3, 4], "the edges with the largest weights"


def test_i_darts_lets_all_operations_into_a_node_compete() -> None:
    arch = torch.randn(14, 8, generator=torch.Generator().manual_seed(0))
    mixture = softmax_per_node(arch)
    assert edges_into(arch) == [2, 3, 4, 5]
    first = torch.exp(arch[:2]) / torch.exp(arch[:2]).sum()
    torch.testing.assert_close(mixture[:2], first)
    assert [part.sum().item() for part in mixture.split([2, 3, 4, 5])] == pytest.approx([1.0] * 4)
    assert entropy(torch.full((14, 8), 1 / 40)).item() == pytest.approx(math.log(8))


def test_random_cells(searched: Searched, cases: Path, tmp_path: Path) -> None:
    seeds = {"a": 0, "b": 0, "c": 1}
    runs = [searched(cases / "fer.csv", tmp_path / name, method="random", seed=seed) for name, seed in seeds.items()]
    genotypes = [GenotypeFile.load(run / "genotype.json").genotype for run in runs]
    assert genotypes[0] == genotypes[1] != genotypes[2]
    assert (runs[0] / "cells.png").exists() and resume(runs[0].path, Console(file=io.StringIO())).metrics() == []
    draw, space = torch.Generator().manual_seed(0), find_space("darts")
    cells = [draw_cell(space, draw) for _ in range(3000)]
    for place, (low, high) in enumerate([(0, 2), (0, 2), (0, 3), (0, 3)]):
        sources = torch.tensor([cell[place][1] for cell in cells])
        assert sources.min() >= low and sources.max() < high
    last = [tuple(source for _, source in cell[6:]) for cell in cells]
    assert len(set(last)) == 10 and all(a < b for a, b in last)  # each pair of five inputs
    assert all(240 < last.count(pair) < 360 for pair in set(last))  # 300 expected, standard deviation 16
    names = [cell[0][0] for cell in cells]
    assert len(set(names)) == 7 and all(350 < names.count(name) < 510 for name in set(names))  # 429, 19


def test_full_edge_without_an_active_operation() -> None:
    edge = FullEdge(SPACES["fer"].operations, 4, 2)
    assert edge(torch.ones(2, 4, 5, 5), torch.ones(8), [False] * 8).shape == (2, 4, 3, 3)


def test_best_responses_stand_in_partial_edges(state_of: StateOf) -> None:
    state = state_of(space="pc-darts", method="darts-stn")
    assert state.task.fast and len(dict(response_layers(state.task.learner))) > 50
