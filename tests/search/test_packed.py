"""Weights as few vectors: the same network, the same search, and the network's own parameters go along."""

from __future__ import annotations

import pytest
import torch

from fer_nas.bilevel.response import plain_weights, split_weights
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import find_space
from fer_nas.tasks.cells import CellSearch, responsive
from fer_nas.tasks.packed import GENERAL, Packed


def task(space: str, *, pack: bool, form: str = "auto", responds: bool = False, by_cell: bool = True) -> CellSearch:
    torch.manual_seed(0)
    found = find_space(space, None)
    net = Supernet(found, classes=3, c_in=1, image_size=8, channels=4, layers=3).double()
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner = None
    if responds:
        layout, draw = CellSearch(net, found).layout, torch.Generator().manual_seed(0)
        learner = responsive(net, layout, by_cell=by_cell, rescale_std=0.1, generator=draw)
    return CellSearch(net, found, form, learner=learner, pack=pack)


@pytest.mark.parametrize("form", ["plain", "fast"])
@pytest.mark.parametrize(("responds", "by_cell"), [(False, True), (True, True), (True, False)])
def test_the_same_logits_and_gradients(form: str, responds: bool, by_cell: bool) -> None:
    torch.manual_seed(1)
    images = 255 * torch.rand(3, 1, 8, 8).double()
    start = torch.randn(224).double()
    found = []
    for pack in (False, True):
        made = task("darts", pack=pack, form=form, responds=responds, by_cell=by_cell)
        weights, hyper = made.weights(), start.clone().requires_grad_()
        response = (0.3 * start).requires_grad_() if responds else None
        out = made.logits(weights, hyper, images, response)
        more = [hyper, *([] if response is None else [response])]
        slopes = torch.autograd.grad(out, [*weights.values(), *more], torch.ones_like(out).cumsum(1))
        by_name = dict(zip(weights, slopes[: len(weights)], strict=True))
        if made.packed is not None:
            assert len(weights) == (3 if responds else 1)
            by_name = made.packed.named(by_name)
        found.append((out, by_name, slopes[len(weights) :]))
    (out_a, names_a, more_a), (out_b, names_b, more_b) = found
    torch.testing.assert_close(out_b, out_a)
    torch.testing.assert_close(more_b, more_a)
    assert names_a.keys() == names_b.keys()
    for name, slope in names_a.items():
        torch.testing.assert_close(names_b[name], slope)


def test_the_networks_parameters_are_views_of_the_vectors() -> None:
    made = task("darts", pack=True, responds=True)
    assert made.packed is not None and made.learner is not None
    before = {name: p.detach().clone() for name, p in made.learner.named_parameters()}
    plain = task("darts", pack=False, responds=True)
    for name, p in plain.weights().items():
        assert torch.equal(before[name], p) and before[name].shape == p.shape
    with torch.no_grad():
        for vector in made.weights().values():
            vector.add_(1)
    for name, p in made.learner.named_parameters():
        assert torch.equal(p, before[name] + 1), name
        assert p.stride() == dict(plain.learner.named_parameters())[name].stride()  # type: ignore[union-attr]


def test_weights_at_a_response_are_those_of_the_layers() -> None:
    made = task("darts", pack=True, responds=True)
    plain = task("darts", pack=False, responds=True)
    response = torch.randn(224).double()
    for r in (response, None):
        assert plain.learner is not None
        expected, found = plain_weights(plain.learner, plain.weights(), r), made.plain(made.weights(), r)
        assert expected.keys() == found.keys()
        for name, w in expected.items():
            torch.testing.assert_close(found[name], w)


def test_names_tell_general_weights_from_the_response() -> None:
    general, response = split_weights(task("darts", pack=True, responds=True).weights())
    assert list(general) == [GENERAL] and len(response) == 2
    assert list(task("darts", pack=True).weights()) == [GENERAL]


def test_sampled_operations_keep_their_own_weights() -> None:
    """One that does not run in a step is not moved by it, and does not decay."""
    assert task("gdas", pack=True).packed is None


def test_other_modules_can_be_packed() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    x = torch.randn(4, 2, 3, 3)
    expected = net(x)
    packed = Packed(net)
    assert torch.equal(net(x), expected)
    assert torch.equal(torch.func.functional_call(net, packed.plain(packed.weights, None), (x,)), expected)
