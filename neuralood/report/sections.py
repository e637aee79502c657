"""The sections of the page, in the order in which a reviewer asks; charts come as SVG by name."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from neuralood.base import paths
from neuralood.base.seeding import generator
from neuralood.base.training import best_epoch
from neuralood.config import Params
from neuralood.data.imagenet.wnids import spoken
from neuralood.encoder.controls import kept_epoch
from neuralood.predictions import MODELS
from neuralood.report import page, words
from neuralood.report.charts import FUSION, LINEAR, Dots, accuracy_chart, curve_chart, gain_chart
from neuralood.report.figures import Charts, chart_row
from neuralood.report.outputs import Outputs, SetResult, read_curve
from neuralood.report.pictures import open_picture, thumbnail
from neuralood.report.samples import CATEGORIES, by_category, chosen_samples
from neuralood.report.words import signed
from neuralood.statistics import PairedResult, bootstrap_interval

MOST_CARDS = 84
"""Sample images on the page, all sets together; the page must stay light."""


def headline(outputs: Outputs) -> str:
    """What was run, what came out, and what that does not show."""
    run = outputs.classification
    simulated = words.banner(outputs.fmri_simulated, outputs.simulated_sets, [one.name for one in outputs.sets])
    verdict = outputs.study["verdict"]["text"] if outputs.study else words.NO_STUDY
    first, stop, more = verdict.partition(". ")
    warnings = (words.of_another(outputs.study, run), words.own_control(run["control"], run["variant"]))
    facts = {
        "Backbone": run["backbone"],
        "fMRI": f"{run['fmri']}, {outputs.encoder['subject']}",
        "Variant": words.VARIANTS.get(run["variant"], run["variant"]),
        "Control": words.CONTROLS.get(run["control"], run["control"]),
        "Weight of the correlation loss": f"{run['pcc_weight']:g}",
        "Seeds": str(run["seeds"]),
    }
    return "".join(
        [
            page.text("div", simulated, cls="banner") if simulated else "",
            page.text("h1", "Brain-machine fusion: is the brain the reason?"),
            page.text("p", first + stop.rstrip(), cls="lead"),
            page.text("p", more) if more else "",
            *(page.text("p", warning, cls="lead") for warning in warnings if warning),
            *(page.text("p", sentence) for sentence in words.verdicts(run) or ["No set was scored."]),
            page.terms(facts, "facts"),
        ]
    )


def accuracy(outputs: Outputs, params: Params, charts: Charts) -> str:
    """Top-1 of both models and the gain: two charts and the table of their numbers."""
    labels = [one.name for one in outputs.sets]
    cells = [one.cell for one in outputs.sets]
    intervals = {model: [wilson(one, model) for one in outputs.sets] for model in MODELS}
    mean = outputs.classification.get("ood_mean")
    if mean is not None:
        labels.append("mean OOD")
        cells.append(mean)
        for model in MODELS:
            intervals[model].append(_mean_interval(outputs, params, model))
    values = {model: [cell[model]["top1"] for cell in cells] for model in MODELS}
    gains = [(cell["gain"]["low"], cell["gain"]["high"]) for cell in cells]
    charts["accuracy"] = accuracy_chart(
        labels,
        Dots("linear", values["linear"], "o", LINEAR, False, intervals["linear"]),
        Dots("fusion", values["fusion"], "s", FUSION, True, intervals["fusion"]),
    )
    gain = Dots("gain", [cell["gain"]["top1"] for cell in cells], "D", FUSION, True, gains)
    charts["gain"] = gain_chart(labels, gain)
    of_mean = " (of the mean: bootstrap)" if mean is not None else ""
    return "".join(
        [
            page.text("h2", "Accuracy of this run"),
            chart_row(
                charts,
                {
                    "accuracy": f"Top-1 accuracy of both models in each set; lines are 95 % Wilson intervals{of_mean}.",
                    "gain": "Gain, fusion minus linear on the same images; lines are 95 % paired bootstrap intervals.",
                },
            ),
            _accuracy_table(labels, cells, mean is not None),
            _extra_table({one.name: one.cell["extra"] for one in outputs.sets}),
        ]
    )


def wilson(one: SetResult, model: str) -> tuple[float, float]:
    """95 % Wilson interval of a set's top-1 in percent; versions of one image count as one."""
    n, p, z = len(set(one.predictions.sources)), float(one.predictions.correct(model).mean()), 1.959964
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return 100 * min(p, centre - half), 100 * max(p, centre + half)


