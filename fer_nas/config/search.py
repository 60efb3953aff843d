"""`fer-nas search`."""

from __future__ import annotations

from dataclasses import dataclass

from fer_nas.config.field import setting as _f
from fer_nas.config.shared import AugmentConfig, DataConfig, NetworkConfig, RunConfig

SPACES = ("darts", "pc-darts", "gdas", "p-darts", "i-darts", "auto-fernet", "fer")
SEARCH_METHODS = ("darts-1st", "darts-2nd", "implicit", "soba", "darts-stn", "darts-delta-stn", "random")


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """The optimizer of the weights: SGD with a cosine schedule."""

    learning_rate: float = _f(0.025, "First learning rate of the weights.", low=0)
    learning_rate_min: float = _f(0.001, "Last learning rate of the weights.", low=0)
    momentum: float = _f(0.9, "Momentum of the weights' SGD.", low=0, high=1)
    weight_decay: float = _f(3e-4, "Weight decay of the weights.", low=0)
    gradient_clip: float = _f(5.0, "Largest norm of the weights' gradient; inf for no bound.", low=0, infinite=True)


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """The optimizer of the architecture parameters λ: Adam, betas (0.5, 0.999)."""

    method: str = _f("darts-1st", "How λ's gradient is estimated.", SEARCH_METHODS)
    space: str = _f("darts", "Search space; docs/architecture.md says what each is.", SPACES)
    operations: str | None = _f(
        None, "Choose from this space's operations instead of the space's own.", ("darts", "auto-fernet", "fer")
    )
    form: str = _f(
        "auto",
        "How the supernet is computed: plain is the definition, fast the same function with less work; auto is fast "
        "where the space and the method allow it.",
        ("auto", "plain", "fast"),
    )
    graphs: bool = _f(
        True,
        "On a GPU, record the supernet's passes as CUDA graphs and replay them: the same kernels, started without "
        "Python. What differentiates twice or draws in its passes (gdas, implicit, dropout) runs without.",
    )
    recompute: bool = _f(
        False,
        "Activation checkpointing: keep what each cell reads alone, and compute the rest anew when its gradient is "
        "asked for. Less than half of a step's memory, a third to two thirds more time, the same result.",
    )
    arch_learning_rate: float = _f(3e-4, "Learning rate of λ.", low=0)
    arch_weight_decay: float = _f(1e-3, "Weight decay of λ.", low=0)
    warmup_epochs: int = _f(0, "First epochs in which λ is frozen.", low=0)
    max_skips: int | None = _f(
        None,
        "Most skip connections in the normal cell of genotype.json: the weakest that was chosen is left out and the "
        "cell decoded again (Chen et al. 2019); where not given, 2 with p-darts and no bound otherwise.",
        low=0,
    )
    auxiliary_skip: float = _f(
        0.0,
        "First weight β of a skip connection that every edge has beside its mixture, falling linearly to 0 with the "
        "last epoch (p-darts: of each stage), so that skips need not win for the gradient's sake (Chu et al. 2021: 1).",
        low=0,
        high=1,
    )
    stable_epochs: int = _f(
        0,
        "End the search once the order of the convolutions, by their shares, has not changed on any edge for this many "
        "epochs after the warm-up (Liang et al. 2019: 10); 0 goes on to the last epoch.",
        low=0,
    )
    temperature: float = _f(10.0, "gdas: temperature of the Gumbel-softmax in the first epoch.", low=1e-3)
    temperature_min: float = _f(0.1, "gdas: temperature in the last epoch; it falls linearly.", low=1e-3)
    stage_layers: str = _f(
        "5,11,17",
        "p-darts: cells of each stage's supernet, in place of --layers. --epochs counts those of all stages and is "
        "shared out evenly; each stage has the weights' cosine schedule to itself.",
    )
    stage_operations: str = _f(
        "8,5,3",
        "p-darts: operations of each edge in each stage: those with the largest share at the end of the stage before.",
    )
    stage_warmup: int = _f(
        10, "p-darts: first epochs of each stage in which λ is frozen, in place of --warmup-epochs.", low=0
    )
    skip_dropout: str = _f(
        "0.0,0.4,0.7",
        "p-darts: dropout behind skip connections of stride 1 in the first epoch of each stage, falling linearly to 0 "
        "with its end, in training only; stages with some run in the supernet's plain form.",
    )


