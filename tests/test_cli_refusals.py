"""Commands that cannot run, or fail on the way: one line, an exit code, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from calling import SEARCH, TRAIN, assert_refused, fer_nas


@pytest.mark.parametrize("command", [["search", *SEARCH], ["train", "DARTS_V2", *TRAIN]], ids=["search", "train"])
def test_wrong_options(command: list[str], cases: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    data = ["--data", cases / "fer.csv"]
    for words, part in (
        (["--data", tmp_path / "gone.zip"], "no such file or folder"),
        (["--data", tmp_path / "cut.zip"], "cut.zip"),
        (["--data", cases / "test.csv"], "emotion"),
        ([*data, "--limit", "1"], "--limit is 1"),
        ([*data, "--batch-size", "1"], "--batch-size is 1; BatchNorm"),
        ([*data, "--preset", "huge"], "--preset is 'huge'; choose from paper, cpu, tiny"),
        ([*data, "--stem", "none"], "--stem is 'none'; choose from auto, cifar"),
        ([*data, "--out", tmp_path / "file" / "run"], "choose another with --out"),
        ([*data, "--device", "gpu"], "--device is 'gpu'; choose auto, cpu"),
    ):
        if "--out" not in words:
            words = [*words, "--out", tmp_path / "run"]
        assert_refused(fer_nas(*command, *words), part)
    assert not (tmp_path / "run").exists()


def test_what_is_refused_before_images_are_read(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_nas.loop.load", lambda *_, **__: pytest.fail("the images were read"))
    monkeypatch.setattr("fer_nas.ranking.prepare_again", lambda *_, **__: pytest.fail("the images were read"))
    shutil.copy(cases / "fer.csv", tmp_path / "fer.csv")
    search = ["search", "--data", tmp_path / "fer.csv", *SEARCH]
    train = ["train", "DARTS_V2", "--data", tmp_path / "fer.csv", *TRAIN]
    for words, part in (
        ([*search, "--method", "implicit", "--recompute"], "--recompute: implicit differentiates"),
        ([*search, "--method", "implicit", "--form", "fast"], "--form fast: implicit differentiates"),
        ([*search, "--method", "implicit", "--form", "fast", "--seeds", "0,1"], "--form fast: implicit differentiates"),
        ([*search, "--labels", "ferplus"], "needs fer2013new.csv, not found"),
        ([*search, "--labels", "ferplus", "--seeds", "0,1"], "needs fer2013new.csv, not found"),
        ([*train, "--labels", "ferplus"], "needs fer2013new.csv, not found"),
        (
            [*search[:2], "drawn", *SEARCH, "--labels", "ferplus", "--seeds", "0,1"],
            "votes are for FER2013, and drawn is drawn",
        ),
        ([*search, "--dataset", "nonsense", "--seeds", "0,1"], "--dataset is 'nonsense'; known: drawn"),
        ([*search, "--device", "gpu", "--seeds", "0,1"], "--device is 'gpu'"),
        ([*train, "--initialize-from", tmp_path / "gone"], "gone is not a run folder"),
    ):
        assert_refused(fer_nas(*words, "--out", tmp_path / "run"), part)
    assert_refused(fer_nas(*train, "--out", tmp_path / "fer.csv" / "run"), "fer.csv is a file; choose another")
    monkeypatch.setattr("fer_nas.artifacts.run_folder.os.access", lambda *_: False)
    assert_refused(fer_nas(*train), "no leave to write in ")
    assert_refused(fer_nas(*train, "--out", tmp_path / "a" / "run"), f"no leave to write in {tmp_path}; choose another")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_that_is_not_there(cases: Path, tmp_path: Path) -> None:
    for command in (["search", *SEARCH], ["train", "DARTS_V2", *TRAIN]):
        words = [*command, "--data", cases / "fer.csv", "--out", tmp_path / command[0]]
        assert_refused(fer_nas(*words, "--device", "cuda"), "--device cuda: ", "--device cpu")
    result = fer_nas(*words, "--device", "auto")
    assert result.exit_code == 0 and "DARTS_V2 on fer2013, CPU" in result.stderr
    assert json.loads((tmp_path / "train" / "test.json").read_text())["device"].startswith("CPU")


def test_loss_that_is_not_finite(cases: Path, tmp_path: Path) -> None:
    result = fer_nas(
        "train", "DARTS_V2", "--data", cases / "fer.csv", *TRAIN, "--out", tmp_path / "run", "--epochs", "3",
        "--learning-rate", "1e30", "--gradient-clip", "1e30",
    )  # fmt: skip
    assert_refused(result, "epoch ", "lower --learning-rate", code=1)


def test_failed_write_is_one_line(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "metrics.jsonl")

    monkeypatch.setattr("fer_nas.artifacts.RunFolder.append_metrics", full)
    result = fer_nas("train", "DARTS_V2", "--data", cases / "fer.csv", *TRAIN, "--out", tmp_path / "run")
    assert_refused(result, "metrics.jsonl: No space left on device", code=1)


def test_failed_allocation_is_one_line(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory: you tried …")):

        def fail(*_: object, error: RuntimeError = error) -> None:
            raise error

        monkeypatch.setattr("fer_nas.train.run.Training.one_step", fail)
        words = ["train", "DARTS_V2", "--data", cases / "fer.csv", *TRAIN, "--out", tmp_path / type(error).__name__]
        assert_refused(fer_nas(*words), "out of memory; lower --batch-size", code=1)


# The demo
