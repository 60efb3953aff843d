"""A training that was stopped goes on and ends as the one that never was, bit for bit; starting from another run."""

from __future__ import annotations

import io
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from fer_nas.artifacts import GenotypeFile, RunFolder, write_json
from fer_nas.errors import InputError
from fer_nas.runtime import Interrupted, load_checkpoint
from fer_nas.space.genotypes import find
from fer_nas.train.spec import load_network, read_run, start_from
from fer_nas.train.start import resume

Trained = Callable[..., RunFolder]


def quiet() -> Console:
    return Console(file=io.StringIO())


def measured(run: RunFolder) -> list[dict[str, object]]:
    """The rows of the record without what a clock and the machine put in."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "peak_memory_mib")} for row in run.metrics()]


def assert_same_end(run: RunFolder, straight: RunFolder) -> None:
    for name in ("best.safetensors", "last.safetensors", "test.json", "confusion.png"):
        assert (run / name).read_bytes() == (straight / name).read_bytes(), name
    assert measured(run) == measured(straight)
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4]


def test_kill_in_mid_epoch_then_resume(
    cases: Path,
    tmp_path: Path,
    straight: RunFolder,
    two_nodes: GenotypeFile,
    kill_at: Callable[[int, int, list[str]], None],
    small_settings: dict[str, object],
) -> None:
    run = RunFolder(tmp_path / "run")
    two_nodes.save(tmp_path / "genotype.json")
    settings = small_settings | {"data": cases / "fer.csv", "epochs": 4, "preset": "tiny", "out": run.path}
    assert settings.pop("auxiliary")
    words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    kill_at(3, 2, ["train", str(tmp_path / "genotype.json"), "--auxiliary", *words])
    assert load_checkpoint(run / "checkpoint.pt")["progress"][:2] == [3, 0]
    resume(run.path, quiet())
    assert_same_end(run, straight)


@pytest.mark.parametrize(("at", "number", "left"), [((3, 1), signal.SIGINT, [3, 1]), ((2, 3), signal.SIGTERM, [3, 0])])
def test_signal_then_resume(
    at: tuple[int, int],
    number: int,
    left: list[int],
    cases: Path,
    tmp_path: Path,
    straight: RunFolder,
    trained: Trained,
    interrupt_at: Callable[[int, int, int], None],
) -> None:
    """Within an epoch the step is finished and the checkpoint lies between two steps; at its end, between epochs."""
    run = RunFolder(tmp_path / "run")
    interrupt_at(*at, number)
    with pytest.raises(Interrupted, match=r"go on with: fer-nas train --resume") as caught:
        trained(cases / "fer.csv", run.path, epochs=4)
    assert caught.value.exit_code == 128 + number
    assert load_checkpoint(run / "checkpoint.pt")["progress"][:2] == left
    torch.rand(7)  # whatever else drew random numbers in between
    resume(run.path, quiet())
    assert_same_end(run, straight)


def test_resume_before_the_first_checkpoint_starts_over(tmp_path: Path, straight: RunFolder) -> None:
    run = RunFolder.create(tmp_path / "run", "x")
    shutil.copy(straight / "config.json", run / "config.json")
    resume(run.path, quiet())
    assert_same_end(run, straight)


def test_resume_of_a_finished_run_leaves_it_as_it_is(straight: RunFolder) -> None:
    before = {path.name: path.read_bytes() for path in straight.path.iterdir()}
    _, report = resume(straight.path, quiet())
    assert {path.name: path.read_bytes() for path in straight.path.iterdir()} == before
    assert report == json.loads(before["test.json"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "search"}, r"is not the checkpoint of a training run"),
        ({"network": {}}, r"does not fit this run's config.json"),
        ({"average_steps": None, "average": {}}, r"does not fit this run's config.json"),
        ({"random": {}}, r"does not fit this run's config.json"),
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


def test_what_cannot_be_resumed(straight: RunFolder, cases: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(straight.path, run)
    saved = json.loads((run / "config.json").read_text())
    gone, other = (json.loads(json.dumps(saved)) for _ in range(2))
    gone["config"]["data"]["data"] = "gone.csv"
    other["config"]["data"]["image_size"] = 20
    for value, message in (
        (saved | {"kind": "search"}, r"holds a search run; a training run is needed"),
        ({"kind": "train"}, r"does not fit this version's TrainConfig"),
        ({k: v for k, v in saved.items() if k != "mean"}, r"no 'mean' in it; not a training run"),
        (gone, r"cannot go on without the images it was started with: .*gone\.csv"),
        (other, r"has other classes or another image size than before"),
    ):
        write_json(run / "config.json", value)
        with pytest.raises(InputError, match=message):
            resume(run, quiet())


# --initialize-from


def test_start_from_the_same_classes(straight: RunFolder, cases: Path, tmp_path: Path, trained: Trained) -> None:
    run = trained(
        cases / "fer.csv", tmp_path / "run", initialize_from=str(straight.path), learning_rate=0.0, auxiliary=False,
        ema=0.0,
    )  # fmt: skip
    start, end = load_file(straight / "best.safetensors"), load_file(run / "last.safetensors")
    assert set(end) == {name for name in start if not name.startswith("auxiliary.")}
    learned = [name for name in end if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(start[name], end[name]) for name in learned)


def test_start_from_more_classes_by_name(straight: RunFolder) -> None:
    config, spec = read_run(straight)
    fewer = replace(spec, classes=("neutral", "new", "happy"))
    network = fewer.build(config)
    untouched = network.classifier.weight[1].clone()
    start_from(network, straight.path, fewer)
    other = load_network(straight)
    weights = other.classifier.weight
    assert torch.equal(
        network.classifier.weight[[0, 2]], weights[[spec.classes.index(n) for n in ("neutral", "happy")]]
    )
    assert torch.equal(network.classifier.weight[1], untouched)
    assert torch.equal(network.stem.first[0].weight, other.stem.first[0].weight)


def test_start_from_what_does_not_fit(straight: RunFolder, tmp_path: Path) -> None:
    config, spec = read_run(straight)
    wide = replace(config, network=replace(config.network, channels=6))
    for changed, using, message in (
        (replace(spec, genotype=find("DARTS_V2").genotype), config, r"that run trained another genotype"),
        (spec, wide, r"another skeleton"),
        (replace(spec, classes=spec.classes[:3]), wide, r"another skeleton"),
        (spec, replace(config, network=replace(config.network, layers=4)), r"another skeleton"),
        (replace(spec, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3), config, r"another skeleton"),
    ):
        with pytest.raises(InputError, match=rf"--initialize-from .*: {message}") as caught:
            start_from(changed.build(using), straight.path, changed)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"is not a run folder"):
        start_from(spec.build(config), tmp_path, spec)
    shutil.copy(straight / "config.json", tmp_path / "config.json")
    with pytest.raises(InputError, match=r"no usable best\.safetensors"):
        start_from(spec.build(config), tmp_path, spec)


def test_weights_that_do_not_fit(straight: RunFolder, tmp_path: Path) -> None:
    shutil.copy(straight / "config.json", tmp_path / "config.json")
    with pytest.raises(InputError, match=r"best\.safetensors not found; has this training finished an epoch\?"):
        load_network(RunFolder(tmp_path))
    (tmp_path / "best.safetensors").write_bytes((straight / "best.safetensors").read_bytes()[:500])
    with pytest.raises(InputError, match=r"best\.safetensors does not fit its network"):
        load_network(RunFolder(tmp_path))
