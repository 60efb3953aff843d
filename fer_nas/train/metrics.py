"""Loss and figures of a classifier: accuracy, confusion, macro-F1, parameters, FLOPs.

Shapes: N examples, K classes; confusion_KK[i, j] counts examples of class i that were called j.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def soft_cross_entropy(logits_NK: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the batch against int64 classes (N,) or distributions (N, K).

    Smoothing s replaces a target t, class or distribution, by (1 − s)·t + s/K (Szegedy et al. 2016).
    """
    targets = targets if targets.ndim == 1 else targets.to(logits_NK.dtype)
    return F.cross_entropy(logits_NK, targets, label_smoothing=label_smoothing)


def accuracy(labels_N: Tensor, predictions_N: Tensor) -> float:
    """Share of predictions that equal the label, 0 to 1; NaN for no examples."""
    return (labels_N == predictions_N).double().mean().item()


def confusion(labels_N: Tensor, predictions_N: Tensor, classes: int) -> Tensor:
    """int64 (K, K) on the CPU: row true class, column predicted class; ValueError outside 0…K−1."""
    labels_N, predictions_N = labels_N.cpu().long(), predictions_N.cpu().long()
    for name, values in (("labels", labels_N), ("predictions", predictions_N)):
        if values.numel() and (values.min() < 0 or values.max() >= classes):
            raise ValueError(
                f"{name} reach from {int(values.min())} to {int(values.max())}; there are {classes} classes"
            )
    return torch.bincount(labels_N * classes + predictions_N, minlength=classes**2).view(classes, classes)


def recalls(confusion_KK: Tensor) -> list[float | None]:
    """Share of each class's examples that were recognized; None for a class without examples."""
    found, count = confusion_KK.diagonal().tolist(), confusion_KK.sum(1).tolist()
    return [hit / n if n else None for hit, n in zip(found, count, strict=True)]


def macro_f1(confusion_KK: Tensor) -> float:
    """Mean over classes of F1 = 2·TP / (2·TP + FP + FN), 0 to 1.

    A class with no examples has no F1 and is left out of the mean (a face wrongly called by its name still
    costs that face's class); a class with examples that is never predicted counts as 0. NaN without examples.
    """
    table = confusion_KK.double()
    present = table.sum(1) > 0
    f1 = 2 * table.diagonal() / (table.sum(0) + table.sum(1)).clamp(min=1)
    return f1[present].mean().item()


def calibration_error(labels_N: Tensor, probabilities_NK: Tensor, bins: int = 15) -> float:
    """Expected calibration error Σ_b n_b/N · |accuracy_b − mean confidence_b| over equal bins of the largest
    probability (Naeini et al. 2015; Guo et al. 2017), 0 to 1; NaN for no examples.
    """
    confidence_N, predicted_N = probabilities_NK.double().max(1)
    right_N = (predicted_N == labels_N).double()
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    gap_B = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_N, right_N - confidence_N)
    return (gap_B.abs().sum() / len(labels_N)).item() if len(labels_N) else float("nan")


def parameters(module: nn.Module) -> int:
    """Number of learned values (buffers such as BatchNorm's running statistics are not counted)."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(module: nn.Module, input_shape: Sequence[int]) -> int:
    """FLOPs of one forward pass in eval mode on zeros of `input_shape`, by torch's FlopCounterMode.

    torch counts convolutions and matrix products only, and 2 FLOPs per multiply-add: half of the value is the
    number of multiply-adds that papers state. The module's training mode is as before afterwards.
    """
    first = next(module.parameters(), torch.zeros(()))
    images = torch.zeros(tuple(input_shape), device=first.device, dtype=first.dtype)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(images)
    finally:
        for part, training in modes.items():
            part.training = training
    return counter.get_total_flops()


def summary(labels_N: Tensor, predictions_N: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """What test.json says of one split: accuracy, n, correct, macro_f1, recall per class, confusion, classes.

    Plain JSON values; recall is null for a class without examples, confusion's rows are the true classes.
    """
    if not len(labels_N):
        raise ValueError("no examples to summarize")
    table_KK = confusion(labels_N, predictions_N, len(classes))
    correct = int(table_KK.diagonal().sum())
    return {
        "accuracy": correct / len(labels_N),
        "n": len(labels_N),
        "correct": correct,
        "macro_f1": macro_f1(table_KK),
        "recall": dict(zip(classes, recalls(table_KK), strict=True)),
        "confusion": table_KK.tolist(),
        "classes": list(classes),
    }
