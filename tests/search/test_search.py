"""The search: what its folder holds, that λ moves, that it resumes bit for bit, how it ends when it cannot go on."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import fer_nas.search.run as module
from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.config import SEARCH_PRESETS, SearchConfig, build, from_dict
from fer_nas.data.split import DataSet, Split
from fer_nas.errors import FerNasError, InputError
from fer_nas.runtime import Interrupted, load_checkpoint
from fer_nas.search.run import resume, search
from fer_nas.space.genotypes import find
from fer_nas.space.variants import SPACES

SMALL = {
    "channels": 4, "layers": 1, "limit": 40, "batch_size": 10, "image_size": 16, "threads": 1, "device": "cpu",
    "space": "fer", "stem": "stride2",
}  # fmt: skip
COLUMNS = (
    "epoch train_loss val_loss val_accuracy learning_rate arch_entropy skips_normal skips_reduce seconds gpu_days "
    "peak_memory_mib"
)


def configured(source: Path, **settings: object) -> SearchConfig:
    return build(SearchConfig, SEARCH_PRESETS, "tiny", SMALL | {"data": str(source), "epochs": 2} | settings)


def quiet() -> Console:
    return Console(file=io.StringIO())


def searched(source: Path, out: Path, **settings: object) -> RunFolder:
    return search(configured(source, **settings), out, quiet())


def arch_of(run: RunFolder) -> torch.Tensor:
    return load_checkpoint(run / "checkpoint.pt")["arch"]


def measured(run: RunFolder) -> list[dict[str, object]]:
    """The rows of the record without what a clock and the machine put in."""
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "gpu_days", "peak_memory_mib")} for row in run.metrics()
    ]


def assert_same_end(run: RunFolder, straight: RunFolder) -> None:
    assert torch.equal(arch_of(run), arch_of(straight))
    mine, theirs = (load_checkpoint(folder / "checkpoint.pt") for folder in (run, straight))
    for name, value in theirs["supernet"].items():
        assert torch.equal(mine["supernet"][name], value), name
    assert measured(run) == measured(straight)
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4]
    found, expected = (GenotypeFile.load(folder / "genotype.json") for folder in (run, straight))
    assert found.genotype == expected.genotype


@pytest.fixture(scope="module")
def straight(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Four epochs of DARTS, first order, never stopped."""
    return searched(cases / "fer.csv", tmp_path_factory.mktemp("straight") / "run", epochs=4)


