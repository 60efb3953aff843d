"""CK+ (official tree and the crops CK+48) and JAFFE: posed faces of known people, in folds of subjects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from fer_nas.classes import FACE_CLASSES, canonical_class
from fer_nas.config import DataConfig
from fer_nas.data.collect import Item, listed, make_split, read_items
from fer_nas.data.images import find_items
from fer_nas.data.pictures import UnreadablePicture, read_picture, to_grey
from fer_nas.data.sampling import image_folds, subject_folds
from fer_nas.data.split import DataSet
from fer_nas.data.tree import Tree
from fer_nas.errors import InputError

CK_FRAME = re.compile(r"(?:^|/)(S\d{3})/(\d{3})/S\d{3}_\d{3}_\d+\.png$", re.IGNORECASE)
CK_EMOTION = re.compile(r"(?:^|/)(S\d{3})/(\d{3})/[^/]*_emotion\.txt$", re.IGNORECASE)
CK_CODES = ("neutral", "angry", "contempt", "disgust", "fear", "happy", "sad", "surprise")
CK48_FILE = re.compile(r"(?:^|/)(S\d{3})_\d{3}_\d{8}\.png$", re.IGNORECASE)
JAFFE_FILE = re.compile(r"(?:^|/)([A-Z]{2})\.(AN|DI|FE|HA|NE|SA|SU)\d+\.\d+\.tiff?$", re.IGNORECASE)
CK_SIZE = 48
"""Side in pixels of the faces cut out of CK+'s frames where no image size is given: that of FER2013."""


def _in_folds(
    name: str,
    tree: Tree,
    items: Sequence[Item],
    classes: tuple[str, ...],
    config: DataConfig,
    seed: int,
    report: bool,
    notes: list[str],
    *,
    by_subject: bool,
    image_size: int | None,
    cut_face: bool = False,
) -> DataSet:
    cutter = FaceCutter() if cut_face else None
    images, kept = read_items(tree, items, grey=True, image_size=image_size, notes=notes, prepare=cutter)
    if cutter is not None:
        notes.append(
            f"faces cut out of {cutter.found} of {len(kept)} frames and resized to {image_size}; "
            f"centre square of the other {len(kept) - cutter.found}"
        )
    subjects = [item.subject or "" for item in kept]
    count = len(set(subjects)) if by_subject else len(kept)
    unit = "subjects" if by_subject else "images"
    if report and config.folds > count:
        notes.append(f"{count} {unit} are too few for {config.folds} folds: one split")
        rows = {"all": torch.arange(len(kept))}
    elif by_subject:
        rows = subject_folds(subjects, config.folds, config.fold, seed)
        notes.append(f"fold {config.fold} of {config.folds} over {count} subjects: none is in two splits")
    else:
        rows = image_folds(torch.tensor([item.label for item in kept]), config.folds, config.fold, seed)
        notes.append(
            f"leave-images-out, fold {config.fold} of {config.folds}: the same people are in train and test; "
            "figures are not comparable with those over subjects"
        )
    splits = {split: make_split(images, kept, part) for split, part in rows.items()}
    return DataSet(name=name, classes=classes, splits=splits, notes=tuple(notes))


