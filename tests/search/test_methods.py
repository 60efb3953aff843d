"""Every method in a search: λ moves, the record tells of the response, a stopped run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fer_nas.artifacts import RunFolder
from fer_nas.bilevel.response import response_layers
from fer_nas.config import SEARCH_METHODS, ResponseConfig, SearchConfig
from fer_nas.data.load import load
from fer_nas.data.split import Split
from fer_nas.errors import InputError
from fer_nas.presets import RESPONSE_FORMS
from fer_nas.runtime import generator, load_checkpoint
from fer_nas.search.methods import METHODS, form
from fer_nas.search.run import Search
from fer_nas.search.state import State, validate
from fer_nas.search.state import build as build_state

Searched = Callable[..., RunFolder]
Configured = Callable[..., SearchConfig]
LEARNED = [name for name, row in METHODS.items() if row.response]


def test_the_names_of_the_option_are_those_of_the_table() -> None:
    assert tuple(METHODS) == SEARCH_METHODS


@pytest.mark.parametrize("method", ["implicit", "soba", *LEARNED])
def test_lambda_moves_and_the_response_is_recorded(
    searched: Searched, tmp_path: Path, method: str, cases: Path
) -> None:
    run = searched(cases / "fer.csv", tmp_path / "run", method=method, terms=1)
    arch = load_checkpoint(run / "checkpoint.pt")["arch"]
    moved = arch - 1e-3 * torch.randn(len(arch), generator=generator(0, "arch"))
    assert moved.abs().max() > 1e-3
    last = run.metrics()[-1]
    assert last["response_ratio"] > 0 and -1 <= last["response_cosine"] <= 1
    if method != "implicit":
        assert last["response_ratio"] <= 0.5 + 1e-6  # the bound on the response


def test_the_series_can_have_images_of_its_own(configured: Configured, cases: Path, tmp_path: Path) -> None:
    """--solve-batch: as many images of w's half as asked for, others at every step, the same when it is done again."""
    config = configured(cases / "fer.csv", method="implicit", terms=1, solve_batch=5)
    dataset = load(config.data, seed=config.run.seed)
    run = Search(config, RunFolder(tmp_path), dataset, Console(quiet=True))
    images = [run.more_images("solve", 5)[0]]
    run.step += 1
    images.append(run.more_images("solve", 5)[0])
    run.step -= 1
    assert all(len(part) == 5 for part in images) and not torch.equal(*images)
    assert torch.equal(run.more_images("solve", 5)[0], images[0])
    given: list[int] = []
    real = run.state.method

    class Spy:
        needs_response = False

        def hypergradient(self, task, weights, hyper, train, val, step):  # type: ignore[no-untyped-def]
            given.append(len(train[0]))
            return real.hypergradient(task, weights, hyper, train, val, step)

    run.state.method = Spy()  # type: ignore[assignment]
    run.one_step(next(iter(run.start_epoch())))
    assert given == [5] and config.run.batch_size != 5


def test_the_response_can_have_images_of_its_own(configured: Configured, cases: Path, tmp_path: Path) -> None:
    """--response-batch: in Δ-STN's second step alone, others than w's, and others at every step."""
    config = configured(cases / "fer.csv", method="darts-delta-stn", response_batch=7, response_every=1)
    run = Search(config, RunFolder(tmp_path), load(config.data, seed=config.run.seed), Console(quiet=True))
    task, seen = run.state.task, list[torch.Tensor]()
    real = task.inner_loss

    def inner_loss(weights, hyper, batch, response=None):  # type: ignore[no-untyped-def]
        seen.append(batch[0])
        return real(weights, hyper, batch, response)

    task.inner_loss = inner_loss  # type: ignore[method-assign]
    given = list(run.start_epoch())[:2]
    for batch in given:
        run.one_step(batch)
        run.step += 1
    assert [seen[0] is given[0][0][0], seen[3] is given[1][0][0], len(seen)] == [True, True, 6]
    assert {len(images) for images in (*seen[1:3], *seen[4:])} == {7}  # ε and −ε on the same images
    assert torch.equal(seen[1], seen[2]) and not torch.equal(seen[1], seen[4])
    found, _ = run.more_images("response", 7)
    assert len(found) == 7 and not torch.equal(found, seen[4])


@pytest.mark.parametrize("method", ["soba", "darts-delta-stn"])
def test_what_a_method_carries_survives_a_stop(
    method: str, searched: Searched, interrupted: Searched, cases: Path, tmp_path: Path
) -> None:
    """The adjoint, Adam's moments and the generator of ε are in the checkpoint: the end is the same, bit for bit."""
    settings = {"method": method, "learn_sigma": method != "soba"}
    straight = searched(cases / "fer.csv", tmp_path / "straight", **settings)
    mine, theirs = (load_checkpoint(run / "checkpoint.pt") for run in (interrupted(**settings), straight))
    assert torch.equal(mine["arch"], theirs["arch"])
    for part in ("weights", "method"):
        assert theirs[part] and all(torch.equal(mine[part][name], value) for name, value in theirs[part].items())


def state_of(config: SearchConfig) -> State:
    return build_state(config, load(config.data, seed=config.run.seed), torch.device("cpu"))