def test_what_a_run_leaves(straight: RunFolder, cases: Path) -> None:
    files = {path.name for path in straight.path.iterdir()}
    assert files == {"config.json", "metrics.jsonl", "genotype.json", "checkpoint.pt", "cells.png", "curves.png"}
    for name in ("cells.png", "curves.png"):
        assert (straight / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    saved = json.loads((straight / "config.json").read_text())
    assert saved["kind"] == "search"
    assert from_dict(SearchConfig, saved["config"]) == configured(cases / "fer.csv", epochs=4)


def test_record_of_every_epoch(straight: RunFolder) -> None:
    rows = straight.metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert set(row) == set(COLUMNS.split())
        assert all(math.isfinite(value) for value in row.values())
        assert 0 <= row["val_accuracy"] <= 1 and row["peak_memory_mib"] > 1 and row["gpu_days"] == 0.0
        assert row["val_accuracy"] * 14 == pytest.approx(round(row["val_accuracy"] * 14)), "counts 14 images"
        assert {type(row["skips_normal"]), type(row["skips_reduce"])} == {int}
    rates = [row["learning_rate"] for row in rows]
    assert rates == pytest.approx([0.001 + 0.099 * (1 + math.cos(math.pi * n / 4)) / 2 for n in range(4)])


def test_genotype_file(straight: RunFolder) -> None:
    value = json.loads((straight / "genotype.json").read_text())
    assert {key: value[key] for key in ("schema", "space", "method", "labels", "seed")} == {
        "schema": 1, "space": "fer", "method": "darts-1st", "labels": "fer2013", "seed": 0,
    }  # fmt: skip
    assert value["dataset"] == "fer2013" and value["source"]["epochs"] == 4 and value["source"]["val_count"] == 14
    assert value["source"]["device"].startswith("CPU")
    genotype = find(str(straight.path)).genotype
    assert len(genotype.normal) == len(genotype.reduce) == 8
    assert {op for op, _ in genotype.normal + genotype.reduce} <= set(SPACES["fer"].operations) - {"none"}


def test_arch_moves_and_the_method_matters(cases: Path, tmp_path: Path) -> None:
    first, second, still = (
        searched(cases / "fer.csv", tmp_path / name, epochs=1, layers=2, batch_size=18, **settings)
        for name, settings in (
            ("first", {"method": "darts-1st"}),
            ("second", {"method": "darts-2nd"}),
            ("still", {"method": "darts-2nd", "arch_learning_rate": 0.0}),
        )
    )
    for run in (first, second):
        moved = (arch_of(run) - arch_of(still)).abs()
        assert torch.isfinite(moved).all()
        assert (moved[: len(moved) // 2] > 0).any() and (moved[len(moved) // 2 :] > 0).any(), "both kinds of cell"
        assert moved.max() > 5e-3, "Adam's steps of λ are 1e-2"
    assert not torch.equal(arch_of(first), arch_of(second))
    assert GenotypeFile.load(second / "genotype.json").method == "darts-2nd"


def test_warm_up_leaves_arch_as_it_is(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    finish = module.Search.finish_epoch
    monkeypatch.setattr(
        module.Search,
        "finish_epoch",
        lambda self, table: (seen.append(self.state.arch.detach().clone()), finish(self, table))[1],
    )
    run = module.Search(
        configured(cases / "fer.csv"), RunFolder(tmp_path), module.load(configured(cases / "fer.csv").data), quiet()
    )
    start = run.state.arch.detach().clone()
    searched(cases / "fer.csv", tmp_path / "run", epochs=2, warmup_epochs=1)
    assert torch.equal(seen[0], start), "epoch 1 is the warm-up"
    assert not torch.equal(seen[1], start), "epoch 2 is not"


def test_a_preset_s_warm_up_does_not_swallow_a_short_search(cases: Path, tmp_path: Path) -> None:
    console = quiet()
    run = search(configured(cases / "fer.csv", epochs=1, warmup_epochs=1), tmp_path / "run", console)
    still = searched(cases / "fer.csv", tmp_path / "still", epochs=1, arch_learning_rate=0.0)
    assert not torch.equal(arch_of(run), arch_of(still))
    assert "note: λ is frozen for 0 of 1 epochs" in console.file.getvalue()  # type: ignore[attr-defined]


def test_distributions_as_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(3)

    def split(count: int) -> Split:
        return Split(
            images=torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=draw),
            targets=torch.rand(count, 8, generator=draw).softmax(1),
            names=tuple(map(str, range(count))),
        )

    faces = DataSet(name="votes", classes=tuple("abcdefgh"), splits={"train": split(24), "val": split(9)})
    monkeypatch.setattr(module, "load", lambda config, seed: faces)
    run = searched(tmp_path, tmp_path / "run", epochs=1, method="darts-2nd")
    (row,) = run.metrics()
    assert math.isfinite(row["train_loss"]) and row["val_loss"] > math.log(8) - 0.1, "cannot beat the entropy of votes"
    assert row["val_accuracy"] * 9 == pytest.approx(round(row["val_accuracy"] * 9))


@pytest.mark.parametrize("batch_size", [34, 64, 17])
def test_batches_that_do_not_divide_the_set(batch_size: int, cases: Path, tmp_path: Path) -> None:
    run = searched(cases / "fer.csv", tmp_path / "run", epochs=1, batch_size=batch_size, limit=35)
    (row,) = run.metrics()
    assert math.isfinite(row["train_loss"]) and math.isfinite(row["val_loss"])
    assert json.loads((run / "genotype.json").read_text())["source"]["val_count"] == 14


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, r"--batch-size is 1; BatchNorm needs at least 2 images a batch"),
        ({"limit": 3}, r"3 training images are too few; search needs at least 4"),
        ({"device": "cuda"}, r"--device cuda: .*; use --device cpu"),
        ({"device": "tpu"}, r"--device is 'tpu'; choose auto, cpu, cuda or cuda:N"),
        ({"data": "no/such.csv"}, r"no/such.csv: no such file or folder"),
    ],
)
def test_refused_before_the_first_epoch(settings: dict[str, object], message: str, cases: Path, tmp_path: Path) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=message):
        searched(cases / "fer.csv", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists(), "no empty folder stays behind"


def test_loss_that_is_not_finite_ends_the_run(cases: Path, tmp_path: Path) -> None:
    with pytest.raises(FerNasError, match=r"^epoch \d, (step \d|validation): the loss is (nan|inf)") as caught:
        searched(cases / "fer.csv", tmp_path / "run", learning_rate=1e30, gradient_clip=1e30)
    assert caught.value.exit_code == 1


# Resuming


def child(data: Path, out: Path, **settings: object) -> subprocess.Popen[str]:
    """A search in a process of its own that tells of every step and then waits to be let on."""
    code = (
        "import sys, io, json\nfrom pathlib import Path\nimport torch\nfrom rich.console import Console\n"
        "from fer_nas.config import *\nfrom fer_nas import progress\n"
        "from fer_nas.search.run import search\nfrom fer_nas.errors import FerNasError\n"
        "def step(self, epoch, step):\n    print(epoch, step, flush=True)\n    sys.stdin.readline()\n"
        "progress.EpochTable.step = step\n"
        "config = build(SearchConfig, SEARCH_PRESETS, 'tiny', json.loads(sys.argv[1]))\n"
        "try:\n    search(config, Path(sys.argv[2]), Console(file=io.StringIO()))\n"
        "except FerNasError as error:\n    print(error, flush=True)\n    sys.exit(error.exit_code)\n"
    )
    values = json.dumps(SMALL | {"data": str(data)} | settings)
    return subprocess.Popen(
        [sys.executable, "-c", code, values, str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_kill_in_mid_epoch_then_resume(cases: Path, tmp_path: Path, straight: RunFolder) -> None:
    run = RunFolder(tmp_path / "run")
    with child(cases / "fer.csv", run.path, epochs=4) as process:
        assert process.stdin and process.stdout
        for line in process.stdout:
            if line == "3 2\n":
                process.kill()
                break
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == -signal.SIGKILL
    assert load_checkpoint(run / "checkpoint.pt")["progress"][:2] == [3, 0]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_lo')  # a row that the crash cut short
    resume(run.path, quiet())
    assert_same_end(run, straight)


def interrupted(monkeypatch: pytest.MonkeyPatch, at: tuple[int, int], number: int) -> None:
    """The signal arrives when that step is told of."""
    tell = module.EpochTable.step

    def step(self: object, epoch: int, step: int) -> None:
        tell(self, epoch, step)  # type: ignore[arg-type]
        if (epoch, step) == at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(module.EpochTable, "step", step)


@pytest.mark.parametrize(("at", "number", "left"), [((3, 1), signal.SIGINT, [3, 1]), ((2, 2), signal.SIGTERM, [3, 0])])
def test_signal_then_resume(
    at: tuple[int, int],
    number: int,
    left: list[int],
    cases: Path,
    tmp_path: Path,
    straight: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within an epoch the step is finished and the checkpoint lies between two steps; at its end, between epochs."""
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupted(patch, at, number)
        with pytest.raises(Interrupted, match=r"go on with: fer-nas search --resume") as caught:
            searched(cases / "fer.csv", run.path, epochs=4)
    assert caught.value.exit_code == 128 + number
    assert load_checkpoint(run / "checkpoint.pt")["progress"][:2] == left
    resume(run.path, quiet())
    assert_same_end(run, straight)


def test_resume_before_the_first_checkpoint_starts_over(cases: Path, tmp_path: Path, straight: RunFolder) -> None:
    run = RunFolder.create(tmp_path / "run", "x")
    shutil.copy(straight / "config.json", run / "config.json")
    resume(run.path, quiet())
    assert_same_end(run, straight)


def test_resume_of_a_finished_run_leaves_it_as_it_is(straight: RunFolder) -> None:
    before = {path.name: path.read_bytes() for path in straight.path.iterdir()}
    resume(straight.path, quiet())
    assert {path.name: path.read_bytes() for path in straight.path.iterdir()} == before


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


@pytest.mark.parametrize("pack", ["pickle", "torch"])
def test_checkpoint_with_code_is_refused(
    pack: str, straight: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(straight.path, tmp_path / "run")
    target = tmp_path / "run" / "checkpoint.pt"
    if pack == "pickle":
        target.write_bytes(pickle.dumps({"kind": "search", "arch": Attack()}))
    else:
        torch.save({"kind": "search", "arch": Attack()}, target)
    with pytest.raises(InputError, match=r"holds code, which is never run"):
        resume(tmp_path / "run", quiet())
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_checkpoint(share: float, straight: RunFolder, tmp_path: Path) -> None:
    content = (straight / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"checkpoint\.pt (cannot be read|is not) a(s a)? checkpoint") as caught:
        load_checkpoint(tmp_path / "checkpoint.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "train"}, r"is not the checkpoint of a search"),
        ({"arch": torch.zeros(3)}, r"does not fit this run's config.json"),
        ({"progress": [1]}, r"does not fit this run's config.json"),
        ({"supernet": {}}, r"does not fit this run's config.json"),
        ({"weights_optimizer": None}, r"does not fit this run's config.json"),
    ],
)
def test_checkpoint_of_another_run(
    change: dict[str, object], message: str, straight: RunFolder, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight.path, run)
    torch.save(load_checkpoint(run / "checkpoint.pt") | change, run / "checkpoint.pt")
    with pytest.raises(InputError, match=message) as caught:
        resume(run, quiet())
    assert "\n" not in str(caught.value)


def test_what_cannot_be_resumed(straight: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run folder \(no config\.json in it\)"):
        resume(tmp_path, quiet())
    run = tmp_path / "run"
    shutil.copytree(straight.path, run)
    saved = json.loads((run / "config.json").read_text())
    for change, message in (
        ({"kind": "train"}, r"is a train run; resume it with `fer-nas train --resume"),
        ({"config": {}}, r"config\.json: does not fit this version's SearchConfig"),
    ):
        (run / "config.json").write_text(json.dumps(saved | change))
        with pytest.raises(InputError, match=message):
            resume(run, quiet())
    saved["config"]["data"]["data"] = "gone.csv"
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"cannot go on without the images it was started with: .*gone\.csv"):
        resume(run, quiet())


def test_a_run_is_never_overwritten(straight: RunFolder, cases: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"already holds a run; go on with --resume"):
        searched(cases / "fer.csv", straight.path)
    (tmp_path / "genotype.json").write_text("mine")
    with pytest.raises(InputError, match=r"already holds genotype\.json"):
        searched(cases / "fer.csv", tmp_path)
    assert (tmp_path / "genotype.json").read_text() == "mine"
