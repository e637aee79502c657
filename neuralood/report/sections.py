"""The sections of the page, in the order in which a reviewer asks; charts come as SVG by name."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from neuralood.base import paths
from neuralood.base.seeding import generator
from neuralood.base.store import Array, open_store
from neuralood.config import Params
from neuralood.data.imagenet.wnids import spoken
from neuralood.data.rois import ROI_NAMES
from neuralood.predictions import MODELS
from neuralood.report import page, words
from neuralood.report.attention import BOTH_SIDES, Attention, read_attention, spread
from neuralood.report.charts import (
    FUSION,
    INK,
    LINEAR,
    Dots,
    accuracy_chart,
    curve_chart,
    gain_chart,
    inline,
    roi_chart,
)
from neuralood.report.outputs import Outputs, SetResult, read_curve
from neuralood.report.pictures import heat_tile, model_view, open_picture, thumbnail
from neuralood.report.samples import CATEGORIES, by_category, chosen_samples
from neuralood.report.words import signed
from neuralood.statistics import PairedResult, bootstrap_interval

HEMISPHERES = {"lh": "left", "rh": "right"}
ATTENTION_IMAGES = 4
MOST_CARDS = 84
"""Sample images on the page, all sets together; the page must stay light."""
MOST_HEAT = 4.0
"""Attention, relative to an even spread, that is drawn at full strength at the most."""

Charts = dict[str, str]


def headline(outputs: Outputs) -> str:
    """What was run, what came out, and what that does not show."""
    run = outputs.classification
    simulated = words.banner(outputs.fmri_simulated, outputs.simulated_sets, [one.name for one in outputs.sets])
    first, *others = words.verdicts(run) or ["No set was scored."]
    control = words.own_control(run["control"], run["variant"])
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
            page.text("h1", "Brain-machine fusion against a linear probe"),
            page.text("p", first, cls="lead"),
            *(page.text("p", sentence) for sentence in others),
            page.text("p", control, cls="lead") if control else "",
            words.CONTROL_NOTE,
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
            page.text("h2", "Accuracy"),
            _charts(
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


def encoder(outputs: Outputs, params: Params, charts: Charts) -> str:
    """How well fMRI is predicted: each ROI, hemispheres side by side, and the groups."""
    scores = outputs.encoder
    regions = [name for name in ROI_NAMES if any(f"{side}.{name}" in scores["roi"] for side in HEMISPHERES)]
    captions = {}
    for side, name in HEMISPHERES.items():
        charts[f"encoder_{side}"] = roi_chart(regions, *_roi_dots(scores["roi"], side, regions))
        captions[f"encoder_{side}"] = (
            f"Encoder{', ridge baseline' if 'ridge' in scores else ''} and noise ceiling in each ROI, "
            f"{name} hemisphere ({side})."
        )
    labels_only = " ROIs of the simulated brain are labels only." if outputs.fmri_simulated else ""
    threshold = params.fmri.ceiling_threshold
    about = (
        f"Trained on {scores['n_train']:,} images, scored on {scores['n_test']:,} that it never saw; "
        f"{scores['n_vertices']:,} vertices.{labels_only} "
    )
    if scores["data"] == "imported":
        about += f"It was trained elsewhere, on {scores['trained_on']}, and imported: these are its maker's scores. "
    if "fraction_of_ceiling" in scores:
        about += f"What needs a ceiling counts vertices whose ceiling is above {threshold:g}."
    else:
        about += "No noise ceiling is known for this fMRI: scores that need one are left out."
    return "".join(
        [page.text("h2", "Brain encoder"), page.text("p", about), _charts(charts, captions), _group_table(scores)]
    )


def samples(outputs: Outputs) -> str:
    """A few images of each set, first of all some where the models differ."""
    limit = max(2, min(6, MOST_CARDS // max(1, len(outputs.sets))))
    return "".join(
        [
            page.text("h2", "Sample images"),
            page.text(
                "p",
                "Chosen by rule, not by hand: in turn from the images that only fusion, only linear, both and neither "
                "get right, evenly spread over the set. They show kinds of cases; how often each occurs is counted "
                "beside the set's name (first seed).",
            ),
            *(_sample_row(one, limit) for one in outputs.sets),
        ]
    )


def attention(outputs: Outputs, params: Params) -> str:
    """Where ROI queries look on a few images of the first set (val): one row an image, one column a ROI."""
    title = page.text("h2", "Where the encoder looks")
    if not outputs.sets:
        return title + page.text("p", "No set was scored.", cls="note")
    if outputs.encoder_record["reads"] == "images":
        about = "The imported encoder maps features of whole images linearly onto fMRI: it has no attention to show."
        return title + page.text("p", about, cls="note")
    manifest = outputs.sets[0].manifest
    files = manifest.image_files()
    opened = {int(row): open_picture(files[row]) for row in spread(len(manifest), ATTENTION_IMAGES)}
    pictures = {row: picture for row, picture in opened.items() if picture is not None}
    rows = list(pictures)
    if not rows:
        return title + page.text("p", "The images are not on this machine: no pictures here.", cls="note")
    looks = read_attention(manifest.set_name, np.array(rows), params.runtime.threads)
    full = min(MOST_HEAT, max(1.5, float(looks.relative.max())))
    views = [model_view(picture, looks.crop_pct) for picture in pictures.values()]
    untrained = (
        " Of random weights: this is what no training looks like."
        if outputs.encoder_record["control"] == "untrained"
        else ""
    )
    caption = (
        f"Attention of each ROI's query over the image patches, images of {manifest.set_name}; one scale for all: "
        f"grey is at most an even spread, brightest is {full:.1f} times that or more.{untrained}"
    )
    return title + page.figure(_tiles(looks, views, full), caption)


def training(outputs: Outputs, charts: Charts) -> str:
    """Training curves of the encoder and of every seed's fusion classifier."""
    captions, notes = {}, []
    curve = read_curve(paths.ENCODER / "curve.tsv")
    if curve:
        charts["encoder_curve"] = curve_chart([curve], "train", "validation", outputs.encoder_record["epochs"])
        captions["encoder_curve"] = "Brain encoder: mean squared error by epoch; the ring is the epoch kept."
    else:
        notes.append(page.text("p", "The brain encoder was not trained here: no curve.", cls="note"))
    files = [paths.FUSION / f"seed{seed}" / "curve.tsv" for seed in range(outputs.classification["seeds"])]
    curves = [curve for curve in map(read_curve, files) if curve]
    if curves:
        charts["fusion_curve"] = curve_chart(
            curves, "train (with the correlation term)", "holdout (cross-entropy)", None
        )
        captions["fusion_curve"] = "Fusion, one pair of lines a seed: loss by epoch; the ring is the epoch kept."
    else:
        notes.append(page.text("p", "No training curve of fusion was found.", cls="note"))
    return page.text("h2", "Training") + _charts(charts, captions) + "".join(notes)


