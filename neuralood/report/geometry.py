"""Beside people's brains: are images that differ to them those that differ to the models, and more so after fusion?"""

import math
from collections.abc import Mapping
from typing import Any

from neuralood.report import page
from neuralood.report.charts import FAINT, FUSION, INK, LINEAR, Chart, Dots, dots_chart, draw_dots, row_axes, style
from neuralood.report.figures import Charts, chart_row
from neuralood.report.words import signed

Record = Mapping[str, Any]

BEFORE = {"cls": "[CLS]", "gap": "mean patch", "patches": "patches"}
AFTER = {"fused": "fused features", "classifier_input": "classifier's input"}
FMRI = "predicted fMRI"
KINDS = {"before fusion": ("o", LINEAR, False), FMRI: ("^", INK, True), "after fusion": ("s", FUSION, True)}
"""Kinds of representations and their marks."""
MEASURES = {"spearman": "Spearman", "tau_a": "tau-a", "whitened": "whitened r"}


def geometry(record: Record, charts: Charts) -> str:
    """Tables and charts of metrics/geometry.json; nothing where no set is compared."""
    if not record:
        return ""
    about = (
        "Which images differ to people's brains, and do the same ones differ to the model? Correlation of the "
        "dissimilarities of all pairs of images, mean over people; the noise ceiling is how high any model could come. "
        "Brackets: 95 % bootstrap over images and people."
    )
    for name, one in record.items():
        charts[f"geometry_{name}"] = likeness_chart(one)
    captions = {f"geometry_{name}": _caption(name, one) for name, one in record.items()}
    tables = (page.text("h3", name) + _table(one) + _lead_table(one["lead"]) for name, one in record.items())
    title = page.text("h2", "Is it more like the human brain?")
    return "".join([title, page.text("p", about), chart_row(charts, captions), *tables])


def called(representation: str) -> str:
    """What a representation is called on the page."""
    names = {**BEFORE, **AFTER}
    if representation in names:
        return names[representation]
    _, _, group = representation.partition("_")
    return f"{FMRI}, {group}" if group else FMRI


def kind_of(representation: str) -> str:
    """Which of KINDS a representation is."""
    if representation in BEFORE:
        return "before fusion"
    return "after fusion" if representation in AFTER else FMRI


def likeness_chart(record: Record) -> Chart:
    """Spearman correlation with people of each representation, and the noise ceiling as a band."""
    found = _in_order(record)
    labels, series = [called(name) for name in found], []
    for kind, (marker, colour, filled) in KINDS.items():
        values = [one["spearman"] if kind_of(name) == kind else math.nan for name, one in found.items()]
        ends = [(one["low"], one["high"]) for one in found.values()]
        series.append(Dots(kind, values, marker, colour, filled, ends))
    with style():
        figure, axes = row_axes(labels, 0.28)
        axes.axvline(0, color=INK, linewidth=1)
        if ceiling := record["ceiling"].get("spearman"):
            axes.axvspan(ceiling["lower"], ceiling["upper"], color=FAINT, alpha=0.3, label="noise ceiling")
        for dots in series:
            draw_dots(axes, dots, 0.0)
        axes.set(xlabel="Spearman correlation with people")
        figure.legend(loc="outside upper left", ncols=2)
        drawn = dots_chart(figure, labels, series)
    band = ("noise ceiling", "lower to upper", None, ceiling["lower"], ceiling["upper"]) if ceiling else None
    return Chart(drawn.svg, drawn.columns, (*drawn.rows, *([band] if band else [])))


def _in_order(record: Record) -> dict[str, Record]:
    """The representations, kind after kind."""
    kinds, found = list(KINDS), record["representations"]
    return {name: found[name] for name in sorted(found, key=lambda name: kinds.index(kind_of(name)))}


def _caption(name: str, record: Record) -> str:
    people = f"the brains of {record['n_people']} people" if record["n_people"] > 1 else "one person's brain"
    shaded = " Shaded: the noise ceiling, lower to upper." if record["ceiling"] else ""
    return (
        f"Likeness to {people} on {record['n_images']} images of {name}, fMRI of the encoder: {record['fmri']}. Rings: "
        f"before fusion; triangles: predicted fMRI; squares: after fusion.{shaded}"
    )


def _table(record: Record) -> str:
    rows = []
    for name, one in _in_order(record).items():
        first = f"{_r(one['spearman'])} [{_r(one['low'])}, {_r(one['high'])}]"
        rows.append([called(name), kind_of(name), first, *(_r(one[key]) for key in list(MEASURES)[1:])])
    for end in ("lower", "upper") if record["ceiling"] else ():
        rows.append([f"noise ceiling, {end}", "", *(_r(record["ceiling"][key][end]) for key in MEASURES)])
    return page.table(["representation", "", *MEASURES.values()], rows)


def _lead_table(lead: Record) -> str:
    """Of what comes after over what was before, with paired intervals."""
    rows = [
        [
            called(name),
            *(
                f"{signed(one['spearman'], 3)} [{signed(one['low'], 3)}, {signed(one['high'], 3)}]"
                for one in over.values()
            ),
        ]
        for name, over in lead.items()
    ]
    others = dict.fromkeys(other for over in lead.values() for other in over)
    return page.table(["more like people than", *map(called, others)], rows) if rows else ""


def _r(value: float) -> str:
    return signed(value, 3).removeprefix("+")
