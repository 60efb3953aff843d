"""The whole path, small: search → train → export → live, on drawn faces and one picture."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fer_nas.artifacts import GenotypeFile
from fer_nas.config import DataConfig, SearchConfig, TrainConfig
from fer_nas.errors import InputError
from fer_nas.presets import SEARCH_PRESETS, TRAIN_PRESETS
from fer_nas.settings import build


def drawn_picture(path: Path) -> Path:
    """A picture with one large drawn face, for a machine without a photograph."""
    from fer_nas_live.pictures import write_picture

    from fer_nas.data.drawn import drawn_faces

    face = drawn_faces(7, 7, 7, seed=1).splits["test"].images[3, 0].numpy()
    large = np.kron(face, np.ones((5, 5), np.uint8))
    canvas = np.full((480, 640), 128, np.uint8)
    canvas[120:360, 200:440] = large
    write_picture(path, np.repeat(canvas[:, :, None], 3, axis=2))
    return path


def photograph(path: Path) -> Path:
    """The astronaut portrait that scikit-image carries (NASA, public domain), else a drawn face."""
    try:
        from skimage import data
    except ImportError:
        return drawn_picture(path)
    from fer_nas_live.pictures import write_picture

    write_picture(path, np.ascontiguousarray(data.astronaut()[:, :, ::-1]))
    return path


def run(out: Path, picture: Path | None, console: Console, notes: Console) -> None:
    """Everything into new folders below `out`; the table at the end says what was made and where."""
    from fer_nas_live import models
    from fer_nas_live.live import LiveOptions
    from fer_nas_live.live import run as live

    from fer_nas.export.evaluate import evaluate
    from fer_nas.export.onnx import export
    from fer_nas.search.start import search
    from fer_nas.train.start import train

    folder = out / time.strftime("%Y%m%d-%H%M%S")
    if picture is not None and not picture.is_file():
        raise InputError(f"--picture {picture}: no such file")
    started = time.monotonic()
    notes.rule("1 of 4: search")
    found = search(build(SearchConfig, SEARCH_PRESETS, "tiny", {}), folder / "search", notes)
    notes.rule("2 of 4: train the cell that was found")
    genotype = GenotypeFile.load(found / "genotype.json")
    trained, report = train(build(TrainConfig, TRAIN_PRESETS, "tiny", {}), genotype, folder / "train", notes)
    notes.rule("3 of 4: export to ONNX and check against PyTorch")
    model = export(trained.path, folder / "model.onnx")
    onnx_figures = evaluate(model.path, DataConfig())
    notes.rule("4 of 4: the live application on a picture")
    photo = picture or photograph(folder / "picture.png")
    shown = [("your new network", str(model.path), folder / "live-demo.png")]
    if models.find():
        shown.append(("the released network", str(models.find()[0]), folder / "live-released.png"))
    for who, path, target in shown:
        console.print(f"[bold]{who} sees:[/bold]")
        live(LiveOptions(source=str(photo), model=path, headless=True, save=target), console, notes)

    table = Table("what", "figure", "file", title=f"Made in {time.monotonic() - started:.0f} s")
    last = found.metrics()[-1]
    test = f"{100 * report['accuracy']:.1f} % of drawn test faces, n = {report['n']}"
    onnx = f"{100 * onnx_figures['accuracy']:.1f} % through onnxruntime, {model.size / 1000:.0f} kB"
    table.add_row("search", f"supernet {100 * last['val_accuracy']:.1f} %", "search/genotype.json")
    table.add_row("cells", "normal and reduction", "search/cells.png")
    table.add_row("training", test, "train/curves.png")
    table.add_row("confusion", f"{len(report['classes'])} classes", "train/confusion.png")
    table.add_row("model", onnx, model.path.name)
    for who, _, target in shown:
        table.add_row("picture", f"what {who} sees", target.name)
    console.print(table)
    console.print(f"All of it lies in {folder}", highlight=False, markup=False, soft_wrap=True)
    console.print("The supernet of so short a search is close to chance (14.3 %); the cell is then trained by itself.")
    console.print("The demo network has seen drawings only: use it to see the path, not to judge faces.")
