"""The table of epochs: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fer_nas import progress
from fer_nas.progress import Columns, EpochTable, number, percent, say, seconds

COLUMNS: Columns = {"epoch": ("epoch", str), "loss": ("loss", number), "accuracy": ("accuracy", percent)}


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_formats() -> None:
    assert (number(0.123), number(None)) == ("0.1230", "–")
    assert (percent(0.5), percent(None)) == ("50.00 %", "–")
    assert [seconds(value) for value in (0, 9.9, 61, 3600, 90061)] == ["0:00", "0:09", "1:01", "1:00:00", "25:01:01"]


def test_plain_lines_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=40)
    with EpochTable("x [red] on a rather long CPU, 1 thread of many", COLUMNS, 2, 3, console) as table:
        for epoch in (1, 2):
            for step in (1, 2, 3):
                table.step(epoch, step)
            table.add({"epoch": epoch, "loss": 2.5, "accuracy": 0.25})
    assert written(console).splitlines() == [
        "x [red] on a rather long CPU, 1 thread of many",
        "epoch 1  loss 2.5000  accuracy 25.00 %",
        "epoch 2  loss 2.5000  accuracy 25.00 %",
    ]


def test_plain_lines_within_a_long_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    console = Console(file=io.StringIO())
    with EpochTable("title", COLUMNS, 2, 100, console) as table:
        for step in (51, 52, 53, 54):  # a run that was resumed
            clock[0] += 20
            table.step(1, step)
    # 4 steps took 80 s, so 20 s each; 146 are left
    assert written(console).splitlines()[1:] == [
        "epoch 1/2  step 52/100  left 49:20",
        "epoch 1/2  step 54/100  left 48:40",
    ]


def test_table_and_bar_in_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with EpochTable("[red] title", COLUMNS, 20, 2, console) as table:
        for epoch in range(1, 15):
            table.step(epoch, 1)
            table.add({"epoch": epoch, "loss": float(epoch)})
    text = written(console)
    assert "[red] title" in text and "14.0000" in text and "accuracy" in text and "–" in text
    last = text[text.rindex("┏") :]
    assert "3.0000" in last and " 2.0000" not in last, "the last twelve rows"
    assert "27/40" in last


def test_a_failure_inside_leaves_the_terminal_as_it_was() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with pytest.raises(ZeroDivisionError), EpochTable("title", COLUMNS, 1, 2, console):
        raise ZeroDivisionError
    assert written(console).endswith("\x1b[?25h"), "the cursor is shown again"


def test_say_is_not_wrapped_and_has_no_markup() -> None:
    console = Console(file=io.StringIO(), width=10)
    say(console, "a [bold]file[/bold] with a long name 50%d")
    assert written(console) == "a [bold]file[/bold] with a long name 50%d\n"