def batch(state: State, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = 255 * torch.rand(count, 1, 16, 16, generator=draw)
    return images, torch.randint(0, 7, (count,), generator=draw)


@pytest.mark.parametrize("method", LEARNED)
def test_starts_as_first_order_and_then_responds(method: str, configured: Configured, cases: Path) -> None:
    """V = 0: the hypergradient is that of first order, to the last bit; after some steps on φ it is not."""
    first, own = (state_of(configured(cases / "fer.csv", method=name)) for name in ("darts-1st", method))
    step, examples = own.inner_step(0.9, 3e-4), batch(own)
    wanted = first.method.hypergradient(first.task, first.task.weights(), first.arch, examples, examples, step)
    found = own.method.hypergradient(own.task, own.task.weights(), own.arch, examples, examples, step)
    assert not found.response.any()
    torch.testing.assert_close(found.direct, wanted.direct, rtol=1e-4, atol=1e-7)
    own.accept(*own.method.fit(own.task, own.task.weights(), own.arch.detach(), [examples] * 3, step))
    assert own.method.hypergradient(own.task, own.task.weights(), own.arch, examples, examples, step).response.any()


@pytest.mark.parametrize("method", LEARNED)
def test_published_form_and_its_two_networks(method: str, configured: Configured, cases: Path) -> None:
    """Fast and plain form give one loss at one response; Δ-STN's linearization needs the plain form and says so."""
    config = configured(cases / "fer.csv", method=method, response="published", linearize=False)
    fast, plain = (state_of(replace(config, arch=replace(config.arch, form=name))) for name in ("fast", "plain"))
    examples, weights = batch(fast), fast.task.weights()
    response = torch.linspace(-1, 1, fast.task.layout.size)
    losses = [state.task.inner_loss(weights, fast.arch, examples, response) for state in (fast, plain)]
    assert fast.task.fast and not plain.task.fast
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
    assert abs(losses[0] - fast.task.inner_loss(weights, fast.arch, examples)) > 1e-4
    if method == "darts-delta-stn":
        linear = replace(config, response=replace(config.response, linearize=True))
        assert not state_of(linear).task.fast
        with pytest.raises(InputError, match="--form fast: darts-delta-stn differentiates"):
            state_of(replace(linear, arch=replace(config.arch, form="fast")))
        state = state_of(linear)
        state.method.fit(state.task, state.task.weights(), state.arch.detach(), [examples], state.inner_step(0.9, 0.0))


def test_forms_with_single_changes() -> None:
    assert form(ResponseConfig()) == RESPONSE_FORMS["own"]
    changed = form(ResponseConfig(response="published", sigma=0.3, response_clip=0.0, pairs=True))
    assert changed == replace(RESPONSE_FORMS["published"], sigma=0.3, pairs=True)


def test_cells_read_their_own_logits(configured: Configured, cases: Path) -> None:
    """λ of the reduction cells moves no layer of a normal cell, and does move the classifier."""
    state = state_of(configured(cases / "fer.csv", method="darts-stn", layers=3, response_start=0.1))
    half = state.task.layout.size // 2
    learner = state.task.learner
    layers = dict(response_layers(learner))
    kinds = state.task.supernet.kinds
    for name, layer in layers.items():
        inside = name.startswith("cells.")
        wanted = half if inside else 2 * half
        assert layer.weight_rescale.shape[1] == wanted
        if inside:
            assert layer.reads == (
                slice(0, half) if kinds[int(name.split(".")[1])] == "normal" else slice(half, 2 * half)
            )


def test_validation_is_at_the_response_to_lambda(configured: Configured, cases: Path) -> None:
    """An uncentred best response reads λ itself; the centred one nothing. The figure must be that of W(λ)."""
    for method, moves in (("darts-stn", True), ("darts-delta-stn", False)):
        state = state_of(configured(cases / "fer.csv", method=method, response="published", linearize=False))
        images, labels = batch(state, 12)
        split = Split(images=images.to(torch.uint8), targets=labels, names=("x",) * 12)
        weights = {name: w * (30 if name.endswith("_rescale") else 1) for name, w in state.task.weights().items()}
        state.accept(weights, state.inner_step(0.0, 0.0))
        with torch.no_grad():
            state.arch += 0.5
        order = torch.randperm(12, generator=generator("validation"))
        losses = [
            torch.nn.functional.cross_entropy(
                state.task.logits(state.task.weights(), state.arch, split.images[order].float(), response),
                labels[order],
            ).item()
            for response in (state.arch, torch.zeros_like(state.arch))
        ]
        found = validate(state, split, 12)[0]
        assert abs(losses[0] - losses[1]) > 1e-3
        assert found == pytest.approx(losses[0 if moves else 1], rel=1e-5)


@pytest.mark.parametrize("settings", [{"method": "implicit"}, {"method": "darts-delta-stn", "response": "published"}])
def test_what_processes_cannot_share_is_refused(
    settings: dict[str, object], configured: Configured, cases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer_nas.parallel.count", lambda: 2)
    with pytest.raises(InputError, match="which processes cannot share; run it in one process, without torchrun"):
        state_of(configured(cases / "fer.csv", **settings))
