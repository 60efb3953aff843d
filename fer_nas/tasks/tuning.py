"""Hyperparameter tuning as a bilevel problem: λ are training hyperparameters, w a network's weights.

    L_train = mean over the batch of s(e)·CE(f(w, x), y; label smoothing) + ½ Σ_layers decay·‖W‖²
    L_val   = mean over the batch of CE(f(w, x), y), the network undisturbed: no dropout, no cutout

What each part of λ does follows from its name: `dropout.PLACE`, `cutout.holes` and `cutout.length` draw masks in the
data path (no derivative passes through them); `decay.LAYER` and `smoothing` stand in L_train; `examples` are the
weights s of the training examples; `pixels` scale the input of both losses.

Legend: B images of a batch, n the size of λ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from fer_nas.bilevel.hyper import HyperLayout
from fer_nas.bilevel.protocol import Params
from fer_nas.bilevel.response import BestResponse, response_layers, seen_by, with_response
from fer_nas.tasks.tuning_networks import cutout, dropout, undisturbed


class Batch(NamedTuple):
    """images: float (B, C, H, W) in 0 to 255; targets: classes (B,) or distributions (B, K); rows: int64 (B,), which
    training images these are."""

    images: Tensor
    targets: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Tuning:
    """Implements bilevel.protocol.NetworkTask. λ (n,) is one for the batch; (B, n) is one for each image.

    places: where the network can be disturbed.

    Random numbers come from torch's global generator, as those of layers do, so that a method can repeat them.
    """

    network: nn.Module
    places: tuple[str, ...]
    layout: HyperLayout

    def weights(self) -> Params:
        return dict(self.network.named_parameters())

    def outputs(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        """Logits (B, K) in training, under dropout and cutout of λ."""
        value = self.layout.values(hyper)

        def disturb(x: Tensor, place: int) -> Tensor:
            if place == 0 and "cutout.holes" in value:
                most = int(self.layout.typed["cutout.holes"].high)
                x = cutout(x, value["cutout.holes"], value["cutout.length"], most)
            name = f"dropout.{self.places[place]}"
            return dropout(x, value[name]) if name in value else x

        return with_response(self.network, weights, response, self.scaled(batch.images, hyper), disturb)

    def scaled(self, images: Tensor, hyper: Tensor) -> Tensor:
        """The images, each pixel times its scale where λ has such a part."""
        if "pixels" not in self.layout.parts:
            return images
        scale = self.layout.values(hyper)["pixels"]
        return images * scale.view(-1, 1, *images.shape[2:])

    def predict(self, weights: Params, hyper: Tensor, images: Tensor, response: Tensor | None = None) -> Tensor:
        """Logits (B, K), undisturbed."""
        return with_response(self.network, weights, response, self.scaled(images, hyper), undisturbed)

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None
    ) -> Tensor:
        value = self.layout.values(hyper)
        loss_B = smoothed_cross_entropy(outputs, batch.targets, value.get("smoothing"))
        if "examples" in value:
            each = value["examples"]
            rows = batch.rows
            loss_B = loss_B * (each[rows] if each.ndim == 1 else each.gather(1, rows[:, None]).squeeze(1))
        loss = loss_B.mean()
        if any(name.startswith("decay.") for name in value):
            for name, norm in squared_norms(self.network, weights, response).items():
                loss = loss + (value[f"decay.{name}"] * norm).mean() / 2
        return loss

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        outputs = self.outputs(weights, hyper, batch, response)
        return self.inner_criterion(outputs, weights, hyper, batch, response)

    def outer_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        return nn.functional.cross_entropy(self.predict(weights, hyper, batch.images, response), batch.targets)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: Tensor | None) -> Tensor:
    """(B,): (1 − s)·CE(targets) + s·CE(uniform), s () or (B,); differentiable in s, as torch's own is not."""
    log_p = logits.log_softmax(1)
    loss = -log_p.gather(1, targets[:, None]).squeeze(1) if targets.ndim == 1 else -(targets * log_p).sum(1)
    return loss if smoothing is None else (1 - smoothing) * loss - smoothing * log_p.mean(1)


def layer_names(network: nn.Module) -> tuple[str, ...]:
    """The layers that have a weight decay each, in their order."""
    return tuple(name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d))


def squared_norms(network: nn.Module, weights: Params, response: Tensor | None) -> dict[str, Tensor]:
    """‖W(r)‖² of each layer: (), or (B,) for a response per example. Biases are left out.

    For W(r) = W_elem + (Vr) ⊙row W_hyper the rows' products suffice: Σ_o ‖e_o‖² + 2 g_o e_o·h_o + g_o² ‖h_o‖².
    """
    layers: dict[str, BestResponse] = dict(response_layers(network))
    norms = {}
    for name in layer_names(network):
        if name not in layers:
            norms[name] = weights[f"{name}.weight"].square().sum()
            continue
        elem = weights[f"{name}.weight_elem"].flatten(1)
        norms[name] = elem.square().sum()
        if response is not None:
            along = weights[f"{name}.weight_hyper"].flatten(1)
            gain = seen_by(layers[name].reads, response) @ weights[f"{name}.weight_rescale"].T
            norms[name] = norms[name] + 2 * gain @ (elem * along).sum(1) + gain.square() @ along.square().sum(1)
    return norms
