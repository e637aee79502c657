"""r of each vertex on the flattened cortex of fsaverage, where the vertices' places on it are known.

The mesh is fsaverage5, which nilearn carries in its package together with its flat patch: a hemisphere without its
medial wall, cut open and flattened. Meshes of fsaverage are subdivided icosahedra, so that fsaverage5's vertices are
the first 10,242 of fsaverage's 163,842: one in sixteen, evenly spread. A vertex of the map is therefore exactly one
vertex of the fMRI, and nothing is averaged or interpolated.
"""

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from neuralood.base import paths
from neuralood.base.checkpoint import load_tensors
from neuralood.base.store import Array, open_store
from neuralood.data.rois import ROI_FAMILIES, ROI_NAMES
from neuralood.encoder.trained import WEIGHTS
from neuralood.report import page
from neuralood.report.charts import PAGE_WIDTH, Chart, style, svg_of
from neuralood.report.figures import Charts, chart
from neuralood.report.outputs import Outputs

SIDES = ("left", "right")
MESH = "fsaverage5"
BORDER = "#101418"
GYRUS, SULCUS = "#e3e6ea", "#c9ced5"
MARGIN = 10.0
"""Kept around the vertices with fMRI, in the mesh's units (about 1 mm of cortex)."""


@dataclass(frozen=True)
class Flat:
    """The flat patch of one hemisphere of the mesh: N vertices, F faces."""

    places: Array
    """x and y, N 2; those of vertices of no face mean nothing."""
    faces: Array
    """The three vertices of each face, F 3."""
    depth: Array
    """Above 0 in a sulcus, N."""

    @property
    def in_plane(self) -> Array:
        """Whether a vertex is part of the patch, N."""
        found = np.zeros(len(self.places), bool)
        found[self.faces] = True
        return found

    def triangles(self, vertices: Array) -> Triangulation:
        """The faces all of whose vertices are among `vertices` (N bool)."""
        return Triangulation(self.places[:, 0], self.places[:, 1], self.faces[vertices[self.faces].all(axis=1)])


def cortex(outputs: Outputs, charts: Charts) -> str:
    """The map of r, or a line that says what it lacks; nothing where vertices have no known place."""
    record = outputs.encoder_record
    if record.get("fsaverage_vertex") is None:
        return ""
    title = page.text("h3", "On the cortex")
    if not (paths.ENCODER_VERTICES / "pearson").exists():
        return title + page.text("p", "r of single vertices is not known here: no map.", cls="note")
    if find_spec("nilearn") is None:
        about = (
            "The map needs the mesh that nilearn carries: pip install 'neuralood[map]', then write the report again."
        )
        return title + page.text("p", about, cls="note")
    r = open_store(paths.ENCODER_VERTICES)["pearson"][:]
    hemi, vertex = np.array(record["hemi"]), np.array(record["fsaverage_vertex"])
    membership = load_tensors(paths.ENCODER / WEIGHTS)["membership"].numpy()
    areas = areas_of(record["roi_names"], membership)
    patches = [flat_patch(side) for side in SIDES]
    maps = [on_mesh(r[hemi == side], vertex[hemi == side], len(patch.places)) for side, patch in enumerate(patches)]
    outlines = [
        {
            name: on_mesh(area[hemi == side], vertex[hemi == side], len(patch.places)) == 1
            for name, area in areas.items()
        }
        for side, patch in enumerate(patches)
    ]
    charts["cortex"] = cortex_chart(patches, maps, outlines)
    drawn = sum(int((~np.isnan(values) & patch.in_plane).sum()) for values, patch in zip(maps, patches, strict=True))
    caption = (
        f"r on the flattened cortex of {MESH}, left and right hemisphere; dark grey are sulci, lines are borders of "
        f"ROIs. The mesh has every sixteenth vertex of fsaverage: {drawn:,} of the {len(r):,} vertices with fMRI are "
        "drawn, each as it is, without smoothing."
    )
    return title + chart(charts, "cortex", caption)


