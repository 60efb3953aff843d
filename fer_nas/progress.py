"""A live table of epochs with a progress bar and the time left; plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

Columns = dict[str, tuple[str, Callable[[Any], str]]]
ROWS_SHOWN = 12
PLAIN_SECONDS = 30.0  # between two plain lines within an epoch


def percent(value: Any) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def number(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}"


def seconds(value: float) -> str:
    minutes, rest = divmod(int(value), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def say(console: Console, line: str) -> None:
    """One line as it is: no markup, no colours, not wrapped."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _figure(row: dict[str, Any], key: str) -> Any:
    """row[key]; `a.b` is row[a][b]. None for what is not there."""
    found: Any = row
    for word in key.split("."):
        found = found.get(word) if isinstance(found, dict) else None
    return found


class EpochTable:
    """columns: metrics key → (heading, format). words: what an epoch and a step are called.

    Use as a context manager; notes go to the console it is given.
    """

    def __init__(
        self,
        title: str,
        columns: Columns,
        epochs: int,
        steps: int,
        console: Console,
        words: tuple[str, str] = ("epoch", "step"),
    ) -> None:
        self.title, self.columns, self.epochs, self.steps, self.console = (
            title,
            columns,
            epochs,
            steps,
            console,
        )
        self.words = words
        self.rows: list[dict[str, Any]] = []
        self.epoch = 0
        self.live: Live | None = None
        self._last_line = self._started = time.monotonic()
        self._first_step: int | None = None
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(words[1] + "s"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console,
        )  # fmt: skip
        self.task = self.progress.add_task(escape(title), total=epochs * steps)

    def __enter__(self) -> EpochTable:
        if self.console.is_terminal:
            self.live = Live(self._render(), console=self.console, refresh_per_second=4)
            self.live.__enter__()
        else:
            say(self.console, self.title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.update(self._render())
            self.live.__exit__(kind, value, trace)

    def _render(self) -> Group:
        table = Table(title=Text(self.title), title_justify="left")
        for heading, _ in self.columns.values():
            table.add_column(heading, justify="right")
        for row in self.rows[-ROWS_SHOWN:]:
            table.add_row(*self._cells(row))
        return Group(table, self.progress)

    def _cells(self, row: dict[str, Any]) -> list[str]:
        return [form(_figure(row, key)) for key, (_, form) in self.columns.items()]

    def step(self, epoch: int, step: int) -> None:
        """`step` steps of `epoch` (counted from 1) are done."""
        done = (epoch - 1) * self.steps + step
        if self._first_step is None:
            self._first_step = done - 1
        self.progress.update(self.task, completed=done)
        now = time.monotonic()
        if self.live:
            self.live.update(self._render())
        elif now - self._last_line >= PLAIN_SECONDS and step < self.steps:
            rate = (now - self._started) / max(1, done - self._first_step)
            left = seconds(rate * (self.epochs * self.steps - done))
            whole, part = self.words
            say(self.console, f"{whole} {epoch}/{self.epochs}  {part} {step}/{self.steps}  left {left}")
            self._last_line = now

    def add(self, row: dict[str, Any]) -> None:
        """The metrics of a finished epoch."""
        self.rows.append(row)
        if self.live:
            self.live.update(self._render())
        else:
            words = [
                f"{heading} {cell}" for (heading, _), cell in zip(self.columns.values(), self._cells(row), strict=True)
            ]
            say(self.console, "  ".join(words))
            self._last_line = time.monotonic()
