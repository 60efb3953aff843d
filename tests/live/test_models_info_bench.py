"""Released models are checked against their cards; `info`, `models` and `bench live` as commands."""

from __future__ import annotations

import json

import pytest
from fer_nas_live import bench, classifier, models, yunet
from typer.testing import CliRunner

from fer_nas.classes import FACE_CLASSES
from fer_nas.cli import app
from fer_nas.errors import InputError

CARD = """# tiny

SHA-256: `{}`

Text.

## Limits

- Frontal faces
  only.
- Not for judging people.

## More

- no limit
"""


@pytest.fixture
def released(model, tmp_path, monkeypatch):
    """A folder of released models with the default one and its card."""
    file = tmp_path / "exports" / models.DEFAULT_MODEL
    file.parent.mkdir()
    file.write_bytes(model.read_bytes())
    file.with_suffix(".md").write_text(CARD.format(models.sha256(model.read_bytes())))
    monkeypatch.setattr(models, "folders", lambda: [file.parent])
    return file


def fer_nas(*words):
    return CliRunner().invoke(app, list(map(str, words)))


def test_models_are_verified_and_their_limits_told(released):
    said = fer_nas("models")
    assert said.exit_code == 0 and f"(default): verified, SHA-256 {models.sha256(released.read_bytes())}" in said.stdout
    assert "limit: Frontal faces only.\n" in said.stdout and "limit: Not for judging people." in said.stdout
    assert "no limit" not in said.stdout and "test accuracy 50.00 % (n = 10)" in said.stdout
    (entry,) = json.loads(fer_nas("models", "--json").stdout)
    assert entry["default"] and entry["problem"] is None and len(entry["limits"]) == 2


@pytest.mark.parametrize("damage", ["a byte", "another model", "no card", "no hash"])
def test_a_released_model_that_is_not_its_card_s_is_refused(released, make_model, damage, tmp_path):
    card = released.with_suffix(".md")
    if damage == "a byte":
        data = bytearray(released.read_bytes())
        data[len(data) // 2] ^= 1
        released.write_bytes(bytes(data))
    elif damage == "another model":
        released.write_bytes(make_model(tmp_path / "other.onnx", classes=FACE_CLASSES[:7]).read_bytes())
    elif damage == "no card":
        card.unlink()
    else:
        card.write_text("# tiny\n")
    for words in (["models"], ["info", "fer-nas-ferplus"]):
        said = fer_nas(*words)
        assert said.exit_code != 0 and "SHA-256" in said.output and "Traceback" not in said.output
    with pytest.raises(InputError, match="is not the released model"):
        classifier.load(released)


@pytest.mark.parametrize("line", ["SHA-256: `{}`", "sha256: {}", "- SHA-256 `{}`", "| SHA256 | {} |"])
def test_a_card_beside_any_model_is_believed(model, tmp_path, cases, line):
    file = tmp_path / "mine.onnx"
    file.write_bytes(model.read_bytes())
    file.with_suffix(".md").write_text("# mine\n\n" + line.format(models.sha256(model.read_bytes()).upper()) + "\n")
    assert fer_nas("info", file).exit_code == 0
    file.with_suffix(".md").write_text("# mine\n\n" + line.format("0" * 64) + "\n")
    live = ("live", "--source", cases / "face.png", "--headless", "--model", file)
    for words in (("info", file), live):
        said = fer_nas(*words)
        assert said.exit_code == 2 and "does not match the card beside it, mine.md" in said.stderr
    file.with_suffix(".md").write_text("# notes without a hash\n")
    assert fer_nas("info", file).exit_code == 0


@pytest.mark.parametrize(
    "wrong", [("--detector", "yunet"), ("--source", "notes.txt"), ("--model", "none"), ("--source", "")]
)
def test_bench_live_refuses_what_live_refuses_before_anything_slow(model, tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FER_NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "_cold_start", None)
    monkeypatch.setattr(bench.film, "write", None)
    (tmp_path / "notes.txt").write_text("milk\n")
    words = ["--model", model, *wrong]
    timed, live = fer_nas("bench", "live", *words), fer_nas("live", "--source", "notes.txt", "--headless", *words)
    assert timed.exit_code == live.exit_code == 2
    assert timed.stderr == live.stderr and timed.stderr.count("\n") == 1


def test_the_hash_is_written_into_the_card(released, make_model, tmp_path):
    released.write_bytes(make_model(tmp_path / "other.onnx", classes=FACE_CLASSES[:7]).read_bytes())
    assert models.refresh(released) and not models.refresh(released)
    assert models.what_is_wrong(released, released.read_bytes()) is None
    released.with_suffix(".md").write_text("# new\n\nText.\n")
    assert models.refresh(released) and fer_nas("models").exit_code == 0


def test_info_as_json(model):
    value = json.loads(fer_nas("info", model, "--json").stdout)
    assert value["classes"] == list(FACE_CLASSES) and value["input"] == [1, 48, 48]
    assert value["bytes"] == model.stat().st_size and value["sha256"] == models.sha256(model.read_bytes())
    assert value["test_accuracy"] == 0.5 and value["genotype"]["normal"] and value["precision"] == "float32"
    assert "8" not in fer_nas("info", model).stderr


def test_the_repositorys_own_models_fit_their_cards():
    found = models.find()
    if not found:
        pytest.skip("no model is released here")
    for path in found:
        assert models.what_is_wrong(path, path.read_bytes()) is None, path.name
        about = models.card(path)
        assert about is not None and about.limits, path.name


def test_tensorrt_keeps_its_engines_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FER_NAS_CACHE", str(tmp_path))
    name, options = classifier._with_options("tensorrt")
    assert name == "TensorrtExecutionProvider" and options["trt_engine_cache_enable"] == "1"
    assert options["trt_engine_cache_path"] == str(tmp_path / "tensorrt") and (tmp_path / "tensorrt").is_dir()
    assert classifier._with_options("cuda") == "CUDAExecutionProvider"
    monkeypatch.setattr(yunet, "cache_dir", lambda: None)
    assert classifier._with_options("tensorrt") == "TensorrtExecutionProvider"


def test_auto_says_what_it_took_and_why(model, monkeypatch):
    monkeypatch.setattr(classifier, "gpu_problem", lambda provider: "no NVIDIA driver was found on this machine")
    loaded = classifier.load(model, "auto")
    assert (loaded.provider, loaded.why) == (
        "CPUExecutionProvider", "auto: no NVIDIA driver was found on this machine"
    )  # fmt: skip
    assert classifier.load(model, "cpu").why == "asked for"


@pytest.mark.slow
def test_bench_live_tells_every_stage_and_the_ratio_last(model, monkeypatch):
    monkeypatch.setattr(bench, "STARTS", 1)
    words = ["bench", "live", "--model", model, "--detector", "haar", "--frames", "12", "--seconds", "1"]
    said = fer_nas(*words, "--json")
    assert said.exit_code == 0, said.output
    value = json.loads(said.stdout)
    assert value["ours"]["frames"] == value["plain"]["frames"] == 12
    assert set(value["ours"]["stages_ms"]) == {"grab", "detect", "track", "crop", "classify", "draw", "show"}
    assert value["ratio"] == pytest.approx(sorted(value["ratios"])[1]) and len(value["ratios"]) == 3
    assert set(value["camera"]["age_ms"]) == {"p50", "p95", "p99"} and value["cold_start_s"]["wall"] > 0
    assert bench.lines(value)[-1].startswith(f"ratio {value['ratio']:.1f} in frames/s")
