"""What guards a search against cells full of skip connections: they are told of, and it can end in time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fer_nas.space.decode import ranking
from fer_nas.space.variants import SearchSpace

COLLAPSED = 5
"""Skip connections of a normal cell's eight edges that are told of."""


def collapse_note(epoch: int, skips: int, edges: int, most: int | None) -> str:
    """most: how many of them genotype.json may have."""
    bound = "--max-skips 2 bounds them" if most is None else f"genotype.json has at most {most} of them"
    return (
        f"note: epoch {epoch}: {skips} of the {edges} edges of the normal cell are skip connections, the known failure "
        f"of these searches; {bound}, and --auxiliary-skip 1 and --stable-epochs 10 work against them"
    )


class StableRanking:
    """Early stop of DARTS+ (Liang et al. 2019, criterion 2*): nothing has changed its place for some epochs.

    Counts the epochs since the order of the operations with weights last changed on any edge.

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

    def note(self, epoch: int, epochs: int) -> str:
        return (
            f"note: this search ended with epoch {epoch} of {epochs}: the order of the convolutions has not changed "
            f"for {self.count} epochs (--stable-epochs)"
        )

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "last": self.last}

    def load_state(self, saved: dict[str, Any]) -> None:
        self.count, self.last = saved["count"], saved["last"]
