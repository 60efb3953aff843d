"""Configurations made, checked and kept: from presets and options, to and from JSON (standard library only)."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, fields, is_dataclass, replace
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from fer_nas.config import TUNABLE, SearchConfig
from fer_nas.errors import InputError
from fer_nas.presets import IN_PLACE_OF, OWN_OPERATIONS, PAPER_OF_SPACE, READ_BY, SEARCH_PRESETS, TUNING_METHODS

T = TypeVar("T")


def flat_fields(config: Any) -> dict[str, tuple[tuple[str, ...], Field[Any], Any]]:
    """Option name → (path into the nested configuration, field, type) for every leaf field of `config`."""
    found: dict[str, tuple[tuple[str, ...], Field[Any], Any]] = {}
    hints = get_type_hints(config)
    for item in fields(config):
        kind = hints[item.name]
        if is_dataclass(kind):
            for name, (path, leaf, leaf_kind) in flat_fields(kind).items():
                assert name not in found, f"two options called {name}"
                found[name] = ((item.name, *path), leaf, leaf_kind)
        else:
            assert item.name not in found, f"two options called {item.name}"
            found[item.name] = ((item.name,), item, kind)
    return found


def _check(name: str, leaf: Field[Any], kind: Any, value: Any) -> None:
    option = "--" + name.replace("_", "-")
    choices, low, high = (leaf.metadata[key] for key in ("choices", "low", "high"))
    plain = option_type(kind)
    if value is None and plain is not kind:
        return
    if type(value) is not plain and not (plain is float and type(value) is int):
        raise InputError(f"{option} is {value!r}; it must be of type {plain.__name__}")
    if choices and value not in choices:
        raise InputError(f"{option} is {value!r}; choose from {', '.join(choices)}")
    endless = value == math.inf and leaf.metadata["infinite"]
    if isinstance(value, float) and not math.isfinite(value) and not endless:
        raise InputError(f"{option} is {value}; give a finite number")
    if low is not None and not value >= low:
        raise InputError(f"{option} is {value}; it must be at least {low:g}")
    if high is not None and not value <= high:
        raise InputError(f"{option} is {value}; it must be at most {high:g}")


def override(config: T, values: dict[str, Any]) -> T:
    """`config` with the leaf fields of `values` (flat names) replaced and checked."""
    known = flat_fields(type(config))  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in known:
            raise InputError(f"unknown setting {name!r}; known: {', '.join(sorted(known))}")
        path, leaf, kind = known[name]
        _check(name, leaf, kind, value)
        config = _replaced(config, path, value)
    return config


def _replaced(config: Any, path: tuple[str, ...], value: Any) -> Any:
    head, *rest = path
    return replace(config, **{head: _replaced(getattr(config, head), tuple(rest), value) if rest else value})


def build(config: type[T], presets: dict[str, dict[str, Any]], preset: str, values: dict[str, Any]) -> T:
    """The configuration of `preset` with single overrides."""
    if preset not in presets:
        raise InputError(f"--preset is {preset!r}; choose from {', '.join(presets)}")
    return override(config(), presets[preset] | values)


def search_config(preset: str, given: dict[str, Any]) -> SearchConfig:
    """A search's configuration; the preset `paper` is that of the space's own paper.

    InputError for a setting that was given and that what was chosen does not read.
    """
    space = given.get("space")
    own = SEARCH_PRESETS["paper"] | PAPER_OF_SPACE.get(str(space), {})
    config = build(SearchConfig, SEARCH_PRESETS | {"paper": own}, preset, given)
    if space in OWN_OPERATIONS and "operations" not in given:
        config = override(config, {"operations": None})
    switches = {
        "--tune": bool(tuned_names(config)),
        "--check-response": config.checks.check_response,
        "--trust": config.checks.trust != "none",
    }
    switched_on = [name for name, on in switches.items() if on]
    refuse_unread(given, READ_BY, (config.arch.method, config.arch.space, *switched_on))
    for name, instead in IN_PLACE_OF.get(config.arch.space, {}).items():
        if name in given:
            raise InputError(
                f"--{name.replace('_', '-')} is not read by {config.arch.space}; give --{instead.replace('_', '-')}"
            )
    return config


def tuned_names(config: SearchConfig) -> tuple[str, ...]:
    """What --tune names, in TUNABLE's order; InputError for an unknown or doubled name, or a method that cannot."""
    if config.tuning.tune is None:
        return ()
    names = [name.strip() for name in config.tuning.tune.split(",")]
    for name in names:
        if name not in TUNABLE:
            raise InputError(f"--tune: {name!r} is none of {', '.join(TUNABLE)}")
        if names.count(name) > 1:
            raise InputError(f"--tune names {name} twice")
    if config.arch.method not in TUNING_METHODS:
        raise InputError(
            f"--tune: {config.arch.method} has no gradient of hyperparameters that act in the training loss alone, and "
            f"there by random numbers; choose --method {' or '.join(TUNING_METHODS)}"
        )
    return tuple(name for name in TUNABLE if name in names)


def recipe_settings(recipe: Mapping[str, float], given: Mapping[str, Any]) -> dict[str, float]:
    """What of a genotype's recipe a training takes: all that no option says otherwise; InputError for what none can."""
    for name, value in recipe.items():
        if name not in TUNABLE:
            raise InputError(
                f"the genotype's recipe holds {name!r}; known: {', '.join(TUNABLE)}; leave it out with --no-recipe"
            )
        low, high = TUNABLE[name]
        if not low <= value <= high:
            raise InputError(f"the genotype's recipe: {name} is {value:g}; it must lie between {low:g} and {high:g}")
    return {name: value for name, value in recipe.items() if name not in given}


def read_seeds(text: str) -> tuple[int, ...]:
    """'0,1,2' → (0, 1, 2)."""
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise InputError(f"--seeds is {text!r}; give whole numbers with commas, such as 0,1,2") from None
    if len(set(seeds)) < len(seeds) or len(seeds) < 2 or not all(0 <= seed < 2**63 for seed in seeds):
        raise InputError(f"--seeds is {text!r}; give two or more from 0 upwards, each once (for one there is --seed)")
    return seeds


def refuse_unread(given: Iterable[str], read_by: Mapping[str, tuple[str, ...]], chosen: Iterable[str]) -> None:
    """InputError for an option that was given and that nothing of what was chosen reads."""
    there = set(chosen)
    for name in given:
        readers = read_by.get(name)
        if readers and not there & set(readers):
            raise InputError(f"--{name.replace('_', '-')} is read by {' and '.join(readers)} only; leave it out")


def to_dict(config: Any) -> dict[str, Any]:
    return asdict(config)


def from_dict(config: type[T], value: dict[str, Any], where: str = "config.json") -> T:
    """A configuration read back; an unknown or missing field or an impossible value is an InputError."""
    hints = get_type_hints(config)
    known = {item.name: item for item in fields(config)}  # type: ignore[arg-type]
    if not isinstance(value, dict) or set(value) != set(known):
        odd = sorted(set(value) ^ set(known)) if isinstance(value, dict) else [type(value).__name__]
        raise InputError(f"{where}: does not fit this version's {config.__name__}: {', '.join(odd)}")
    made: dict[str, Any] = {}
    for name, item in value.items():
        if is_dataclass(hints[name]):
            made[name] = from_dict(hints[name], item, where)  # type: ignore[arg-type]
        else:
            try:
                _check(name, known[name], hints[name], item)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            made[name] = item
    return config(**made)


def option_type(kind: Any) -> type:
    """The plain type behind an optional annotation: int | None → int."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind
