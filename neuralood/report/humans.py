"""Beside people: do the models err where people err, and do they go by shape?"""

import math
from collections.abc import Mapping
from typing import Any

from neuralood.predictions import MODELS
from neuralood.report import page
from neuralood.report.charts import FUSION, INK, LINEAR, Chart, Dots, dots_chart, draw_dots, row_axes, style
from neuralood.report.figures import Charts, chart_row
from neuralood.report.words import signed

Record = Mapping[str, Any]

ANSWERING = {"people": "people", **{model: model for model in MODELS}}
"""Who answers, in the order of the tables."""


def humans(record: Record, charts: Charts) -> str:
    """Tables and charts of metrics/humans.json; nothing where there are no people's answers."""
    if not record:
        return ""
    compared = {name: one for name, one in record.items() if one["applicable"]}
    left = [f"{name}: not applicable, {one['reason']}." for name, one in record.items() if not one["applicable"]]
    about = (
        "People and models answered to the same images with one of 16 categories. Kappa is the agreement of two "
        "observers on which images they get right, beyond what their accuracies make likely (0: none, 1: the same "
        "errors); shape bias is the share of shape among answers that name the shape or the texture of a cue conflict. "
        "Brackets: 95 % bootstrap over images."
    )
    return "".join(
        [
            page.text("h2", "Are its errors human?"),
            page.text("p", about),
            *(page.text("p", line, cls="note") for line in left),
            _compared(compared, charts) if compared else "",
        ]
    )


def kappa_chart(sets: Mapping[str, Record]) -> Chart:
    """Kappa with people of both models in each set, and kappa between people as a bar."""
    labels = list(sets)
    models = [
        Dots(model, [one[model]["kappa"]["value"] for one in sets.values()], marker, colour, filled, _ends(sets, model))
        for model, marker, colour, filled in (("linear", "o", LINEAR, False), ("fusion", "s", FUSION, True))
    ]
    between = Dots("between people", [one["people"]["kappa"]["value"] for one in sets.values()], "|", INK, size=16)
    with style():
        figure, axes = row_axes(labels, 0.4)
        axes.axvline(0, color=INK, linewidth=1)
        for dots, shift in ((between, 0.0), (models[0], -0.14), (models[1], 0.14)):
            draw_dots(axes, dots, shift)
        axes.margins(x=0.08)
        axes.set(xlabel="error consistency with people, kappa")
        figure.legend(loc="outside upper left", ncols=3)
        return dots_chart(figure, labels, (between, *models))


def _ends(sets: Mapping[str, Record], model: str) -> list[tuple[float, float]]:
    kappas = [one[model]["kappa"] for one in sets.values()]
    return [(kappa["low"], kappa["high"]) for kappa in kappas]


def _compared(sets: Mapping[str, Record], charts: Charts) -> str:
    charts["humans"] = kappa_chart(sets)
    fmri = ", ".join(dict.fromkeys(one["fmri"] for one in sets.values()))
    caption = (
        "Agreement on which images are hard: of each model with each person, mean over people; the bar is that of "
        f"people with each other. Further right: errors that are more human. fMRI of the encoder: {fmri}."
    )
    return chart_row(charts, {"humans": caption}) + _table(sets)


def _table(sets: Mapping[str, Record]) -> str:
    head = ["set", "who", "images", "top-1", "same outcome", "kappa", "fusion minus linear", "shape bias"]
    rows = []
    for name, one in sets.items():
        for who in ANSWERING:
            own = one[who]
            label = f"{one['people']['count']} people" if who == "people" else who
            gain = _number(one["gain"]["kappa"], signs=True) if who == "fusion" else ""
            shape = _number(own["shape_bias"]) if "shape_bias" in own else ""
            scores = [f"{own['accuracy']:.1f}", f"{100 * own['consistency']:.1f} %", _number(own["kappa"])]
            rows.append([name, label, f"{one['n']:,}", *scores, gain, shape])
    return page.table(head, rows)


def _number(one: Record, *, signs: bool = False) -> str:
    """A value with its interval, where it has one."""
    values = [one["value"], one.get("low", math.nan), one.get("high", math.nan)]
    value, low, high = (signed(number, 3) if signs else signed(number, 3).removeprefix("+") for number in values)
    return f"{value} [{low}, {high}]" if "low" in one else value
