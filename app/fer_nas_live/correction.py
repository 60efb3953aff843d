"""Probabilities for the people and the room at hand: class priors that are known, and a person's face at rest.

Both are shifts of the log-probabilities, p'ₖ ∝ pₖ · exp(sₖ). Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fer_nas.artifacts import ModelMetadata
from fer_nas.classes import canonical_class
from fer_nas.errors import InputError
from fer_nas_live.tracking import Track

# fmt: off
LEARNED_FROM: dict[str, dict[str, float]] = {
    "fer2013": {"angry": 0.1392, "disgust": 0.0152, "fear": 0.1427, "happy": 0.2513, "sad": 0.1682,
                "surprise": 0.1105, "neutral": 0.1729},
    "ferplus": {"angry": 0.0840, "disgust": 0.0159, "fear": 0.0356, "happy": 0.2625, "sad": 0.1441,
                "surprise": 0.1209, "neutral": 0.3188, "contempt": 0.0181},
}
# fmt: on
"""Shares of the classes among the training images by kind of labels, for models that do not carry their own."""
AT_REST = 0.7
"""What a face at rest is to show as neutral; the other classes share the remainder."""
LEAST = 1e-4
"""Probabilities are raised to this before their logarithm is taken."""


def parse_prior(text: str, metadata: ModelMetadata) -> np.ndarray:
    """(K,) shares that sum to 1 from 'happy=0.1,sad=0.05'; the classes left out share the rest as in training."""
    classes, given = metadata.classes, {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        known = canonical_class(name)
        try:
            value = float(share)
        except ValueError:
            value = -1.0
        if known not in classes or not 0 < value < 1 or known in given:
            raise InputError(
                f"--prior {part.strip()!r}: give CLASS=SHARE, 0 < SHARE < 1, once for each of {', '.join(classes)}"
            )
        given[known] = value
    left, total = [name for name in classes if name not in given], sum(given.values())
    if total >= 1 if left else abs(total - 1) > 1e-6:
        raise InputError(
            f"--prior: the shares sum to {total:g}; " + ("leave something to the others" if left else "1 is needed")
        )
    learned = dict(zip(classes, learned_prior(metadata), strict=True))
    rest = sum(learned[name] for name in left)
    return np.array([given.get(name, (1 - total) * learned[name] / rest if left else 0.0) for name in classes])


def learned_prior(metadata: ModelMetadata) -> np.ndarray:
    """(K,) shares of the classes among the images that the model learned from; InputError where they are unknown."""
    shares: Mapping[str, Any] = metadata.extra.get("class_shares") or LEARNED_FROM.get(metadata.labels or "") or {}
    if set(shares) != set(metadata.classes):
        raise InputError(
            "--prior needs the class shares that the model learned from, and this model has none: export it again"
        )
    values = np.array([float(shares[name]) for name in metadata.classes])
    return values / values.sum()


@dataclass(frozen=True, kw_only=True)
class Correction:
    """shift_K: of the log-probabilities, for everybody. baseline: seconds for which a face is taken to be at rest."""

    classes: Sequence[str]
    shift_K: np.ndarray
    baseline: float = 0.0

    def learn(self, track: Track, probabilities_K: np.ndarray, time: float) -> None:
        """Take in one frame's own probabilities while the person is at rest."""
        if time - track.since <= self.baseline:
            logs = np.log(np.maximum(probabilities_K, LEAST))
            track.rest = logs if track.rest is None else track.rest + logs
            track.rests += 1

    def apply(self, track: Track, time: float) -> np.ndarray:
        """(K,) the track's probabilities, corrected; by its face at rest once that is learned.

        sₖ = log rₖ − mean over the resting frames of log pₖ, where r is a face at rest: neutral AT_REST.
        """
        shift = self.shift_K
        if self.rested(track, time):
            assert track.rest is not None
            shift = self._resting() - track.rest / track.rests
        logs = np.log(np.maximum(track.probabilities, LEAST)) + shift
        values = np.exp(logs - logs.max())
        return values / values.sum()

    def rested(self, track: Track, time: float) -> bool:
        """Whether the track's face at rest is known and in use."""
        return self.baseline > 0 and track.rest is not None and time - track.since > self.baseline

    def _resting(self) -> np.ndarray:
        others = (1 - AT_REST) / (len(self.classes) - 1)
        return np.log([AT_REST if name == "neutral" else others for name in self.classes])


def make(prior: str | None, baseline: float, metadata: ModelMetadata) -> Correction | None:
    """What --prior and --baseline ask for; None where they ask for nothing. sₖ = log(πₖ / πₖ in training)."""
    if not 0 <= baseline < np.inf:
        raise InputError(f"--baseline is {baseline}; give seconds, at least 0")
    if baseline and "neutral" not in metadata.classes:
        raise InputError("--baseline needs a model that knows neutral faces")
    if prior is None and not baseline:
        return None
    shift = np.zeros(len(metadata.classes))
    if prior is not None:
        shift = np.log(parse_prior(prior, metadata) / learned_prior(metadata))
    return Correction(classes=metadata.classes, shift_K=shift, baseline=baseline)
