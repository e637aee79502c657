"""The study's part of the page: is the brain the reason? Every arm against BMFL, and what its gain is made of."""

from collections.abc import Iterator, Mapping
from typing import Any

from neuralood.report import page
from neuralood.report.figures import Charts, chart_row
from neuralood.report.study_charts import Difference, decomposition_chart, difference, forest_chart, region_chart
from neuralood.report.words import signed

Record = Mapping[str, Any]

MEAN = "ood_mean"
LEFT_OUT = "without_"
KINDS = {
    "baseline": "baselines, no brain",
    "control": "controls",
    "rois": "regions of interest",
    "setting": "settings of BMFL",
    "amount": "less fMRI",
}
"""Kinds of arms that are compared with the main one, and what they are called."""
TERMS = {
    "image_network": "a larger image network",
    "training_on_fmri": "training on any fMRI",
    "brain": "what the brain knows",
}
"""The terms of the decomposition, in their order."""
PEOPLE = {
    "geometry": ("spearman", "Spearman of fused features with people's dissimilarities (before: [CLS])"),
    "humans": ("kappa", "error consistency (kappa) with people"),
}
"""What arms are compared with people by: sections of the record, their measure, and what it is called."""


def study(record: Record, charts: Charts) -> str:
    """Tables and charts of metrics/study.json; nothing where there was no study."""
    if not record:
        return ""
    return "".join(
        [
            page.text("h2", "Is the brain the reason?"),
            page.text("p", _about(record)),
            _verdict_table(record["verdict"]),
            page.text("h3", "Every arm against BMFL"),
            page.text("p", _arms_in_words(record)),
            _arms_table(record),
            _charts(record, charts),
            page.text("h3", "Each set"),
            page.text("p", "Top-1 in percent, mean over seeds."),
            _sets_table(record),
            page.text(
                "p",
                "Points by which BMFL is better; * where p, corrected by Holm's method over OOD sets, is below 0.05.",
            ),
            _differences_table(record),
            _regions(record, charts),
            _beside_people(record),
            page.text("h3", "What an arm changes in params.yaml"),
            _changes_table(record),
        ]
    )


def _beside_people(record: Record) -> str:
    """A table a set: each arm's likeness to people, and BMFL's minus it."""
    return "".join(
        page.text("h3", f"Every arm beside people: {name}")
        + page.table(
            ["arm", title, "BMFL minus it"],
            [[arm, _value(one, measure), _value(one["main_minus_it"], measure, sign="+")] for arm, one in arms.items()],
        )
        for section, (measure, title) in PEOPLE.items()
        for name, arms in record[section].items()
    )


def _value(one: Record, measure: str, sign: str = "") -> str:
    return f"{one[measure]:{sign}.3f} [{one['low']:{sign}.3f}, {one['high']:{sign}.3f}]"


def main_arm(record: Record) -> str:
    """The arm that all others are compared with."""
    (name,) = (name for name, arm in record["arms"].items() if arm["kind"] == "main")
    return str(name)


def arms_by_kind(record: Record) -> Iterator[tuple[str, str]]:
    """Kind and name of every arm but the main one, kind after kind: what is left out last, images_200 before _1000."""
    for kind in KINDS:
        names = [name for name, arm in record["arms"].items() if arm["kind"] == kind]
        yield from ((kind, name) for name in sorted(names, key=_place))


def _place(name: str) -> tuple[bool, str, float]:
    word, _, number = name.rpartition("_")
    is_number = number.replace(".", "", 1).isdigit()
    return name.startswith(LEFT_OUT), word if is_number else name, float(number) if is_number else 0.0


def _about(record: Record) -> str:
    quick = " (the quick one: few arms)" if record["quick"] else ""
    sets, best = record["sets"], record["best_baseline"]
    about = [
        f"From metrics/study.json{quick}: {len(record['arms'])} arms of {record['backbone']}, {record['data']} fMRI, "
        f"{record['seeds']} seeds each. Mean OOD is the unweighted mean over {', '.join(sets[MEAN])}.",
        f"The best baseline without a brain, chosen on the holdout, is {best['arm']}: BMFL is "
        f"{signed(best['difference']['difference'])} points from it {_interval(best['difference']['image_interval'])}.",
    ]
    if "power" in record:
        about.append(record["power"]["text"])
    return " ".join(about)


def _verdict_table(verdict: Record) -> str:
    """What the verdict rests on: BMFL minus each of the controls that it asks for, with corrected intervals."""
    rows = [
        [name, signed(one["difference"]), f"{_interval(one['interval'])} at {100 * one['level']:.4g} %"]
        for name, one in verdict["against"].items()
    ]
    return page.table(["BMFL minus the control", "mean OOD, points", "interval, corrected by Holm's method"], rows)


def _arms_in_words(record: Record) -> str:
    return (
        f"Top-1 in percent, mean over {record['seeds']} seeds ± their sd. Differences are {main_arm(record)} minus the "
        "arm on mean OOD, in points, paired over images and seeds; over images: 95 % bootstrap over source images with "
        "the trained models fixed; over seeds: 95 % t interval; p: of the bootstrap, each arm by itself."
    )


def _comparisons(record: Record, where: str) -> dict[str, Record]:
    """Comparisons of the main arm on one set or on mean OOD, by the other arm's name."""
    return {one["other"]: one for one in record["comparisons"] if one["set"] == where}


