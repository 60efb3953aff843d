"""The command line as users and scripts know it: its commands, their options, how a wrong one ends."""

from __future__ import annotations

import pytest
import typer.main
from typer.testing import CliRunner

from fer_nas.cli import app

RUN = "--epochs --batch-size --seed --device --threads"
DATA = "--data --dataset --labels --votes --image-size --contempt --folds --fold --limit"
NETWORK = "--channels --layers --stem"
AUGMENT = "--flip --no-flip --shift --rotate --scale --brightness --contrast --erase --cutout"
SGD = "--learning-rate --learning-rate-min --momentum --weight-decay --gradient-clip"

# Command → its arguments and options. A change here is a change for users: say it in CHANGELOG.md.
OPTIONS = {
    "live": "--camera --source --model --detector --yunet --provider --headless --window --save --records --smoothing "
    "--threshold --blur-faces --baseline --prior",
    "cameras": "--json",
    "timeline": "RECORDS --out",
    "models": "--json",
    "info": "MODEL --json",
    "bench live": "--source --model --detector --frames --faces --seconds --window --json",
    "bench search": "--methods --forms --space --batch-size --channels --layers --image-size --steps --device "
    "--threads --out --json",
    "fetch": "WHAT --from --url",
    "doctor": "--json",
    "toy": "--out --json",
    "compare": "RUNS --out",
    "study": "PLAN --data --out --scale --labels --votes --cifar10 --only --seeds --first-seed --jobs "
    "--threads --device",
    "search": "--preset --out --resume --seeds --rank-epochs --method --space --form --graphs --no-graphs "
    "--recompute --no-recompute --arch-learning-rate --arch-weight-decay "
    "--operations --max-skips --stable-epochs --auxiliary-skip --stage-layers --stage-operations --stage-warmup "
    "--skip-dropout --temperature --temperature-min "
    "--arch-every --terms --solve-batch --adjoint-rate --adjoint-damping --adjoint-every --response --response-clip "
    "--response-input --response-reads --response-start --response-rate --sigma --learn-sigma --no-learn-sigma "
    "--entropy-weight --perturb --pairs --no-pairs --response-every --response-batch --linearize --no-linearize "
    "--tune --tune-rate --tune-sigma "
    "--hessian-iterations --check-response --no-check-response --check-batches --trust "
    f"--warmup-epochs {RUN} {DATA} {NETWORK} {SGD} {AUGMENT}",
    "train": "GENOTYPE --preset --out --resume --recipe --no-recipe --nesterov --no-nesterov --warmup-epochs "
    "--label-smoothing --drop-path --dropout --auxiliary --no-auxiliary --auxiliary-weight --ema --progressive "
    f"--mixed-precision --no-mixed-precision --initialize-from {RUN} {DATA} {NETWORK} {SGD} {AUGMENT}",
    "tune": "--out --resume --methods --budget --clock --seeds --seed --device --threads --problem --hyperparameters "
    "--width --wrong-labels --batch-size --learning-rate --momentum --hyper-learning-rate --train-steps "
    f"--warmup-epochs --perturbation --perturb --entropy-weight --neumann-terms --trial-epochs {DATA}",
    "export": "RUN --out --weights --int8 --fp16 --calibrate",
    "evaluate": f"MODEL --split --weights --json {DATA}",
    "verify": f"MODEL --split --json {DATA}",
    "data": f"PATH --sheet --json {DATA}",
    "demo": "--out --picture",
}


def commands(group: object, before: str = "") -> dict[str, object]:
    """Every command by its words; those of a group by the group's name too."""
    found: dict[str, object] = {}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        inner = hasattr(command, "commands")
        found |= commands(command, f"{before}{name} ") if inner else {before + name: command}
    return found


COMMANDS = commands(typer.main.get_command(app))


def words_of(command: object) -> list[str]:
    found = []
    for parameter in command.params:  # type: ignore[attr-defined]
        is_option = parameter.param_type_name == "option"
        found += [*parameter.opts, *parameter.secondary_opts] if is_option else [parameter.name.upper()]
    return found


def test_commands() -> None:
    assert set(COMMANDS) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    assert sorted(words_of(COMMANDS[name])) == sorted(OPTIONS[name].split())


@pytest.mark.parametrize("name", OPTIONS)
def test_help_names_every_option_and_ends_well(name: str) -> None:
    result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0
    missing = [word for word in OPTIONS[name].split() if word.startswith("--") and word not in result.stdout]
    assert not missing
    assert CliRunner().invoke(app, [*name.split(), "-h"]).exit_code == 0


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_has_a_help_text(name: str) -> None:
    assert [p.name for p in COMMANDS[name].params if not p.help] == []


@pytest.mark.parametrize("words", [[], ["live"], ["search"], ["data"], ["doctor"]], ids=" ".join)
def test_unknown_option(words: list[str]) -> None:
    result = CliRunner().invoke(app, [*words, "--no-such-option"])
    assert result.exit_code == 2
    assert "no-such-option" in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_command() -> None:
    result = CliRunner().invoke(app, ["serach"])
    assert result.exit_code == 2
    assert "serach" in result.stderr


@pytest.mark.parametrize("words", [["search", "--epochs", "0"], ["train"], ["data", "x", "--data", "y"]], ids=" ".join)
def test_wrong_value_is_one_line(words: list[str]) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
