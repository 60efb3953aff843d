"""What is needed to build a trained network again: the spec in config.json and the weights beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fer_nas.artifacts import Genotype, RunFolder, atomic_path, read_json
from fer_nas.config import TrainConfig
from fer_nas.data.split import DataSet
from fer_nas.errors import InputError
from fer_nas.settings import from_dict
from fer_nas.space.network import Network


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """What is needed to build the network again; stands in config.json."""

    genotype: Genotype
    genotype_name: str
    classes: tuple[str, ...]
    input_size: int
    channels: int
    dataset: str
    labels: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, genotype: Genotype, name: str, dataset: DataSet) -> NetworkSpec:
        """A network for these images, normalized by the training split's statistics."""
        mean, std = dataset.train.channel_statistics()
        return cls(
            genotype=genotype,
            genotype_name=name,
            classes=dataset.classes,
            input_size=dataset.image_size,
            channels=dataset.channels,
            dataset=dataset.name,
            labels=dataset.labels,
            mean=mean,
            std=std,
        )

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "genotype": self.genotype.to_dict()}

    @classmethod
    def from_dict(cls, value: dict[str, Any], where: str) -> NetworkSpec:
        try:
            made = cls(**{name: value[name] for name in cls.__dataclass_fields__})
        except KeyError as error:
            raise InputError(f"{where}: no {error} in it; not a training run of this version") from None
        return replace(
            made,
            genotype=Genotype.from_dict(value["genotype"], where),
            classes=tuple(made.classes),
            mean=tuple(made.mean),
            std=tuple(made.std),
        )

    def build(self, config: TrainConfig) -> Network:
        return Network(
            self.genotype,
            classes=len(self.classes),
            c_in=self.channels,
            image_size=self.input_size,
            channels=config.network.channels,
            layers=config.network.layers,
            stem=config.network.stem,
            auxiliary=config.recipe.auxiliary,
            dropout=config.recipe.dropout,
            mean=self.mean,
            std=self.std,
        )


def read_run(folder: RunFolder) -> tuple[TrainConfig, NetworkSpec]:
    """Configuration and network of a training run; another kind of folder is an InputError."""
    where = str(folder / "config.json")
    saved = read_json(folder / "config.json", "run configuration")
    if not isinstance(saved, dict) or saved.get("kind") != "train":
        kind = saved.get("kind") if isinstance(saved, dict) else "no"
        raise InputError(f"{folder.path} holds a {kind} run; a training run is needed (fer-nas train)")
    return from_dict(TrainConfig, saved.get("config", {}), where), NetworkSpec.from_dict(saved, where)


def save_weights(network: nn.Module, path: Path) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)


def load_weights(network: nn.Module, path: Path) -> None:
    try:
        network.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise InputError(f"{path} not found; has this training finished an epoch?") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        raise InputError(f"{path} does not fit its network: {str(error).splitlines()[0]}") from None


def load_network(folder: RunFolder, which: str = "best") -> Network:
    """The network of a training run with its `best` (by validation) or `last` weights, in eval mode on the CPU."""
    config, spec = read_run(folder)
    network = spec.build(config)
    load_weights(network, folder / f"{which}.safetensors")
    return network.eval()


def start_from(network: Network, path: Path, spec: NetworkSpec) -> None:
    """Load the best weights of another run of the same genotype; a classifier for other classes starts by name.

    Auxiliary heads may differ: one that only the other run has is left out, one that only this run has starts anew.
    """
    folder = RunFolder.open(path)
    _, other = read_run(folder)
    if other.genotype != spec.genotype:
        raise InputError(f"--initialize-from {path}: that run trained another genotype")
    try:
        state = load_file(folder / "best.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"--initialize-from {path}: no usable best.safetensors: {error}") from None
    unlike = InputError(f"--initialize-from {path}: another skeleton (channels, layers, stem or image channels differ)")
    own = network.state_dict()
    if other.classes != spec.classes:
        for name in ("classifier.weight", "classifier.bias"):
            if name not in state or state[name].shape[1:] != own[name].shape[1:]:
                raise unlike
            rows = own[name].clone()
            for place, label in enumerate(spec.classes):
                if label in other.classes:
                    rows[place] = state[name][other.classes.index(label)]
            state[name] = rows
        state = {k: v for k, v in state.items() if not k.startswith("auxiliary.classifier")}
    state = {k: v for k, v in state.items() if k in own or not k.startswith("auxiliary.")}
    try:
        missing, odd = network.load_state_dict(state, strict=False)
    except RuntimeError:
        raise unlike from None
    if odd or any(not name.startswith("auxiliary.") for name in missing):
        raise unlike
