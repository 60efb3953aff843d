"""What a finished training leaves: the figures of its best weights on the test split, and pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fer_nas.artifacts import RunFolder, write_json
from fer_nas.data import batches
from fer_nas.data.split import DataSet, Split
from fer_nas.report.pictures import draw_confusion, draw_curves
from fer_nas.train.metrics import multiply_adds, parameters, summary
from fer_nas.train.spec import NetworkSpec, load_network

EVALUATION_BATCH = 256


@torch.no_grad()
def predict(network: nn.Module, split: Split) -> Tensor:
    """Logits (N, K) on the split's device, in eval mode."""
    network.eval()
    return torch.cat([network(images) for images, _ in batches.ordered(split, EVALUATION_BATCH)])


def write_result(folder: RunFolder, spec: NetworkSpec, dataset: DataSet, chosen: dict[str, Any]) -> dict[str, Any]:
    """Read the test split once with the best weights; write confusion.png, curves.png and, last, test.json.

    chosen: what is known already (best epoch, its validation accuracy, the device); test.json begins with it.
    """
    network = load_network(folder, "best")
    shape = (1, spec.channels, spec.input_size, spec.input_size)
    value = chosen | {
        "parameters": parameters(network) - (parameters(network.auxiliary) if network.auxiliary else 0),
        "flops": multiply_adds(network, shape),
    }
    split, largest = dataset.splits.get("test"), dataset.splits.get("test_largest")
    if split is not None and len(split):
        value |= summary(split.labels(), predict(network, split).argmax(1), spec.classes)
        draw_confusion(value["confusion"], list(spec.classes), folder / "confusion.png")
    if largest is not None and len(largest):
        value["test_largest"] = summary(largest.labels(), predict(network, largest).argmax(1), spec.classes)
    draw_curves(folder.metrics(), folder / "curves.png")
    write_json(folder / "test.json", value)
    return value
