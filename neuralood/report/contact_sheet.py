"""What made sets look like: a row of their source's images, and below each image what was made of it."""

from collections.abc import Sequence
from html import escape

from neuralood.config import Params
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.report import page
from neuralood.report.attention import spread
from neuralood.report.pictures import model_view, open_picture, thumbnail

MOST_PICTURES = 84
"""Pictures on all contact sheets together, as long as each has two columns; the page must stay light."""
MOST_COLUMNS = 7
SEEN = 0.875
"""Share of an image's shorter side that is shown, as most networks see it; what they see whole is shown whole."""


def contact_sheets(params: Params) -> str:
    """One sheet for each source of made sets: a row of images evenly spread over it, then a row a made set."""
    sources = sorted({made.source for made in params.made.values()})
    columns = max(2, min(MOST_COLUMNS, MOST_PICTURES // (len(sources) + len(params.made))))
    rule = "Chosen by rule, not by hand: images evenly spread over the source; below each, what was made of it."
    sheets = (_sheet(source, params, columns) for source in sources)
    return page.element("section", page.text("h2", "Made sets"), page.text("p", rule), *sheets, cls="pictures")


def _sheet(source: str, params: Params, columns: int) -> str:
    manifest = read_manifest(source)
    rows = [int(row) for row in spread(len(manifest), columns)]
    head = ["", *(manifest.classes[manifest.labels[row]] for row in rows)]
    lines = [page.element("tr", *(page.text("th", cell) for cell in head)), _line(source, "source", manifest, rows)]
    for name, made in params.made.items():
        if made.source == source:
            about = f"{made.transform}, level {made.level:g}, seed {made.seed}"
            lines.append(_line(name, about, read_manifest(name), rows))
    return page.element("div", page.element("table", *lines), cls="wide")


def _line(name: str, about: str, manifest: Manifest, rows: Sequence[int]) -> str:
    """A row of the sheet: the set's name, what it is, and its images `rows`."""
    files = manifest.image_files()
    cells = [page.element("td", page.text("b", name), "<br>", escape(about))]
    for row in rows:
        picture = open_picture(files[row])
        if picture is None:
            cells.append(page.element("td", page.text("span", "not on this machine", cls="gone")))
        else:
            view = model_view(picture, 1.0 if manifest.cropped else SEEN)
            alt = f"Image of {name}, class {manifest.classes[manifest.labels[row]]}"
            cells.append(page.element("td", page.image(thumbnail(view), alt)))
    return page.element("tr", *cells)
