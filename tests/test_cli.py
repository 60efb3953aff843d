"""The commands as a user types them: results on stdout, notes on stderr, exit codes, one line for every mistake."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from calling import SEARCH, TRAIN, assert_refused, fer_nas
from click.testing import Result

from fer_nas.artifacts import GenotypeFile
from fer_nas.space.genotypes import find


@pytest.fixture(scope="module")
def searched(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("search") / "run"
    return out, fer_nas("search", "--data", cases / "fer.csv", "--method", "darts-2nd", *SEARCH, "--out", out)


@pytest.fixture(scope="module")
def trained(
    searched: tuple[Path, Result], cases: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Result]:
    """In a folder whose name is not ASCII, with blanks and a percent sign."""
    folder = tmp_path_factory.mktemp("train") / "Übung 表情 50%d"
    shutil.copytree(cases / "folder", folder / "folder")
    shutil.copy(cases / "fer.csv", folder / "fer.csv")
    out = folder / "läuft [1]"
    return out, fer_nas("train", searched[0], "--data", folder / "fer.csv", *TRAIN, "--out", out)


def test_search(searched: tuple[Path, Result]) -> None:
    out, result = searched
    assert result.exit_code == 0, result.stderr
    accuracy, genotype, picture = result.stdout.splitlines()
    assert accuracy.startswith("validation accuracy ") and accuracy.endswith(" %")
    assert (genotype, picture) == (f"genotype {out / 'genotype.json'}", f"picture {out / 'cells.png'}")
    assert f"run folder: {out}" in result.stderr and "darts-2nd in fer on fer2013, CPU, 1 thread" in result.stderr
    assert "epoch 1" in result.stderr and "λ entropy" in result.stderr


def test_train(trained: tuple[Path, Result]) -> None:
    out, result = trained
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"run {out}"
    for word in ("validation accuracy (epoch 1)", "test accuracy", "test macro-F1", "parameters", "FLOPs"):
        assert word in result.stdout
    assert f"run folder: {out}" in result.stderr and "CPU, 1 thread" in result.stderr


def test_export_and_evaluate(trained: tuple[Path, Result]) -> None:
    out, _ = trained
    exported = fer_nas("export", out)
    assert exported.exit_code == 0, exported.stderr
    assert exported.stdout.startswith(f"{out / 'model.onnx'}  ") and "256 images" in exported.stdout
    correct = json.loads((out / "test.json").read_text())["correct"]
    for words in ([out], [out / "model.onnx", "--data", out.parent / "fer.csv"]):
        result = fer_nas("evaluate", *words)
        assert f"fer2013 test accuracy {100 * correct / 14:.2f} % ({correct} of n = 14)" in result.stdout, result.stderr
    value = json.loads(fer_nas("evaluate", out, "--split", "val", "--json").stdout)
    assert value["n"] == 14 and value["split"] == "val"
    assert_refused(fer_nas("evaluate", out / "model.onnx"), "give the images with --data", "fer2013")
    assert_refused(fer_nas("evaluate", out, "--split", "test_largest"), "test_largest")
    names = json.loads({p.key: p.value for p in onnx.load(out / "model.onnx").metadata_props}["classes"])
    assert names == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


def test_data_in_a_folder_with_an_odd_name(trained: tuple[Path, Result], cases: Path) -> None:
    odd, plain = (
        json.loads(fer_nas("data", folder / "folder", "--json").stdout) for folder in (trained[0].parent, cases)
    )
    assert odd["splits"] == plain["splits"]
    sheet = trained[0].parent / "ö ü.png"
    assert fer_nas("data", trained[0].parent / "fer.csv", "--sheet", sheet).exit_code == 0
    assert sheet.read_bytes()[:4] == b"\x89PNG"


# What the parser itself refuses


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["search", "--epochs", "many"], ("--epochs", "see fer-nas search --help")),
        (["search", "--epochs"], ("--epochs", "requires an argument")),
        (["search", "--nothing"], ("--nothing",)),
        (["serch"], ("serch", "search")),
        (["evaluate"], ("Missing argument", "model")),
        (["export", "a", "b"], ("unexpected", "b")),
    ],
)
def test_the_parsers_own_errors_are_one_line(words: list[str], parts: tuple[str, ...]) -> None:
    result = fer_nas(*words)
    assert_refused(result, *parts)
    assert len(result.stderr.strip().splitlines()) == 1


def test_no_command_shows_the_help() -> None:
    result = fer_nas()
    assert result.exit_code == 2 and "search" in result.stdout + result.stderr


# Resuming


def test_resume_of_finished_runs(searched: tuple[Path, Result], trained: tuple[Path, Result]) -> None:
    for command, (out, first) in (("search", searched), ("train", trained)):
        again = fer_nas(command, "--resume", out)
        assert (again.exit_code, again.stdout) == (0, first.stdout), again.stderr


def test_resume_without_a_checkpoint_says_that_it_starts_over(
    searched: tuple[Path, Result], trained: tuple[Path, Result], tmp_path: Path
) -> None:
    for command, (out, first) in (("search", searched), ("train", trained)):
        shutil.copytree(out, tmp_path / command)
        (tmp_path / command / "checkpoint.pt").unlink()
        again = fer_nas(command, "--resume", tmp_path / command)
        assert again.exit_code == 0 and again.stdout == first.stdout.replace(str(out), str(tmp_path / command))
        assert f"note: {tmp_path / command} has no checkpoint.pt; it starts with the first epoch" in again.stderr


def test_a_study_does_not_write_into_a_run(searched: tuple[Path, Result]) -> None:
    before = sorted(searched[0].iterdir())
    assert_refused(fer_nas("toy", "--out", searched[0]), "holds a run; choose another folder with --out")
    assert sorted(searched[0].iterdir()) == before


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["search", "--epochs", "9"], "--epochs"),
        (["search", "--preset", "tiny"], "--preset"),
        (["search", "--out", "x"], "--out"),
        (["train", "DARTS_V2"], "GENOTYPE"),
        (["train", "--no-auxiliary", "--seed", "0"], "--auxiliary"),
    ],
)
def test_resume_takes_no_other_option(words: list[str], given: str, searched: tuple[Path, Result]) -> None:
    assert_refused(fer_nas(*words, "--resume", searched[0]), "leave out", given)


def test_resume_of_the_other_kind(searched: tuple[Path, Result], trained: tuple[Path, Result], tmp_path: Path) -> None:
    assert_refused(fer_nas("train", "--resume", searched[0]), "holds a search run; a training run is needed")
    assert_refused(fer_nas("search", "--resume", trained[0]), "is a train run", "fer-nas train --resume")
    for command in ("search", "train"):
        assert_refused(fer_nas(command, "--resume", tmp_path), "is not a run folder")


def test_ctrl_c(cases: Path, tmp_path: Path, interrupt_at: Callable[[int, int, int], None]) -> None:
    interrupt_at(1, 1, signal.SIGINT)
    result = fer_nas("train", "DARTS_V2", "--data", cases / "fer.csv", *TRAIN, "--out", tmp_path / "run")
    assert_refused(result, f'stopped; go on with: fer-nas train --resume "{tmp_path / "run"}"', code=130)
    assert fer_nas("train", "--resume", tmp_path / "run").exit_code == 0


# What a user can get wrong


def test_a_run_is_never_overwritten(searched: tuple[Path, Result], cases: Path) -> None:
    out = searched[0]
    for words in (["search", *SEARCH], ["train", "DARTS_V2", *TRAIN]):
        assert_refused(fer_nas(*words, "--data", cases / "fer.csv", "--out", out), "already holds a run", "--resume")


def test_wrong_genotypes(tmp_path: Path) -> None:
    unknown = find("DARTS_V2")
    unknown.save(tmp_path / "g.json")
    (tmp_path / "g.json").write_text((tmp_path / "g.json").read_text().replace("max_pool_3x3", "max_pool_9x9"))
    assert_refused(fer_nas("train", "DARTS_V9", *TRAIN), "DARTS_V9", "DARTS_V2")
    assert_refused(fer_nas("train", tmp_path / "g.json", *TRAIN), "unknown operation max_pool_9x9", "max_pool_3x3")
    assert_refused(fer_nas("train", tmp_path, *TRAIN), "no genotype.json in this folder")
    assert_refused(fer_nas("train", *TRAIN), "give a genotype")


def test_training_takes_the_recipe_of_its_genotype(cases: Path, tmp_path: Path) -> None:
    """By default; an option goes before it, and --no-recipe leaves the preset's values."""
    tuned = replace(find("DARTS_V2"), recipe={"dropout": 0.25, "rotate": 12.5, "label_smoothing": 0.1})
    tuned.save(tmp_path / "g.json")
    words = ["train", tmp_path / "g.json", *TRAIN, "--data", cases / "fer.csv", "--rotate", 3]
    wanted = {"taken": (0.25, 3.0, 0.1), "left": (0.0, 3.0, 0.0)}
    for name, more in (("taken", ()), ("left", ("--no-recipe",))):
        result = fer_nas(*words, "--out", tmp_path / name, *more)
        assert result.exit_code == 0, result.stderr
        config = json.loads((tmp_path / name / "config.json").read_text())["config"]
        found = config["recipe"]["dropout"], config["augment"]["rotate"], config["recipe"]["label_smoothing"]
        assert found == wanted[name]
        note = "note: recipe of DARTS_V2: dropout 0.25, label_smoothing 0.1; --no-recipe leaves it out"
        assert (note in result.stderr) == (name == "taken")
        assert GenotypeFile.load(tmp_path / name / "genotype.json").recipe == tuned.recipe
    assert_refused(fer_nas("train", "--resume", tmp_path / "taken", "--no-recipe"), "leave out --no-recipe")