def _arms_table(record: Record) -> str:
    compared, (val, *_) = _comparisons(record, MEAN), record["sets"]["id"]
    head = ["arm", "kind", val, "mean OOD", "BMFL minus it", "over images", "over seeds", "p"]
    line = any("effective_robustness" in arm for arm in record["arms"].values())
    rows = []
    for kind, name in [("main", main_arm(record)), *arms_by_kind(record)]:
        arm, own = record["arms"][name], compared.get(name)
        differences = ["", "", "", ""] if own is None else _difference_cells(own)
        above = signed(arm["effective_robustness"]) if "effective_robustness" in arm else ""
        accuracies = [_cell(arm["top1"][where]) for where in (val, MEAN)]
        rows.append([name, KINDS.get(kind, kind), *accuracies, *differences, *([above] if line else [])])
    return page.table([*head, *(["above the baselines' line"] if line else [])], rows, 0)


def _difference_cells(one: Record) -> list[str]:
    p = f"{one['p']:.2g}" if one["p"] >= 0.001 else "< 0.001"
    return [signed(one["difference"]), _interval(one["image_interval"]), _interval(one["seed_interval"]), p]


def _cell(cell: Record) -> str:
    sd = cell.get("sd")
    return f"{cell['mean']:.1f}" + (f" ± {sd:.1f}" if sd is not None else "")


def _interval(ends: Any) -> str:
    return "" if ends is None else f"[{signed(ends[0])}, {signed(ends[1])}]"


def _sets_table(record: Record) -> str:
    sets = _sets(record)
    rows = []
    for _, name in [("main", main_arm(record)), *arms_by_kind(record)]:
        arm = record["arms"][name]
        rows.append([name, *(f"{arm['top1'][where]['mean']:.1f}" for where in sets)])
    return page.table(["arm", *sets], rows, 0)


def _changes_table(record: Record) -> str:
    """No row for the linear probe, which is the main arm's own."""
    changes = {name: record["arms"][name]["changes"] for _, name in arms_by_kind(record)}
    rows = [
        [name, ", ".join(f"{key}: {_in_yaml(value)}" for key, value in sorted(own.items()))]
        for name, own in changes.items()
        if own
    ]
    return page.table(["arm", "changed params"], rows)


def _in_yaml(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, list) else str(value)


def _differences_table(record: Record) -> str:
    sets = _sets(record)
    compared = {where: _comparisons(record, where) for where in sets}
    rows = []
    for _, name in arms_by_kind(record):
        found = [compared[where].get(name) for where in sets]
        rows.append([name, *("" if one is None else _starred(one) for one in found)])
    return page.table(["BMFL minus", *sets], rows)


def _starred(one: Record) -> str:
    """The difference, with a star where its p, corrected over OOD sets (val is none of them), is below 0.05."""
    return signed(one["difference"]) + (" *" if one.get("holm_p", one["p"]) < 0.05 else "")


def _sets(record: Record) -> list[str]:
    return [*record["sets"]["id"], *record["sets"]["ood"]]


def _charts(record: Record, charts: Charts) -> str:
    compared = _comparisons(record, MEAN)
    groups: dict[str, list[Difference]] = {}
    for kind, name in arms_by_kind(record):
        groups.setdefault(KINDS[kind], []).append(difference(name, compared[name]))
    charts["ablations"] = forest_chart(groups)
    captions = {
        "ablations": "BMFL minus each arm on mean OOD. Thick: 95 % interval over images; thin: over seeds.",
    }
    parts = record["decomposition"]
    if {*TERMS, "total"} <= set(parts):
        terms = [difference(title, parts[key]) for key, title in TERMS.items()]
        charts["decomposition"] = decomposition_chart(terms, difference("in all", parts["total"]))
        meant = ", ".join(f"{title} ({parts[key]['name']})" for key, title in TERMS.items())
        captions["decomposition"] = (
            "What the gain over the linear probe is made of: each bar begins where the one before it ends. The terms "
            f"are {meant}. Only the last is evidence for the brain."
        )
    return chart_row(charts, captions)


def _regions(record: Record, charts: Charts) -> str:
    """Which groups of regions carry the gain; nothing where the study has no such arms."""
    cells = {name: arm["top1"][MEAN] for name, arm in record["arms"].items() if arm["kind"] == "rois"}
    if not cells:
        return ""
    alone = {name: cell for name, cell in cells.items() if not name.startswith(LEFT_OUT)}
    left_out = {name.removeprefix(LEFT_OUT): cell for name, cell in cells.items() if name.startswith(LEFT_OUT)}
    main = main_arm(record)
    lines = {
        name: record["arms"][name]["top1"][MEAN]["mean"]
        for name in (main, "shuffled", "linear")
        if name in record["arms"]
    }
    charts["regions"] = region_chart(alone, left_out, lines)
    caption = (
        f"Mean OOD where fusion reads one group of regions alone{', or all but it' * bool(left_out)}; lines: lowest to "
        f"highest of {record['seeds']} seeds. Vertical lines: {', '.join(lines)}."
    )
    note = "ROIs of the simulated brain are labels only." if record["data"] == "simulated" else ""
    return (
        page.text("h3", "Which regions?") + page.text("p", note) * bool(note) + chart_row(charts, {"regions": caption})
    )