def samples(outputs: Outputs) -> str:
    """A few images of each set, first of all some where the models differ."""
    limit = max(2, min(6, MOST_CARDS // max(1, len(outputs.sets))))
    rule = (
        "Chosen by rule, not by hand: in turn from the images that only fusion, only linear, both and neither get "
        "right, evenly spread over the set. They show kinds of cases; how often each occurs is counted beside the "
        "set's name (first seed)."
    )
    rows = (_sample_row(one, limit) for one in outputs.sets)
    return page.element("section", page.text("h2", "Sample images"), page.text("p", rule), *rows, cls="pictures")


def training(outputs: Outputs, charts: Charts) -> str:
    """Training curves of the encoder and of every seed's fusion classifier."""
    captions, notes = {}, []
    members = range(outputs.encoder_record.get("sizes", {}).get("ensemble", 1))
    curves = [curve for curve in map(read_curve, map(paths.encoder_curve, members)) if curve]
    if curves:
        kept = [kept_epoch(curve, outputs.encoder_record["control"]) for curve in curves]
        charts["encoder_curve"] = curve_chart(curves, "train", "validation", kept)
        captions["encoder_curve"] = "Brain encoder: mean squared error by epoch; the ring is the epoch kept."
    else:
        notes.append(page.text("p", "The brain encoder was not trained here: no curve.", cls="note"))
    files = [paths.FUSION / f"seed{seed}" / "curve.tsv" for seed in range(outputs.classification["seeds"])]
    curves = [curve for curve in map(read_curve, files) if curve]
    if curves:
        charts["fusion_curve"] = curve_chart(
            curves,
            "train (with the correlation term)",
            "holdout (cross-entropy)",
            [best_epoch(curve) for curve in curves],
        )
        captions["fusion_curve"] = "Fusion, one pair of lines a seed: loss by epoch; the ring is the epoch kept."
    else:
        notes.append(page.text("p", "No training curve of fusion was found.", cls="note"))
    return page.text("h2", "Training") + chart_row(charts, captions) + "".join(notes)


def _mean_interval(outputs: Outputs, params: Params, model: str) -> tuple[float, float]:
    """95 % bootstrap interval of a model's mean OOD top-1, drawn as that of the gain is."""
    flagged = [one for one in outputs.sets if one.name in params.evaluation.ood_mean]
    results = {
        one.name: PairedResult(100 * one.predictions.correct(model).mean(axis=0), one.predictions.sources)
        for one in flagged
    }
    return bootstrap_interval(results, params.evaluation.bootstrap, generator(params.seed, "report", model))


def _accuracy_table(labels: Sequence[str], cells: Sequence[dict[str, Any]], has_mean: bool) -> str:
    top5 = any("top5" in cell["linear"] for cell in cells)
    head = ["set", "linear top-1", "fusion top-1", "gain [95 % interval]"]
    head += [*(["linear top-5", "fusion top-5"] if top5 else []), "images", "classes"]
    rows = []
    for label, cell in zip(labels, cells, strict=True):
        gain, sd = cell["gain"], cell["fusion"].get("top1_sd")
        fusion = f"{cell['fusion']['top1']:.1f}" + (f" ± {sd:.1f}" if sd is not None else "")
        interval = f"{signed(gain['top1'])} [{signed(gain['low'])}, {signed(gain['high'])}]"
        fives = [f"{cell[model]['top5']:.1f}" if "top5" in cell[model] else "" for model in MODELS] if top5 else []
        counts = [f"{cell[key]:,}" if key in cell else "" for key in ("n", "n_classes")]
        rows.append([label, f"{cell['linear']['top1']:.1f}", fusion, interval, *fives, *counts])
    return page.table(head, rows, len(rows) - 1 if has_mean else None)


def _extra_table(extras: Mapping[str, Mapping[str, Any]]) -> str:
    """What sets are also scored by, in percent; nothing where they have no such figures."""
    names = {"unrestricted": "top-1 among all training classes", "mce": "mean corruption error"}
    rows = []
    for name, extra in extras.items():
        for key in (key for key in names if key in extra):
            figures = [extra[key][model] for model in MODELS]
            values = [figure["top1"] if isinstance(figure, Mapping) else figure for figure in figures]
            rows.append([name, names[key], *(f"{value:.1f}" for value in values)])
    if not rows:
        return ""
    return page.text("p", words.EXTRA) + page.table(["set", "also scored by", *MODELS], rows, None)


def _sample_row(one: SetResult, limit: int) -> str:
    categories = by_category(one.predictions)
    counts = ", ".join(f"{name} {len(categories[name])}" for name in CATEGORIES)
    title = page.element("h3", escape(one.name), page.text("small", f"of {len(one.manifest)}: {counts}"))
    files = one.manifest.image_files()
    cards = (_card(one, row, open_picture(files[row])) for row in chosen_samples(categories, limit))
    return title + page.element("div", *cards, cls="cards")


def _card(one: SetResult, row: int, picture: Any) -> str:
    classes, truth = one.manifest.classes, one.predictions.labels[row]
    lines = [page.text("b", spoken(classes[truth]))]
    for model in MODELS:
        guess = one.predictions.ranked[model][0, row, 0]
        mark, cls = ("✓", "right") if one.predictions.correct(model)[0, row] else ("✗", "wrong")
        lines.append(page.text("span", f"{mark} {model}: {spoken(classes[guess])}", cls=cls))
    alt = f"Image of {one.name}, true class {spoken(classes[truth])}"
    shown = page.image(thumbnail(picture), alt) if picture else page.text("span", "not on this machine", cls="gone")
    return page.element("div", shown, *lines, cls="card")
