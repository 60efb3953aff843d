"""Command-line options made from the configuration's fields, and how a command ends (no torch)."""

from __future__ import annotations

import errno
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fer_nas.config import DataConfig
from fer_nas.errors import FerNasError
from fer_nas.settings import flat_fields, option_type

PANELS = {
    "run": "Run",
    "data": "Data",
    "network": "Network",
    "arch": "Architecture parameters",
    "response": "Response of the weights to λ",
    "tuning": "Training hyperparameters beside the architecture",
    "checks": "Checks of an epoch",
    "augment": "Augmentation",
    "recipe": "Recipe",
}
"""Part of a configuration → heading of its options in the help; all others stand under Weights."""


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


CommandLineError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")
"""What the parser raises for a wrong option, value or command (click's class, or Typer's own copy of it)."""


class OneLineErrors(TyperGroup):
    """A command line whose own errors are one line on stderr too, as those of the commands are."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("standalone_mode", True):
            return super().main(*args, **kwargs | {"standalone_mode": False})
        try:
            code = super().main(*args, **kwargs | {"standalone_mode": False})
        except CommandLineError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # its text is the whole help
                error.show()
            else:
                context, words = getattr(error, "ctx", None), list[str]()
                while context is not None and context.parent is not None:
                    words.insert(0, f" {context.info_name}")
                    context = context.parent
                text = " ".join(error.format_message().split()).rstrip(".")
                print(
                    f"fer-nas: {text}{'' if text.endswith('?') else ';'} see fer-nas{''.join(words)} --help",
                    file=sys.stderr,
                )
            sys.exit(error.exit_code)
        except typer.Abort:
            print("fer-nas: stopped", file=sys.stderr)
            sys.exit(130)
        sys.exit(code or 0)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose failures are one line on stderr and an exit code: 1 failed, 2 bad input, 130 Ctrl-C."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except FerNasError as error:
            print(f"fer-nas: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("fer-nas: stopped", file=sys.stderr)
            raise typer.Exit(130) from None
        except OSError as error:  # a full disk, rights; EPIPE (`| head`) is Typer's
            if error.errno in (None, errno.EPIPE):
                raise
            print(f"fer-nas: {error.filename or 'file'}: {error.strerror}", file=sys.stderr)
            raise typer.Exit(1) from None
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in {
                "torch",
                "torchvision",
                "onnx",
                "onnxscript",
                "optuna",
                "safetensors",
                "matplotlib",
                "PIL",
            }:
                raise
            print(f"fer-nas: {error.name} is not installed; pip install 'fer-nas[search]'", file=sys.stderr)
            raise typer.Exit(2) from None

    return run


def configured(
    config: type, *presets: dict[str, dict[str, Any]]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of `config`; it receives those that were set as `settings`.

    An option that is not given stays the preset's, so its help names the presets that change it: tables of settings by
    the preset's name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "settings"]
        shown = {name: values for table in presets for name, values in table.items()}
        fallback = "Data" if config is DataConfig else "Weights"
        made = [_parameter(name, *row, shown, fallback) for name, row in flat_fields(config).items()]
        names = {p.name for p in made}
        assert not names & {p.name for p in own}, f"two options: {names & {p.name for p in own}}"

        def run(**kwargs: Any) -> None:
            settings = {name: kwargs.pop(name) for name in names}
            command(**kwargs, settings={name: value for name, value in settings.items() if value is not None})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *made)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def _parameter(
    name: str, path: tuple[str, ...], leaf: Any, kind: Any, presets: dict[str, dict[str, Any]], fallback: str
) -> inspect.Parameter:
    default = leaf.default if leaf.default is not MISSING else None
    about = [leaf.metadata["help"]]
    if leaf.metadata["choices"]:
        about.append("(" + " | ".join(leaf.metadata["choices"]) + ")")
    changed = [f"{preset}: {values[name]}" for preset, values in presets.items() if name in values]
    shown = [] if default is None else [f"default: {default}"]
    if shown or changed:
        about.append(f"\\[{'; '.join(shown + changed)}]")
    plain = option_type(kind)
    names = (f"{flag(name)}/--no-{name.replace('_', '-')}",) if plain is bool else (flag(name),)
    panel = PANELS.get(path[0], fallback)
    option = typer.Option(*names, help=" ".join(about), rich_help_panel=panel, show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[plain | None, option]
    )


OutOption = Annotated[
    Path | None, typer.Option("--out", help="Run folder; default runs/<time>-<what>. Never overwritten.")
]
ResumeOption = Annotated[
    Path | None,
    typer.Option("--resume", help="Go on with the run in this folder; it keeps its own settings."),
]
