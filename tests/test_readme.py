"""What the documents say can be typed and clicked: commands parse, make targets and linked files exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main
from fer_nas_live.detectors import DETECTORS

from fer_nas.artifacts import Genotype, GenotypeFile, ModelMetadata
from fer_nas.bilevel.methods import METHODS
from fer_nas.cli import app
from fer_nas.config import DataConfig, SearchConfig, TrainConfig
from fer_nas.presets import SEARCH_PRESETS, TRAIN_PRESETS
from fer_nas.settings import flat_fields, override
from fer_nas.space.operations import OPERATIONS
from fer_nas.space.variants import SPACES

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    file for pattern in ("*.md", "docs/*.md", "datasets/*.md", "exports/*.md") for file in ROOT.glob(pattern)
)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def code_lines(text: str) -> list[str]:
    """Lines of fenced blocks without their comments, and code spans; placeholders such as `…` left out."""
    fenced = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M))
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    lines = [re.sub(r"\s#\s.*", "", line).strip() for line in [*fenced.splitlines(), *spans]]
    return [line for line in lines if line and "…" not in line]


def fer_nas_lines() -> list[str]:
    pattern = re.compile(r"(?:\S*[/\\])?fer-nas ([a-z].*)")
    found = (pattern.fullmatch(line) for file in DOCUMENTS for line in code_lines(file.read_text(encoding="utf-8")))
    return sorted({match[1] for match in found if match})


def test_documents_show_every_command_and_no_other() -> None:
    assert {line.split()[0] for line in fer_nas_lines()} == set(COMMANDS)


@pytest.mark.parametrize("line", [line for line in fer_nas_lines() if " " in line])
def test_command_line_parses(line: str) -> None:
    name, *words = shlex.split(line)
    context = COMMANDS[name].make_context(name, words)
    given = {key: value for key, value in context.params.items() if value is not None}
    config, presets = {
        "search": (SearchConfig, SEARCH_PRESETS),
        "train": (TrainConfig, TRAIN_PRESETS),
        "data": (DataConfig, {}),
        "evaluate": (DataConfig, {}),
    }.get(name, (DataConfig, {}))
    assert "preset" not in given or given["preset"] in presets
    override(config(), {key: value for key, value in given.items() if key in flat_fields(config)})


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_to_files(file: Path) -> None:
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (file.parent / path).resolve() if path else file
        if linked == ROOT / "docs" / "live.png" and not list((ROOT / "exports").glob("*.onnx")):
            continue  # the released model draws it
        assert linked.exists(), f"{file.name}: {target}"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {
        match[1]
        for file in DOCUMENTS
        for line in code_lines(file.read_text(encoding="utf-8"))
        if (match := re.fullmatch(r"make ([a-z]+)", line))
    }
    assert {"demo", "test", "lint"} <= named <= targets


def test_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for file in DOCUMENTS
        for group in re.findall(r"(?:\.|fer-nas)\[([a-z,]+)\]['\"]", file.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert named == set(extras)


def test_architecture_names_every_room_and_field() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [f"{file.parent.name}/" for file in (ROOT / "fer_nas").glob("*/__init__.py")]
    rooms += [file.name for file in (ROOT / "fer_nas").glob("*.py") if not file.name.startswith("__")]
    metadata = [item.name for item in fields(ModelMetadata)] + ["input_range"]
    genotype = [item.name for item in fields(GenotypeFile)] + [item.name for item in fields(Genotype)]
    settings = [item.name for config in (SearchConfig, TrainConfig) for item in fields(config)]
    tables = [*METHODS, *SPACES, *OPERATIONS, *DETECTORS]
    words = rooms + metadata + genotype + settings + tables
    assert [word for word in words if f"`{word}`" not in text] == []


def test_architecture_tells_each_space_s_operations() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (eight,) = re.findall(r"^DARTS's eight: (.*?)\.", text, re.M)
    for name, space in SPACES.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*\| (.*) \|$", text, re.M)
        assert re.findall(r"`(\w+)`", line.replace("DARTS's eight", eight)) == list(space.operations), name
