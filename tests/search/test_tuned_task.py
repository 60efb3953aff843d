"""Training hyperparameters in a search's λ: where they act, where they do not, how a best response reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import InnerStep
from fer_nas.bilevel.response import response_layers
from fer_nas.bilevel.stn import STN
from fer_nas.config import TUNABLE, AugmentConfig
from fer_nas.errors import InputError
from fer_nas.space.edge import PartialEdge
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SearchSpace
from fer_nas.tasks.cells import CellSearch, responsive
from fer_nas.tasks.tuned import Tuned

ALL = tuple(TUNABLE)
OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "conv_3x3")
SPACE = SearchSpace(name="small", operations=OPERATIONS, nodes=2)
PARTIAL = SearchSpace(name="partial", operations=OPERATIONS, nodes=2, edge=PartialEdge, weighs_edges=True)
HALF, N = 20, 40  # logits of a kind of cell, and all: two kinds, 5 edges, 4 operations


def make(
    names: tuple[str, ...] = ALL, *, form: str = "plain", space: SearchSpace = SPACE, **settings: Any
) -> CellSearch:
    """Two cells in float64 with best responses that respond, on faces of 12×12 pixels."""
    torch.manual_seed(0)
    net = Supernet(space, classes=3, c_in=1, image_size=12, channels=4, layers=2, stem="cifar")
    tuned = Tuned(names=names, augment=AugmentConfig(**settings)) if names else None
    layout = CellSearch(net, space, tuned=tuned).layout
    learner = responsive(net, layout, by_cell=True, rescale_std=0.1, generator=torch.Generator().manual_seed(1))
    return CellSearch(net.double(), space, form, learner=learner.double(), tuned=tuned)


def examples(count: int = 6) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, 1, 12, 12, generator=draw), torch.randint(0, 3, (count,), generator=draw)


def start(task: CellSearch) -> Tensor:
    return task.initial_hyper(torch.Generator().manual_seed(0)).double()


def test_parts_stand_behind_the_logits_and_start_inside() -> None:
    task = make(erase=0.0, rotate=10.0, shift=0.3, brightness=0.2)
    hyper, values = start(task), task.values(start(task))
    assert task.architecture == slice(0, N) and len(hyper) == N + len(ALL) and list(values) == list(ALL)
    assert torch.equal(hyper[:N], start(make(()))), "the architecture starts as without them"
    wanted = {"dropout": 0.0375, "drop_path": 0.025, "erase": 0.045, "rotate": 10.0, "shift": 0.285,
              "brightness": 0.2, "label_smoothing": 0.025}  # fmt: skip
    assert values == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(InputError, match="--rotate is 60; --tune rotate searches 0 to 45"):
        make(rotate=60.0)


@pytest.mark.parametrize("name", ALL)
def test_each_acts_in_the_training_loss_alone(name: str) -> None:
    """Moved along the data path it changes L_train and not L_val, whose derivative by it is zero there."""
    task, batch = make((name,)), examples(12)
    low, high = start(task), start(task)
    low[-1], high[-1] = -3.0, 3.0
    weights = task.weights()
    inner = [task.inner_loss(weights, hyper, batch).item() for hyper in (low, high, low)]
    outer = [task.outer_loss(weights, hyper, batch).item() for hyper in (low, high)]
    assert inner[0] == inner[2] != inner[1], "one step draws the same numbers again"
    assert outer[0] == outer[1] == make(()).outer_loss(make(()).weights(), start(make(())), batch).item()
    task.seed = 1
    assert task.inner_loss(weights, low, batch).item() != inner[0], "another step draws others"


def test_without_randomness_left_the_losses_agree() -> None:
    """At rates of nearly zero the training step is a plain one, up to the changes of images that are not tuned."""
    still: dict[str, Any] = dict.fromkeys(("shift", "rotate", "scale", "brightness", "contrast"), 0.0)
    still["flip"] = False
    task, batch = make(**still), examples()
    hyper = start(task)
    hyper[N:] = -30.0
    weights = task.weights()
    torch.testing.assert_close(
        task.inner_loss(weights, hyper, batch), task.outer_loss(weights, hyper, batch), rtol=1e-6, atol=1e-7
    )


def test_every_layer_of_a_cell_reads_them() -> None:
    task = make(("dropout", "erase"))
    for name, layer in response_layers(task.learner):  # type: ignore[arg-type]
        if name.startswith("cells."):
            kind = task.supernet.kinds[int(name.split(".")[1])]
            own = slice(0, HALF) if kind == "normal" else slice(HALF, N)
            assert layer.reads == (own, slice(N, N + 2)) and layer.weight_rescale.shape[1] == HALF + 2
        else:
            assert layer.weight_rescale.shape[1] == N + 2


def test_partial_spaces_keep_their_edges_apart() -> None:
    task = make(("dropout",), space=PARTIAL)
    for name, layer in response_layers(task.learner):  # type: ignore[arg-type]
        if name.startswith("cells."):
            own = slice(0, 25) if task.supernet.kinds[int(name.split(".")[1])] == "normal" else slice(25, 50)
            assert layer.reads == (own, slice(50, 51))


def test_features_are_mixtures_and_distances_from_the_start() -> None:
    task = make(("dropout", "erase"))
    hyper = start(task)
    hyper[-2:] += torch.tensor([0.5, -1.0])
    found = task.features(hyper, 8.0)
    torch.testing.assert_close(found[-2:], torch.tensor([0.5, -1.0]).double(), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(found[:4].sum().item(), 8.0)


@pytest.mark.parametrize("features", [False, True], ids=["raw", "softmax"])
@pytest.mark.parametrize("kind", [STN, DeltaSTN], ids=["stn", "delta-stn"])
def test_their_gradient_is_that_of_the_validation_loss_along_the_response(kind: type[STN], features: bool) -> None:
    """Against central differences in float64 of L_val at W(λ ± h), for every one of them; the direct term is zero."""
    task, batch = make(), examples()
    knobs: dict[str, Any] = {"linearize": False} if kind is DeltaSTN else {}
    method = kind(
        perturbation=Perturbation(learn=False),
        outer_noise=False,
        features=(lambda hyper: task.features(hyper, 8.0)) if features else None,
        clip=1e-4,
        clip_part=task.architecture,
        **knobs,
    )
    hyper, weights = start(task), task.weights()
    hyper[N:] += torch.linspace(-1, 1, len(ALL))
    found = method.hypergradient(task, weights, hyper, batch, batch, InnerStep(learning_rate=0.1))
    assert not found.direct[N:].any() and found.direct[:N].any()
    torch.testing.assert_close(found.response[:N].norm(), 1e-4 * found.direct[:N].norm())
    h = 1e-7  # small, since a ReLU or a pool that turns over within it counts too
    for place in range(N, N + len(ALL)):
        side = torch.zeros_like(hyper)
        side[place] = h
        losses = [
            task.outer_loss(weights, point, batch, method.respond(point, hyper)).item()
            for point in (hyper + side, hyper - side)
        ]
        difference = (losses[0] - losses[1]) / (2 * h)
        assert abs(difference) > 1e-5
        assert found.response[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("form", "kind", "linearize"),
    [("fast", STN, None), ("fast", DeltaSTN, False), ("plain", DeltaSTN, True)],
    ids=["stn", "delta-stn", "linearized"],
)
def test_phi_learns_from_them(form: str, kind: type[STN], linearize: bool | None) -> None:
    """The columns of V that read them move, in both forms and on the linearized network."""
    names = tuple(name for name in ALL if form == "plain" or name != "drop_path")
    task = make(names, form=form)
    assert task.fast == (form == "fast")
    knobs: dict[str, Any] = {} if linearize is None else {"linearize": linearize}
    method = kind(perturbation=Perturbation(scale=0.5, learn=False, pairs=True), adam_rate=1e-3, **knobs)
    weights = {name: w.detach() for name, w in task.weights().items()}
    fitted, _ = method.fit(task, weights, start(task), [examples()] * 2, InnerStep(learning_rate=0.01))
    moved = fitted["classifier.weight_rescale"] - weights["classifier.weight_rescale"]
    assert (moved[:, N:].abs().max(0).values > 1e-4).all()


def test_the_fast_form_has_no_drop_path() -> None:
    assert not make(("drop_path",), form="auto").fast and make(("dropout",), form="auto").fast
    with pytest.raises(InputError, match="--form fast: it has no drop-path"):
        make(("drop_path",), form="fast")


def test_both_forms_have_one_training_loss() -> None:
    names = tuple(name for name in ALL if name != "drop_path")
    fast, plain = make(names, form="fast"), make(names)
    hyper = start(plain)
    hyper[N:] = 0.0
    response = torch.linspace(-1, 1, len(hyper)).double()
    losses = [task.inner_loss(task.weights(), hyper, examples(), response) for task in (fast, plain)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-10)
