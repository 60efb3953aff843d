"""What every long command has: data, augmentation, skeleton, and where it runs."""

from __future__ import annotations

from dataclasses import dataclass

from fer_nas.config.field import setting as _f


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from."""

    data: str = _f("drawn", "Data set: a path (zip, csv, folder), or 'drawn' for the generated faces.")
    dataset: str | None = _f(
        None,
        "Force the format instead of recognizing it: fer2013-csv, fer2013-images, images, cifar10, mnist, "
        "fashion-mnist, ckplus, ck48, jaffe or drawn.",
    )
    labels: str = _f("fer2013", "FER2013's official labels, or the FER+ votes.", ("fer2013", "ferplus"))
    votes: str | None = _f(None, "FER+ vote file; found beside the images where not given.")
    image_size: int | None = _f(None, "Resize images to this many pixels; their own size where not given.", low=8)
    contempt: str = _f("drop", "CK+: leave contempt out, or keep it as an eighth class.", ("drop", "keep"))
    folds: int = _f(10, "Folds over subjects where the data set has subjects and no official split.", low=2)
    fold: int = _f(0, "Which fold is the test set; the next one validates.", low=0)
    limit: int | None = _f(
        None, "Use at most this many training images, drawn by the seed; validation and test stay whole.", low=2
    )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of training images; 0 turns one off."""

    flip: bool = _f(True, "Mirror half of the images.")
    shift: float = _f(0.08, "Largest shift, as a share of the side.", low=0, high=1)
    rotate: float = _f(10.0, "Largest rotation in degrees.", low=0, high=360)
    scale: float = _f(0.1, "Largest zoom in or out, as a share.", low=0, high=1)
    brightness: float = _f(0.2, "Largest change of brightness, as a share of the range.", low=0, high=1)
    contrast: float = _f(0.2, "Largest change of contrast, as a share.", low=0, high=1)
    erase: float = _f(0.0, "Share of images of which a random rectangle is blanked (random erasing).", low=0, high=1)
    cutout: int = _f(0, "Side in pixels of a blanked square (cutout).", low=0)


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The skeleton that cells are stacked into."""

    channels: int = _f(16, "Channels of the first cells (C).", low=1)
    layers: int = _f(8, "Number of cells; reductions stand at 1/3 and 2/3.", low=1)
    stem: str = _f(
        "auto",
        "Stem: cifar (stride 1), stride2, or imagenet (stride 8 in three steps); auto by image size: "
        "cifar up to 40, stride2 up to 112, imagenet above.",
        ("auto", "cifar", "stride2", "imagenet"),
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a long command runs."""

    epochs: int = _f(50, "Epochs.", low=1)
    batch_size: int = _f(64, "Images a step.", low=1)
    seed: int = _f(0, "Seed of everything random.", low=0, high=2**63 - 1)
    device: str = _f("auto", "auto, cpu, cuda or cuda:N; a GPU that is asked for and not there is an error.")
    threads: int | None = _f(
        None, "CPU threads; where not given a new run tries which number is fastest, and keeps it.", low=1, high=1024
    )
