"""The report's charts as SVG with their numbers: dots with intervals, training curves; the style of all of them."""

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from neuralood.base.training import Epoch

INK, FAINT = "#222831", "#8a929c"
LINEAR, FUSION = "#d9741a", "#0b7ac4"  # orange and blue: told apart by every common kind of colour vision
WIDTH = 5.2
PAGE_WIDTH = 10.4
RASTER_DPI = 150
LONGEST_LABEL = 22

STYLE = {
    "svg.hashsalt": "neuralood",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": FAINT,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "ytick.left": False,
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.4,
    **{key: INK for key in ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")},
    "xtick.color": FAINT,
}
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


Cell = str | float | None
"""What a chart's table of numbers holds; None, or NaN, leaves a cell empty."""


@dataclass(frozen=True)
class Chart:
    """A figure as SVG, and the numbers that it draws: names of columns, rows of cells."""

    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def csv(self) -> str:
        """The numbers as CSV, to six digits."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_digits(cell) for cell in row] for row in self.rows)
        return buffer.getvalue()


def _digits(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return "" if cell is None or math.isnan(cell) else f"{cell:.6g}"


@dataclass(frozen=True)
class Dots:
    """One model's value in each row, with its interval where there is one; NaN leaves a row out."""

    name: str
    values: Sequence[float]
    marker: str
    colour: str
    filled: bool = True
    intervals: Sequence[tuple[float, float]] | None = None
    size: float = 5.5


def dots_chart(figure: Figure, labels: Sequence[str], series: Sequence[Dots]) -> Chart:
    """A drawn figure of dots with its numbers: one row for each value that is known."""
    rows: list[tuple[Cell, ...]] = []
    for dots in series:
        ends = dots.intervals or [(math.nan, math.nan)] * len(labels)
        known = zip(labels, dots.values, ends, strict=True)
        rows += [(label, dots.name, value, *end) for label, value, end in known if not math.isnan(value)]
    return Chart(svg_of(figure), ("row", "series", "value", "low", "high"), tuple(rows))


def accuracy_chart(labels: Sequence[str], linear: Dots, fusion: Dots) -> Chart:
    """Top-1 of both models in each set, the two a little apart."""
    with style():
        figure, axes = row_axes(labels, 0.34)
        for dots, shift in ((linear, -0.14), (fusion, 0.14)):
            draw_dots(axes, dots, shift)
        axes.set(xlim=(-2, 102), xlabel="top-1 accuracy, %")
        figure.legend(loc="outside upper left", ncols=2)
        return dots_chart(figure, labels, (linear, fusion))


def gain_chart(labels: Sequence[str], gain: Dots) -> Chart:
    """Fusion minus linear in each set, against a line at 0."""
    with style():
        figure, axes = row_axes(labels, 0.34)
        axes.axvline(0, color=INK, linewidth=1)
        draw_dots(axes, gain, 0.0)
        axes.margins(x=0.08)
        axes.set(xlabel="percentage points (right of 0: fusion better)")
        figure.legend(loc="outside upper left")
        return dots_chart(figure, labels, (gain,))


def roi_chart(
    labels: Sequence[str], ceiling: Dots | None, model: Dots, baselines: Sequence[Dots], ends: tuple[float, float]
) -> Chart:
    """Correlation in each ROI of one hemisphere: the encoder in the upper half of a row, baselines in the lower."""
    with style():
        figure, axes = row_axes(labels, 0.3)
        if ceiling is not None:
            draw_dots(axes, ceiling, 0.0)
        for dots in baselines:
            draw_dots(axes, dots, 0.2)
        draw_dots(axes, model, -0.15 if baselines else 0.0)
        axes.set(xlim=ends, xlabel="Pearson r")
        figure.legend(loc="outside upper left", ncols=3)
        return dots_chart(figure, labels, (*([ceiling] if ceiling else []), model, *baselines))


def ood_chart(labels: Sequence[str], pairs: Sequence[tuple[Dots, Dots]]) -> Chart:
    """Correlation in each set: for each group of vertices that of photos and that of the set, joined by a line."""
    with style():
        figure, axes = row_axes(labels, 0.34)
        for (photos, own), shift in zip(pairs, (-0.14, 0.14), strict=False):
            rows = [row + shift for row in range(len(labels))]
            axes.hlines(rows, photos.values, own.values, color=own.colour, linewidth=1.8, alpha=0.6)
            for dots in (photos, own):
                draw_dots(axes, dots, shift)
        axes.margins(x=0.08)
        axes.set(xlabel="Pearson r, median over vertices")
        figure.legend(loc="outside upper left", ncols=2)
        return dots_chart(figure, labels, [dots for pair in pairs for dots in pair])


def curve_chart(curves: Sequence[Sequence[Epoch]], train: str, validation: str, kept: Sequence[int]) -> Chart:
    """Training and validation loss, one pair of lines a curve; a ring marks the epoch kept."""
    with style():
        figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
        axes = figure.add_subplot()
        for number, (curve, epoch) in enumerate(zip(curves, kept, strict=True)):
            epochs = [one.epoch for one in curve]
            for values, name, colour, dash in (
                ([one.train_loss for one in curve], train, LINEAR, "--"),
                ([one.validation_loss for one in curve], validation, FUSION, "-"),
            ):
                axes.plot(epochs, values, dash, color=colour, linewidth=1.6, label=None if number else name)
            axes.plot(epoch, curve[epoch - 1].validation_loss, "o", color=FUSION, fillstyle="none", markersize=9)
        if all(min(one.train_loss, one.validation_loss) > 0 for curve in curves for one in curve):
            axes.set_yscale("log", subs=(2, 5))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel="loss")
        figure.legend(loc="outside upper left", ncols=2)
        rows = tuple(
            (number, one.epoch, one.train_loss, one.validation_loss, int(one.epoch == epoch))
            for number, (curve, epoch) in enumerate(zip(curves, kept, strict=True))
            for one in curve
        )
        return Chart(svg_of(figure), ("curve", "epoch", train, validation, "kept"), rows)


def inline(svg: str, name: str, alt: str) -> str:
    """An SVG file's text as part of a page: ids made its own, ink in the page's colour, sized by the page."""
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head, body = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL).replace(INK, "currentColor")
    return f'<svg {box.group() if box else ""} role="img" aria-label="{alt}">{body.strip()}'


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and STYLE, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield


def svg_of(figure: Figure) -> str:
    """The figure as SVG, the same bytes each time; what it draws as pixels has RASTER_DPI."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=NO_METADATA, dpi=RASTER_DPI)
    return re.sub(r"[ \t]+\n", "\n", buffer.getvalue())


def row_axes(labels: Sequence[str], height: float) -> tuple[Figure, Axes]:
    """Axes with one labelled row for each name, the first on top."""
    figure = Figure(figsize=(WIDTH, 0.85 + height * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    return figure, axes


def draw_dots(axes: Axes, dots: Dots, shift: float) -> None:
    """One series, each value in its row moved down by `shift` rows."""
    shown = [row for row, value in enumerate(dots.values) if not math.isnan(value)]
    if dots.intervals is not None:
        low, high = zip(*(dots.intervals[row] for row in shown), strict=True)
        axes.hlines([row + shift for row in shown], low, high, color=dots.colour, linewidth=1.8, alpha=0.6)
    axes.plot(
        [dots.values[row] for row in shown],
        [row + shift for row in shown],
        dots.marker,
        color=dots.colour,
        fillstyle="full" if dots.filled else "none",
        markersize=dots.size,
        markeredgewidth=1.5,
        label=dots.name,
    )


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
