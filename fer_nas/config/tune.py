"""`fer-nas tune`."""

from __future__ import annotations

from dataclasses import dataclass

from fer_nas.config.field import setting as _f
from fer_nas.config.shared import DataConfig


@dataclass(frozen=True, kw_only=True)
class TuneRunConfig:
    """What is compared, and on what budget."""

    methods: str = _f(
        "stn,delta-stn,random,bayes",
        "Methods, separated by commas: stn, delta-stn, centred-stn (Δ-STN without its linearization), truncated, "
        "unrolled, neumann, random, bayes, fixed.",
    )
    budget: float = _f(300.0, "Seconds of each method and seed, evaluations included.", low=0)
    clock: str = _f(
        "auto",
        "What the budget counts: CPU time of this process, which other programs do not disturb, or time on the wall; "
        "auto: cpu on a CPU, wall on a GPU.",
        ("auto", "cpu", "wall"),
    )
    seeds: int = _f(3, "Number of seeds: --seed and those after it.", low=1)
    seed: int = _f(0, "First seed of everything random.", low=0, high=2**62)
    device: str = _f("auto", "auto, cpu, cuda or cuda:N; a GPU that is asked for and not there is an error.")
    threads: int = _f(1, "CPU threads; CPU time counts all of them.", low=1)


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """`fer-nas tune`: the defaults of the optimizers are the published settings (MacKay et al. 2019, section 5)."""

    run: TuneRunConfig = TuneRunConfig()
    data: DataConfig = DataConfig()
    problem: str = _f(
        "mnist-mlp", "Which network, and how its data are split.", ("mnist-mlp", "fashion-cnn", "fer-cnn")
    )
    hyperparameters: str = _f(
        "dropout",
        "What is tuned: dropout (and cutout) rates, continuous (a weight decay for each layer, label smoothing), the "
        "scale of every pixel, or the weight of every training example.",
        ("dropout", "continuous", "pixels", "examples"),
    )
    width: float = _f(1.0, "Width of the network, as a share of the published one.", low=0.01, high=4)
    wrong_labels: float = _f(
        0.4, "With --hyperparameters examples: share of the training labels that are replaced.", low=0, high=0.95
    )
    batch_size: int = _f(128, "Images a step.", low=1)
    learning_rate: float = _f(0.01, "Learning rate of the weights' SGD.", low=0)
    momentum: float = _f(0.9, "Momentum of the weights' SGD.", low=0, high=1)
    hyper_learning_rate: float = _f(0.01, "Learning rate of λ's RMSprop.", low=0)
    train_steps: int = _f(5, "Steps of the weights before each step of λ.", low=1)
    warmup_epochs: int = _f(5, "First epochs in which λ is frozen.", low=0)
    perturbation: float = _f(1.0, "Best responses: first standard deviation of λ's perturbation.", low=1e-6)
    perturb: str = _f(
        "batch",
        "Best responses: another λ for every batch, or for every example, which steadies the gradient and costs more.",
        ("batch", "example"),
    )
    entropy_weight: float = _f(1e-3, "Best responses: weight of the perturbation's entropy.", low=0)
    neumann_terms: int = _f(5, "neumann: terms of the series.", low=1)
    trial_epochs: int = _f(10, "random, bayes: epochs of each training.", low=1)
