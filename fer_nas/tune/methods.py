"""The rivals of a tuning run, and which hyperparameters each can reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fer_nas.bilevel.delta_stn import DeltaSTN
from fer_nas.bilevel.implicit import Neumann
from fer_nas.bilevel.perturbation import Perturbation
from fer_nas.bilevel.protocol import Method
from fer_nas.bilevel.stn import STN
from fer_nas.bilevel.unrolled import Unrolled
from fer_nas.config import TuneConfig
from fer_nas.errors import InputError

SEARCHED_AT_MOST = 50
"""Hyperparameters that a search by whole trainings is let loose on: with more, its few trainings say nothing."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A row of RIVALS.

    make: (config, seed) → the method, for those that follow λ's gradient during one training. samples_masks: λ is
    reached although it only acts through sampled masks. reads_hyper: the response of its layers is λ itself, and not
    the distance from it. whole: trains anew for every λ that it tries.
    """

    name: str
    make: Callable[[TuneConfig, int], Method] | None = None
    samples_masks: bool = True
    reads_hyper: bool = False
    whole: bool = False


def perturbation(config: TuneConfig, seed: int) -> Perturbation:
    """σ learned by RMSprop at λ's rate, as published."""
    return Perturbation(
        scale=config.perturbation,
        learning_rate=config.hyper_learning_rate,
        entropy_weight=config.entropy_weight,
        per=config.perturb,
        seed=seed,
    )


RIVALS: dict[str, Rival] = {
    row.name: row
    for row in (
        Rival(name="stn", make=lambda config, seed: STN(perturbation=perturbation(config, seed)), reads_hyper=True),
        Rival(name="delta-stn", make=lambda config, seed: DeltaSTN(perturbation=perturbation(config, seed))),
        Rival(
            name="centred-stn",
            make=lambda config, seed: DeltaSTN(perturbation=perturbation(config, seed), linearize=False),
        ),
        Rival(name="truncated", make=lambda config, seed: Unrolled(last=1), samples_masks=False),
        Rival(name="unrolled", make=lambda config, seed: Unrolled(), samples_masks=False),
        Rival(name="neumann", make=lambda config, seed: Neumann(terms=config.neumann_terms), samples_masks=False),
        Rival(name="random", whole=True),
        Rival(name="bayes", whole=True),
        Rival(name="fixed"),
    )
}


def chosen(config: TuneConfig, size: int) -> list[Rival]:
    """The rivals of --methods, for λ of that size; InputError for a name that is unknown, doubled, or cannot work."""
    names = [name.strip() for name in config.run.methods.split(",") if name.strip()]
    if not names:
        raise InputError(f"--methods is empty; choose from {', '.join(RIVALS)}")
    for name in names:
        if name not in RIVALS:
            raise InputError(f"--methods: {name!r} is unknown; choose from {', '.join(RIVALS)}")
        if names.count(name) > 1:
            raise InputError(f"--methods names {name} twice")
        rival = RIVALS[name]
        if config.hyperparameters == "dropout" and not rival.samples_masks:
            raise InputError(
                f"{name} cannot tune dropout and cutout: they act only through sampled masks, through which no "
                "derivative passes; leave it out of --methods, or take --hyperparameters continuous"
            )
        if rival.whole and size > SEARCHED_AT_MOST:
            raise InputError(
                f"{name} would search {size:,} hyperparameters by whole trainings; it takes at most "
                f"{SEARCHED_AT_MOST}, so leave it out of --methods"
            )
    return [RIVALS[name] for name in names]
