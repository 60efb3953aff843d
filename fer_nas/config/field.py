"""A field of a configuration."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any, help: str, choices: tuple[str, ...] = (), low: float | None = None, high: float | None = None
) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices, "low": low, "high": high})
