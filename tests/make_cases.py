"""Writes the small troublesome inputs of the tests: tables, class folders, sequences, pictures and videos.

Everything is drawn here or comes from scikit-image's bundled photograph of an astronaut (public domain).
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
USAGES = ("Training",) * 5 + ("PublicTest",) * 2 + ("PrivateTest",) * 2
CK_SEQUENCES = (("S005", "001", 3), ("S010", "002", 7), ("S010", "004", None), ("S011", "001", 2))
JAFFE_SUBJECTS = ("KA", "KL", "KM", "KR", "MK", "NA", "NM", "TM", "UY", "YM")
JAFFE_TAKES = {  # pictures of each subject, in the order above
    "AN": (3,) * 10,
    "DI": (3, 4, 2, 3, 3, 3, 2, 3, 3, 3),
    "FE": (4, 3, 3, 3, 3, 3, 3, 3, 3, 4),
    "HA": (4, 3, 4, 2, 3, 3, 3, 3, 3, 3),
    "NE": (3,) * 10,
    "SA": (3, 3, 4, 3, 3, 3, 3, 3, 3, 3),
    "SU": (3,) * 10,
}


def write(folder: Path) -> None:
    """All files, the same at every call."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    write_fer2013(folder, rng)
    write_ck(folder / "ck", rng)
    write_jaffe(folder / "jaffe", rng)
    photo = data.astronaut()  # RGB, 512×512, one face
    write_pictures(folder, photo, rng)
    write_videos(folder, photo)


def marked_noise(rng: np.random.Generator, label: int, size: int = 48) -> np.ndarray:
    """uint8 (size, size): dark noise with a bright column whose place tells the class."""
    picture = rng.integers(0, 60, (size, size), dtype=np.uint8)
    picture[:, 6 * label : 6 * label + 6] += 150
    return picture


def save_png(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def as_pixels(picture: np.ndarray) -> str:
    return " ".join(str(value) for value in picture.reshape(-1))


def write_lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())


def write_fer2013(folder: Path, rng: np.random.Generator) -> None:
    """fer.csv, icml.csv, bad.csv, test.csv and folder/: 63 pictures, 9 a class, split 35/14/14."""
    rows = [(label, usage, marked_noise(rng, label)) for label in range(len(CLASSES)) for usage in USAGES]
    header = "emotion,pixels,Usage"
    table = [f"{label},{as_pixels(picture)},{usage}" for label, usage, picture in rows]
    write_lines(folder / "fer.csv", [header, *table])
    spaced = [f"{label}, {usage}, {as_pixels(picture)}" for label, usage, picture in rows]
    write_lines(folder / "icml.csv", ["emotion, Usage, pixels", *spaced])
    whole = [as_pixels(marked_noise(rng, label)) for label in range(4)]
    damaged = [
        f"0,{' '.join(whole[0].split()[:2256])},Training",  # line 65: a row of pixels is missing
        f"1,256 {' '.join(whole[1].split()[1:])},Training",  # line 66: no byte
        f"9,{whole[2]},Training",  # line 67: no such class
        "2,,Training",  # line 68: no pixels
        f"3,{whole[3]},Training,a,b,c",  # line 69: three fields too many
        "@article{x, title=y}",  # line 70: no row at all
    ]
    write_lines(folder / "bad.csv", [header, *table, *damaged])
    write_lines(folder / "test.csv", ["pixels", whole[0], whole[1]])
    for number, (label, usage, picture) in enumerate(rows):
        split = "train" if usage == "Training" else "test"
        save_png(folder / "folder" / split / CLASSES[label] / f"{usage}_{number:08d}.png", picture)


def write_ck(folder: Path, rng: np.random.Generator) -> None:
    """CK+'s official tree: four sequences of five frames, three with an emotion file."""
    for subject, sequence, code in CK_SEQUENCES:
        stem = f"{subject}_{sequence}"
        for frame in range(1, 6):
            name = f"{stem}_{frame:08d}.png"
            save_png(folder / "cohn-kanade-images" / subject / sequence / name, marked_noise(rng, code or 0, 64))
        (folder / "cohn-kanade-images" / subject / ".DS_Store").write_bytes(b"\0")
        if code is not None:
            write_lines(
                folder / "Emotion" / subject / sequence / f"{stem}_00000005_emotion.txt",
                [f"   {code:.7e}"],
            )


def write_jaffe(folder: Path, rng: np.random.Generator) -> None:
    """213 pictures of ten subjects, numbered through, among files that are none."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for index, subject in enumerate(JAFFE_SUBJECTS):
        for label, (code, takes) in enumerate(JAFFE_TAKES.items()):
            for take in range(1, takes[index] + 1):
                number += 1
                picture = Image.fromarray(marked_noise(rng, label, 64))
                picture.save(folder / f"{subject}.{code}{take}.{number}.tiff")
    (folder / "README").write_text("about the pictures\n")
    (folder / ".DS_Store").write_bytes(b"\0")


def write_pictures(folder: Path, photo: np.ndarray, rng: np.random.Generator) -> None:
    """face.png; exif6.jpg, 400×512 stored lying; trunc.jpg, the first half of a JPEG."""
    save_png(folder / "face.png", photo[:, :, ::-1])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    lying = np.ascontiguousarray(np.rot90(photo[:, :400]))
    Image.fromarray(lying).save(folder / "exif6.jpg", exif=exif, quality=95)
    noise = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    encoded = cv2.imencode(".jpg", noise)[1].tobytes()
    (folder / "trunc.jpg").write_bytes(encoded[: len(encoded) // 2])


def write_video(path: Path, codec: str, frames: list[np.ndarray]) -> None:
    """BGR frames of one size, 25 a second."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 25, (width, height))
    assert writer.isOpened(), f"OpenCV cannot write {path.name}"
    for frame in frames:
        writer.write(np.ascontiguousarray(frame))
    writer.release()


def write_videos(folder: Path, photo: np.ndarray) -> None:
    """20 frames each: ok.mp4, ok.avi; cut.avi, 60 % of its bytes; dark.mp4, black for the first ten frames;
    rot.mp4, 320×250 with a quarter turn in its header; odd.mjpeg, 321×241.
    """
    bgr = photo[:, :, ::-1]
    square = cv2.resize(bgr, (320, 320))
    write_video(folder / "ok.mp4", "mp4v", [square] * 20)
    write_video(folder / "ok.avi", "MJPG", [square] * 20)
    whole = (folder / "ok.avi").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: 6 * len(whole) // 10])
    write_video(folder / "dark.mp4", "mp4v", [np.zeros_like(square)] * 10 + [square] * 10)
    upright = cv2.resize(np.ascontiguousarray(bgr[:, :400]), (250, 320))
    write_video(folder / "rot.mp4", "mp4v", [np.rot90(upright)] * 20)
    _turn_by_header(folder / "rot.mp4")
    frame = cv2.imencode(".jpg", cv2.resize(square, (321, 241)))[1].tobytes()
    (folder / "odd.mjpeg").write_bytes(frame * 20)


def _turn_by_header(path: Path) -> None:
    """Write the matrix of a quarter turn clockwise into the track header (version 0) of an MP4."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # version and flags, times, track, duration, layer, group, volume
    one, unit = 1 << 16, 1 << 30
    struct.pack_into(">9i", content, matrix, 0, one, 0, -one, 0, 0, 0, 0, unit)
    path.write_bytes(content)
