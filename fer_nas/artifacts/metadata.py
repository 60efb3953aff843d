"""What an exported model says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from fer_nas.artifacts.genotype import Genotype
from fer_nas.errors import InputError

MODEL_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """What an exported ONNX file says of itself, as strings in its metadata; `classes` are in output order.

    Input of the graph: float32 (N, channels, input_size, input_size), values 0 to 255, RGB where channels is 3;
    normalization and softmax are inside. Output: float32 (N, len(classes)), probabilities.
    """

    classes: tuple[str, ...]
    input_size: int
    channels: int
    dataset: str
    labels: str | None
    genotype: Genotype
    test_accuracy: float | None
    test_count: int | None
    fer_nas_version: str
    opset: int
    precision: str = "float32"
    extra: dict[str, Any] = field(default_factory=dict)

    REQUIRED = ("classes", "input_size", "channels", "genotype", "fer_nas_version")

    def to_strings(self) -> dict[str, str]:
        return {
            "schema": str(MODEL_SCHEMA),
            "classes": json.dumps(list(self.classes)),
            "input_size": str(self.input_size),
            "channels": str(self.channels),
            "input_range": "0-255",
            "dataset": self.dataset,
            "labels": self.labels or "",
            "genotype": json.dumps(self.genotype.to_dict()),
            "test_accuracy": "" if self.test_accuracy is None else repr(self.test_accuracy),
            "test_count": "" if self.test_count is None else str(self.test_count),
            "fer_nas_version": self.fer_nas_version,
            "opset": str(self.opset),
            "precision": self.precision,
            "extra": json.dumps(self.extra),
        }

    @classmethod
    def from_strings(cls, value: dict[str, str], where: str) -> ModelMetadata:
        """Metadata read back; a file that is no FER model is refused with what is missing."""
        missing = [name for name in cls.REQUIRED if not value.get(name)]
        if missing:
            raise InputError(f"{where}: not a model that fer-nas exported (no {', '.join(missing)} in its metadata)")
        try:
            return cls(
                classes=tuple(json.loads(value["classes"])),
                input_size=int(value["input_size"]),
                channels=int(value["channels"]),
                dataset=value.get("dataset", "unknown"),
                labels=value.get("labels") or None,
                genotype=Genotype.from_dict(json.loads(value["genotype"]), where),
                test_accuracy=float(value["test_accuracy"]) if value.get("test_accuracy") else None,
                test_count=int(value["test_count"]) if value.get("test_count") else None,
                fer_nas_version=value["fer_nas_version"],
                opset=int(value.get("opset") or 0),
                precision=value.get("precision") or "float32",
                extra=json.loads(value.get("extra") or "{}"),
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"{where}: its metadata cannot be read: {error}") from None
