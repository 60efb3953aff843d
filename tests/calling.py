"""The program as a user calls it, in this process."""

from __future__ import annotations

from click.testing import Result
from typer.testing import CliRunner

from fer_nas.cli import app

TINY = ("--preset", "tiny", "--epochs", 1, "--channels", 4, "--image-size", 16, "--threads", 1, "--device", "cpu")
SEARCH = (*TINY, "--layers", 1, "--space", "fer", "--batch-size", 16)
TRAIN = (*TINY, "--layers", 2, "--batch-size", 12, "--warmup-epochs", 0)


def fer_nas(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})


def assert_refused(result: Result, *parts: str, code: int = 2) -> None:
    """One line on stderr with all of `parts`, nothing on stdout, that exit code, no traceback."""
    last = result.stderr.strip().splitlines()[-1] if result.stderr.strip() else ""
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert last.startswith("fer-nas: ") and all(part in last for part in parts), last
    assert "Traceback" not in result.stderr and not result.stdout
