"""Which form of the supernet a search takes; what cannot be combined is refused, before any image is read."""

from __future__ import annotations

from fer_nas import parallel
from fer_nas.config import SearchConfig
from fer_nas.errors import InputError
from fer_nas.search.methods import METHODS, needs_plain_form
from fer_nas.search.stages import plan
from fer_nas.space.variants import find_space


def wanted_form(config: SearchConfig) -> str:
    """auto, plain or fast, as --form and the method have it.

    InputError for a method that learns nothing, for stages that cannot be, and for --form fast, --recompute, several
    processes or --perturb example with what cannot have it.
    """
    arch, wanted, stages = config.arch, config.arch.form, plan(config)
    row = METHODS[arch.method]
    if row.make is None:
        raise InputError(f"{arch.method} learns nothing that could be measured or trained")
    if row.response and config.response.perturb == "example":
        refuse_rows(config)
    if needs_plain_form(config):
        if arch.recompute:
            raise InputError(
                f"--recompute: {arch.method} differentiates the network twice or forward, or has "
                "a λ for each example, which needs all of a pass; leave it out"
            )
        if parallel.count() > 1:
            raise InputError(
                f"{arch.method} differentiates the network twice or forward, or has a λ for each example, which "
                "processes cannot share; run it in one process, without torchrun"
            )
        if wanted == "fast":
            raise InputError(
                f"--form fast: {arch.method} differentiates the network twice or forward, or has a λ for each "
                "example, which the fast form cannot; use --form plain"
            )
        return "plain"
    if any(one.skip_dropout for one in stages) and wanted == "fast":
        raise InputError(
            "--form fast: it has no dropout of skip connections, which p-darts has; use --form plain, or give "
            "--skip-dropout a zero for each stage"
        )
    return wanted


def refuse_rows(config: SearchConfig) -> None:
    """InputError for what --perturb example cannot be combined with."""
    space = find_space(config.arch.space, config.arch.operations)
    wrong = None
    if not space.takes_rows or config.arch.auxiliary_skip or config.arch.space == "p-darts":
        wrong = "--auxiliary-skip" if config.arch.auxiliary_skip else f"the space {config.arch.space}"
    if config.tuning.tune:
        wrong = "--tune"
    if wrong:
        raise InputError(
            f"--perturb example gives each example its own mixture, which {wrong} has not; use --perturb batch"
        )