@dataclass(frozen=True, kw_only=True)
class ResponseConfig:
    """How a method estimates the response of the weights to λ. What is not given of a best response is as --response
    says, so each of these options changes one thing of the published or of the project's own form."""

    arch_every: int = _f(1, "Steps of the weights for each step of λ.", low=1)
    terms: int = _f(10, "implicit, --check-response: terms of the Neumann series.", low=1)
    solve_batch: int | None = _f(
        None,
        "implicit: training images for the series, drawn anew at each step of λ; the step's own batch where not given. "
        "A larger one is less noisy and costs accordingly.",
        low=2,
    )
    adjoint_rate: float | None = _f(
        None,
        "soba: rate of the carried adjoint's step; not given, that of the weights' step divided by 1 + momentum, at "
        "which it is stable where they are.",
        low=0,
    )
    adjoint_damping: float = _f(1.0, "soba: damping μ of (H + μ)⁻¹, which bounds the adjoint where H is flat.", low=0)
    adjoint_every: int = _f(2, "soba: steps of λ for each step of the adjoint, which has most of the price.", low=1)
    response: str = _f(
        "own",
        "Best responses: as published (MacKay et al. 2019; Bae and Grosse 2020), or the project's own form.",
        ("own", "published"),
    )
    response_clip: float | None = _f(
        None,
        "soba and best responses: largest norm of the response as a share of the direct term's, since a response that "
        "is not learned yet points anywhere; 0 for no bound. soba's is 0.5.",
        low=0,
    )
    response_input: str | None = _f(
        None,
        "Best responses read λ's logits (raw), or the mixture that they make (softmax), which a shift of an edge's "
        "logits does not change.",
        ("raw", "softmax"),
    )
    response_reads: str | None = _f(
        None,
        "The layers of a cell read all of λ, or that of their own kind of cell (cell), which halves V.",
        ("all", "cell"),
    )
    response_start: float | None = _f(
        None, "Standard deviation of V and C at the start; at 0 the search begins as first order.", low=0
    )
    response_rate: float | None = _f(
        None,
        "Adam's rate for the response's own parameters (V, C, W_hyper and b_hyper in docs/darts-stn.md); 0 is the "
        "weights' own SGD.",
        low=0,
    )
    sigma: float | None = _f(None, "Standard deviation of λ's perturbation at the start.", low=1e-6)
    learn_sigma: bool | None = _f(None, "Learn the perturbation's scale, in a step of λ under noise.")
    entropy_weight: float = _f(1e-3, "Weight τ of the perturbation's entropy, where its scale is learned.", low=0)
    perturb: str = _f(
        "batch",
        "Best responses: another λ for every batch, or for every example, which is less noisy and costs more; with a "
        "softmax over each edge alone, in the plain form.",
        ("batch", "example"),
    )
    pairs: bool | None = _f(None, "Perturb by ε and −ε on the same batch, which cancels noise for twice the time.")
    response_every: int | None = _f(
        None, "darts-delta-stn: steps of the weights for each step of the response, which has most of the price.", low=1
    )
    response_batch: int | None = _f(
        None,
        "darts-delta-stn: training images for each step of the response, drawn anew; the weights' own batch where not "
        "given. A larger one is less noisy and costs accordingly.",
        low=2,
    )
    linearize: bool | None = _f(
        None, "darts-delta-stn: learn the response on the linearized network, as published, or on the network itself."
    )


TUNABLE: dict[str, tuple[float, float]] = {
    "dropout": (0.0, 0.75),
    "drop_path": (0.0, 0.5),
    "erase": (0.0, 0.9),
    "rotate": (0.0, 45.0),
    "shift": (0.0, 0.3),
    "brightness": (0.0, 0.6),
    "label_smoothing": (0.0, 0.5),
}
"""What a genotype's recipe can hold, by the names of training's settings, and the range in which a search tunes it."""


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """Training hyperparameters that a search learns beside the architecture."""

    tune: str | None = _f(
        None,
        "Best responses: tune training hyperparameters in the same run, separated by commas: dropout (0 to 0.75), "
        "drop_path (to 0.5, in the plain form), erase (0.9), rotate (45), shift (0.3), brightness (0.6), "
        "label_smoothing (0.5). They start at their setting, act on the weights' steps alone, while λ's images stay as "
        "they are, and become the recipe in genotype.json, which fer-nas train takes.",
    )
    tune_rate: float = _f(0.01, "Rate of Adam for the tuned hyperparameters; they have no weight decay.", low=0)
    tune_sigma: float = _f(
        0.5, "Standard deviation of their perturbation at the start, before they are bounded.", low=1e-6
    )


@dataclass(frozen=True, kw_only=True)
class ChecksConfig:
    """What a search looks at once an epoch, on request; each costs some steps of the supernet's plain form."""

    hessian_iterations: int = _f(
        0,
        "Record the dominant eigenvalue of ∂²L_val/∂λ², the weights fixed, by so many power iterations on one batch; "
        "where it climbs, a search is about to collapse (Zela et al. 2020). 0: no record.",
        low=0,
    )
    check_response: bool = _f(
        False, "Compare the method's response with a Neumann series (--terms) of the same images: cosine and ratio."
    )
    check_batches: int = _f(4, "Size of that comparison in batches.", low=1)
    trust: str = _f(
        "none",
        "soba and best responses: scale the response of the next epoch by what that comparison says, "
        "⟨response, series⟩/|response|² between 0 and 1.",
        ("none", "check"),
    )


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """`fer-nas search`: the defaults are the published settings (Liu et al. 2019), preset `paper`."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    arch: ArchConfig = ArchConfig()
    response: ResponseConfig = ResponseConfig()
    tuning: TuningConfig = TuningConfig()
    checks: ChecksConfig = ChecksConfig()
    weights: WeightsConfig = WeightsConfig()
    augment: AugmentConfig = AugmentConfig()
