"""Architecture search as a bilevel problem: λ are the logits of the cells' operations, w the supernet's weights.

λ acts twice: in the mixtures of operations (`hyper`), and, where the supernet's layers are best responses, in the
weights W(r) that the network runs with (`response`). W(r) is formed once a step, and both forms of the network take it.
Training hyperparameters may stand behind the logits (tuned.py); they act in L_train and in W(r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fer_nas import parallel
from fer_nas.bilevel.hyper import HyperLayout
from fer_nas.bilevel.protocol import Params
from fer_nas.bilevel.response import Reads, best_response, plain_weights, with_response
from fer_nas.errors import InputError
from fer_nas.replay import Replay
from fer_nas.space.disturb import Disturbance, SkipDropout
from fer_nas.space.fast import fast_logits, has_fast_form
from fer_nas.space.fast_lanes import lanes
from fer_nas.space.relax import Active, edge_weights, sample
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import KINDS, SearchSpace
from fer_nas.tasks.packed import Packed
from fer_nas.tasks.tuned import LABELS, Tuned
from fer_nas.tasks.tuning import smoothed_cross_entropy

ARCH_INIT_STD = 1e-3  # Liu et al. 2019
Examples = tuple[Tensor, Tensor]


class CellSearch:
    """Implements bilevel.protocol.NetworkTask.

    A batch is (images float (B, C, S, S) in 0 to 255, targets: classes (B,) or distributions (B, K)).
    """

    def __init__(
        self,
        supernet: Supernet,
        space: SearchSpace,
        form: str = "plain",
        *,
        learner: nn.Module | None = None,
        tuned: Tuned | None = None,
        graphs: bool = False,
        pack: bool = False,
        recompute: bool = False,
    ) -> None:
        """form: plain, or fast, which can be differentiated once; auto is fast where the space has such a form.

        learner: the supernet with best-response layers (see `responsive`), whose weights are then w; the supernet
        itself gives only its shape. tuned: training hyperparameters in λ; a batch's images are then as they are.
        graphs: on a GPU, as CUDA graphs where a pass is the same each time; like the fast form, differentiable once.
        pack: the weights are few long vectors, for networks all of whose weights learn in each step.
        recompute: activation checkpointing, cell by cell; not where λ is another one for each example.
        """
        self.supernet, self.learner = supernet, learner
        self.packed = Packed(learner or supernet) if pack and not space.samples else None
        self.space, self.tuned, self.recompute = space, tuned, recompute
        drops = tuned is not None and "drop_path" in tuned.names
        if form == "fast" and drops:
            raise InputError("--form fast: it has no drop-path, which --tune drop_path needs; use --form plain")
        # Processes that share a batch need the norms of the plain form.
        self.fast = form != "plain" and has_fast_form(supernet) and parallel.count() == 1 and not drops
        if form == "fast" and not self.fast:
            raise InputError(f"--form fast: the space {space.name} has no fast form; use --form plain")
        self.arch_layout = HyperLayout(dict(space.parts()))
        self.layout = HyperLayout({**space.parts(), **(tuned.parts() if tuned else {})})
        self.architecture = slice(0, self.arch_layout.size)  # of λ
        self.behind = slice(self.arch_layout.size, self.layout.size)  # the training hyperparameters of λ
        self.start = self.layout.initial()[self.behind]  # of those, unconstrained
        self.seed = 0  # of what a step draws for `tuned`
        self.noise: Tensor | None = None  # of what is sampled in this step, of λ's size
        self.temperature = 1.0
        self.auxiliary = 0.0  # weight of the auxiliary skip connections, where the space has them
        self.skip_dropout = 0.0  # behind skip connections, in training
        self.skip_seed: int | None = None  # of its numbers in this step
        self.replay = Replay() if graphs and not space.samples and not space.auxiliary else None

    def initial_hyper(self, generator: torch.Generator) -> Tensor:
        """Logits ~ 1e-3·N(0, 1), drawn on the CPU; hyperparameters at their start."""
        logits = ARCH_INIT_STD * torch.randn(self.arch_layout.size, generator=generator)
        return torch.cat([logits, self.start])

    def weights(self) -> Params:
        """The parameters by name, those of the best responses among them; or the vectors that hold them."""
        return self.parameters() if self.packed is None else dict(self.packed.weights)

    def parameters(self) -> Params:
        """The network's own parameters by name, in which the vectors' numbers stand."""
        return dict(_parameters(self.learner or self.supernet))

    def mixtures(self, hyper: Tensor) -> dict[str, Tensor]:
        """What λ stands for: weights of all operations, also where a step samples them."""
        return self.space.mixtures(self.space.among(self.layout.split(hyper), self.supernet.kept))

    def sample(self, generator: torch.Generator | None) -> None:
        """What a step draws, the same for every loss in it: operations, dropout of skip connections, and what the
        training hyperparameters change at random.

        None: the most probable operations, and no dropout of skip connections.
        """
        if self.tuned and generator is not None:
            self.seed = int(torch.randint(2**62, (), generator=generator)) + parallel.number()
        if self.skip_dropout:
            self.skip_seed = None
            if generator is not None:
                self.skip_seed = int(torch.randint(2**62, (), generator=generator)) + parallel.number()
        if self.space.samples:
            uniform = None if generator is None else torch.rand(self.arch_layout.size, generator=generator)
            self.noise = None if uniform is None else -torch.log(-torch.log(uniform.clamp(1e-9, 1 - 1e-7)))

    def used(self, hyper: Tensor) -> tuple[dict[str, Tensor], dict[str, Active] | None]:
        """The weights that the network runs with, by the space's columns, and which operations run."""
        if not self.space.samples:
            return {kind: self._columns(part) for kind, part in self.mixtures(hyper).items()}, None
        noise = None if self.noise is None else self.arch_layout.split(self.noise.to(hyper))
        drawn = {
            kind: sample(part, None if noise is None else noise[kind], self.temperature)
            for kind, part in self.arch_layout.split(hyper[self.architecture]).items()
        }
        weights = {kind: self._columns(part) for kind, (part, _) in drawn.items()}
        beside = [True] * (len(self.space.columns) - len(self.space.operations))
        return weights, {kind: [row + beside for row in runs.tolist()] for kind, (_, runs) in drawn.items()}

    def _columns(self, mixture_EO: Tensor) -> Tensor:
        """With the weight of the auxiliary skip connections behind it, where there are any."""
        if not self.space.auxiliary:
            return mixture_EO
        return torch.cat([mixture_EO, mixture_EO.new_full((len(mixture_EO), 1), self.auxiliary)], 1)

    def features(self, hyper: Tensor, scale: float = 1.0) -> Tensor:
        """What each part of λ stands for, as one vector of λ's size: a best response can read it instead of logits.

        scale: of the mixtures. Hyperparameters are their unconstrained distance from the start.
        """
        found = [
            scale * (self.space.relax(part).flatten(-2) if name in KINDS else edge_weights(part))
            for name, part in self.space.among(
                self.arch_layout.split(hyper[..., self.architecture]), self.supernet.kept
            ).items()
        ]
        if self.tuned:
            found.append(hyper[self.behind] - self.start.to(hyper))
        return torch.cat(found, -1)

    def values(self, hyper: Tensor) -> dict[str, float]:
        """The training hyperparameters of λ, as numbers by name."""
        if self.tuned is None:
            return {}
        found = self.layout.readable(hyper)
        return {name: found[name] for name in self.tuned.names}

    def logits(
        self,
        weights: Params,
        hyper: Tensor,
        images: Tensor,
        response: Tensor | None = None,
        disturb: Disturbance | None = None,
    ) -> Tensor:
        """(B, K); `response` (n,) is what the best-response layers read, None their r = 0.

        λ may be (B, n), another one for each example, and the response then is too.
        """
        if hyper.dim() == 2:
            return self._by_example(weights, hyper, images, response)
        dropped = self.skip_dropout and self.skip_seed is not None
        if self.replay is None or disturb is not None or dropped:
            return self._pass(weights, hyper, images, response, disturb)
        names, responds = list(weights), response is not None

        def replayed(inputs: Sequence[Tensor]) -> Tensor:
            images, hyper, *rest = inputs
            given, reads = dict(zip(names, rest, strict=False)), rest[-1] if responds else None
            with lanes():
                return self._pass(given, hyper, images, reads, None)

        inputs = [images, hyper, *weights.values(), *([] if response is None else [response])]
        return self.replay(replayed, inputs, (responds, tuple(names)))

    def _pass(
        self, weights: Params, hyper: Tensor, images: Tensor, response: Tensor | None, disturb: Disturbance | None
    ) -> Tensor:
        weights = self.plain(weights, response)
        mixtures, active = self.used(hyper)
        if self.skip_dropout and self.skip_seed is not None:
            disturb = replace(disturb or Disturbance(), skips=SkipDropout(self.skip_dropout, self.skip_seed))
        if self.fast:
            return fast_logits(self.supernet, weights, mixtures, images, active, disturb, self.recompute)
        return functional_call(self.supernet, weights, (images, mixtures, active, disturb, self.recompute))

    def plain(self, weights: Params, response: Tensor | None) -> Params:
        """The supernet's own weights by their names, at r (n,); None is r = 0."""
        if self.packed is not None:
            return self.packed.plain(weights, response)
        return weights if self.learner is None else plain_weights(self.learner, weights, response)

    def _by_example(self, weights: Params, hyper: Tensor, images: Tensor, response: Tensor | None) -> Tensor:
        """In the plain form; the mixtures' weights are (E, O, B, 1, 1, 1)."""
        assert self.learner is not None and not self.fast and self.space.takes_rows
        mixtures = {
            kind: self.space.relax(part).movedim(0, -1)[..., None, None, None]
            for kind, part in self.arch_layout.split(hyper).items()
        }
        if self.packed is not None:
            weights = self.packed.named(weights)
        return with_response(self.learner, weights, response, images, mixtures)

    def outputs(self, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None) -> Tensor:
        """Logits in training: with hyperparameters in λ the images are changed and the network is disturbed as it says.

        The same numbers are drawn within a step (`seed`) whatever λ is.
        """
        if self.tuned is None:
            return self.logits(weights, hyper, batch[0], response)
        values, draw = self.values(hyper), torch.Generator().manual_seed(self.seed)
        images = self.tuned.images(batch[0], values, draw)
        return self.logits(weights, hyper, images, response, self.tuned.disturbance(values, draw))

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None
    ) -> Tensor:
        images, targets = batch
        if self.tuned and LABELS in self.tuned.names:
            smoothing = self.layout.values(hyper.detach())[LABELS]
            loss = smoothed_cross_entropy(outputs, targets, smoothing).mean()
        else:
            loss = nn.functional.cross_entropy(outputs, targets)
        return parallel.shared_mean(loss, len(images))

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None) -> Tensor:
        """Cross-entropy of a step of the weights."""
        weights, hyper, response = _replicated(weights, hyper, response)
        outputs = self.outputs(weights, hyper, batch, response)
        return self.inner_criterion(outputs, weights, hyper, batch, response)

    def outer_loss(self, weights: Params, hyper: Tensor, batch: Examples, response: Tensor | None = None) -> Tensor:
        """Cross-entropy of a step of λ, undisturbed. Without hyperparameters in λ both levels share it; they differ in
        the half of the training images that a batch comes from."""
        weights, hyper, response = _replicated(weights, hyper, response)
        outputs = self.logits(weights, hyper, batch[0], response)
        return parallel.shared_mean(nn.functional.cross_entropy(outputs, batch[1]), len(batch[0]))


