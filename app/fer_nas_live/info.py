"""What `fer-nas models` and `fer-nas info` tell of model files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from fer_nas.errors import InputError
from fer_nas_live import classifier, models
from fer_nas_live.quiet import quiet_stderr


def describe(path: Path) -> dict[str, Any]:
    """Everything a model file says of itself, plain values for JSON; InputError for one that cannot be used."""
    loaded = classifier.load(path, "cpu")
    metadata, data = loaded.metadata, path.read_bytes()
    about = models.card(path)
    return {
        "name": path.stem,
        "path": str(path),
        "classes": list(metadata.classes),
        "input": [metadata.channels, metadata.input_size, metadata.input_size],
        "input_range": "0-255",
        "precision": metadata.precision,
        "dataset": metadata.dataset,
        "labels": metadata.labels,
        "test_accuracy": metadata.test_accuracy,
        "test_count": metadata.test_count,
        "genotype": metadata.genotype.to_dict(),
        "opset": metadata.opset,
        "fer_nas_version": metadata.fer_nas_version,
        "extra": metadata.extra,
        "bytes": len(data),
        "sha256": models.sha256(data),
        "card": str(about.path) if about else None,
        "limits": list(about.limits) if about else [],
    }


def released() -> list[dict[str, Any]]:
    """Each released model as `describe` has it, with `problem`: None, or why it is refused."""
    found = []
    for path in models.find():
        entry: dict[str, Any] = {
            "name": path.stem,
            "path": str(path),
            "default": path.name == models.DEFAULT_MODEL,
            "problem": None,
        }
        try:
            with quiet_stderr():
                entry |= describe(path)
        except InputError as error:
            entry["problem"] = str(error)
        found.append(entry)
    return found


def print_models(found: list[dict[str, Any]], out: Console) -> None:
    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    for entry in found:
        mark = " (default)" if entry["default"] else ""
        if entry["problem"]:
            say(f"{entry['name']}{mark}: refused: {entry['problem']}")
            continue
        say(f"{entry['name']}{mark}: verified, SHA-256 {entry['sha256']}")
        print_model(entry, out)
    if not found:
        say("no released model is installed")


def print_model(entry: dict[str, Any], out: Console) -> None:
    accuracy = entry["test_accuracy"]
    figure = "not tested" if accuracy is None else f"{100 * accuracy:.2f} % (n = {entry['test_count']})"
    channels, size, _ = entry["input"]
    for text in (
        f"  {', '.join(entry['classes'])}",
        f"  input {'grey' if channels == 1 else 'RGB'} {size}×{size}, {entry['precision']}, {entry['bytes']:,} bytes",
        f"  trained on {entry['dataset']}, labels {entry['labels'] or 'its own'}; test accuracy {figure}",
        *(f"  limit: {limit}" for limit in entry["limits"]),
    ):
        out.print(text, markup=False, highlight=False, soft_wrap=True)
