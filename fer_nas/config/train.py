"""`fer-nas train`."""

from __future__ import annotations

from dataclasses import dataclass

from fer_nas.config.field import setting as _f
from fer_nas.config.shared import AugmentConfig, DataConfig, NetworkConfig, RunConfig


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """How a derived network is regularized and averaged."""

    learning_rate_min: float = _f(0.0, "Last learning rate.", low=0)
    warmup_epochs: int = _f(0, "Epochs over which the learning rate rises from zero.", low=0)
    label_smoothing: float = _f(0.0, "Label smoothing.", low=0, high=1)
    drop_path: float = _f(0.2, "Drop-path probability at the last epoch, rising linearly from 0.", low=0, high=0.99)
    dropout: float = _f(0.0, "Dropout before the classifier.", low=0, high=0.99)
    auxiliary: bool = _f(False, "Add the auxiliary head at 2/3 of the depth.")
    auxiliary_weight: float = _f(0.4, "Weight of the auxiliary head's loss.", low=0)
    ema: float = _f(0.0, "Decay of the moving average of the weights, a step; 0 turns it off.", low=0, high=1)
    mixed_precision: bool = _f(True, "Mixed precision on CUDA.")
    progressive: float = _f(
        1.0,
        "Share of the image size that training starts with; it rises to 1 over the first 80 % of the epochs, which "
        "costs less time (Tan & Le 2021).",
        low=0.25,
        high=1,
    )
    initialize_from: str | None = _f(None, "Start from the best weights of this training run (fine-tuning).")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """`fer-nas train`: the defaults are the published evaluation settings, preset `paper`."""

    run: RunConfig = RunConfig(epochs=600, batch_size=96)
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig(channels=36, layers=20)
    learning_rate: float = _f(0.025, "First learning rate.", low=0)
    momentum: float = _f(0.9, "Momentum.", low=0, high=1)
    nesterov: bool = _f(False, "Nesterov momentum.")
    weight_decay: float = _f(3e-4, "Weight decay.", low=0)
    gradient_clip: float = _f(5.0, "Largest norm of the gradient; inf for no bound.", low=0, infinite=True)
    recipe: RecipeConfig = RecipeConfig(auxiliary=True)
    augment: AugmentConfig = AugmentConfig()
