"""A contact sheet: some images of every class, to look at what a data set really holds."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fer_nas.artifacts import atomic_path
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError

_CELL = 64  # smallest side of an image on the sheet, in pixels
_LARGEST_CELL = 128
_MARGIN = 190  # for the row's label
_GAP = 2
_FONT_SIZE = 15
_PAPER, _INK = (250, 250, 250), (30, 30, 30)


def contact_sheet(dataset: DataSet, path: Path, per_class: int = 12, seed: int = 0) -> None:
    """Write a PNG with one labelled row of `per_class` random images a class, from the first split.

    A distribution stands in the row of its most probable class; without labels there is one row.
    """
    check_sheet_path(path)
    split_name, split = next(iter(dataset.splits.items()))
    labels = split.labels().cpu() if dataset.classes else torch.zeros(len(split), dtype=torch.int64)
    side, size = _cell_side(dataset.image_size), dataset.image_size
    generator = torch.Generator().manual_seed(seed)
    rows = dataset.classes or (split_name,)
    sheet = Image.new("RGB", (_MARGIN + per_class * (side + _GAP), len(rows) * (side + _GAP) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    method = Image.Resampling.NEAREST if side % size == 0 else Image.Resampling.BOX
    for number, name in enumerate(rows):
        of_class = (labels == number).nonzero().flatten()
        chosen = of_class[torch.randperm(len(of_class), generator=generator)[:per_class]]
        top = _GAP + number * (side + _GAP)
        draw.text((8, top + side / 2), f"{name} ({len(of_class):,})", fill=_INK, font=font, anchor="lm")
        for column, picture in enumerate(split.images[chosen.to(split.images.device)].cpu()):
            place = (_MARGIN + column * (side + _GAP), top)
            sheet.paste(_picture(picture).resize((side, side), method), place)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def check_sheet_path(path: Path) -> None:
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"--sheet {path}: the contact sheet is a PNG; give a name that ends in .png")


def _cell_side(size: int) -> int:
    """Small images are enlarged by a whole factor, large ones shrunk."""
    return size * -(-_CELL // size) if size < _CELL else min(size, _LARGEST_CELL)


def _picture(image: Tensor) -> Image.Image:
    """uint8 (C, H, W), grey or RGB → picture."""
    array = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).convert("RGB")
