"""Several searches ranked by short trainings: order, files, a stop and going on, and that no test image is read."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fer_nas import ranking
from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.cli import app
from fer_nas.config import SearchConfig
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError
from fer_nas.presets import SEARCH_PRESETS
from fer_nas.runtime import Interrupted
from fer_nas.settings import build, read_seeds
from fer_nas.train.run import Training

SMALL = {
    "channels": 2, "layers": 1, "limit": 24, "batch_size": 12, "image_size": 16, "threads": 1, "device": "cpu",
    "space": "fer", "stem": "stride2", "epochs": 1,
}  # fmt: skip
WORDS = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="module")
def config(cases: Path) -> SearchConfig:
    return build(SearchConfig, SEARCH_PRESETS, "tiny", SMALL | {"data": str(cases / "fer.csv")})


@pytest.fixture(scope="module")
def ranked(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, str]:
    """Two seeds by the command line, and what it printed."""
    out = tmp_path_factory.mktemp("ranked") / "top"
    words = ["search", "--seeds", "3,5", "--rank-epochs", "2", "--preset", "tiny", "--out", str(out), *WORDS]
    result = CliRunner().invoke(app, [*words, "--data", str(cases / "fer.csv")])
    assert result.exit_code == 0, result.stderr
    return RunFolder(out), result.stdout


def test_what_is_left(ranked: tuple[RunFolder, str]) -> None:
    top, shown = ranked
    assert {path.name for path in top.path.iterdir()} == {
        "config.json", "ranking.json", "genotype.json", "seed-3", "seed-5",
    }  # fmt: skip
    found = json.loads((top / "ranking.json").read_text())
    rows = found["rows"]
    assert {row["seed"] for row in rows} == {3, 5} and found["rank_epochs"] == 2
    assert rows[0]["val_accuracy"] >= rows[1]["val_accuracy"]
    best = GenotypeFile.load(top / "genotype.json")
    assert best == GenotypeFile.load(top / rows[0]["folder"] / "genotype.json") and best.seed == rows[0]["seed"]
    for row in rows:
        trained = RunFolder(top / row["folder"] / "train")
        figures = json.loads((trained / "test.json").read_text())
        assert figures["val_accuracy"] == row["val_accuracy"] == max(r["val_accuracy"] for r in trained.metrics())
        assert not {"accuracy", "n", "confusion", "test_largest"} & set(figures), "no figure of the test split"
        assert not (trained / "confusion.png").exists()
        assert json.loads((trained / "config.json").read_text())["config"]["run"]["seed"] == 3, "all trained alike"
        p = row["val_accuracy"]
        assert row["standard_error"] == pytest.approx((p * (1 - p) / 14) ** 0.5) and row["val_count"] == 14
    lines = shown.splitlines()
    assert [line.split("│")[2].strip() for line in lines if line.startswith("│")] == [str(row["seed"]) for row in rows]
    assert lines[-1] == f"genotype {top / 'genotype.json'}"


def test_a_finished_one_is_left_as_it_is(ranked: tuple[RunFolder, str]) -> None:
    top, shown = ranked
    before = {path: path.read_bytes() for path in top.path.rglob("*") if path.is_file()}
    result = CliRunner().invoke(app, ["search", "--resume", str(top.path)])
    assert result.exit_code == 0 and result.stdout == shown
    assert {path: path.read_bytes() for path in top.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("at", [1, 2])
def test_stopped_and_resumed(
    at: int, config: SearchConfig, tmp_path: Path, ranked: tuple[RunFolder, str], monkeypatch: pytest.MonkeyPatch,
    interrupt_at: Callable[[int, int, int], None],
) -> None:  # fmt: skip
    """Within the first search, and within the first training's second epoch; it ends as the one never stopped."""
    out = tmp_path / "top"
    with monkeypatch.context():
        interrupt_at(at, 1, signal.SIGTERM)
        with pytest.raises(Interrupted, match=r'^stopped; go on with: fer-nas search --resume ".*top"$') as stopped:
            ranking.rank(config, (3, 5), 2, out, quiet())
        assert stopped.value.exit_code == 143
        monkeypatch.undo()
    ranking.resume(out, quiet())
    assert (out / "ranking.json").read_text() == (ranked[0] / "ranking.json").read_text()


def test_stopped_before_the_first_step(config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ranking, "search", stop)
    with pytest.raises(Interrupted, match=r'^stopped; go on with: fer-nas search --resume ".*top"$') as stopped:
        ranking.rank(config, (3, 5), 2, tmp_path / "top", quiet())
    assert stopped.value.exit_code == 130


def test_no_test_image_reaches_a_training(
    config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    start = Training.__init__

    def look(self: Training, config: object, spec: object, folder: object, dataset: DataSet, console: object) -> None:
        seen.append(set(dataset.splits))
        start(self, config, spec, folder, dataset, console)  # type: ignore[arg-type]

    monkeypatch.setattr(Training, "__init__", look)
    drawn = replace(config, arch=replace(config.arch, method="random"))
    top = ranking.rank(drawn, (0, 1), 1, tmp_path / "top", quiet())
    assert seen == [{"train", "val"}] * 2
    row = json.loads((top / "ranking.json").read_text())["rows"][0]
    assert row["supernet_val_accuracy"] is None, "random cells have no supernet"


@pytest.mark.parametrize("text", ["", "1", "1,1", "a,b", "-1,2", "1.5,2"])
def test_wrong_seeds(text: str) -> None:
    with pytest.raises(InputError, match=r"--seeds is "):
        read_seeds(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0,1", "--seed", "2"], "--seed and --seeds were both given"),
        (["--rank-epochs", "3"], "--rank-epochs is read with --seeds only"),
        (["--resume", ".", "--seeds", "0,1"], "leave out --seeds"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["search", *words])
    assert result.exit_code == 2 and message in result.stderr


def test_several_processes(config: SearchConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_nas.parallel.count", lambda: 2)
    with pytest.raises(InputError, match="--seeds runs its searches in one process"):
        ranking.rank(config, (0, 1), 1, tmp_path / "top", quiet())