def provenance(outputs: Outputs, params: Params) -> str:
    """What each number means, and what the run was made of."""
    tokens, run = open_store(paths.tokens("val")).attributes, outputs.classification
    rows, columns = tokens["grid"]
    rois = params.fusion.rois if isinstance(params.fusion.rois, str) else ", ".join(params.fusion.rois)
    sizes = (f"{one.name} {len(one.manifest):,}" for one in outputs.sets)
    made_of = {
        "backbone": f"{run['backbone']}, {tokens['features']} of layer {', '.join(map(str, tokens['layers']))}",
        "weights": f"SHA-256 {tokens['weights'][:12]}",
        "patch tokens": f"{rows} x {columns}, images of {tokens['preprocessing']['image_size']} px",
        "fMRI": f"{run['fmri']}, {outputs.encoder['subject']}, {outputs.encoder['n_vertices']:,} vertices",
        "ROIs that fusion reads": rois,
        "images": ", ".join(sizes),
        "trained numbers": ", ".join(f"{name} {count:,}" for name, count in run["parameters"].items()),
        "seed": str(params.seed),
    }
    return "".join(
        [
            page.text("h2", "What each number means"),
            page.terms(words.TERMS, "terms"),
            page.text("h2", "What the run was made of"),
            page.terms(made_of, "terms"),
        ]
    )


def _charts(charts: Mapping[str, str], captions: Mapping[str, str]) -> str:
    drawn = (
        page.figure(inline(charts[name], name, escape(caption, quote=True)), caption)
        for name, caption in captions.items()
    )
    return page.element("div", *drawn, cls="charts")


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


def _roi_dots(roi: Mapping[str, Any], side: str, regions: Sequence[str]) -> tuple[list[Dots], tuple[float, float]]:
    """The three series of one hemisphere, and axis limits that both hemispheres share."""
    models = []
    for name, key, marker, colour in (
        ("noise ceiling", "noise_ceiling", "|", INK),
        ("ridge", "ridge", "o", LINEAR),
        ("encoder", "pearson", "s", FUSION),
    ):
        values = [roi.get(f"{side}.{region}", {}).get(key, math.nan) for region in regions]
        if not all(map(math.isnan, values)):
            models.append(Dots(name, values, marker, colour, marker != "o"))
    shown = [scores[key] for scores in roi.values() for key in ("pearson", "ridge", "noise_ceiling") if key in scores]
    return models, (min([0.0, *shown]) - 0.03, min(1.0, max([0.1, *shown])) + 0.05)


def _group_table(scores: Mapping[str, Any]) -> str:
    rows = []
    for name, group in {**scores["groups"], "all vertices": scores}.items():
        row = [name, f"{group['pearson']['median']:.3f}"]
        row.append(f"{group['ridge']['pearson']['median']:.3f}" if "ridge" in group else "not known")
        if "fraction_of_ceiling" in scores:
            known = "fraction_of_ceiling" in group
            row.append(f"{group['fraction_of_ceiling']:.3f}" if known else "")
            row.append(f"{group['noise_normalised']['median']:.3f}" if known else "")
        rows.append(row)
    head = ["group", "median r", "ridge", "fraction of ceiling", "noise-normalised"][: len(rows[0])]
    return page.table(head, rows, len(rows) - 1)


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


def _tiles(looks: Attention, views: Sequence[Any], full: float) -> str:
    labels = [name if name.split(".", 1)[1] in BOTH_SIDES else name.split(".", 1)[1] for name in looks.names]
    lines = [page.element("tr", *(page.text("th", label) for label in ["image", *labels]))]
    for number, view in enumerate(views):
        cells = [page.image(thumbnail(view), f"Image {number + 1}")]
        for name, relative in zip(looks.names, looks.relative[number], strict=True):
            alt = f"Where {name} looks on image {number + 1}"
            cells.append(page.image(heat_tile(view, _heat(relative, full)), alt))
        lines.append(page.element("tr", *(page.element("td", cell) for cell in cells)))
    return page.element("div", page.element("table", *lines, cls="tiles"), cls="wide")


def _heat(relative: Array, full: float) -> Array:
    """0 at an even spread or below, 1 at `full` times that."""
    heat: Array = ((relative - 1) / (full - 1)).clip(0, 1)
    return heat
