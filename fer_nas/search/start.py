"""A search in a new folder, or on from its last checkpoint."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

import fer_nas
from fer_nas import parallel
from fer_nas.artifacts import RunFolder, read_json, write_json
from fer_nas.config import SearchConfig
from fer_nas.errors import InputError
from fer_nas.loop import NOT_MADE, new_folder, prepare, prepare_again, with_threads
from fer_nas.progress import say
from fer_nas.runtime import enough_memory
from fer_nas.search.form import wanted_form
from fer_nas.search.found import draw
from fer_nas.search.methods import METHODS
from fer_nas.search.run import Search
from fer_nas.settings import from_dict, to_dict


def search(config: SearchConfig, out: Path | None, console: Console) -> RunFolder:
    """A new search in a new folder."""
    learns = METHODS[config.arch.method].make is not None
    if learns:
        wanted_form(config)  # wrong settings are told before the images are read
    dataset = prepare(config.run, config.data, out, console)
    if learns:
        config = with_threads("search", config, dataset, console)
    with enough_memory():
        run = Search(config, NOT_MADE, dataset, console) if learns else None
    folder = new_folder(out, config.arch.method)  # last, so that a stop before leaves none behind
    if run is not None:
        run.folder = folder
    first = parallel.number() == 0
    if first:
        write_json(
            folder / "config.json",
            {"kind": "search", "fer_nas_version": fer_nas.__version__, "config": to_dict(config)},
        )
    say(console, f"run folder: {folder.path}")
    if run is not None:
        run.run()
    elif first:
        say(console, f"{config.arch.method} draws its cell by the seed; settings of a training are not read")
        draw(config, folder, dataset)
    return folder


def resume(path: Path, console: Console) -> RunFolder:
    """Go on with a search from its last checkpoint; one that is finished is left as it is."""
    folder = RunFolder.open(path)
    saved = read_json(folder / "config.json", "run configuration")
    if not isinstance(saved, dict) or "config" not in saved:
        raise InputError(f"{folder / 'config.json'} is not the configuration of a run")
    if saved.get("kind") != "search":
        raise InputError(
            f"{path} is a {saved.get('kind')} run; resume it with `fer-nas {saved.get('kind')} --resume {path}`"
        )
    config = from_dict(SearchConfig, saved["config"], str(folder / "config.json"))
    dataset = prepare_again(path, config.run, config.data)
    if METHODS[config.arch.method].make is None:
        draw(config, folder, dataset)
        return folder
    with enough_memory():
        run = Search(config, folder, dataset, console)
        run.restore()
    run.run()
    return folder
