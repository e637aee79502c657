"""The images that predicted fMRI changes most: the models disagree, and both are sure; and where its ROIs look."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from neuralood.config import Params
from neuralood.data.imagenet.wnids import spoken
from neuralood.data.rois import ROI_GROUPS
from neuralood.predictions import MODELS
from neuralood.report import page
from neuralood.report.attention import Attention, read_attention
from neuralood.report.outputs import Outputs, SetResult
from neuralood.report.pictures import MOST_HEAT, heat_tile, model_view, open_picture, strip
from neuralood.report.samples import by_category

SHOWN = {
    "only fusion right": "Right only with predicted fMRI (fusion)",
    "only linear right": "Right only without it (linear probe)",
}
LIMIT = 6
"""Images of each kind."""
GROUPS = ("early", "high")
"""ROI groups whose mean attention is shown."""


@dataclass(frozen=True)
class Change:
    """One image of a set, and how sure both models are of what they say of it, together."""

    one: SetResult
    row: int
    sureness: float


def changed(outputs: Outputs, params: Params) -> str:
    """Two rows of cards: image, attention of early and of high ROIs, and what both models say."""
    found = {title: most_changed(outputs.sets, kind, LIMIT) for kind, title in SHOWN.items()}
    shown = [change for changes in found.values() for change in changes]
    looks = {} if outputs.encoder_record["reads"] == "images" else _attention(shown, params)
    beside = ", and beside it where early and high ROIs' queries look, the brighter the more" if looks else ""
    rule = (
        "Chosen by rule, not by hand: of all images that only one of the two models gets right, those on which both "
        f"are surest of their answers (first seed), one version of a source. As the network sees them{beside}."
    )
    rows = (page.text("h3", title) + _cards(changes, looks) for title, changes in found.items())
    return page.element("section", page.text("h2", "Most changed images"), page.text("p", rule), *rows, cls="pictures")


def most_changed(sets: Sequence[SetResult], kind: str, limit: int) -> list[Change]:
    """At most `limit` images of a category of `samples`, surest first, no two versions of one source."""
    ordered = sorted(_changes(sets, kind), key=lambda change: -change.sureness)
    by_source: dict[str, Change] = {}
    for change in ordered:
        by_source.setdefault(change.one.predictions.sources[change.row], change)
        if len(by_source) == limit:
            break
    return list(by_source.values())


def _changes(sets: Sequence[SetResult], kind: str) -> Iterator[Change]:
    for one in sets:
        sureness = sum(one.predictions.confidence[model][0].astype(float) for model in MODELS)
        for row in by_category(one.predictions)[kind]:
            yield Change(one, int(row), float(sureness[row]))


def _attention(changes: Sequence[Change], params: Params) -> dict[tuple[str, int], Attention]:
    """Attention of every query on each image, by set and row; each set's tokens are opened once."""
    found = {}
    for name in dict.fromkeys(change.one.name for change in changes):
        rows = sorted({change.row for change in changes if change.one.name == name})
        looks = read_attention(name, np.array(rows), params.runtime.threads)
        for place, row in enumerate(rows):
            found[name, row] = Attention(looks.names, looks.relative[place : place + 1], looks.crop_pct)
    return found


def _cards(changes: Sequence[Change], looks: dict[tuple[str, int], Attention]) -> str:
    if not changes:
        return page.text("p", "There is no such image.", cls="note")
    cards = (_card(change, looks.get((change.one.name, change.row))) for change in changes)
    return page.element("div", *cards, cls="cards looked")


def _card(change: Change, look: Attention | None) -> str:
    one, row = change.one, change.row
    classes, truth = one.manifest.classes, spoken(one.manifest.classes[one.predictions.labels[row]])
    lines = [page.text("b", f"{truth} ({one.name})")]
    for model in MODELS:
        guess, sure = one.predictions.ranked[model][0, row, 0], 100 * one.predictions.confidence[model][0, row]
        mark, cls = ("✓", "right") if one.predictions.correct(model)[0, row] else ("✗", "wrong")
        lines.append(page.text("span", f"{mark} {model}: {spoken(classes[guess])}, {sure:.0f} % sure", cls=cls))
    picture = open_picture(one.manifest.image_file(row))
    if picture is None:
        return page.element("div", page.text("span", "not on this machine", cls="gone"), *lines, cls="card")
    alt = f"Image of {one.name}, true class {truth}" + (", and where early and high ROIs look" if look else "")
    return page.element("div", page.image(strip(_tiles(picture, look)), alt), *lines, cls="card")


def _tiles(picture: Image.Image, look: Attention | None) -> list[Image.Image]:
    """The image, and the mean attention of the queries of each group that the encoder has."""
    if look is None:
        return [model_view(picture, 1.0)]
    view = model_view(picture, look.crop_pct)
    tiles = [view]
    for group in GROUPS:
        queries = [query for query, name in enumerate(look.names) if name.split(".", 1)[1] in ROI_GROUPS[group]]
        if queries:
            relative = look.relative[0, queries].mean(axis=0)
            full = min(MOST_HEAT, max(1.5, float(relative.max())))
            tiles.append(heat_tile(view, ((relative - 1) / (full - 1)).clip(0, 1)))
    return tiles
