"""`fer-nas compare`: the table against figures worked out by hand, what is refused, the pictures' files."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fer_nas.cli import app
from fer_nas.errors import InputError
from fer_nas.report.comparison import cells, comma_separated, groups, markdown, read
from fer_nas.report.comparison_pictures import NONE_HERE, curves_figure

SKIP, SEP = ["skip_connect", 0], ["sep_conv_3x3", 1]


def genotype(first: list[Any]) -> dict[str, Any]:
    nodes = [2, 3]
    return {"normal": [first, SEP, SEP, SKIP], "normal_concat": nodes, "reduce": [SEP] * 4, "reduce_concat": nodes}


def write(folder: Path, **files: Any) -> Path:
    folder.mkdir()
    for name, value in files.items():
        rows = value if name == "metrics" else None
        text = "".join(json.dumps(row) + "\n" for row in rows) if rows is not None else json.dumps(value)
        (folder / ("metrics.jsonl" if name == "metrics" else f"{name}.json")).write_text(text)
    return folder


def search(folder: Path, seed: int, accuracy: float, first: list[Any], method: str = "soba") -> Path:
    config = {"run": {"seed": seed}, "arch": {"method": method, "space": "gdas", "operations": "fer"}}
    edge = [[0.25, 0.75]]
    row = {"val_accuracy": accuracy, "val_loss": 2.0, "seconds": 30.0, "gpu_days": 0.0, "peak_memory_mib": 100.0}
    rows = [row | {"epoch": epoch, "mixtures": {"normal": edge, "reduce": edge}} for epoch in (1, 2)]
    rows[0]["val_accuracy"] = 0.1
    return write(
        folder,
        config={"kind": "search", "config": config},
        genotype={"genotype": genotype(first)},
        metrics=[] if method == "random" else rows,
    )


def training(folder: Path, first: list[Any], accuracy: float) -> Path:
    test = {"val_accuracy": 0.7, "accuracy": accuracy, "parameters": 1000, "flops": 2e6}
    return write(folder, config={"kind": "train", "config": {}, "genotype": genotype(first)}, test=test)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        search(tmp_path / "a", 0, 0.4, SKIP),
        search(tmp_path / "b", 1, 0.5, SEP),
        search(tmp_path / "c", 0, 0.0, ["max_pool_3x3", 0], method="random"),
        training(tmp_path / "ta", SKIP, 0.60),
        training(tmp_path / "tb", SEP, 0.64),
    ]


def test_a_search_that_tunes_is_a_group_of_its_own(runs: list[Path]) -> None:
    saved = json.loads((runs[1] / "config.json").read_text())
    saved["config"]["tuning"] = {"tune": "dropout"}
    (runs[1] / "config.json").write_text(json.dumps(saved))
    names = ["soba, gdas of fer", "soba, gdas of fer, tuning dropout", "random, gdas of fer"]
    assert list(groups(read(runs))) == names


def change(folder: Path, **settings: Any) -> None:
    """Of a run's config.json, by section_name."""
    saved = json.loads((folder / "config.json").read_text())
    for place, value in settings.items():
        section, name = place.split("_", 1)
        saved["config"].setdefault(section, {})[name] = value
    (folder / "config.json").write_text(json.dumps(saved))


def test_searches_of_other_settings_are_rows_of_their_own(runs: list[Path]) -> None:
    change(runs[0], run_epochs=2, run_threads=1)
    change(runs[1], run_epochs=1, run_threads=2)
    names = ["soba, gdas of fer, epochs 2", "soba, gdas of fer, epochs 1", "random, gdas of fer"]
    searches = read(runs)
    assert list(groups(searches)) == names and [row[1] for row in cells(searches)] == ["1"] * 3
    change(runs[1], run_epochs=2)
    assert list(groups(read(runs))) == [names[0].removesuffix(", epochs 2"), names[2]]
    change(runs[1], run_seed=0)
    with pytest.raises(InputError, match=r"b is .*a again, its settings and its seed; give one"):
        read(runs)


def test_rows_of_other_images_or_budgets_are_told_in_short_words(runs: list[Path], tmp_path: Path) -> None:
    change(runs[0], data_data="/a/long/way/to/one.zip", data_limit=None, run_epochs=2)
    change(runs[1], data_data="/a/long/way/to/two.zip", data_limit=100, run_epochs=2)
    names = ["soba, gdas of fer, data one.zip, limit not given", "soba, gdas of fer, data two.zip, limit 100"]
    assert list(groups(read(runs)))[:2] == names
    change(runs[1], data_data="/a/longer/way/to/one.zip", data_limit=None)
    names = [f"soba, gdas of fer, data /a/{way}/way/to/one.zip" for way in ("long", "longer")]
    assert list(groups(read(runs)))[:2] == names
    change(runs[1], data_data="/a/long/way/to/one.zip")
    change(runs[2], data_data="/a/long/way/to/one.zip", run_epochs=3, arch_max_skips=2)
    found = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert found.exit_code == 0 and found.stderr == "note: the rows' searches differ in run.epochs\n"
    change(runs[0], arch_max_skips=None, response_response_batch=64)  # as an older version did not write it
    change(runs[1], arch_max_skips=1, response_response_batch=128)
    names = [
        f"soba, gdas of fer, max_skips {skips}, response_batch {size}" for skips, size in (("not given", 64), (1, 128))
    ]
    older = search(tmp_path / "older", 2, 0.4, SEP)
    change(older, data_data="/a/long/way/to/one.zip", run_epochs=2)
    assert list(groups(read([*runs, older]))) == [*names, "random, gdas of fer", "soba, gdas of fer"]


