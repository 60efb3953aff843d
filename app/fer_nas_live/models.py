"""Where the released models lie, and whether each is the file that its card describes.

They lie in the repository's exports/, or in fer_nas_live/models/ of an installed wheel; a model's card is the file
beside it with the ending .md, and carries the line "SHA-256: `…`".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from fer_nas.artifacts import write_text
from fer_nas.errors import InputError

DEFAULT_MODEL = "fer-nas-ferplus.onnx"
_HASH = re.compile(r"^SHA-256: `([0-9a-f]{64})`$", re.MULTILINE)
_ANY_HASH = re.compile(r"^[-*|\s]*SHA-?256\W+([0-9a-f]{64})\b", re.MULTILINE | re.IGNORECASE)
"""As others may write it into a card of theirs."""


def folders() -> list[Path]:
    """The folders that may hold models and exist."""
    here = Path(__file__).resolve().parent
    found = [here / "models"]
    if here.parent.name == "app":
        found.append(here.parent.parent / "exports")
    return [folder for folder in found if folder.is_dir()]


def find() -> list[Path]:
    """Every released model, the default first."""
    files = [file for folder in folders() for file in sorted(folder.glob("*.onnx"))]
    return sorted(files, key=lambda file: file.name != DEFAULT_MODEL)


def default_model() -> Path:
    return resolve(None)


def resolve(name: str | None) -> Path:
    """The default model, or a file by path, or a released model by its name with or without .onnx."""
    models = find()
    if name is None:
        if models and models[0].name == DEFAULT_MODEL:
            return models[0]
        raise InputError(f"the default model {DEFAULT_MODEL} is not installed; give one with --model FILE")
    path = Path(name)
    if path.is_file():
        return path
    for model in models:
        if name in (model.name, model.stem):
            return model
    known = ", ".join(model.stem for model in models) or "none"
    raise InputError(f"model not found: {name}; released models: {known}")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What stands in a model's card: the hash of its file, where it is given, and the lines on its limits."""

    path: Path
    sha256: str | None
    limits: tuple[str, ...]


def card(model: Path) -> Card | None:
    """The card beside a model; None where there is none."""
    path = model.with_suffix(".md")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = _ANY_HASH.search(text)
    section = re.search(r"^## Limits\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    points = re.findall(r"^- (.*(?:\n  .*)*)", section[1], re.MULTILINE) if section else []
    return Card(
        path=path, sha256=found[1].lower() if found else None, limits=tuple(" ".join(point.split()) for point in points)
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def what_is_wrong(model: Path, data: bytes) -> str | None:
    """Why `data` is not the file that its card describes, and what to do, after the file's name; None where it is.

    A released model must have a card with its SHA-256; of another file one that lies beside it is believed.
    """
    released = model.resolve().parent in {folder.resolve() for folder in folders()}
    name, about = model.with_suffix(".md").name, card(model)
    if about is None or about.sha256 is None:
        wrong = f"no SHA-256 of it stands in {name}" if released else None
    elif (found := sha256(data)) != about.sha256:
        wrong = f"its SHA-256 is {found[:12]}…, its card says {about.sha256[:12]}…"
    else:
        wrong = None
    if wrong is None or released:
        return wrong and f"is not the released model: {wrong}; install fer-nas again, or use another --model"
    return f"does not match the card beside it, {name}: {wrong}; bring both from one place, or use another --model"


def refresh(model: Path) -> bool:
    """Write the file's SHA-256 into its card; whether the card changed. InputError without a card."""
    path = model.with_suffix(".md")
    if not path.is_file():
        raise InputError(f"{model} has no card {path.name}; write one")
    text = path.read_text(encoding="utf-8")
    line = f"SHA-256: `{sha256(model.read_bytes())}`"
    new = _HASH.sub(line, text) if _HASH.search(text) else re.sub(r"\A(#[^\n]*\n)", rf"\1\n{line}\n", text)
    if _HASH.search(new) is None:
        raise InputError(f"{path} does not begin with a heading")
    if new != text:
        write_text(path, new)
    return new != text
