"""Charts of the study: BMFL against every arm, what its gain is made of, and which regions it needs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes

from neuralood.report.charts import (
    FAINT,
    FUSION,
    INK,
    LINEAR,
    Cell,
    Chart,
    Dots,
    dots_chart,
    draw_dots,
    row_axes,
    style,
    svg_of,
)

Ends = tuple[float, float]
UNKNOWN = (math.nan, math.nan)
COLUMNS = ("group", "row", "difference", "image low", "image high", "seed low", "seed high")
IMAGES, SEEDS = "95 % over images", "95 % over seeds"


@dataclass(frozen=True)
class Difference:
    """A difference in points, its interval over images with the models fixed, and over seeds (NaN for one seed)."""

    name: str
    value: float
    images: Ends
    seeds: Ends

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Its row of a chart's numbers."""
        return (self.name, self.value, *self.images, *self.seeds)


def difference(name: str, record: Mapping[str, Any]) -> Difference:
    """A comparison, or a term of the decomposition, of metrics/study.json."""
    low, high = record["image_interval"]
    return Difference(name, record["difference"], (low, high), tuple(record["seed_interval"] or UNKNOWN))


def forest_chart(groups: Mapping[str, Sequence[Difference]]) -> Chart:
    """Differences in groups, each group under its name, with both intervals, against a line at 0."""
    rows: list[tuple[str, Difference | None]] = []
    for title, members in groups.items():
        rows += [(title, None), *((one.name, one) for one in members)]
    drawn = {place: one for place, (_, one) in enumerate(rows) if one is not None}
    with style():
        figure, axes = row_axes([label for label, _ in rows], 0.24)
        for place, label in enumerate(axes.get_yticklabels()):
            label.set_fontweight("normal" if place in drawn else "bold")
        axes.axvline(0, color=INK, linewidth=1)
        _draw_differences(axes, list(drawn), list(drawn.values()))
        axes.set(xlabel="percentage points of mean OOD (right of 0: BMFL better)")
        figure.legend(loc="outside upper left", ncols=2)
        numbers = tuple((title, *one.cells) for title, members in groups.items() for one in members)
        return Chart(svg_of(figure), COLUMNS, numbers)


def decomposition_chart(terms: Sequence[Difference], total: Difference) -> Chart:
    """Each term as a bar that begins where the one before it ends, and their sum as one from 0."""
    bars, starts = [*terms, total], starts_of(terms)
    ends = [
        Difference(one.name, start + one.value, _moved(one.images, start), _moved(one.seeds, start))
        for one, start in zip(bars, starts, strict=True)
    ]
    with style():
        figure, axes = row_axes([one.name for one in bars], 0.42)
        colours = [*[FAINT] * (len(terms) - 1), FUSION, INK]
        axes.barh(range(len(bars)), [one.value for one in bars], left=starts, height=0.5, color=colours, alpha=0.35)
        axes.axvline(0, color=INK, linewidth=1)
        _draw_differences(axes, range(len(bars)), ends)
        axes.set(xlabel="percentage points of mean OOD above the linear probe")
        figure.legend(loc="outside upper left", ncols=2)
        return Chart(svg_of(figure), COLUMNS, tuple(("terms", *one.cells) for one in bars))


def starts_of(terms: Sequence[Difference]) -> list[float]:
    """Where the bar of each term, and that of their sum, begins."""
    return [0.0, *accumulate(term.value for term in terms[:-1]), 0.0]


def region_chart(
    alone: Mapping[str, Mapping[str, Any]], left_out: Mapping[str, Mapping[str, Any]], lines: Mapping[str, float]
) -> Chart:
    """Top-1 with one group of regions alone and with all but it, CELLs by group; `lines`: other arms' top-1."""
    labels = list(dict.fromkeys((*alone, *left_out)))
    kinds = (("this group alone", alone, "s", FUSION, True), ("all but this group", left_out, "o", LINEAR, False))
    series = [
        Dots(title, _means(cells, labels), marker, colour, filled, _ranges(cells, labels))
        for title, cells, marker, colour, filled in kinds
        if cells
    ]
    with style():
        figure, axes = row_axes(labels, 0.38)
        for (name, value), dash in zip(lines.items(), ("-", "--", ":", "-."), strict=False):
            axes.axvline(value, color=INK, linestyle=dash, linewidth=1.2, label=name)
        for dots, shift in zip(series, (-0.14, 0.14) if len(series) > 1 else (0.0,), strict=True):
            draw_dots(axes, dots, shift)
        axes.margins(x=0.08)
        axes.set(xlabel="top-1 accuracy, %, mean OOD")
        figure.legend(loc="outside upper left", ncols=2)
        drawn = dots_chart(figure, labels, series)
    known: tuple[tuple[Cell, ...], ...] = tuple(("", name, value, None, None) for name, value in lines.items())
    return Chart(drawn.svg, drawn.columns, drawn.rows + known)


def _draw_differences(axes: Axes, places: Sequence[int], rows: Sequence[Difference]) -> None:
    """The interval over seeds as a thin line with ends, that over images as a thick one, and the value."""
    values = [one.value for one in rows]
    seeds = [(place, one) for place, one in zip(places, rows, strict=True) if not math.isnan(one.seeds[0])]
    if seeds:
        at, ends = [place for place, _ in seeds], list(zip(*(one.seeds for _, one in seeds), strict=True))
        axes.hlines(at, ends[0], ends[1], label=SEEDS, color=INK, linewidth=1.0)
        for end in ends:
            axes.plot(end, at, "|", color=INK, markersize=7)
    low, high = zip(*(one.images for one in rows), strict=True)
    axes.hlines(places, low, high, color=FUSION, linewidth=4.5, alpha=0.45, label=IMAGES)
    axes.plot(values, places, "D", color=FUSION, markersize=3.5)


def _moved(ends: Ends, by: float) -> Ends:
    return ends[0] + by, ends[1] + by


def _means(cells: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> list[float]:
    return [cells[label]["mean"] if label in cells else math.nan for label in labels]


def _ranges(cells: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> list[Ends]:
    """Lowest and highest seed."""
    seeds = [cells[label]["per_seed"] if label in cells else UNKNOWN for label in labels]
    return [(min(values), max(values)) for values in seeds]
