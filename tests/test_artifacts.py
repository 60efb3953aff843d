"""The files a run leaves: atomic writing, genotypes, model metadata, run folders."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_nas.artifacts import (
    Genotype,
    GenotypeFile,
    ModelMetadata,
    RunFolder,
    atomic_path,
    read_json,
    write_json,
)
from fer_nas.config import TUNABLE, TrainConfig
from fer_nas.errors import InputError
from fer_nas.settings import flat_fields, recipe_settings
from fer_nas.space.genotypes import GENOTYPES, find
from fer_nas.space.operations import OPERATIONS

SMALL = Genotype(
    normal=(("skip_connect", 0), ("skip_connect", 1)),
    reduce=(("max_pool_3x3", 0), ("max_pool_3x3", 1)),
    normal_concat=(2,),
    reduce_concat=(2,),
)
FILE = GenotypeFile(
    genotype=SMALL, name="表情", space="fer", method="darts-2nd", dataset="drawn", labels=None, seed=3, source={"n": 1}
)


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    def cell() -> tuple[tuple[tuple[str, int], ...], tuple[int, ...]]:
        nodes = draw(st.integers(1, 5))
        edges = tuple(
            (draw(st.sampled_from(sorted(OPERATIONS))), draw(st.integers(0, 1 + node)))
            for node in range(nodes)
            for _ in range(2)
        )
        return edges, tuple(draw(st.lists(st.integers(0, nodes + 1), min_size=1, max_size=4)))

    (normal, normal_concat), (reduce, reduce_concat) = cell(), cell()
    return Genotype(normal=normal, normal_concat=normal_concat, reduce=reduce, reduce_concat=reduce_concat)


# Atomic writing


def test_atomic_path_writes_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        assert not target.exists() and temporary.suffix == ".txt"
    with pytest.raises(ZeroDivisionError), atomic_path(target) as temporary:
        temporary.write_text("two")
        raise ZeroDivisionError
    assert target.read_text() == "one"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"], "no temporary file stays"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_atomic_path_gives_a_file_its_usual_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    (tmp_path / "b.json").write_text("1")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "b.json")]
    assert modes[0] == modes[1]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file/x\.json: .*; choose another place"):
        write_json(tmp_path / "file" / "x.json", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "thing not found: .*x.json"), (b"{", "x.json is not a readable thing"), (b"\xff\xfe", "not a readable")],
)
def test_read_json(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "x.json", "thing")
    with pytest.raises(InputError, match=r"is not a readable thing"):
        read_json(tmp_path, "thing")


# Genotypes


@given(genotypes())
def test_genotype_survives_json(genotype: Genotype) -> None:
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


def test_genotype_file_survives_and_says_its_schema(tmp_path: Path) -> None:
    FILE.save(tmp_path / "g.json")
    assert GenotypeFile.load(tmp_path / "g.json") == FILE == find(str(tmp_path / "g.json"))
    assert json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))["schema"] == 1


def test_recipe_of_a_genotype_file(tmp_path: Path) -> None:
    """Kept and read; a file from before there was one has none; what no training could take is refused."""
    made = replace(FILE, recipe={"dropout": 0.25, "rotate": 12.0})
    made.save(tmp_path / "g.json")
    assert GenotypeFile.load(tmp_path / "g.json") == made
    value = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    write_json(tmp_path / "old.json", {name: part for name, part in value.items() if name != "recipe"})
    assert GenotypeFile.load(tmp_path / "old.json").recipe == {}
    for recipe, message in (
        ([1], "recipe is no table"),
        ({"dropout": True}, "dropout is True"),
        ({"rotate": "much"}, "rotate is 'much'"),
        ({"rotate": float("nan")}, "rotate is nan"),
    ):
        write_json(tmp_path / "g.json", value | {"recipe": recipe})
        with pytest.raises(InputError, match=rf"g\.json: .*{message}"):
            GenotypeFile.load(tmp_path / "g.json")


def test_recipes_are_settings_of_a_training() -> None:
    assert recipe_settings({"dropout": 0.25, "rotate": 12.0}, {"rotate": 3.0}) == {"dropout": 0.25}
    for recipe, message in (({"epochs": 3.0}, "holds 'epochs'"), ({"dropout": 0.9}, "0.9; it must lie between 0 and")):
        with pytest.raises(InputError, match=message):
            recipe_settings(recipe, {})
    known = flat_fields(TrainConfig)
    for name, (low, high) in TUNABLE.items():
        _, leaf, _ = known[name]
        assert leaf.metadata["low"] <= low < high
        assert leaf.metadata["high"] is None or high <= leaf.metadata["high"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal": [["skip_connect", 0]]}, "normal has 1 edges; two for each node"),
        ({"normal": []}, "normal has 0 edges"),
        ({"reduce": [["skip_connect", 0], ["skip_connect", 2]]}, "reduce edge 1 reads node 2; node 2 sees 0 to 1"),
        ({"normal_concat": [4]}, r"normal_concat \[4\] names nodes that the cell has not"),
        ({"normal_concat": []}, r"normal_concat \[\] names nodes"),
        ({"normal": 3}, "not a genotype"),
        ({"normal": [["skip_connect"]]}, "not a genotype"),
        ({"reduce": None}, "not a genotype"),
    ],
)
def test_impossible_genotypes(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    FILE.save(tmp_path / "g.json")
    value = json.loads((tmp_path / "g.json").read_text())
    value["genotype"] |= change
    write_json(tmp_path / "g.json", value)
    with pytest.raises(InputError, match=rf"g\.json: .*{message}") as caught:
        GenotypeFile.load(tmp_path / "g.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "not a genotype file"),
        ({"genotype": SMALL.to_dict(), "schema": 2}, "genotype schema 2; this version reads 1"),
        ({"genotype": SMALL.to_dict()}, "genotype schema None"),
    ],
)
def test_files_that_are_no_genotype(value: Any, message: str, tmp_path: Path) -> None:
    write_json(tmp_path / "g.json", value)
    with pytest.raises(InputError, match=message):
        GenotypeFile.load(tmp_path / "g.json")


def test_find() -> None:
    assert find("DARTS_V2").genotype == GENOTYPES["DARTS_V2"]
    with pytest.raises(InputError, match=r"DARTS_V3 is neither a file nor one of DARTS_V1, DARTS_V2"):
        find("DARTS_V3")


# Model metadata

METADATA = ModelMetadata(
    classes=("happy", "sad"), input_size=48, channels=1, dataset="fer2013", labels="ferplus", genotype=SMALL,
    test_accuracy=0.1 + 0.2, test_count=3589, fer_nas_version="1.2", opset=18, extra={"macro_f1": 0.5},
)  # fmt: skip


def test_metadata_survives_strings() -> None:
    strings = METADATA.to_strings()
    assert {type(value) for value in strings.values()} == {str}
    assert json.loads(strings["classes"]) == ["happy", "sad"] and strings["input_range"] == "0-255"
    assert ModelMetadata.from_strings(strings, "m.onnx") == METADATA


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ""}, r"m\.onnx: not a model that fer-nas exported \(no classes in its metadata\)"),
        ({"classes": "", "genotype": ""}, r"no classes, genotype in its metadata"),
        ({"classes": "["}, r"m\.onnx: its metadata cannot be read"),
        ({"input_size": "big"}, r"m\.onnx: its metadata cannot be read"),
        ({"genotype": "{}"}, r"m\.onnx: not a genotype"),
    ],
)
def test_metadata_of_another_model(change: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelMetadata.from_strings(METADATA.to_strings() | change, "m.onnx")


# Run folders


def test_default_folders_are_named_by_time_and_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder.create(None, "train-a/ü b"), RunFolder.create(None, "train-a/ü b")
    assert first.path.parent == Path("runs") and first.path.name.endswith("-train-a-b")
    assert first.path != second.path and second.path.is_dir()


@pytest.mark.parametrize("name", ["config.json", "genotype.json", "metrics.jsonl", "checkpoint.pt"])
def test_a_folder_with_a_run_in_it_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    RunFolder.create(tmp_path, "x")
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"already holds .*choose another --out"):
        RunFolder.create(tmp_path, "x")


def test_folders_that_cannot_be_made_or_opened(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"cannot make the run folder .*; choose another with --out"):
            RunFolder.create(out, "x")
        with pytest.raises(InputError, match=r"is not a run folder \((no config|there is no such)"):
            RunFolder.open(out)


def test_only_an_empty_folder_is_discarded(tmp_path: Path) -> None:
    empty, full = RunFolder.create(tmp_path / "a", "x"), RunFolder.create(tmp_path / "b", "x")
    (full / "file").touch()
    empty.discard_empty()
    full.discard_empty()
    assert not empty.path.exists() and (full / "file").exists()


def test_record_leaves_out_a_line_that_was_cut_short(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.metrics() == []
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    for row in rows:
        run.append_metrics(row)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert run.metrics() == rows
    run.keep_epochs(2)
    run.append_metrics(rows[2])
    assert run.metrics() == rows
    assert (run / "metrics.jsonl").read_text().count("\n") == 3
