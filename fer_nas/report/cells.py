"""cells.png: a genotype's two cells as node-link diagrams.

Every edge has a row of its own, in which its label stands and along which its line runs; so no label lies on
another label, a node or another edge's line. Columns are depths: a node stands right of all that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from fer_nas.artifacts import Edge, Genotype
from fer_nas.report.figure import FAINT, INK, new_figure, save_figure

COLOURS = {
    "sep_conv": "#2f6fb0",
    "dil_conv": "#7a4fa3",
    "conv": "#157f8c",
    "ghost": "#5c6b7a",
    "max_pool": "#c4511f",
    "avg_pool": "#b07d12",
    "skip": "#3d8b45",
    "none": "#8a8f98",
}
OTHER = "#a63a6b"
# In units of a row's height: a column is the bend of the lines, the label (as wide as its text) and the node.
BEND, NODE, ROW_INCHES = 1.6, 0.9, 0.42
LABEL_HEIGHT, NODE_RADIUS, LETTER = 0.62, 0.42, 0.205


def colour(operation: str) -> str:
    """One colour for each kind of operation, whatever its kernel size."""
    return next((value for kind, value in COLOURS.items() if operation.startswith(kind)), OTHER)


def depths(edges: tuple[Edge, ...]) -> list[int]:
    """Column of each node, inputs first (0, 0): one more than the deepest node that it reads."""
    found = [0, 0]
    for node in range(len(edges) // 2):
        found.append(1 + max(found[source] for _, source in edges[2 * node : 2 * node + 2]))
    return found


def draw_cells(genotype: Genotype, path: Path) -> None:
    """Normal and reduction cell side by side as a PNG at `path`."""
    save_figure(cells_figure(genotype), path)


def cells_figure(genotype: Genotype) -> Figure:
    return stacked_figure({"": genotype})


def stacked_figure(named: Mapping[str, Genotype]) -> Figure:
    """A band for each genotype, under its name: its normal and its reduction cell."""
    titles = ("Normal cell", "Reduction cell (stride 2 from the inputs)")
    pairs = [((g.normal, g.normal_concat), (g.reduce, g.reduce_concat)) for g in named.values()]
    every = [edges for pair in pairs for edges, _ in pair]
    label = 0.7 + LETTER * max(len(operation) for edges in every for operation, _ in edges)
    widths = [1.0 + max(_output(pair[column][0], label) for pair in pairs) + 1.0 for column in range(2)]
    rows = max(3 * len(edges) // 2 for edges in every)
    more = 0.5 * max(name.count("\n") for name in named)  # rows that further lines of a name take
    figure = new_figure(sum(widths) * ROW_INCHES, len(pairs) * (rows + 1.4 + more) * ROW_INCHES)
    for band, (name, pair) in enumerate(zip(named, pairs, strict=True), 1):
        left = 0.0
        for title, (edges, concat), width in zip(titles, pair, widths, strict=True):
            axes = figure.add_axes((left, 1 - band / len(pairs), width / sum(widths), 1 / len(pairs)))
            left += width / sum(widths)
            axes.set(xlim=(-1.0, width - 1.0), ylim=(rows + 0.1, -1.3 - more), aspect="equal")
            axes.axis("off")
            words = f"{name}: {title}" if name else title
            axes.text(
                width / 2 - 1, -0.6 - more / 2, words,
                ha="center", va="center", fontsize=11, weight="bold", color=INK, parse_math=False,
            )  # fmt: skip
            _draw_cell(axes, edges, concat, rows, label)
    return figure


def _column(depth: int, label: float) -> float:
    """x of the nodes in a column."""
    return depth * (BEND + label + NODE)


def _output(edges: tuple[Edge, ...], label: float) -> float:
    """x of the cell's output."""
    return _column(max(depths(edges)), label) + BEND + NODE_RADIUS


def _draw_cell(axes: Axes, edges: tuple[Edge, ...], concat: tuple[int, ...], rows: int, label: float) -> None:
    nodes = len(edges) // 2
    x = [_column(depth, label) for depth in depths(edges)]
    first = (rows - 3 * nodes) / 2  # a cell with fewer nodes stands in the middle
    centre = first + 1.5 * nodes
    apart = max(0.75, 0.75 * nodes / 2)
    y = [centre - apart, centre + apart, *(first + 3 * node + 1.5 for node in range(nodes))]
    for index, (operation, source) in enumerate(edges):
        node = index // 2 + 2
        row = y[node] + (-0.62 if index % 2 == 0 else 0.62)
        start, end = (x[source] + NODE_RADIUS, y[source]), (x[node] - NODE_RADIUS, y[node])
        left, right = x[node] - NODE - label, x[node] - NODE
        _line(axes, [start, (x[source] + BEND, row), (left, row)], colour(operation))
        _line(axes, [end, (right, row)], colour(operation))
        _label(axes, left, row, label, operation)
    output = _output(edges, label)
    for node in sorted(set(concat)):
        bend_from = (output - BEND, y[node])
        _line(axes, [(output - NODE_RADIUS, centre), bend_from, (x[node], y[node])], FAINT)
    for node, name in enumerate(["$c_{k-2}$", "$c_{k-1}$", *map(str, range(nodes))]):
        _node(axes, x[node], y[node], name, "#dce9d5" if node < 2 else "#dbe7f3")
    _node(axes, output, centre, "$c_k$", "#f4e3c3")


def _line(axes: Axes, points: list[tuple[float, float]], ink: str) -> None:
    """Bent, level at both ends, from the first point to the second, and straight on to the others."""
    a, b, *straight = points
    half = (a[0] + b[0]) / 2
    codes = [Curve.MOVETO, *[Curve.CURVE4] * 3, *[Curve.LINETO] * len(straight)]
    curve = Curve([a, (half, a[1]), (half, b[1]), b, *straight], codes)
    axes.add_patch(PathPatch(curve, fill=False, edgecolor=ink, linewidth=1.6, zorder=1))


def _label(axes: Axes, left: float, y: float, width: float, operation: str) -> None:
    corner = (left, y - LABEL_HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.28"
    ink = colour(operation)
    axes.add_patch(FancyBboxPatch(corner, width, LABEL_HEIGHT, style, facecolor=ink, edgecolor="white", zorder=3))
    axes.text(
        left + width / 2, y, operation,
        ha="center", va="center_baseline", fontsize=8.5, color="white", zorder=4, parse_math=False,
    )  # fmt: skip


def _node(axes: Axes, x: float, y: float, name: str, fill: str) -> None:
    corner, side = (x - NODE_RADIUS, y - NODE_RADIUS), 2 * NODE_RADIUS
    style = "round,pad=0,rounding_size=0.2"
    axes.add_patch(FancyBboxPatch(corner, side, side, style, facecolor=fill, edgecolor=INK, linewidth=1.2, zorder=3))
    axes.text(x, y, name, ha="center", va="center_baseline", fontsize=9.5, color=INK, zorder=4)
