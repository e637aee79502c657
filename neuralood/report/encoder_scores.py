"""How well the brain encoder predicts: each ROI against ceiling and baselines, out of distribution, on the cortex."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from neuralood.config import Params
from neuralood.data.rois import ROI_NAMES
from neuralood.report import page, words
from neuralood.report.charts import FAINT, FUSION, INK, LINEAR, Dots, ood_chart, roi_chart
from neuralood.report.cortex import cortex
from neuralood.report.figures import Charts, chart_row
from neuralood.report.outputs import Outputs
from neuralood.report.words import signed

HEMISPHERES = {"lh": "left", "rh": "right"}
BASELINES = {"ridge": "o", "ridge_gap": "v", "factorised": "D", "banded_ridge": "^"}
"""The baselines that metrics/encoder.json may have, and their marks."""
GROUPS = {"early": FUSION, "high": LINEAR}


def encoder(outputs: Outputs, params: Params, charts: Charts) -> str:
    """How well fMRI is predicted: each ROI, hemispheres side by side, the groups, other images, and the cortex."""
    scores = outputs.encoder
    return "".join(
        [
            page.text("h2", "Brain encoder"),
            page.text("p", _about(outputs, params)),
            _roi_charts(scores, charts),
            _group_table(scores),
            cortex(outputs, charts),
            _beyond_photos(outputs.encoder_ood, charts, simulated=outputs.fmri_simulated),
        ]
    )


def baselines_of(scores: Mapping[str, Any], group: str | None = None) -> dict[str, Mapping[str, float]]:
    """Mean and median r of each baseline that is known, over all vertices or those of a group."""
    if "baselines" not in scores:
        own = scores if group is None else scores["groups"][group]
        return {"ridge": own["ridge"]["pearson"]} if "ridge" in own else {}
    baselines = {name: scores["baselines"][name] for name in BASELINES if name in scores["baselines"]}
    return {name: (one if group is None else one["groups"][group])["pearson"] for name, one in baselines.items()}


def roi_dots(scores: Mapping[str, Any], side: str, regions: Sequence[str]) -> tuple[Dots | None, Dots, list[Dots]]:
    """Noise ceiling (None where none is known), encoder, and the baselines, best one last, of one hemisphere."""
    rois = [scores["roi"].get(f"{side}.{region}", {}) for region in regions]
    ceilings = [roi.get("noise_ceiling", math.nan) for roi in rois]
    ceiling = None if all(map(math.isnan, ceilings)) else Dots("noise ceiling", ceilings, "|", INK, size=14)
    means = [roi.get("mean") for roi in rois]
    if any(means):
        values = [math.nan if mean is None else mean["r"] for mean in means]
        ends = [(math.nan, math.nan) if mean is None else (mean["low"], mean["high"]) for mean in means]
        model = Dots("encoder", values, "s", FUSION, True, ends)
    else:
        model = Dots("encoder", [roi.get("pearson", math.nan) for roi in rois], "s", FUSION)
    best = scores.get("best_ridge", "ridge")
    others = []
    for name in sorted(baselines_of(scores), key=lambda name: name == best):
        values = [_baseline_r(scores, name, f"{side}.{region}") for region in regions]
        colour, size = (LINEAR, 5.5) if name == best else (FAINT, 3.5)
        others.append(Dots(words.BASELINES[name], values, BASELINES[name], colour, False, size=size))
    return ceiling, model, others


def _baseline_r(scores: Mapping[str, Any], name: str, roi: str) -> float:
    if "baselines" in scores:
        r: float = scores["baselines"][name]["roi"].get(roi, math.nan)
    else:
        r = scores["roi"].get(roi, {}).get(name, math.nan)
    return r


def _about(outputs: Outputs, params: Params) -> str:
    scores = outputs.encoder
    sentences = [
        f"Trained on {scores['n_train']:,} images, scored on {scores['n_test']:,} that it never saw; "
        f"{scores['n_vertices']:,} vertices."
    ]
    if scores.get("vertices_left_out"):
        emptied = ", ".join(scores["rois_left_out"])
        sentences.append(
            f"{scores['vertices_left_out']:,} others are left out: their fMRI is not finite or does not vary"
            + (f", which leaves no vertex of {emptied}." if emptied else ".")
        )
    if outputs.fmri_simulated:
        sentences.append("ROIs of the simulated brain are labels only.")
    if scores["data"] == "imported":
        sentences.append(
            f"It was trained elsewhere, on {scores['trained_on']}, and imported: these are its maker's scores."
        )
    if "fraction_of_ceiling" in scores:
        sentences.append(
            f"What needs a ceiling counts vertices whose ceiling is above {params.fmri.ceiling_threshold:g}."
        )
    else:
        sentences.append("No noise ceiling is known for this fMRI: scores that need one are left out.")
    if "algonauts2023" in scores:
        challenge = scores["algonauts2023"]
        sentences.append(
            f"Algonauts 2023 score, percent of the explainable variance: mean {challenge['mean']:.1f}, "
            f"median {challenge['median']:.1f} over vertices."
        )
    return " ".join(sentences)


def _roi_charts(scores: Mapping[str, Any], charts: Charts) -> str:
    regions = [name for name in ROI_NAMES if any(f"{side}.{name}" in scores["roi"] for side in HEMISPHERES)]
    sides = {side: roi_dots(scores, side, regions) for side in HEMISPHERES}
    shown = [r for ceiling, model, others in sides.values() for dots in (model, *others) for r in _numbers(dots)]
    shown += [r for ceiling, _, _ in sides.values() if ceiling for r in _numbers(ceiling)]
    low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
    margin = 0.05 * max(high - low, 0.1)
    captions = {}
    for side, name in HEMISPHERES.items():
        ceiling, model, others = sides[side]
        charts[f"encoder_{side}"] = roi_chart(regions, ceiling, model, others, (low - margin, high + margin))
        captions[f"encoder_{side}"] = f"Each ROI of the {name} hemisphere ({side}). {_what_is_drawn(model, others)}"
    return chart_row(charts, captions)


def _numbers(dots: Dots) -> list[float]:
    ends = [end for pair in dots.intervals or () for end in pair]
    return [value for value in (*dots.values, *ends) if not math.isnan(value)]


def _what_is_drawn(model: Dots, others: Sequence[Dots]) -> str:
    if model.intervals is None:
        return "Median r over its vertices, encoder" + (" and baseline." if others else ".")
    drawn = "Encoder: mean r over its vertices, line: 95 % interval over images"
    return drawn + ("; ceiling and baselines: median, the best ridge in orange." if others else "; ceiling: median.")


def _group_table(scores: Mapping[str, Any]) -> str:
    names = list(baselines_of(scores))
    has_gain, has_ceiling = "over_ridge" in scores, "fraction_of_ceiling" in scores
    head = ["group", "encoder, mean r", *(words.BASELINES[name] for name in names)]
    head += ["gain over the best ridge"] * has_gain + ["fraction of ceiling", "noise-normalised"] * has_ceiling
    rows = []
    for label, group in {**{name: name for name in scores["groups"]}, "all vertices": None}.items():
        own = scores if group is None else scores["groups"][group]
        row = [label, _with_interval(own["mean"], _plain) if "mean" in own else _plain(own["pearson"]["mean"])]
        row += [_plain(r["mean"]) for r in baselines_of(scores, group).values()]
        row += [_with_interval(own["over_ridge"], _gain) if "over_ridge" in own else ""] * has_gain
        row += [f"{own['fraction_of_ceiling']:.3f}" if "fraction_of_ceiling" in own else ""] * has_ceiling
        row += [f"{own['noise_normalised']['median']:.3f}" if "noise_normalised" in own else ""] * has_ceiling
        rows.append(row)
    return page.table(head, rows, len(rows) - 1)


def _with_interval(result: Mapping[str, float], write: Callable[[float], str]) -> str:
    return f"{write(result['r'])} [{write(result['low'])}, {write(result['high'])}]"


def _gain(r: float) -> str:
    return signed(r, 3)


def _beyond_photos(sets: Mapping[str, Any], charts: Charts, *, simulated: bool) -> str:
    """r on the images of each set whose fMRI is known, against photos; nothing where there is no such set."""
    if not sets:
        return ""
    labels = list(sets)
    marks = [
        (
            Dots(f"{group}, photos", [_group_r(one["photo"], group) for one in sets.values()], "o", colour, False),
            Dots(f"{group}, this set", [_group_r(one, group) for one in sets.values()], "s", colour),
        )
        for group, colour in GROUPS.items()
        if any(group in one["groups"] for one in sets.values())
    ]
    charts["encoder_ood"] = ood_chart(labels, marks)
    head = ["set", "images"]
    head += [f"{group}{of}" for group in (*GROUPS, "all", "fraction of ceiling") for of in ("", ", photos")]
    rows = []
    for name, one in sets.items():
        both = (one, one["photo"])
        values = [_group_r(scores, group) for group in (*GROUPS, None) for scores in both]
        values += [scores.get("fraction_of_ceiling", math.nan) for scores in both]
        rows.append([name, f"{one['n']:,}", *("" if math.isnan(value) else _plain(value) for value in values)])
    caption = (
        f"Median r over vertices{' of simulated fMRI' if simulated else ''}, early and high ROIs: on images of each "
        "set, and (rings) on test images of the kind that the encoder was trained on. The further left of its ring, "
        "the less a prediction is worth; a set's ceiling may be another than that of photos."
    )
    return "".join(
        [
            page.text("h3", "How far predictions can be trusted beyond photos"),
            chart_row(charts, {"encoder_ood": caption}),
            page.table(head, rows),
        ]
    )


def _plain(r: float) -> str:
    return f"{r:.3f}".replace("-", "\N{MINUS SIGN}")


def _group_r(scores: Mapping[str, Any], group: str | None) -> float:
    """Median r over all vertices, or over those of a group; NaN where the subject has none."""
    found = scores if group is None else scores["groups"].get(group)
    return math.nan if found is None else float(found["pearson"]["median"])
