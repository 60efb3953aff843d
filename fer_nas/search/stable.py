"""Early stop of DARTS+ (Liang et al. 2019, criterion 2*): nothing has changed its place for some epochs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fer_nas.space.decode import ranking
from fer_nas.space.variants import SearchSpace


class StableRanking:
    """Counts the epochs since the order of the operations with weights last changed on any edge.

    wanted: how many of them end the search; 0 never does.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted, self.count = wanted, 0
        self.last: list[list[int]] = []

    def look(self, mixtures: dict[str, Tensor], space: SearchSpace) -> None:
        """At the end of an epoch in which λ could move."""
        found = [order for part in mixtures.values() for order in ranking(part, space)]
        self.count = self.count + 1 if found == self.last else 0
        self.last = found

    @property
    def reached(self) -> bool:
        return 0 < self.wanted <= self.count

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "last": self.last}

    def load_state(self, saved: dict[str, Any]) -> None:
        self.count, self.last = saved["count"], saved["last"]
