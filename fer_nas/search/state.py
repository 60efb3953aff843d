"""What a search learns, and what is read off it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fer_nas import parallel
from fer_nas.bilevel.protocol import InnerStep, Method, Stateful
from fer_nas.bilevel.stn import STN
from fer_nas.config import SearchConfig
from fer_nas.data import batches
from fer_nas.data.split import DataSet, Split
from fer_nas.errors import InputError
from fer_nas.runtime import fits_checkpoint, generator
from fer_nas.search.form import wanted_form
from fer_nas.search.methods import FEATURE_SCALE, METHODS, form, needs_plain_form
from fer_nas.search.stages import plan
from fer_nas.settings import tuned_names
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import find_space
from fer_nas.tasks.cells import CellSearch, Examples, responsive
from fer_nas.tasks.tuned import Tuned

ARCH_BETAS = (0.5, 0.999)  # Liu et al. 2019
TUNED_BETAS = (0.9, 0.999)  # Kingma and Ba 2015


@dataclass
class State:
    """What a search learns; `checkpoint` and `restore` are each other's inverse."""

    task: CellSearch
    method: Method
    arch: Tensor
    weights_optimizer: torch.optim.SGD
    arch_optimizer: torch.optim.Adam

    @property
    def learning_rate(self) -> float:
        """Of the weights, now."""
        return self.weights_optimizer.param_groups[0]["lr"]

    def set_learning_rate(self, value: float) -> None:
        for group in self.weights_optimizer.param_groups:
            group["lr"] = value

    def move(self, total: Tensor) -> None:
        """λ a step along its hypergradient."""
        parts = self.task.architecture, self.task.behind
        for group, part in zip(self.arch_optimizer.param_groups, parts, strict=False):
            group["params"][0].grad = total[part]
        self.arch_optimizer.step()

    def descend(self, batch: Examples, clip: float) -> Tensor:
        """w a step of SGD along ∇L_train, whose norm is at most `clip`; the loss."""
        weights = self.task.weights()
        loss = self.task.inner_loss(weights, self.arch.detach(), batch)
        slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for parameter, slope in zip(weights.values(), slopes, strict=True):
            parameter.grad = slope
        torch.nn.utils.clip_grad_norm_(list(weights.values()), clip)
        self.weights_optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def go_on_from(self, other: State) -> None:
        """Training hyperparameters in λ stay where an earlier stage left them."""
        self.arch[self.task.behind] = other.arch[other.task.behind]

    def inner_step(self, momentum: float, weight_decay: float) -> InnerStep:
        """The step that the weights take next."""
        return InnerStep(
            learning_rate=self.learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            velocity=velocity(self.weights_optimizer, list(self.task.weights())),
        )

    @torch.no_grad()
    def accept(self, weights: dict[str, Tensor], step: InnerStep) -> None:
        """Weights and momentum buffers as a method's own `fit` left them."""
        own = self.task.weights()
        torch._foreach_copy_(list(own.values()), [weights[name] for name in own])
        for name, parameter in own.items():
            if name in step.velocity:
                self.weights_optimizer.state[parameter]["momentum_buffer"] = step.velocity[name]

    def checkpoint(self) -> dict[str, Any]:
        return {
            "kind": "search",
            "weights": {name: w.detach() for name, w in self.task.parameters().items()},
            "arch": self.arch.detach(),
            "kept": self.task.supernet.kept or {},
            "weights_optimizer": self.weights_optimizer.state_dict(),
            "arch_optimizer": self.arch_optimizer.state_dict(),
            "method": self.method.state() if isinstance(self.method, Stateful) else {},
        }

    def restore(self, saved: dict[str, Any], where: Path) -> None:
        if saved.get("kind") != "search":
            raise InputError(f"{where} is not the checkpoint of a search")
        with fits_checkpoint(where):
            with torch.no_grad():
                for name, parameter in self.task.parameters().items():
                    parameter.copy_(saved["weights"][name])
                self.arch.copy_(saved["arch"])
            self.weights_optimizer.load_state_dict(saved["weights_optimizer"])
            self.arch_optimizer.load_state_dict(saved["arch_optimizer"])
            if isinstance(self.method, Stateful) and saved["method"]:
                self.method.load_state({name: value.to(self.arch.device) for name, value in saved["method"].items()})


