"""The search: what its folder holds, that λ moves, targets and batches of every kind, what ends it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

import fer_nas.search.run as module
from fer_nas.artifacts import GenotypeFile, RunFolder
from fer_nas.config import SearchConfig
from fer_nas.data.load import load
from fer_nas.data.split import DataSet, Split
from fer_nas.errors import FerNasError, InputError
from fer_nas.runtime import generator, load_checkpoint
from fer_nas.search.start import search
from fer_nas.settings import from_dict
from fer_nas.space.genotypes import find
from fer_nas.space.variants import SPACES

COLUMNS = (
    "epoch train_loss val_loss val_accuracy learning_rate arch_entropy response_ratio response_cosine skips_normal "
    "skips_reduce seconds gpu_days peak_memory_mib mixtures"
)


Searched = Callable[..., RunFolder]
Configured = Callable[..., SearchConfig]


def arch_of(run: RunFolder) -> torch.Tensor:
    return load_checkpoint(run / "checkpoint.pt")["arch"]


def start_like(arch: torch.Tensor) -> torch.Tensor:
    """λ before the first step, with seed 0: 1e-3·N(0, 1)."""
    return 1e-3 * torch.randn(len(arch), generator=generator(0, "arch"))


def quiet() -> Console:
    return Console(file=io.StringIO())


def test_what_a_run_leaves(straight: RunFolder, cases: Path, configured: Configured) -> None:
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
        assert row["response_ratio"] is row["response_cosine"] is None  # first order has no response
        mixtures = row.pop("mixtures")
        assert {name: (len(part), len(part[0])) for name, part in mixtures.items()} == dict.fromkeys(mixtures, (14, 8))
        assert all(sum(edge) == pytest.approx(1, abs=1e-4) for part in mixtures.values() for edge in part)
        assert all(math.isfinite(value) for value in row.values() if value is not None)
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


def test_arch_moves_and_the_method_matters(cases: Path, tmp_path: Path, searched: Searched) -> None:
    first, second = (
        searched(cases / "fer.csv", tmp_path / method, epochs=1, layers=2, batch_size=18, method=method)
        for method in ("darts-1st", "darts-2nd")
    )
    for run in (first, second):
        moved = (arch_of(run) - start_like(arch_of(run))).abs()
        assert torch.isfinite(moved).all()
        assert (moved[: len(moved) // 2] > 0).any() and (moved[len(moved) // 2 :] > 0).any(), "both kinds of cell"
        assert moved.max() > 5e-3, "Adam's steps of λ are 1e-2"
    assert not torch.equal(arch_of(first), arch_of(second))
    assert GenotypeFile.load(second / "genotype.json").method == "darts-2nd"


def test_warm_up_leaves_arch_as_it_is(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: Searched
) -> None:
    seen = []
    row = module.Search.row
    monkeypatch.setattr(
        module.Search, "row", lambda self: (seen.append(self.state.arch.detach().clone()), row(self))[1]
    )
    searched(cases / "fer.csv", tmp_path / "run", epochs=2, warmup_epochs=1)
    assert torch.equal(seen[0], start_like(seen[0])), "epoch 1 is the warm-up"
    assert not torch.equal(seen[1], seen[0]), "epoch 2 is not"


def test_a_preset_s_warm_up_does_not_swallow_a_short_search(
    cases: Path, tmp_path: Path, searched: Searched, configured: Configured
) -> None:
    console = quiet()
    run = search(configured(cases / "fer.csv", epochs=1, warmup_epochs=1), tmp_path / "run", console)
    assert not torch.equal(arch_of(run), start_like(arch_of(run)))
    assert "note: λ is frozen for 0 of 1 epochs" in console.file.getvalue()  # type: ignore[attr-defined]


def test_distributions_as_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searched: Searched) -> None:
    draw = torch.Generator().manual_seed(3)

    def split(count: int) -> Split:
        return Split(
            images=torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=draw),
            targets=torch.rand(count, 8, generator=draw).softmax(1),
            names=tuple(map(str, range(count))),
        )

    faces = DataSet(name="votes", classes=tuple("abcdefgh"), splits={"train": split(24), "val": split(9)})
    monkeypatch.setattr("fer_nas.loop.load", lambda config, seed: faces)
    run = searched(tmp_path, tmp_path / "run", epochs=1, method="darts-2nd")
    (row,) = run.metrics()
    assert math.isfinite(row["train_loss"]) and row["val_loss"] > math.log(8) - 0.1, "cannot beat the entropy of votes"
    assert row["val_accuracy"] * 9 == pytest.approx(round(row["val_accuracy"] * 9))


@pytest.mark.parametrize("batch_size", [34, 64])
def test_batches_that_do_not_divide_the_set(batch_size: int, cases: Path, tmp_path: Path, searched: Searched) -> None:
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
def test_refused_before_the_first_epoch(
    settings: dict[str, object], message: str, cases: Path, tmp_path: Path, searched: Searched
) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=message):
        searched(cases / "fer.csv", tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists(), "no empty folder stays behind"


def test_loss_that_is_not_finite_ends_the_run(cases: Path, tmp_path: Path, searched: Searched) -> None:
    with pytest.raises(FerNasError, match=r"^epoch \d, (step \d|validation): the loss is (nan|inf)") as caught:
        searched(cases / "fer.csv", tmp_path / "run", learning_rate=1e30, gradient_clip=1e30)
    assert caught.value.exit_code == 1


def test_a_run_is_never_overwritten(straight: RunFolder, cases: Path, tmp_path: Path, searched: Searched) -> None:
    with pytest.raises(InputError, match=r"already holds a run; go on with --resume"):
        searched(cases / "fer.csv", straight.path)
    (tmp_path / "genotype.json").write_text("mine")
    with pytest.raises(InputError, match=r"already holds genotype\.json"):
        searched(cases / "fer.csv", tmp_path)
    assert (tmp_path / "genotype.json").read_text() == "mine"


def test_validation_mixes_classes_that_come_sorted(cases: Path, configured: Configured) -> None:
    """BatchNorm by batch statistics: a batch of one class would be normalized as no batch in training is."""
    config = configured(cases / "fer.csv", batch_size=12)
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(7).repeat_interleave(24)
    images = (torch.randint(0, 60, (168, 1, 16, 16), generator=draw) + 25 * labels[:, None, None, None]).to(torch.uint8)
    split = Split(images=images, targets=labels, names=tuple(map(str, range(168))))
    faces = DataSet(name="sorted", classes=tuple("abcdefg"), splits={"train": split, "val": split})
    state = module.build(config, faces, torch.device("cpu"))
    seen: list[int] = []
    logits = state.task.logits

    def look(weights: object, arch: object, batch: torch.Tensor, response: object) -> torch.Tensor:
        seen.append(len(torch.unique((batch.mean((1, 2, 3)) // 25).long())))
        return logits(weights, arch, batch, response)  # type: ignore[arg-type]

    state.task.logits = look  # type: ignore[method-assign]
    first = module.validate(state, split, 12)
    assert min(seen) >= 3, "every batch has several classes"
    assert first == module.validate(state, split, 12), "always the same batches"


def test_a_batch_of_more_images_than_there_are_is_told(configured: Configured, cases: Path, tmp_path: Path) -> None:
    notes = io.StringIO()
    config = configured(cases / "fer.csv", method="darts-delta-stn", batch_size=4000, response_batch=5000)
    module.Search(config, RunFolder(tmp_path), load(config.data, seed=0), Console(file=notes, width=200))
    half = "batches have the 18 images of w, half of the training images"
    assert notes.getvalue() == f"note: --batch-size 4000: {half}\nnote: --response-batch 5000: {half}\n"
