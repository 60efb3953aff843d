"""The pictures by what is on them: every operation named and apart, every number at its place."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from fer_nas.artifacts import Edge, Genotype
from fer_nas.errors import InputError
from fer_nas.report.cells import cells_figure, colour, depths
from fer_nas.report.pictures import confusion_figure, curves_figure, draw_cells, draw_confusion, draw_curves

OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5", "conv_1x1", "ghost",
)  # fmt: skip


def random_edges(nodes: int, seed: int, operations: tuple[str, ...] = OPERATIONS) -> tuple[Edge, ...]:
    draw = np.random.default_rng(seed)
    return tuple(
        (str(draw.choice(operations)), int(draw.integers(0, node + 2))) for node in range(nodes) for _ in range(2)
    )


def genotype(normal: int, reduce: int, seed: int = 0, operations: tuple[str, ...] = OPERATIONS) -> Genotype:
    return Genotype(
        normal=random_edges(normal, seed, operations),
        reduce=random_edges(reduce, seed + 1, operations),
        normal_concat=tuple(range(2, normal + 2)),
        reduce_concat=(reduce + 1,),
    )


CELLS = {
    "four nodes": genotype(4, 4),
    "one node and many": genotype(1, 9, seed=3),
    "long names": genotype(4, 2, operations=("an_operation_with_a_long_name_7x7", "x")),
    "chain": Genotype(
        normal=(
            ("skip_connect", 0),
            ("none", 0),
            ("skip_connect", 2),
            ("sep_conv_3x3", 2),
            ("ghost", 3),
            ("ghost", 3),
        ),
        reduce=(("max_pool_3x3", 1), ("max_pool_3x3", 1)),
        normal_concat=(2, 3, 4),
        reduce_concat=(2,),
    ),
}


def boxes(figure: Figure) -> list[tuple[str, Bbox]]:
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return [(text.get_text(), text.get_window_extent(renderer)) for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("name", CELLS)
def test_every_operation_is_named_and_no_text_overlaps_another(name: str) -> None:
    cells = CELLS[name]
    figure = cells_figure(cells)
    texts = boxes(figure)
    shown = sorted(text for text, _ in texts if text in {op for op, _ in cells.normal + cells.reduce})
    assert shown == sorted(op for op, _ in cells.normal + cells.reduce)
    for (one, box), (other, other_box) in combinations(texts, 2):
        assert not box.overlaps(other_box), f"{one} lies on {other}"
    for text, box in texts:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, f"{text} is cut off"
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, f"{text} is cut off"


@pytest.mark.parametrize("name", CELLS)
def test_labels_fit_their_plates_and_plates_keep_apart(name: str) -> None:
    figure = cells_figure(CELLS[name])
    figure.canvas.draw()
    for axes in figure.axes:
        plates = [patch.get_window_extent() for patch in axes.patches if patch.get_zorder() == 3]
        for one, other in combinations(plates, 2):
            assert not one.overlaps(other)
        own = [text.get_window_extent() for text in axes.texts]
        inside = [any(p.x0 <= b.x0 and b.x1 <= p.x1 and p.y0 <= b.y0 and b.y1 <= p.y1 for p in plates) for b in own]
        assert sum(inside) == len(plates)  # all texts but the title


def test_lines_run_from_what_a_node_reads_to_the_node() -> None:
    cells = Genotype(
        normal=(("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 2), ("skip_connect", 0)),
        reduce=(("skip_connect", 0), ("skip_connect", 1)),
        normal_concat=(3,),
        reduce_concat=(2,),
    )
    axes = cells_figure(cells).axes[0]
    lines = [patch for patch in axes.patches if patch.get_zorder() == 1]
    assert len(lines) == 2 * 4 + 1  # source → label and label → node for each edge, and one concatenated node
    assert depths(cells.normal) == [0, 0, 1, 2]
    starts = {text.get_text(): text.get_position() for text in axes.texts}
    pool = [line for line in lines if line.get_edgecolor()[:3] == pytest.approx(rgb(colour("max_pool_3x3")))]
    x, y = pool[0].get_path().vertices[0]
    assert (y, x > starts["0"][0]) == (pytest.approx(starts["0"][1]), True)


def rgb(value: str) -> tuple[float, ...]:
    return tuple(int(value[i : i + 2], 16) / 255 for i in (1, 3, 5))


def test_a_colour_for_each_kind() -> None:
    assert colour("sep_conv_3x3") == colour("sep_conv_5x5")
    kinds = [
        "sep_conv_3x3",
        "dil_conv_3x3",
        "conv_3x3",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "none",
        "ghost",
        "?",
    ]
    assert len({colour(kind) for kind in kinds}) == len(kinds)


def test_confusion_shows_counts_shares_and_empty_classes() -> None:
    axes = confusion_figure([[3, 1, 0], [0, 4, 0], [0, 0, 0]], ("angry", "happy_$x", "fear")).axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells[0, 0] == "75%\n3" and cells[1, 0] == "25%\n1"  # place is (column, row)
    assert cells[1, 1] == "100%\n4" and {cells[column, 2] for column in range(3)} == {"–"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["angry\n4", "happy_$x\n4", "fear\n0"]
    assert "87.50% (7 of 8)" in axes.get_xlabel()


def test_confusion_must_fit_its_classes() -> None:
    with pytest.raises(InputError, match=r"\(2, 2\) does not fit 3 classes"):
        confusion_figure(np.eye(2), ("a", "b", "c"))


ROWS = [
    {
        "epoch": epoch,
        "train_loss": 2 / epoch,
        "val_loss": float("nan") if epoch == 2 else 3 / epoch,
        "val_accuracy": 0.2 * epoch,
        "learning_rate": 0.1,
        "entropy": {"normal": 2.0, "reduce": 1.9},
        "seconds": 1.5,
        "note": "x",
    }
    for epoch in (1, 2, 3)
]


def test_curves_have_a_panel_for_each_kind_and_leave_out_what_is_not_finite() -> None:
    panels = {axes.get_title(): axes for axes in curves_figure(ROWS).axes}
    assert list(panels) == ["loss", "accuracy", "learning rate", "entropy of λ (nats)"]
    lines = {line.get_label(): line for line in panels["loss"].lines}
    assert list(lines) == ["train loss", "val loss"]
    assert lines["train loss"].get_xydata().tolist() == [[1, 2], [2, 1], [3, pytest.approx(2 / 3)]]
    assert lines["val loss"].get_xydata().tolist() == [[1, 3], [3, 1]]
    names = [line.get_label() for line in panels["entropy of λ (nats)"].lines]
    assert names == ["entropy normal", "entropy reduce"]


@pytest.mark.parametrize("rows", [[], [{"epoch": 1, "seconds": 2.0}]])
def test_nothing_to_draw_is_one_clear_line(rows: list[dict[str, float]], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no curves to draw"):
        draw_curves(rows, tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_files_are_pictures_and_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_cells(CELLS["four nodes"], tmp_path / f"cells-{name}.png")
        draw_confusion(np.eye(3, dtype=int) * 5, ("a", "b", "c"), tmp_path / f"confusion-{name}.png")
        draw_curves(ROWS[:1], tmp_path / f"curves-{name}.png")
    for kind in ("cells", "confusion", "curves"):
        with Image.open(tmp_path / f"{kind}-a.png") as image:
            assert image.format == "PNG" and min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 5
        assert (tmp_path / f"{kind}-a.png").read_bytes() == (tmp_path / f"{kind}-b.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 6, "no temporary file is left"


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write .*cells\.png"):
        draw_cells(CELLS["chain"], tmp_path / "file" / "cells.png")


def test_neither_pyplot_nor_torch_is_needed() -> None:
    code = "import sys, fer_nas.report.pictures; print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