def test_what_is_not_finished_or_several(runs: list[Path], tmp_path: Path) -> None:
    change(runs[0], run_epochs=3)
    with pytest.raises(InputError, match="a is not finished; go on with fer-nas search --resume"):
        read(runs)
    change(runs[0], arch_stable_epochs=1)  # which ends a search before its last epoch
    assert len(read([runs[0], runs[3]])) == 1
    several = write(tmp_path / "several", config={"kind": "seeds", "seeds": [0, 1], "config": {}})
    with pytest.raises(InputError, match="several is not finished; go on with fer-nas search --resume"):
        read([several])
    for seed in (0, 1):
        write(several / f"seed-{seed}", genotype={})
    with pytest.raises(InputError, match=r"holds searches of several seeds; give these: .*seed-0, .*seed-1"):
        read([several])


def test_trainings_of_one_row_are_alike(runs: list[Path]) -> None:
    change(runs[3], network_channels=16, run_seed=1)
    change(runs[4], network_channels=20, run_seed=2)
    assert [len(search.trained) for search in read(runs)] == [1, 1, 0]
    change(runs[3], run_epochs=3)
    change(runs[4], run_epochs=4)
    change(runs[1], weights_momentum=0.5)
    change(runs[0], weights_momentum=0.9)
    found = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert found.exit_code == 0 and "note: the rows' trainings differ in run.epochs\n" in found.stderr
    change(runs[1], weights_momentum=0.9)
    with pytest.raises(InputError, match=r"ta and .*tb are not trained alike \(run.epochs\); give those of one recipe"):
        read(runs)


def test_table(runs: list[Path]) -> None:
    searches = read(runs)
    assert list(groups(searches)) == ["soba, gdas of fer", "random, gdas of fer"]
    first, second = cells(searches)
    # 0.4 and 0.5: mean 45, deviation 7.07; errors 40 and 36; two skips and one skip in the normal cells.
    assert first == [
        "soba, gdas of fer", "2", "2", "45.0 ± 7.1", "70.0 ± 0.0", "38.0 ± 2.8", "1,000 ± 0", "2.0 ± 0.0", "60 ± 0",
        "0.0000 ± 0.0000", "100 ± 0", "1.5 ± 0.7", "0.0 ± 0.0",
    ]  # fmt: skip
    assert second == ["random, gdas of fer", "1", "0", *["–"] * 8, "1.0", "0.0"]
    assert markdown(searches).count("\n") == 4 and "| 45.0 ± 7.1 |" in markdown(searches)
    rows = list(csv.DictReader(io.StringIO(comma_separated(searches))))
    assert [row["seed"] for row in rows] == ["0", "1", "0"]
    assert float(rows[0]["supernet val accuracy %"]) == 40.0 and rows[2]["test error %"] == ""


def test_every_search_counts_once(runs: list[Path], tmp_path: Path) -> None:
    again = training(tmp_path / "again", SKIP, 0.80)
    searches = read([*runs, again])
    # errors 40 and 20, mean 30, of one search; 36 of the other: mean 33, deviation 4.24.
    assert cells(searches)[0][2] == "3" and cells(searches)[0][5] == "33.0 ± 4.2"
    assert cells(read([runs[0], runs[3], again]))[0][5] == "30.0 ± 14.1"  # over the trainings of one search
    assert cells(read([*runs[:2], runs[3], again]))[0][5] == "30.0"  # of one of two searches


def test_a_training_belongs_to_the_search_that_it_names(runs: list[Path], tmp_path: Path) -> None:
    same = search(tmp_path / "same", 2, 0.3, SKIP)
    for folder, seed in ((runs[0], 0), (same, 2), (runs[3], 2)):
        found = {"genotype": genotype(SKIP), "seed": seed, "version": str(folder)}
        (folder / "genotype.json").write_text(json.dumps(found))
    assert [len(search.trained) for search in read([runs[0], same, runs[3]])] == [0, 1]
    (runs[3] / "genotype.json").unlink()
    assert [len(search.trained) for search in read([runs[0], same, runs[3]])] == [1, 0]


def test_curves_are_in_percent_and_empty_panels_say_so(runs: list[Path]) -> None:
    accuracy, *_, response = curves_figure(read(runs)[:2]).axes
    assert [line.get_ydata()[-1] for line in accuracy.lines] == [40.0, 50.0]
    assert not response.lines and response.texts[0].get_text() == NONE_HERE


def test_command(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["compare", *map(str, runs), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "45.0 ± 7.1" in result.stdout
    made = sorted(path.name for path in out.iterdir())
    assert made == ["cells.png", "comparison.csv", "comparison.md", "curves.png", "lambda.png"]
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in made if name.endswith("png"))
    refused = CliRunner().invoke(app, ["compare", str(runs[0]), "--out", str(runs[1])])
    assert refused.exit_code == 2 and "holds a run; choose another folder" in refused.stderr


def test_what_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no search among these folders"):
        read(runs[3:])
    with pytest.raises(InputError, match="tb trained a genotype that none of these searches found"):
        read([runs[0], runs[4]])
    with pytest.raises(InputError, match="is not a run folder"):
        read([tmp_path])
    with pytest.raises(InputError, match="is a tune run"):
        read([write(tmp_path / "t", config={"kind": "tune"})])
    (runs[3] / "test.json").unlink()
    with pytest.raises(InputError, match="ta is not finished; go on with fer-nas train --resume"):
        read(runs)
    (runs[0] / "genotype.json").unlink()
    with pytest.raises(InputError, match="a has no genotype yet"):
        read(runs)