def build(
    config: SearchConfig,
    dataset: DataSet,
    device: torch.device,
    *,
    number: int = 0,
    kept: dict[str, Tensor] | None = None,
    memory_format: torch.memory_format = torch.channels_last,
) -> State:
    """What a search starts with, or stage `number` of it, over the operations `kept`.

    memory_format: of the network's weights, which its images take over.
    """
    seed = config.run.seed
    stage, again = plan(config)[number], (number,) if number else ()
    torch.manual_seed(generator(seed, "weights", number).initial_seed() if number else seed)
    space = find_space(config.arch.space, config.arch.operations)
    space = replace(space, auxiliary=config.arch.auxiliary_skip > 0)
    mean, std = dataset.train.channel_statistics()
    supernet = Supernet(
        space,
        classes=len(dataset.classes),
        c_in=dataset.channels,
        image_size=dataset.image_size,
        channels=config.network.channels,
        layers=stage.layers,
        stem=config.network.stem,
        mean=mean,
        std=std,
        kept=kept,
    )
    wanted = wanted_form(config)
    if stage.skip_dropout:
        wanted = "plain"
    row, names = METHODS[config.arch.method], tuned_names(config)
    assert row.make is not None  # `wanted_form` has refused it
    tuned = Tuned(names=names, augment=config.augment) if names else None
    supernet = supernet.to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    learner = None
    if row.response:
        chosen = form(config.response)
        learner = responsive(
            supernet,
            CellSearch(supernet, space, tuned=tuned).layout,
            by_cell=chosen.response_reads == "cell",
            rescale_std=chosen.response_start,
            generator=generator(seed, "response", *again),
        )
    graphs = config.arch.graphs and device.type == "cuda" and parallel.count() == 1 and not needs_plain_form(config)
    recompute = config.arch.recompute
    task = CellSearch(
        supernet, space, wanted, learner=learner, tuned=tuned, graphs=graphs, pack=True, recompute=recompute
    )
    arch = task.initial_hyper(generator(seed, "arch", *again)).to(device).requires_grad_()
    w = config.weights
    return State(
        task=task,
        method=row.make(config, lambda hyper: task.features(hyper, FEATURE_SCALE), task.layout),
        arch=arch,
        weights_optimizer=torch.optim.SGD(
            task.weights().values(), w.learning_rate, momentum=w.momentum, weight_decay=w.weight_decay, foreach=True
        ),
        arch_optimizer=arch_optimizer(config, task, arch),
    )


def arch_optimizer(config: SearchConfig, task: CellSearch, arch: Tensor) -> torch.optim.Adam:
    """Adam of λ: with its own rate and betas, and without decay, for the training hyperparameters in it.

    These two are views of λ then, so that λ stays one vector.
    """
    knobs: dict[str, Any] = {"betas": ARCH_BETAS, "weight_decay": config.arch.arch_weight_decay}
    if task.tuned is None:
        return torch.optim.Adam([arch], config.arch.arch_learning_rate, **knobs)
    logits, tuned = (arch.detach()[part] for part in (task.architecture, task.behind))
    own = {"params": [tuned], "lr": config.tuning.tune_rate, "betas": TUNED_BETAS, "weight_decay": 0.0}
    return torch.optim.Adam([{"params": [logits], **knobs}, own], config.arch.arch_learning_rate)


def velocity(optimizer: torch.optim.SGD, names: list[str]) -> dict[str, Tensor]:
    """The momentum buffers by weight name; empty before the first step."""
    found = {}
    for name, parameter in zip(names, optimizer.param_groups[0]["params"], strict=True):
        buffer = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
        if buffer is not None:
            found[name] = buffer
    return found


@torch.no_grad()
def validate(state: State, split: Split, batch_size: int) -> tuple[float, float]:
    """Loss and accuracy of the supernet at λ on a split, in batches whose own statistics normalize them.

    Best responses are taken at λ too, as the method has them read it.

    The batches are mixed, always in the same way: data sets come sorted by class, and a batch of one class, normalized
    by its own statistics, looks like none that the supernet has learned from.
    """
    task, arch, method = state.task, state.arch.detach(), state.method
    task.sample(None)
    weights = task.weights()
    response = method.respond(arch, arch) if isinstance(method, STN) else None
    order = torch.randperm(len(split), generator=generator("validation")).to(split.images.device)
    loss, correct = 0.0, 0
    for start, end in batches.bounds(len(split), batch_size):
        index = order[start:end]
        images, targets = split.images[index].float(), split.targets[index]
        logits = task.logits(weights, arch, images, response)
        loss += torch.nn.functional.cross_entropy(logits, targets, reduction="sum").item()
        labels = targets if targets.ndim == 1 else targets.argmax(1)
        correct += int((logits.argmax(1) == labels).sum())
    return loss / len(split), correct / len(split)
