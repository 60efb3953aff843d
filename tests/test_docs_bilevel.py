"""The lines that open docs/bilevel.md run as they stand there, and there are ten of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_nas.bilevel.implicit import Neumann
from fer_nas.bilevel.protocol import InnerStep
from fer_nas.bilevel.response import response_layers
from fer_nas.bilevel.soba import CarriedAdjoint
from fer_nas.bilevel.unrolled import SecondOrder, Unrolled
from fer_nas.errors import InputError

TEXT = (Path(__file__).parent.parent / "docs" / "bilevel.md").read_text(encoding="utf-8")
YOURS, TEN = re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M)[:2]


def test_ten_lines_make_a_network_self_tuning() -> None:
    code = [line for line in TEN.splitlines() if line.strip() and not line.startswith(("from ", "import ", "#"))]
    assert len(code) == 10
    assert TEXT.index("```") < 300, "the document opens with them"
    torch.manual_seed(0)
    seen: dict[str, Any] = {}
    exec(YOURS, seen)
    exec(TEN, seen)
    task, weights, hyper, layout = (seen[name] for name in ("task", "weights", "hyper", "layout"))
    assert [name for name, _ in response_layers(task.network)] == ["conv.0", "linear"]
    rate = layout.readable(hyper)["rate"]
    assert 0.2 < rate < 0.65, f"from 0.7, on data that need no dropout, to {rate}"
    response = weights["linear.weight_rescale"] - task.weights()["linear.weight_rescale"]
    assert response.abs().max() > 1e-4, "the response did not learn"

    images, labels = next(seen["batches"](1, seed=2))
    plain = task.plain(weights)
    assert type(plain) is seen["Mine"] and not list(response_layers(plain))
    assert {n: w.shape for n, w in plain.named_parameters()} == {
        n: w.shape for n, w in seen["Mine"]().named_parameters()
    }
    loss = torch.nn.functional.cross_entropy(plain(images), labels)
    untrained = torch.nn.functional.cross_entropy(task.plain(task.weights())(images), labels)
    assert loss < 0.5 * untrained
    torch.testing.assert_close(loss, task.outer_loss(weights, hyper, (images, labels)))


@pytest.mark.parametrize(
    "method", [SecondOrder(), SecondOrder(exact=True), Neumann(terms=3), Unrolled(), CarriedAdjoint()], ids=repr
)
def test_methods_that_need_a_derivative_refuse_its_loss(method: Any) -> None:
    """λ would stay where it is, without a word."""
    seen: dict[str, Any] = {}
    exec(YOURS, seen)
    exec(TEN.split("for train")[0], seen)
    task, hyper = seen["task"], seen["hyper"]
    train, val = seen["batches"](2, seed=0)
    weights, step = method.fit(task, task.weights(), hyper, [train], InnerStep(learning_rate=0.01))
    with pytest.raises(InputError, match="neither L_train nor L_val has a derivative by λ"):
        method.hypergradient(task, weights, hyper, train, val, step)
