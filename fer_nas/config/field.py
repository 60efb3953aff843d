"""A field of a configuration."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(
    default: Any,
    help: str,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    infinite: bool = False,
) -> Any:
    """low, high: smallest and largest value. infinite: whether inf is one."""
    about = {"help": help, "choices": choices, "low": low, "high": high, "infinite": infinite}
    return field(default=default, metadata=about)
