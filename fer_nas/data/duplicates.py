"""Images of a data set with exactly the same pixels, and where their labels contradict each other."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

from fer_nas.data.split import DataSet

EXAMPLES = 5
REPEATED = "test_largest"
"""FER+'s test images once more, under another rule: no duplicates of those in `test`."""

Member = tuple[str, str, int]  # split, name, label


def duplicates(dataset: DataSet) -> dict[str, Any]:
    """Counts for JSON; labels are compared by the most probable class.

    within: for each split, the images that repeat an earlier one of it. across: for two splits "a and b", the
    images of b that are in a too. contradicting: groups of equal images with more than one label, how many
    images they hold, and the first EXAMPLES groups.
    """
    names = [name for name in dataset.splits if name != REPEATED]
    pairs = list(combinations(names, 2))
    within = dict.fromkeys(names, 0)
    across = {f"{a} and {b}": 0 for a, b in pairs}
    contradicting: list[list[Member]] = []
    for group in _groups(dataset, names):
        count = Counter(split for split, _, _ in group)
        for name in count:
            within[name] += count[name] - 1
        for a, b in pairs:
            if count[a]:
                across[f"{a} and {b}"] += count[b]
        if dataset.classes and len({label for _, _, label in group}) > 1:
            contradicting.append(group)
    return {
        "within": within,
        "across": across,
        "contradicting": {
            "groups": len(contradicting),
            "images": sum(len(group) for group in contradicting),
            "examples": [
                [{"split": split, "name": name, "label": dataset.classes[label]} for split, name, label in group]
                for group in contradicting[:EXAMPLES]
            ],
        },
    }


def _groups(dataset: DataSet, names: list[str]) -> list[list[Member]]:
    """The images that share their pixels with another one, a list for each picture."""
    found: dict[bytes, list[Member]] = defaultdict(list)
    for split_name in names:
        split = dataset.splits[split_name]
        labels = split.labels().tolist()
        for image, name, label in zip(split.images.cpu().numpy(), split.names, labels, strict=True):
            key = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            found[key].append((split_name, name, label))
    return [group for group in found.values() if len(group) > 1]