class FaceCutter:
    """RGB frame → square RGB cut of its largest face (OpenCV's frontal Haar cascade), else of its centre."""

    def __init__(self) -> None:
        self.cascade = cv2.CascadeClassifier(
            str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml")
        )
        self.found = 0

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape[:2]
        side = min(height, width)
        boxes = self.cascade.detectMultiScale(to_grey(picture), 1.1, 5, minSize=(side // 6, side // 6))
        if len(boxes):
            x, y, w, h = max(boxes, key=lambda box: int(box[2]) * int(box[3]))
            self.found += 1
            return np.ascontiguousarray(picture[y : y + h, x : x + w])
        top, left = (height - side) // 2, (width - side) // 2
        return np.ascontiguousarray(picture[top : top + side, left : left + side])


def read_ckplus(tree: Tree, config: DataConfig, seed: int, report: bool, *, by_subject: bool = True) -> DataSet:
    """CK+'s official tree: of each labelled sequence the last three frames, and the first as neutral.

    Faces are cut out of frames that are not square (640×490). Contempt is dropped unless config keeps it.
    """
    sequences: dict[tuple[str, str], list[str]] = {}
    emotion_file: dict[tuple[str, str], str] = {}
    for file in tree.files:
        if frame := CK_FRAME.search(file):
            sequences.setdefault((frame[1].upper(), frame[2]), []).append(file)
        elif emotion := CK_EMOTION.search(file):
            emotion_file[emotion[1].upper(), emotion[2]] = file
    if not sequences or not emotion_file:
        missing = "cohn-kanade-images/S###/###/*.png" if not sequences else "Emotion/S###/###/*_emotion.txt"
        raise InputError(f"{tree.source}: no {missing} in it; give the folder that holds both parts of CK+")
    classes = FACE_CLASSES if config.contempt == "keep" else FACE_CLASSES[:7]
    notes: list[str] = []
    items: list[Item] = []
    damaged: list[str] = []
    counts: Counter[str] = Counter()
    for key, frames in sorted(sequences.items()):
        if key not in emotion_file:
            continue
        try:
            name = _emotion(tree.read(emotion_file[key]))
        except (ValueError, IndexError, OSError):
            damaged.append(f"sequence left out, its label cannot be read: {tree.where(emotion_file[key])}")
            continue
        counts[name] += 1
        if name not in classes:
            continue
        first, *others = sorted(frames)
        label = classes.index(name)
        neutral = classes.index("neutral") if others else label
        items.append(Item(file=first, label=neutral, subject=key[0]))
        items.extend(Item(file=frame, label=label, subject=key[0]) for frame in others[-3:])
    found = ", ".join(f"{name} {counts[name]}" for name in FACE_CLASSES if counts[name])
    unlabelled = len(sequences) - sum(counts.values()) - len(damaged)
    notes.append(f"{sum(counts.values())} labelled sequences ({found}); {unlabelled} without an emotion file left out")
    listed(notes, damaged, "sequences with unreadable labels")
    if counts["contempt"] and "contempt" not in classes:
        notes.append(f"contempt: {counts['contempt']} sequence(s) left out; --contempt keep makes it the eighth class")
    if not items:
        raise InputError(f"{tree.source}: no labelled sequence is left; --contempt keep keeps those with contempt")
    cut = _first_is_oblong(tree, items)
    size = config.image_size or (CK_SIZE if cut else None)
    return _in_folds(
        "ckplus", tree, items, classes, config, seed, report, notes,
        by_subject=by_subject, image_size=size, cut_face=cut,
    )  # fmt: skip


def _emotion(content: bytes) -> str:
    """'   3.0000000e+00' → disgust."""
    code = float(content.decode("ascii", errors="replace").split()[0])
    if code != int(code) or not 0 <= code < len(CK_CODES):
        raise ValueError(f"emotion code {code}")
    return CK_CODES[int(code)]


def _first_is_oblong(tree: Tree, items: Sequence[Item]) -> bool:
    for item in items:
        try:
            height, width = read_picture(tree.read(item.file)).shape[:2]
        except (UnreadablePicture, OSError):
            continue
        return bool(height != width)
    return False


def read_ck48(tree: Tree, config: DataConfig, seed: int, report: bool, *, by_subject: bool = True) -> DataSet:
    """The re-published crops `<class>/S###_###_########.png`: contempt, and no neutral."""
    found = find_items(tree)
    notes = list(found.notes)
    unknown = sorted(set(found.classes) - set(FACE_CLASSES))
    if unknown:
        raise InputError(f"{tree.source}: not CK+48: classes {', '.join(unknown)}; known: {', '.join(FACE_CLASSES)}")
    classes = tuple(name for name in found.classes if name != "contempt" or config.contempt == "keep")
    dropped = sum(found.classes[item.label] not in classes for item in found.items)
    if dropped:
        notes.append(f"contempt: {dropped} images left out; --contempt keep keeps the class")
    items, odd = [], 0
    for item in found.items:
        name = found.classes[item.label]
        subject = CK48_FILE.search(item.file)
        odd += subject is None
        if subject is not None and name in classes:
            items.append(Item(file=item.file, label=classes.index(name), subject=subject[1].upper()))
    if odd:
        notes.append(f"{odd} pictures left out: their names are not S###_###_########.png")
    if not items:
        raise InputError(f"{tree.source}: not CK+48: no picture is called S###_###_########.png")
    return _in_folds(
        "ck48", tree, items, classes, config, seed, report, notes,
        by_subject=by_subject, image_size=config.image_size,
    )  # fmt: skip


def read_jaffe(tree: Tree, config: DataConfig, seed: int, report: bool, *, by_subject: bool = True) -> DataSet:
    """JAFFE's files `KA.AN1.39.tiff`: subject KA, expression AN."""
    classes = FACE_CLASSES[:7]
    items = []
    for file in tree.files:
        if match := JAFFE_FILE.search(file):
            name = canonical_class(match[2])
            assert name is not None
            items.append(Item(file=file, label=classes.index(name), subject=match[1].upper()))
    if not items:
        raise InputError(f"{tree.source}: not JAFFE: no file is called like KA.AN1.39.tiff")
    notes = (
        [f"{len(tree.pictures()) - len(items)} other pictures left out"] if len(tree.pictures()) > len(items) else []
    )
    return _in_folds(
        "jaffe", tree, items, classes, config, seed, report, notes,
        by_subject=by_subject, image_size=config.image_size,
    )  # fmt: skip
