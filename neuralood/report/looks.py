"""Where the encoder's queries look: on example images, and against what the simulation knows."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from neuralood.base.store import Array
from neuralood.config import Params
from neuralood.data.manifest import Manifest
from neuralood.data.rois import ROI_NAMES
from neuralood.demo.subject import simulated_fields
from neuralood.report import page
from neuralood.report.attention import REST, Attention, read_attention, spread
from neuralood.report.figures import Charts, chart
from neuralood.report.outputs import Outputs
from neuralood.report.pictures import MOST_HEAT, heat_tile, model_view, open_picture, strip
from neuralood.report.retinotopy import Look, compare, retinotopy_chart

SIDES = {"lh": "left hemisphere (lh)", "rh": "right hemisphere (rh)"}
EXAMPLES = 4
"""Images on which every query is shown."""
AVERAGED = 64
"""Images over which attention is averaged to compare it with receptive fields."""


def attention(outputs: Outputs, params: Params, charts: Charts) -> str:
    """Where queries look on a few images of the first set (val), and whether simulated visual fields are found."""
    title = page.text("h2", "Where the encoder looks")
    if not outputs.sets:
        return title + page.text("p", "No set was scored.", cls="note")
    if outputs.encoder_record["reads"] == "images":
        about = "The imported encoder maps features of whole images linearly onto fMRI: it has no attention to show."
        return title + page.text("p", about, cls="note")
    manifest = outputs.sets[0].manifest
    untrained = outputs.encoder_record["control"] == "untrained"
    note = page.text("p", "The encoder has random weights: this is what no training looks like.") if untrained else ""
    return title + note + _examples(manifest, params) + _retinotopy(outputs, manifest, params, charts)


def _examples(manifest: Manifest, params: Params) -> str:
    """One row a ROI, both hemispheres side by side, a strip of images each."""
    files = manifest.image_files()
    opened = {int(row): open_picture(files[row]) for row in spread(len(manifest), EXAMPLES)}
    pictures = {row: picture for row, picture in opened.items() if picture is not None}
    if not pictures:
        return page.text("p", "The images are not on this machine: no pictures here.", cls="note")
    looks = read_attention(manifest.set_name, np.array(list(pictures)), params.runtime.threads)
    full = min(MOST_HEAT, max(1.5, float(looks.relative.max())))
    views = [model_view(picture, looks.crop_pct) for picture in pictures.values()]
    caption = (
        f"Attention of the query of each ROI and hemisphere over the patches of {len(views)} images of "
        f"{manifest.set_name}, last layer, mean over heads; {REST} is the query of vertices in no ROI. One scale for "
        f"all: grey is at most an even spread, brightest is {full:.1f} times that or more."
    )
    return page.figure(_strips(looks, views, full), caption)


def _strips(looks: Attention, views: Sequence[Image.Image], full: float) -> str:
    sides = [side for side in SIDES if any(name.startswith(f"{side}.") for name in looks.names)]
    images = page.element("td", page.image(strip(views), "The images"))
    lines = [
        page.element("tr", *(page.text("th", label) for label in ("", *(SIDES[side] for side in sides)))),
        page.element("tr", page.element("td"), *(images for _ in sides)),
    ]
    for region in shown_regions(looks.names):
        cells = [page.text("td", region)]
        for side in sides:
            name = f"{side}.{region}"
            tiles = _heat_tiles(looks.relative[:, looks.names.index(name)], views, full) if name in looks.names else []
            cells.append(page.element("td", page.image(strip(tiles), f"Where {name} looks") if tiles else ""))
        lines.append(page.element("tr", *cells))
    return page.element("div", page.element("table", *lines, cls="strips"), cls="wide")


def shown_regions(names: Sequence[str]) -> list[str]:
    """The ROIs of all queries, hemispheres left out: in the order of the tables, then others, the rest last."""
    present = dict.fromkeys(name.split(".", 1)[1] for name in names)
    listed = [name for name in ROI_NAMES if name in present]
    return [*listed, *sorted(set(present) - {*listed, REST}), *([REST] if REST in present else [])]


def _heat_tiles(relative: Array, views: Sequence[Image.Image], full: float) -> list[Image.Image]:
    """Tiles of one query, I rows columns: grey at an even spread or below, brightest at `full` times that."""
    heat = ((relative - 1) / (full - 1)).clip(0, 1)
    return [heat_tile(view, one) for view, one in zip(views, heat, strict=True)]


def _retinotopy(outputs: Outputs, manifest: Manifest, params: Params, charts: Charts) -> str:
    """Queries of the simulated early ROIs against their receptive fields; nothing where fMRI was measured."""
    if outputs.encoder_record["source"] != "simulated":
        return ""
    rows = spread(len(manifest), AVERAGED)
    attention = read_attention(manifest.set_name, rows, params.runtime.threads)
    looks = compare(attention, simulated_fields(params))
    if not looks:
        return ""
    charts["retinotopy"] = retinotopy_chart(looks, attention.crop_pct)
    inside = sum(look.share > look.even for look in looks)
    side = sum(look.seen_side for look in looks)
    halves = [look.seen_half for look in looks if look.seen_half is not None]
    found = (
        f"Each early ROI of the simulated brain sees one side of the image, and most of them one half of it, upper or "
        f"lower; the encoder is told nothing of that. Of {len(looks)} queries {inside} attend to their ROI's part of "
        f"the image more than an even spread would; the centre of attention lies on the side that the hemisphere sees "
        f"for {side} of {len(looks)}, and in the half that the ROI sees for {sum(halves)} of {len(halves)}."
    )
    caption = (
        f"Attention of the queries of early ROIs, mean over {len(rows)} images of {manifest.set_name}, against the "
        "simulated receptive fields. The side is the other one than the hemisphere: the left sees the right."
    )
    return "".join(
        [
            page.text("h3", "Does it look where the simulation put the visual fields?"),
            page.text("p", found),
            chart(charts, "retinotopy", caption),
            _table(looks),
        ]
    )


def _table(looks: Sequence[Look]) -> str:
    head = [
        "query",
        "attention inside its part",
        "of an even spread",
        "centre of attention: x, y",
        "of the fields: x, y",
    ]
    rows = [
        [
            look.name,
            f"{100 * look.share:.0f} %",
            f"{100 * look.even:.0f} %",
            *(f"{x:.2f}, {y:.2f}" for x, y in (look.centre, look.field_centre)),
        ]
        for look in looks
    ]
    return page.table(head, rows)
