"""--max-skips: a bound on the skip connections of a decoded normal cell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_nas.space.decode import count_skips, decode, decode_cell, restrict_skips
from fer_nas.space.variants import SPACES, SearchSpace

SPACE = SPACES["darts"]
SKIP = SPACE.operations.index("skip_connect")


def drawn(seed: int, towards_skips: float, space: SearchSpace = SPACE) -> torch.Tensor:
    logits = torch.randn(space.edges, len(space.operations), generator=torch.Generator().manual_seed(seed))
    logits[:, space.operations.index("skip_connect")] += towards_skips
    return torch.softmax(logits, -1)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), towards=st.floats(-2, 6), most=st.integers(0, 8), name=st.sampled_from(sorted(SPACES))
)
def test_never_more_and_nothing_else_changes(seed: int, towards: float, most: int, name: str) -> None:
    space = SPACES[name]
    mixture = drawn(seed, towards, space)
    before = mixture.clone()
    plain, bounded = decode_cell(mixture, space), decode_cell(restrict_skips(mixture, space, most), space)
    assert count_skips(bounded) <= most
    assert torch.equal(mixture, before), "the mixture that was given stays as it is"
    if count_skips(plain) <= most:
        assert bounded == plain
    assert all(op != "none" for op, _ in bounded)


def test_the_weakest_of_the_chosen_goes_first() -> None:
    """Every edge prefers its skip connection; the two that stay are the strongest of those chosen at first."""
    mixture = torch.full((14, 8), 0.01)
    mixture[:, 4] = 0.02  # what comes in its place
    mixture[:, SKIP] = torch.tensor([0.5, 0.9, 0.3, 0.31, 0.05, 0.3, 0.31, 0.05, 0.05, 0.8, 0.31, 0.05, 0.05, 0.05])
    cell = decode_cell(restrict_skips(mixture, SPACE, 2), SPACE)
    assert count_skips(cell) == 2
    assert cell[1] == ("skip_connect", 1) and ("skip_connect", 0) in cell[6:]
    assert cell[0] == ("sep_conv_3x3", 0), "its edge stays, with the next best operation"


@pytest.mark.parametrize("most", [None, 0, 2])
def test_only_the_normal_cell(most: int | None) -> None:
    mixture = drawn(0, 9.0)
    found = decode({"normal": mixture, "reduce": mixture}, SPACE, most)
    assert count_skips(found.reduce) == 8 and count_skips(found.normal) == (8 if most is None else most)
