"""Where the released models lie: the repository's exports/, or fer_nas_live/models/ of an installed wheel."""

from __future__ import annotations

from pathlib import Path

from fer_nas.errors import InputError

DEFAULT_MODEL = "fer-nas-ferplus.onnx"


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