def on_mesh(values: Array, vertex: Array, size: int) -> Array:
    """Values of fsaverage vertices `vertex` of one hemisphere on the first `size` of them, NaN where none is known."""
    kept = vertex < size
    found = np.full(size, np.nan)
    found[vertex[kept]] = values[kept]
    return found


def areas_of(roi_names: list[str], membership: Array) -> dict[str, Array]:
    """Members of each ROI, both hemispheres in one, ventral and dorsal parts united (V1v and V1d are V1); no streams.

    membership: Q V, the first of Q are `roi_names`.
    """
    areas: dict[str, Array] = {}
    for region in ROI_NAMES:
        rows = [row for row, name in enumerate(roi_names) if name.split(".", 1)[1] == region]
        if rows and region not in ROI_FAMILIES["streams"]:
            name = region.rstrip("vd") if region in ROI_FAMILIES["prf-visualrois"] else region
            members = membership[rows].any(axis=0)
            areas[name] = np.logical_or(areas.get(name, False), members)
    return areas


def flat_patch(side: str) -> Flat:
    """The flat patch of the `left` or `right` hemisphere, as nilearn carries it."""
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import load_surf_data, load_surf_mesh

    files = fetch_surf_fsaverage(MESH)
    mesh = load_surf_mesh(files[f"flat_{side}"])
    return Flat(mesh.coordinates[:, :2], mesh.faces, load_surf_data(files[f"sulc_{side}"]))


def cortex_chart(patches: list[Flat], maps: list[Array], outlines: list[dict[str, Array]]) -> Chart:
    """r (N, NaN where unknown) on the patches of both hemispheres, with borders of ROIs (N bool)."""
    r = np.concatenate(maps)
    scale = Normalize(0, np.nanmax(r, initial=0.1))
    below = "min" if np.nanmin(r, initial=0.0) < 0 else "neither"
    with style():
        figure = Figure(figsize=(PAGE_WIDTH, 4.6), layout="constrained")
        both = figure.subplots(1, 2)
        for axes, name, patch, values, borders in zip(both, SIDES, patches, maps, outlines, strict=True):
            _draw_patch(axes, patch, values, scale)
            for label, members in borders.items():
                _draw_border(axes, patch, label, members)
            axes.set(title=f"{name} hemisphere", aspect="equal")
            axes.set_axis_off()
        figure.colorbar(ScalarMappable(scale, "viridis"), ax=list(both), label="Pearson r", shrink=0.7, extend=below)
        rows = tuple(
            (side, int(vertex), float(values[vertex]))
            for side, patch, values in zip(SIDES, patches, maps, strict=True)
            for vertex in np.flatnonzero(patch.in_plane & ~np.isnan(values))
        )
        return Chart(svg_of(figure), ("hemisphere", "fsaverage vertex", "Pearson r"), rows)


def _draw_patch(axes: Axes, patch: Flat, values: Array, scale: Normalize) -> None:
    whole, known = patch.triangles(patch.in_plane), patch.triangles(~np.isnan(values))
    sulci = patch.depth[whole.triangles].mean(axis=1) > 0
    greys = ListedColormap([GYRUS, SULCUS])
    axes.tripcolor(whole, facecolors=sulci.astype(float), cmap=greys, antialiased=False, rasterized=True)
    if len(known.triangles):
        r = values[known.triangles].mean(axis=1)
        axes.tripcolor(known, facecolors=r, cmap="viridis", norm=scale, antialiased=False, rasterized=True)
        near = patch.places[np.unique(known.triangles)]
        low, high = near.min(axis=0) - MARGIN, near.max(axis=0) + MARGIN
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))


def _draw_border(axes: Axes, patch: Flat, label: str, members: Array) -> None:
    members = members & patch.in_plane
    if members.any():
        inside = members.astype(float)
        axes.tricontour(patch.triangles(patch.in_plane), inside, levels=[0.5], colors=BORDER, linewidths=0.7)
        x, y = np.median(patch.places[members], axis=0)
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6}
        axes.text(x, y, label, color=BORDER, fontsize=6.5, ha="center", va="center", bbox=box, clip_on=True)
