"""A folder or a zip as the same thing: a sorted list of files by relative path, without hidden ones."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fer_nas.data.pictures import PICTURE_ENDINGS
from fer_nas.errors import InputError

_JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini"})


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part.startswith(".") or part.lower() in _JUNK for part in parts)


def is_picture(name: str) -> bool:
    return "." + name.rpartition(".")[2].lower() in PICTURE_ENDINGS


@dataclass(frozen=True, kw_only=True)
class Tree:
    """source: what the user gave. root: the folder or zip that files (relative, with `/`, sorted) lie in."""

    source: Path
    root: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    archive: zipfile.ZipFile | None = None
    members: dict[str, zipfile.ZipInfo] | None = None

    def read(self, name: str) -> bytes:
        """The bytes of a file; OSError where it cannot be read."""
        if self.archive is None or self.members is None:
            return (self.root / name).read_bytes()
        try:
            return self.archive.read(self.members[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(str(error)) from None

    def open(self, name: str) -> IO[bytes]:
        if self.archive is None or self.members is None:
            return (self.root / name).open("rb")
        try:
            return self.archive.open(self.members[name])
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise OSError(str(error)) from None

    def where(self, name: str) -> str:
        """How a message names a file."""
        return f"{self.root}{os.sep if self.archive is None else ':'}{name}"

    def pictures(self) -> tuple[str, ...]:
        return tuple(name for name in self.files if is_picture(name))


def open_tree(path: Path) -> Tree:
    """The files of a folder or zip, or one csv; anything else, or a damaged zip, is an InputError."""
    if path.is_dir():
        return _folder_tree(path)
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if path.suffix.lower() == ".csv" and head != b"PK\x03\x04":
        return Tree(source=path, root=path.parent, files=(path.name,), folders=())
    if head[:2] != b"PK" and path.suffix.lower() != ".zip":
        raise InputError(f"{path}: not a data set; give a folder, a zip or a csv (unpack other archives first)")
    return _zip_tree(path)


def _zip_tree(path: Path) -> Tree:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError):
        raise InputError(f"{path}: not a zip, or one that was cut short; download or pack it again") from None
    members: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in archive.infolist():
        name = info.filename.replace("\\", "/")
        parts = tuple(part for part in name.split("/") if part)
        if not parts or _hidden(parts):
            continue
        if name.endswith("/"):
            folders.add("/".join(parts))
        else:
            members["/".join(parts)] = info
    for name in members:
        folders.update("/".join(name.split("/")[:depth]) for depth in range(1, name.count("/") + 1))
    return Tree(
        source=path,
        root=path,
        files=tuple(sorted(members)),
        folders=tuple(sorted(folders)),
        archive=archive,
        members=members,
    )


def _folder_tree(path: Path) -> Tree:
    files: list[str] = []
    folders: list[str] = []
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"cannot read the folder {error.filename}: {error.strerror}") from None

    for folder, below, names in os.walk(path, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not _hidden((name,)))
        here = Path(folder).relative_to(path)
        folders.extend((here / name).as_posix() for name in below)
        files.extend((here / name).as_posix() for name in names if not _hidden((name,)))
    return Tree(source=path, root=path, files=tuple(sorted(files)), folders=tuple(sorted(folders)))


def close_tree(tree: Tree) -> None:
    if tree.archive is not None:
        with contextlib.suppress(OSError):
            tree.archive.close()
