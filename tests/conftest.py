"""Fixtures that every room's tests share."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets, from FER_NAS_DATA; without it the test is skipped."""
    value = os.environ.get("FER_NAS_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip(
            "needs real data: set FER_NAS_DATA to a folder with fer2013.zip, ferplus.csv, … (datasets/README.md)"
        )
    return Path(value).resolve()


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small troublesome inputs: tables, folders, pictures and videos; treat it as read-only."""
    folder = tmp_path_factory.mktemp("cases")
    spec = importlib.util.spec_from_file_location("make_cases", HERE / "make_cases.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(folder)
    return folder
