"""The study of searches: its tables are options that exist, and a small one runs, goes on and is told."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from fer_nas.cli import app
from fer_nas.config import SearchConfig, TrainConfig
from fer_nas.errors import FerNasError, InputError
from fer_nas.report.study import above, markdown, words
from fer_nas.settings import flat_fields, option_type, override
from fer_nas.space.genotypes import GENOTYPES
from fer_nas.space.network import Network
from fer_nas.studies import searches
from fer_nas.studies.plans import PLANS, SCALES, SETTINGS, Line, Plan, Scale
from fer_nas.studies.searches import Runner, Study, check


def settings(kind, options) -> dict:
    """`--name value` pairs as values of a configuration."""
    known, given = flat_fields(kind), {}
    for name, value in zip(options[::2], options[1::2], strict=True):
        name = name.removeprefix("--").replace("-", "_")
        if name != "preset":
            given[name] = option_type(known[name][2])(value)
    return given


@pytest.mark.parametrize("scale", SCALES)
def test_every_line_and_setting_is_made_of_options_that_exist(scale):
    for plan in PLANS.values():
        for line in plan.lines:
            override(SearchConfig(), settings(SearchConfig, (*SCALES[scale].search, *line.search)))
        assert set(plan.retrained) <= {line.name for line in plan.lines}
    for setting in SETTINGS.values():
        override(TrainConfig(), settings(TrainConfig, (*SCALES[scale].train, *setting)))


def test_channels_bring_a_network_near_to_the_size_of_the_others(tmp_path):
    runner = Runner(Study(plan="methods", scale="quick", data="drawn"), tmp_path, lambda line: None)
    for name in ("DARTS_V2", "PC_DARTS_cifar"):
        chosen = runner.channels(GENOTYPES[name])
        sizes = {}
        for channels in (chosen - 1, chosen, chosen + 1):
            network = Network(GENOTYPES[name], classes=7, c_in=1, image_size=24, channels=channels, layers=4)
            sizes[channels] = sum(p.numel() for p in network.parameters())
        assert min(sizes, key=lambda channels: abs(sizes[channels] - 60_000)) == chosen


@pytest.fixture
def small(monkeypatch):
    tiny = Scale(
        search=("--preset", "tiny", "--epochs", "2", "--limit", "64", "--operations", "fer", "--channels", "2"),
        train=("--preset", "tiny", "--epochs", "1", "--limit", "64", "--warmup-epochs", "0"),
        parameters=3000,
        layers=3,
    )
    lines = (
        Line(name="first order", search=("--method", "darts-1st")),
        Line(name="random", search=("--method", "random")),
    )
    monkeypatch.setitem(PLANS, "methods", Plan(lines=lines, retrained=("random",)))
    monkeypatch.setitem(SCALES, "quick", tiny)
    monkeypatch.delitem(SETTINGS, "half the learning rate")


@pytest.mark.slow
def test_a_small_study_runs_and_what_is_there_is_not_run_again(small, tmp_path, cases):
    asked = ["study", "methods", "--data", str(cases / "fer.csv"), "--seeds", "1", "--out", str(tmp_path / "s")]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    found = json.loads((tmp_path / "s" / "study.json").read_text())
    first, random = found["rows"]
    assert first["seeds"][0]["search_seconds"] > 0 == random["seeds"][0]["search_seconds"]
    assert first["seeds"][0]["arch_entropy"] > 0 and random["seeds"][0]["arch_entropy"] is None
    kept = json.loads((tmp_path / "s" / "searches" / "random-0" / "genotype.json").read_text())["genotype"]
    skips = sum(edge[0] == "skip_connect" for edge in kept["normal"])
    assert random["seeds"][0]["genotype"] == kept and random["seeds"][0]["skips_normal"] == skips
    assert {row["setting"] for row in found["retrained"]} == set(SETTINGS)
    assert (tmp_path / "s" / "study.md").read_text() == markdown(found) and "first order" in said.stdout
    assert (tmp_path / "s" / "study.png").read_bytes().startswith(b"\x89PNG")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.log")}
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.log")}
    with pytest.raises(InputError, match="other options"):
        check(Study(plan="methods", scale="quick", data="drawn", seeds=1), tmp_path / "s")
    plan = json.loads((tmp_path / "s" / "plan.json").read_text())
    del plan["only"], plan["first_seed"]  # as an earlier version wrote it
    (tmp_path / "s" / "plan.json").write_text(json.dumps(plan))
    check(Study(plan="methods", scale="quick", data=str(cases / "fer.csv"), seeds=1), tmp_path / "s")


@pytest.mark.slow
def test_lines_and_seeds_can_be_chosen(small, tmp_path, cases):
    asked = [
        "study",
        "methods",
        "--data",
        str(cases / "fer.csv"),
        "--only",
        "random",
        "--seeds",
        "2",
        "--first-seed",
        "3",
    ]
    said = CliRunner().invoke(app, [*asked, "--out", str(tmp_path / "s")])
    assert said.exit_code == 0, said.output
    assert {path.name for path in (tmp_path / "s" / "searches").glob("*-*[0-9]")} == {"random-3", "random-4"}
    found = json.loads((tmp_path / "s" / "study.json").read_text())
    assert [(row["name"], [seed["seed"] for seed in row["seeds"]]) for row in found["rows"]] == [("random", [3, 4])]
    assert found["first_seed"] == 3 and {row["seed"] for row in found["retrained"]} in ({3}, {4})


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_fails_is_told_with_its_log(jobs, small, tmp_path, monkeypatch):
    monkeypatch.setitem(PLANS, "methods", Plan(lines=PLANS["methods"].lines[:1]))
    study = Study(plan="methods", scale="quick", data=str(tmp_path / "nowhere.zip"), seeds=1)
    with pytest.raises(
        FerNasError,
        match=r"first-order-0 ended with 2: --data .*nowhere.zip: no such file or folder; see .*first-order-0\.log",
    ):
        Runner(study, tmp_path / "s", lambda line: None, jobs).run()


def test_as_many_at_a_time_as_jobs(tmp_path):
    """Two that wait for each other end only side by side; after a failure nothing new begins."""
    runner = Runner(Study(plan="methods", scale="quick", data="drawn"), tmp_path, lambda line: None, jobs=2)
    both, done = threading.Barrier(2, timeout=20), []
    runner.each([lambda: done.append(both.wait())] * 4)
    assert sorted(done) == [0, 0, 1, 1]
    began = []

    def failing():
        began.append(len(began))
        time.sleep(0.05)
        raise FerNasError("no")

    with pytest.raises(FerNasError, match="no"):
        runner.each([failing] * 20)
    assert len(began) < 20


def test_what_cannot_be_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="methods, networks"):
        check(Study(plan="all", scale="quick", data="drawn"), tmp_path / "a")
    with pytest.raises(InputError, match="--scale"):
        check(Study(plan="methods", scale="huge", data="drawn"), tmp_path / "a")
    with pytest.raises(InputError, match="--cifar10"):
        check(Study(plan="networks", scale="quick", data="drawn"), tmp_path / "a")
    with pytest.raises(InputError, match="leave it out"):
        only = ["DARTS-FER"]
        check(Study(plan="networks", scale="quick", data="drawn", only=only, cifar10="c"), tmp_path / "a")
    with pytest.raises(InputError, match="leave it out"):
        check(Study(plan="methods", scale="quick", data="drawn", cifar10="c"), tmp_path / "a")
    for wrong, message in (
        ({"data": "nowhere.zip"}, "--data nowhere.zip: no such file or folder"),
        ({"data": "drawn", "labels": "votes"}, "--labels is 'votes'; choose from fer2013, ferplus"),
        ({"data": "drawn", "device": "gpu"}, "--device is 'gpu'; choose auto"),
        ({"data": "drawn", "cifar10": "gone", "plan": "networks"}, "--cifar10 gone: no such file or folder"),
        ({"data": "drawn", "labels": "ferplus"}, "FER\\+ votes are for FER2013, and drawn is drawn"),
        ({"data": "drawn", "first_seed": 2**63 - 1}, "seeds end at"),
    ):
        with pytest.raises(InputError, match=message):
            check(Study(**{"plan": "methods", "scale": "quick", **wrong}), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        check(Study(plan="methods", scale="quick", data="drawn"), tmp_path / "b")


def test_lines_by_name():
    assert searches.chosen("methods", ["delta-stn", " STN ", "Δ-STN", ""]) == ["STN", "Δ-STN"]
    for wrong, what in ((["nothing", "random"], "no line 'nothing'"), ([""], "no line without a name")):
        with pytest.raises(InputError, match=f"--only: the plan methods has {what}; choose from first order, second"):
            searches.chosen("methods", wrong)


def test_a_study_that_is_there_needs_its_data_no_more(tmp_path):
    (tmp_path / "f.zip").touch()
    asked = Study(plan="methods", scale="quick", data=str(tmp_path / "f.zip"), only=["STN", "random"])
    assert check(asked, tmp_path / "s").only == ["STN", "random"]
    (tmp_path / "f.zip").unlink()
    assert check(replace(asked, only=["random", "STN", "STN"]), tmp_path / "s").only == ["STN", "random"]
    (tmp_path / "s" / "plan.json").write_text("[1]")
    with pytest.raises(InputError, match="holds a study with other options"):
        check(asked, tmp_path / "s")


def test_how_a_run_ended(tmp_path):
    log = tmp_path / "a.log"
    log.write_bytes("│ 3 │ 1.72 │\nfer-nas: no room \xb1\n".encode("latin-1", "ignore"))
    assert searches.ending(2, log).startswith("ended with 2: no room") and "goes on" not in searches.ending(2, log)
    assert searches.ending(1, log).endswith("; the same command goes on")
    assert searches.ending(-9, log) == "was ended by signal 9 (out of memory?); the same command goes on"
    log.write_text("")
    assert searches.ending(2, log) == "ended with 2"


def test_the_table_says_what_a_search_is_above_random_cells():
    figures = dict.fromkeys(
        ["supernet_val_accuracy", "arch_entropy", "response_ratio", "val_accuracy", "flops", "search_seconds",
         "peak_memory_mib", "parameters", "skips_normal"], 1.0,
    )  # fmt: skip
    rows = [
        {"name": name, "seeds": [{**figures, "accuracy": value, "n": 50} for value in values]}
        for name, values in (("STN", (0.61, 0.62, 0.63)), ("random", (0.60, 0.61, 0.62)))
    ]
    _, _, stn, random, *_ = markdown({"rows": rows, "retrained": []}).splitlines()
    # 62 - 61; variances of 1 over three seeds each: √(1/3 + 1/3) = 0.816.
    assert stn.endswith("| +1.0 ± 0.8 |") and random.endswith("| – |") and "| 62.0 ± 1.0 |" in stn


def test_words_tell_mean_and_spread():
    assert words([0.5, 0.6], 100) == "55.0 ± 7.1" and words([0.5], 100) == "50.0" and words([None]) == "–"
    assert searches.plain("Δ-STN") == "delta-stn"


def test_what_a_search_is_above_random_cells():
    # Means 62 and 61; variances 1 and 3, over 3 and 3 seeds: √(1/3 + 3/3) = 1.155.
    mean, error = above([0.61, 0.62, 0.63], [0.61 + 3**0.5 / 100 * x for x in (-1, 0, 1)])
    assert mean == pytest.approx(0.01) and error == pytest.approx(0.01155, abs=1e-5)
    assert above([0.5], [0.4, 0.5]) is None