def test_wrong_models(searched: tuple[Path, Result], cases: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    data = ["--data", cases / "fer.csv"]
    assert_refused(fer_nas("evaluate", tmp_path / "model.onnx", *data), "model.onnx is not a usable ONNX model")
    for command in ("evaluate", "verify"):
        gone = fer_nas(command, tmp_path / "gone.onnx", *data)
        assert_refused(gone, "model not found", "released models: fer-nas-ferplus")
        assert_refused(fer_nas(command, "fer-nas-ferplus"), "give the images with --data", "was trained on fer2013")
    assert_refused(fer_nas("evaluate", tmp_path, *data), "is not a run folder")
    assert_refused(fer_nas("evaluate", searched[0]), "is a search; train what it found first")
    assert_refused(fer_nas("export", searched[0]), "is a search; train what it found first")
    assert_refused(fer_nas("export", tmp_path), "is not a run folder")
    wrong = fer_nas("evaluate", tmp_path / "model.onnx", "--split", "exam")
    assert wrong.exit_code == 2 and "test_largest" in wrong.stderr


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fer_nas.data import load
    from fer_nas.data.drawn import drawn_faces
    from fer_nas.presets import SEARCH_PRESETS, TRAIN_PRESETS

    small = {"epochs": 1, "limit": 70, "image_size": 24, "threads": 1, "device": "cpu"}
    for presets, layers in ((SEARCH_PRESETS, 1), (TRAIN_PRESETS, 2)):
        monkeypatch.setitem(presets, "tiny", presets["tiny"] | small | {"layers": layers})
    few = drawn_faces(140, 35, 35, seed=0, size=24)
    monkeypatch.setattr(load, "drawn_faces", lambda *counts, seed, size: few)
    result = fer_nas("demo", "--out", tmp_path)
    assert result.exit_code == 0, (result.stderr, result.exception)
    (folder,) = tmp_path.iterdir()
    for name in ("search/genotype.json", "search/cells.png", "train/curves.png", "train/confusion.png", "model.onnx"):
        assert (folder / name).is_file(), name
    assert (folder / "live-demo.png").read_bytes()[:4] == b"\x89PNG"
    assert "4 of 4" in result.stderr and "Made in " in result.stdout
    assert result.stdout.count("n = 35") == 1 and str(folder) in result.stdout
    assert GenotypeFile.load(folder / "search" / "genotype.json").dataset == "drawn"
    assert result.stdout.splitlines()[-1].endswith("not to judge faces.")
    assert_refused(fer_nas("demo", "--out", tmp_path, "--picture", tmp_path / "gone.png"), "gone.png: no such file")
