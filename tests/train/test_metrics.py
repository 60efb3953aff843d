"""Metrics against hand-worked and closed-form values."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from fer_nas.train import metrics

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTIONS = torch.tensor([0, 0, 1, 1, 2, 2])


def test_accuracy_counts_equal_labels() -> None:
    assert metrics.accuracy(LABELS, PREDICTIONS) == pytest.approx(4 / 6)


def test_confusion_rows_are_true_classes() -> None:
    table = metrics.confusion(LABELS, PREDICTIONS, 4)
    assert table.dtype == torch.int64
    assert table.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_confusion_refuses_a_class_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="predictions reach from 0 to 2; there are 2 classes"):
        metrics.confusion(torch.tensor([0, 1]), torch.tensor([0, 2]), 2)


def test_macro_f1_by_hand() -> None:
    # class 0: 2·2/(2+3) = 4/5; class 1: 2·1/(2+2) = 1/2; class 2: 2·1/(2+1) = 2/3
    expected = (4 / 5 + 1 / 2 + 2 / 3) / 3
    assert metrics.macro_f1(metrics.confusion(LABELS, PREDICTIONS, 3)) == pytest.approx(expected)


def test_macro_f1_leaves_out_classes_without_examples_and_counts_missed_ones() -> None:
    assert metrics.macro_f1(metrics.confusion(LABELS, PREDICTIONS, 9)) == pytest.approx(
        metrics.macro_f1(metrics.confusion(LABELS, PREDICTIONS, 3))
    )
    only_first = torch.zeros(6, dtype=torch.int64)
    assert metrics.macro_f1(metrics.confusion(LABELS, only_first, 3)) == pytest.approx((2 * 3 / 9) / 3)


def test_macro_f1_is_not_a_number_without_examples() -> None:
    assert math.isnan(metrics.macro_f1(torch.zeros(3, 3, dtype=torch.int64)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes_and_one_hot_distributions_agree_with_the_formula(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    one_hot = torch.eye(3, dtype=torch.float64)[LABELS]
    target = (1 - smoothing) * one_hot + smoothing / 3
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    for targets in (LABELS, one_hot, one_hot.float()):
        loss = metrics.soft_cross_entropy(logits, targets, smoothing)
        torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(metrics.soft_cross_entropy(logits, one_hot, smoothing), logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - target).detach() / 6)


def test_cross_entropy_of_a_distribution_is_smallest_at_that_distribution() -> None:
    target = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    entropy = -(target * target.log()).sum()
    torch.testing.assert_close(metrics.soft_cross_entropy(target.log(), target), entropy)
    assert metrics.soft_cross_entropy(target.log() + torch.tensor([0.1, 0.0, 0.0]), target) > entropy


def test_cross_entropy_takes_half_precision_logits_with_float_targets() -> None:
    loss = metrics.soft_cross_entropy(torch.zeros(2, 4, dtype=torch.bfloat16), torch.full((2, 4), 0.25))
    assert loss.item() == pytest.approx(math.log(4), rel=1e-2)


def test_parameters_and_flops_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 5)
    )
    assert metrics.parameters(network) == 4 * 9 + 8 + 256 * 5 + 5
    # 2 FLOPs a multiply-add: 8·8 places × 9 × 4 filters, and 256 × 5
    assert metrics.multiply_adds(network, (1, 1, 8, 8)) == 2 * (64 * 9 * 4 + 256 * 5)
    assert metrics.multiply_adds(network, (3, 1, 8, 8)) == 3 * 2 * (64 * 9 * 4 + 256 * 5)


def test_flops_leave_mode_and_statistics_as_they_were() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    network[1].eval()
    before = network[1].running_mean.clone()
    metrics.multiply_adds(network, (2, 1, 8, 8))
    assert network.training and network[0].training and not network[1].training
    assert torch.equal(network[1].running_mean, before)


def test_summary_is_plain_json() -> None:
    found = metrics.summary(LABELS, PREDICTIONS, ("sad", "happy", "fear", "contempt"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["n"], found["correct"], found["accuracy"]) == (6, 4, pytest.approx(4 / 6))
    assert found["recall"] == {"sad": pytest.approx(2 / 3), "happy": 0.5, "fear": 1.0, "contempt": None}
    assert found["confusion"][0] == [2, 1, 0, 0] and found["classes"] == ["sad", "happy", "fear", "contempt"]


def test_summary_refuses_an_empty_split() -> None:
    with pytest.raises(ValueError, match="no examples"):
        metrics.summary(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64), ("a", "b"))


def test_calibration_error_by_hand() -> None:
    # confidences 0.9, 0.9, 0.6, 0.6 with right, right, right, wrong: bins of 1/15 put them in two groups of two
    probabilities = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4], [0.6, 0.4]])
    found = metrics.calibration_error(torch.tensor([0, 1, 0, 1]), probabilities)
    assert found == pytest.approx((2 * abs(1 - 0.9) + 2 * abs(0.5 - 0.6)) / 4)
    sure = torch.eye(3)
    assert metrics.calibration_error(torch.tensor([0, 1, 2]), sure) == 0
    assert metrics.calibration_error(torch.tensor([1, 2, 0]), sure) == 1
    assert math.isnan(metrics.calibration_error(torch.zeros(0), torch.zeros(0, 3)))