_PARAMETERS: WeakKeyDictionary[nn.Module, Params] = WeakKeyDictionary()


def _parameters(module: nn.Module) -> Params:
    """Kept by module: torch walks through all of its parts for them, which takes as long as a small pass."""
    if module not in _PARAMETERS:
        _PARAMETERS[module] = dict(module.named_parameters())
    return _PARAMETERS[module]


def _replicated(weights: Params, hyper: Tensor, response: Tensor | None) -> tuple[Params, Tensor, Tensor | None]:
    """Their gradients are those of the whole batch."""
    if response is None:
        weights, (hyper,) = parallel.replicated(weights, hyper)
    else:
        weights, (hyper, response) = parallel.replicated(weights, hyper, response)
    return weights, hyper, response


def responsive(
    supernet: Supernet, layout: HyperLayout, *, by_cell: bool, rescale_std: float, generator: torch.Generator
) -> nn.Module:
    """The supernet with every convolution and the classifier as best responses in λ, at the supernet's weights.

    by_cell: a cell's layers read the logits of its own kind of cell, and all training hyperparameters; stem and
    classifier read all.
    """
    bounds: dict[str, slice] = {}
    place = 0
    for name, part in layout.typed.items():
        end = place + prod(part.shape)
        kind = name.removesuffix("_edges") if part.kind == "logits" else "tuned"
        bounds[kind] = slice(bounds[kind].start if kind in bounds else place, end)
        place = end

    def reads(name: str) -> Reads:
        words = name.split(".")
        if not by_cell or words[0] != "cells":
            return slice(None)
        own = bounds[supernet.kinds[int(words[1])]]
        return (own, bounds["tuned"]) if "tuned" in bounds else own

    return best_response(
        supernet, layout.size, hyper="uniform", rescale_std=rescale_std, reads=reads, generator=generator
    )
