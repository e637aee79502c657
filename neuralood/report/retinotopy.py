"""Does attention find the simulated visual field? Each early ROI of the simulated subject sees a part of the image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from neuralood.base.store import Array
from neuralood.demo.brain import field_part
from neuralood.report.attention import Attention
from neuralood.report.charts import FUSION, LINEAR, PAGE_WIDTH, Cell, Chart, style, svg_of

Ends = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """Where one early ROI's query looks, mean over images, and where the simulation put the ROI's receptive fields.

    Places are x and y of the image, 0 to 1, y downwards.
    """

    name: str
    relative: Array
    """Attention, 1 = as much as if spread evenly: rows columns."""
    centre: Ends
    """Centre of mass of the attention."""
    field_centre: Ends
    """Mean centre of the receptive fields."""
    part: tuple[Ends, Ends]
    """The ROI's part of the visual field: its ends in x and in y."""
    share: float
    """Share of the attention inside the part."""
    even: float
    """The same if attention were spread evenly."""

    @property
    def seen_side(self) -> bool:
        """Whether attention leans to the side that the hemisphere sees."""
        return (self.centre[0] > 0.5) == (self.part[0] == (0.5, 1.0))

    @property
    def seen_half(self) -> bool | None:
        """Whether attention leans to the half, upper or lower, that the ROI sees; None where it sees both."""
        if self.part[1] == (0.0, 1.0):
            return None
        return (self.centre[1] > 0.5) == (self.part[1] == (0.5, 1.0))


def compare(looks: Attention, fields: Mapping[str, Array]) -> list[Look]:
    """Attention of the early ROIs' queries against receptive fields (`demo.brain.early_fields`), in its order."""
    found = []
    for name, centres in fields.items():
        if name not in looks.names:
            continue
        relative = looks.relative[:, looks.names.index(name)].mean(axis=0)
        y, x = (patch_places(count, looks.crop_pct) for count in relative.shape)
        share = relative / relative.sum()
        part = field_part(name)
        inside = np.outer((part[1][0] < y) & (y < part[1][1]), (part[0][0] < x) & (x < part[0][1]))
        found.append(
            Look(
                name=name,
                relative=relative,
                centre=(float(share.sum(axis=0) @ x), float(share.sum(axis=1) @ y)),
                field_centre=(float(centres[:, 0].mean()), float(centres[:, 1].mean())),
                part=part,
                share=float(share[inside].sum()),
                even=float(inside.mean()),
            )
        )
    return found


def retinotopy_chart(looks: Sequence[Look], crop_pct: float) -> Chart:
    """Attention of each query over the image, the ROI's part of the visual field, and both centres."""
    regions = list(dict.fromkeys(look.name.split(".", 1)[1] for look in looks))
    sides = list(dict.fromkeys(look.name.split(".", 1)[0] for look in looks))
    brightest = max(float(look.relative.max()) for look in looks)
    low, high = 0.5 - crop_pct / 2, 0.5 + crop_pct / 2
    with style():
        figure = Figure(figsize=(PAGE_WIDTH, 0.6 + 1.6 * len(sides)), layout="constrained")
        panels = figure.subplots(len(sides), len(regions), squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for look in looks:
            side, region = look.name.split(".", 1)
            axes = panels[sides.index(side), regions.index(region)]
            shown = axes.imshow(
                look.relative, cmap="Greys", vmin=0, vmax=brightest, extent=(low, high, high, low), interpolation="none"
            )
            _draw_places(axes, look)
        figure.colorbar(shown, ax=list(panels.flat), label="attention, 1 = spread evenly", shrink=0.8)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        rows = tuple(row for look in looks for row in _numbers(look, crop_pct))
        return Chart(svg_of(figure), ("query", "mark", "x", "y", "attention"), rows)


def _numbers(look: Look, crop_pct: float) -> Iterator[tuple[Cell, ...]]:
    """Both centres, and the attention of each patch at its place in the image."""
    yield (look.name, "centre of its fields", *look.field_centre, None)
    yield (look.name, "centre of attention", *look.centre, None)
    y, x = (patch_places(count, crop_pct) for count in look.relative.shape)
    for (row, column), value in np.ndenumerate(look.relative):
        yield (look.name, "patch", float(x[column]), float(y[row]), float(value))


def patch_places(count: int, crop_pct: float) -> Array:
    """Centres of so many patches along a side of the whole image, of which the encoder sees the middle."""
    places: Array = crop_pct * ((np.arange(count) + 0.5) / count - 0.5) + 0.5
    return places


def _draw_places(axes: Axes, look: Look) -> None:
    (left, right), (top, bottom) = look.part
    corner, width, height = (left, top), right - left, bottom - top
    name = "the ROI's part of the visual field"
    axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=FUSION, linewidth=1.8, label=name))
    axes.plot(*look.field_centre, "+", color=FUSION, markersize=10, markeredgewidth=2, label="centre of its fields")
    axes.plot(*look.centre, "o", color=LINEAR, markersize=6, markeredgecolor="white", label="centre of attention")
    axes.set(title=look.name, xlim=(0, 1), ylim=(1, 0))
