"""The commands around model files: export, evaluate, verify. Heavy imports stand inside them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fer_nas.artifacts import RunFolder
from fer_nas.config import DataConfig
from fer_nas.errors import InputError
from fer_nas.options import configured, guarded


def notes() -> Console:
    return Console(stderr=True)


class Weights(StrEnum):
    best = "best"
    last = "last"


def existing(model: Path) -> Path:
    """A path that is there, or that of a released model by its name; InputError for what is neither."""
    from fer_nas_live.models import resolve

    return model if model.exists() else resolve(str(model))


MODEL_HELP = "An exported .onnx file{}, or a released model's name."


@guarded
def export(
    run: Annotated[
        Path,
        typer.Argument(help="Folder of a training run; for --int8 and --fp16 also a float32 .onnx file."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where to; default: model.onnx in the run folder, or the given file's name."),
    ] = None,
    weights: Annotated[
        Weights, typer.Option("--weights", help="Best by validation, or of the last epoch.")
    ] = Weights.best,
    int8: Annotated[bool, typer.Option("--int8", help="Also write NAME.int8.onnx, quantized.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Also write NAME.fp16.onnx, in half precision.")] = False,
    calibrate: Annotated[
        str | None,
        typer.Option("--calibrate", help="Images for --int8 and --fp16, as --data elsewhere; default: the run's own."),
    ] = None,
) -> None:
    """Write a training run as one ONNX file, after its check against PyTorch on at least 256 images.

    A smaller file is written only where it loses at most 0.5 points on the validation images.
    """
    wanted = [name for name, value in (("int8", int8), ("fp16", fp16)) if value]
    if calibrate is not None and not wanted:
        raise InputError("--calibrate goes with --int8 or --fp16")
    made, is_file = run, run.suffix.lower() == ".onnx"
    if not is_file:
        RunFolder.open(run)
    elif not wanted:
        raise InputError(f"{run} is exported already; give --int8 or --fp16, or a run folder")
    from fer_nas.export.onnx import export as run_export
    from fer_nas.export.small import run as run_small
    from fer_nas.progress import say

    if not is_file:
        say(notes(), f"exporting {run}; the file is then checked against PyTorch on the run's validation images")
        result = run_export(run, out, checkpoint=weights.value)
        made = result.path
        typer.echo(
            f"{result.path}  {result.size / 1000:.0f} kB, opset {result.metadata.opset}, "
            f"largest difference to PyTorch {result.max_difference:.1e} on {result.checked} images"
        )
    for name in wanted:
        say(notes(), f"{name}: the file is checked on the validation images")
        typer.echo(run_small(name, made, run, calibrate, out or made))


class SplitName(StrEnum):
    val = "val"
    test = "test"
    test_largest = "test_largest"


@guarded
@configured(DataConfig)
def evaluate(
    settings: dict[str, Any],
    model: Annotated[Path, typer.Argument(help=MODEL_HELP.format(", the folder of a training run"))],
    split: Annotated[
        SplitName, typer.Option("--split", help="Which images; test_largest: FER+ by the largest vote.")
    ] = SplitName.test,
    weights: Annotated[
        Weights, typer.Option("--weights", help="Of a run folder: best by validation, or last epoch's.")
    ] = Weights.best,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Accuracy of a model on a split of a data set: ONNX through onnxruntime, a run through PyTorch.

    Without --data a run is scored on its own images.
    """
    from fer_nas.data.split import title
    from fer_nas.export.evaluate import evaluate as run_evaluate
    from fer_nas.export.evaluate import images_for

    model = existing(model)
    images, seed = images_for(model, settings)
    value = run_evaluate(model, images, split.value, checkpoint=weights.value, seed=seed)
    if as_json:
        typer.echo(json.dumps(value, indent=2))
    else:
        typer.echo(
            f"{title(value['dataset'], value['labels'])} {value['split']} accuracy {100 * value['accuracy']:.2f} % "
            f"({value['correct']} of n = {value['n']}), macro-F1 {100 * value['macro_f1']:.2f} %, {value['runtime']}"
        )


@guarded
@configured(DataConfig)
def verify(
    settings: dict[str, Any],
    model: Annotated[Path, typer.Argument(help=MODEL_HELP.format(" of any precision"))],
    split: Annotated[
        SplitName, typer.Option("--split", help="Which images; test_largest: FER+ by the largest vote.")
    ] = SplitName.val,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Accuracy, macro-F1, calibration error, latency for 1 and 4 faces on one thread, and size of an exported file."""
    from fer_nas.export.evaluate import images_for
    from fer_nas.export.verify import lines
    from fer_nas.export.verify import verify as run_verify

    if model.is_dir():
        raise InputError(f"{model} is a folder; give an .onnx file (fer-nas evaluate scores a run)")
    model = existing(model)
    images, seed = images_for(model, settings)
    value = run_verify(model, images, split.value, seed=seed)
    typer.echo(json.dumps(value, indent=2) if as_json else "\n".join(lines(value)))
