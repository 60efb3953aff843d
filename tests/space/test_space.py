"""Counts of the published networks, the operations' shapes, discretization, skeletons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fer_nas.artifacts import Genotype, GenotypeFile
from fer_nas.errors import InputError
from fer_nas.space.decode import count_skips, decode, decode_cell
from fer_nas.space.edge import FullEdge
from fer_nas.space.genotypes import GENOTYPES, find
from fer_nas.space.network import Network, drop_path
from fer_nas.space.operations import OPERATIONS, DilatedDepthwise, Pointwise
from fer_nas.space.relax import entropy
from fer_nas.space.skeleton import choose_stem
from fer_nas.space.supernet import Supernet
from fer_nas.space.variants import SPACES, find_space


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_supernet_parameters() -> None:
    assert count(Supernet(SPACES["darts"], classes=10)) == 1_930_618


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("DARTS_V1", 3_169_414), ("DARTS_V2", 3_349_342), ("PDARTS", 3_433_798), ("PC_DARTS_cifar", 3_634_678)],
)
def test_parameters_on_cifar(name: str, parameters: int) -> None:
    assert count(Network(GENOTYPES[name], classes=10)) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("DARTS_V2", 4_718_752), ("PC_DARTS_image", 5_342_464)])
def test_parameters_on_imagenet(name: str, parameters: int) -> None:
    network = Network(GENOTYPES[name], classes=1000, channels=48, layers=14, image_size=224)
    assert count(network) == parameters


def test_parameters_of_auto_fernet() -> None:
    network = Network(GENOTYPES["Auto_FERNet"], classes=7, c_in=1, layers=12, stem="cifar", image_size=48)
    assert count(network) == 2_164_831


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_shape(name: str, stride: int, affine: bool) -> None:
    """Odd and even sides, an odd number of channels; backward runs (channels-last, few channels)."""
    for side in (6, 7):
        x = torch.randn(2, 5, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
        out = OPERATIONS[name](5, stride, affine)(x)
        assert out.shape == (2, 5, -(-side // stride), -(-side // stride))
        out.square().sum().backward()
        assert x.grad is not None and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 8), (5, 7), (3, 3)])
def test_dilated_depthwise_computes_the_same_in_training(kernel: int, stride: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    module = DilatedDepthwise(3, kernel, stride).double()
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    fast, plain = module(x), module.eval()(x)
    assert fast.shape == plain.shape
    assert torch.allclose(fast, plain, rtol=0, atol=1e-12)


def test_strided_pointwise_computes_the_same_in_training() -> None:
    module = Pointwise(3, 4, stride=2).double()
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    assert torch.allclose(module(x), module.eval()(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("space", SPACES)
def test_supernet_learns_from_its_mixture(space: str) -> None:
    """λ has a gradient on every operation but `none`'s share, and the supernet keeps no state between calls."""
    row = SPACES[space]
    net = Supernet(row, classes=4, c_in=1, image_size=16, channels=4, layers=3)
    mixtures = {k: torch.full((row.edges, len(row.operations)), 0.2, requires_grad=True) for k in ("normal", "reduce")}
    x = 255 * torch.rand(4, 1, 16, 16)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(x, mixtures).square().sum().backward()
    none = row.operations.index("none")
    for part in mixtures.values():
        assert part.grad is not None
        assert part.grad[:, none].any() == (row.edge is not FullEdge)  # channels pass by with its weight too
        others = [o for o in range(len(row.operations)) if o != none]
        assert (part.grad[:, others] != 0).all()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_decode_takes_the_two_strongest_edges_and_never_none() -> None:
    space = SPACES["darts"]
    mixture = torch.full((14, 8), 0.01)
    mixture[:, 0] = 0.9  # none is the strongest everywhere
    mixture[0, 4] = 0.5  # node 2 has two edges only
    mixture[1, 3] = 0.4
    mixture[3, 5] = 0.3  # node 3: edges 2, 3, 4 read states 0, 1, 2
    mixture[4, 6] = 0.2
    edges = decode_cell(mixture, space)
    assert edges[:4] == (("sep_conv_3x3", 0), ("skip_connect", 1), ("sep_conv_5x5", 1), ("dil_conv_3x3", 2))
    assert all(op != "none" for op, _ in edges)
    assert count_skips(edges) == 1
    decoded = decode({"normal": mixture, "reduce": mixture}, space)
    assert Genotype.from_dict(decoded.to_dict()) == decoded


def test_entropy_of_a_mixture() -> None:
    assert entropy(torch.full((14, 8), 1 / 8)).item() == pytest.approx(torch.log(torch.tensor(8.0)).item())
    assert entropy(torch.eye(8)).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("size", "stem"), [(28, "cifar"), (32, "cifar"), (48, "stride2"), (64, "stride2"), (224, "imagenet")]
)
def test_stem_by_image_size(size: int, stem: str) -> None:
    assert choose_stem("auto", size) == stem
    network = Network(GENOTYPES["DARTS_V2"], classes=7, c_in=1, image_size=size, channels=4, layers=3).eval()
    assert network(torch.zeros(1, 1, size, size)).shape == (1, 7)


@pytest.mark.parametrize("size", [28, 32, 44, 48, 50, 64, 96])
def test_auxiliary_head_fits_every_size(size: int) -> None:
    """Case C23."""
    network = Network(GENOTYPES["DARTS_V2"], classes=7, c_in=1, image_size=size, channels=4, layers=3, auxiliary=True)
    out = network.train()(255 * torch.rand(2, 1, size, size))
    assert network.auxiliary_logits is not None and network.auxiliary_logits.shape == (2, 7)
    (out.sum() + network.auxiliary_logits.sum()).backward()
    assert network.eval()(torch.zeros(1, 1, size, size)).shape == (1, 7)
    assert network.auxiliary_logits is None


def test_drop_path_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = drop_path(torch.ones(20_000, 1, 1, 1), 0.3)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)


def test_genotypes_by_name_and_file(tmp_path: Path) -> None:
    assert find("DARTS_V2").genotype == GENOTYPES["DARTS_V2"]
    file = tmp_path / "genotype.json"
    kept = GenotypeFile(
        genotype=GENOTYPES["PDARTS"], name="mine", space="darts", method="darts-2nd", dataset="drawn", seed=3
    )
    kept.save(file)
    assert find(str(file)) == kept
    assert find(str(tmp_path)) == kept


def test_bad_genotypes(tmp_path: Path) -> None:
    for text, message in (
        ('{"schema": 1, "genotype": {"normal": [["warp_9x9", 0], ["none", 1]], "normal_concat": [2], '
         '"reduce": [["none", 0], ["none", 1]], "reduce_concat": [2]}}', "warp_9x9.*known: none, max_pool_3x3"),
        ('{"schema": 1, "genotype": {"normal": []}}', "not a genotype"),
        ('{"schema": 99, "genotype": {}}', "schema 99"),
        ("[1, 2]", "not a genotype file"),
        ("{", "not a readable genotype file"),
    ):  # fmt: skip
        file = tmp_path / "bad.json"
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            find(str(file))
    with pytest.raises(InputError, match="neither a file nor one of DARTS_V1"):
        find("no-such-thing")
    with pytest.raises(InputError, match="reads node 7"):
        Genotype(normal=(("none", 0), ("none", 7)), reduce=(("none", 0), ("none", 1)))


def test_unknown_space() -> None:
    with pytest.raises(InputError, match="known: darts"):
        find_space("nasnet")
