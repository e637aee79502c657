"""Robustness beyond top-1: accuracy by level of a transform, calibration, and the class that suffers most."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neuralood.data.imagenet.wnids import spoken
from neuralood.predictions import MODELS
from neuralood.report import page
from neuralood.report.charts import FUSION, LINEAR, PAGE_WIDTH, Cell, Chart, style, svg_of
from neuralood.report.figures import Charts, chart
from neuralood.report.words import signed

Record = Mapping[str, Any]
Levels = Mapping[str, Record]
"""Scores at each level of a transform, lowest level first, by the set's name or the severity."""

LOOKS = {"linear": ("o--", LINEAR, "none"), "fusion": ("s-", FUSION, "full")}
SCORES = {"ece": ("calibration error, %", 1), "nll": ("NLL, nats", 2), "brier": ("Brier score", 3)}
COLUMNS = 4
"""Panels side by side."""


def robustness(record: Record, charts: Charts) -> str:
    """Tables and charts of metrics/robustness.json; nothing where it is not there."""
    sets = {**record.get("id", {}), **record.get("ood", {})}
    if not sets:
        return ""
    return "".join(
        [
            page.text("h2", "Robustness beyond top-1"),
            _by_level(record["levels"], charts),
            page.text("h3", "Calibration and the worst class"),
            _score_table(sets),
        ]
    )


def transforms(levels: Record) -> Iterator[tuple[str, Levels]]:
    """Title and levels of every transform of every source that comes in more than one level."""
    for source, of_source in levels.items():
        for transform, found in of_source.items():
            if len(found) > 1:
                yield f"{source}: {transform}", dict(sorted(found.items(), key=lambda item: item[1]["level"]))


def severity_chart(panels: Mapping[str, Levels]) -> Chart:
    """Top-1 of both models against the level, a panel a transform."""
    rows_of_panels = -(-len(panels) // COLUMNS)
    rows: list[tuple[Cell, ...]] = []
    with style():
        figure = Figure(figsize=(PAGE_WIDTH, 0.5 + 2.1 * rows_of_panels), layout="constrained")
        grid = figure.subplots(rows_of_panels, COLUMNS, squeeze=False, sharey=True)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, levels) in zip(grid.flat, panels.items(), strict=False):
            _draw_levels(axes, title, levels)
            rows += [
                (title, name, one["level"], *(one[model]["top1"] for model in MODELS), *_gain(one))
                for name, one in levels.items()
            ]
        figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        columns = ("transform", "set", "level", *MODELS, "gain", "gain low", "gain high")
        return Chart(svg_of(figure), columns, tuple(rows))


def _draw_levels(axes: Axes, title: str, levels: Levels) -> None:
    values = [one["level"] for one in levels.values()]
    for model, (form, colour, fill) in LOOKS.items():
        top1 = [one[model]["top1"] for one in levels.values()]
        axes.plot(values, top1, form, color=colour, fillstyle=fill, markersize=5, label=model)
    axes.set(ylim=(-2, 102), xticks=values, xticklabels=[f"{value:g}" for value in values], xlabel="level")
    axes.set_title(title, fontsize=8)
    if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
        axes.set_ylabel("top-1, %")


def _by_level(levels: Record, charts: Charts) -> str:
    panels = dict(transforms(levels))
    if not panels:
        about = (
            "No transform comes in more than one level: give `made` the same source and transform at several levels."
        )
        return page.text("p", about, cls="note")
    charts["severity"] = severity_chart(panels)
    head = ["transform", "level", *MODELS, "gain"]
    rows = [
        [title, f"{one['level']:g}", *(f"{one[model]['top1']:.1f}" for model in MODELS), _gain_text(one)]
        for title, found in panels.items()
        for one in found.values()
    ]
    caption = "Top-1 by level of each transform; what a level means is in the README."
    return page.text("h3", "Accuracy by level") + chart(charts, "severity", caption) + page.table(head, rows)


def _gain(one: Record) -> tuple[Cell, ...]:
    gain = one.get("gain", {})
    return tuple(gain.get(key) for key in ("top1", "low", "high"))


def _gain_text(one: Record) -> str:
    gain = one.get("gain")
    if gain is None:
        return signed(one["fusion"]["top1"] - one["linear"]["top1"])
    return f"{signed(gain['top1'])} [{signed(gain['low'])}, {signed(gain['high'])}]"


def _score_table(sets: Record) -> str:
    head = ["set", *(f"{title}, {model}" for title, _ in SCORES.values() for model in MODELS)]
    head += [f"worst class, {model}" for model in MODELS]
    rows = []
    for name, one in sets.items():
        scores = [f"{one[model][key]:.{digits}f}" for key, (_, digits) in SCORES.items() for model in MODELS]
        worst = [one[model]["worst_class"] for model in MODELS]
        rows.append([name, *scores, *(f"{spoken(found['class'])} {found['top1']:.0f} %" for found in worst)])
    return page.table(head, rows)
