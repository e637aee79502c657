"""The flat map of r: right vertices, right colours, and only where there is something to draw."""

import subprocess
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from nilearn.datasets import fetch_surf_fsaverage
from nilearn.surface import load_surf_mesh

from neuralood.base import paths
from neuralood.base.checkpoint import save_tensors
from neuralood.base.writing import write_store
from neuralood.data.subject import FSAVERAGE_VERTICES
from neuralood.encoder.trained import WEIGHTS
from neuralood.report import cortex as module
from neuralood.report.cortex import MESH, Flat, _draw_patch, areas_of, cortex, flat_patch, on_mesh

SIZE = 10_242
"""Vertices of a hemisphere of fsaverage5."""


@pytest.mark.parametrize("side", module.SIDES)
def test_the_mesh_is_nested(side):
    """Vertices that a subdivision adds come last, each in the middle of an edge of the mesh before it."""
    sphere = load_surf_mesh(fetch_surf_fsaverage(MESH)[f"sphere_{side}"])
    places = sphere.coordinates / np.linalg.norm(sphere.coordinates, axis=1, keepdims=True)
    before = (SIZE + 6) // 4
    assert len(places) == SIZE
    assert (FSAVERAGE_VERTICES - 2) == 16 * (SIZE - 2)
    parents = [set() for _ in places]
    for face in sphere.faces:
        for vertex in face:
            parents[vertex] |= {int(other) for other in face if other < before and other != vertex}
    assert not any(parents[:before])
    middles = np.array([places[list(pair)].sum(axis=0) for pair in parents[before:]])
    assert {len(pair) for pair in parents[before:]} == {2}
    np.testing.assert_allclose(middles / np.linalg.norm(middles, axis=1, keepdims=True), places[before:], atol=2e-4)


@pytest.mark.parametrize("side", module.SIDES)
def test_the_flat_patch_is_the_same_mesh_cut_open(side):
    patch = flat_patch(side)
    files = fetch_surf_fsaverage(MESH)
    whole = {tuple(sorted(face)) for face in load_surf_mesh(files[f"sphere_{side}"]).faces.tolist()}
    assert {tuple(sorted(face)) for face in patch.faces.tolist()} < whole
    assert 0.9 * SIZE < patch.in_plane.sum() < SIZE
    near, folded = (patch.places[patch.in_plane], load_surf_mesh(files[f"pial_{side}"]).coordinates[patch.in_plane])
    to_other_side = near[:, 0] if side == "left" else -near[:, 0]
    assert np.corrcoef(to_other_side, folded[:, 1])[0, 1] < -0.9, "occipital poles face each other in the middle"


def test_values_lie_at_their_own_vertices_and_nowhere_else(rng):
    vertex = rng.permutation(100)[:60]
    values = rng.standard_normal(60)
    found = on_mesh(values, vertex, 40)
    expected = {place: value for place, value in zip(vertex.tolist(), values.tolist(), strict=True) if place < 40}
    assert {place: found[place] for place in np.flatnonzero(~np.isnan(found)).tolist()} == expected


def test_ventral_and_dorsal_parts_and_hemispheres_are_one_area_and_streams_none():
    names = ["lh.V1v", "lh.V1d", "lh.OFA", "lh.early-stream", "rh.V1v"]
    members = np.eye(6, dtype=bool)  # the last row is the rest query
    areas = areas_of(names, members)
    assert {name: np.flatnonzero(area).tolist() for name, area in areas.items()} == {"V1": [0, 1, 4], "OFA": [2]}


def test_a_face_has_the_mean_r_of_its_vertices_and_none_where_one_is_unknown():
    places = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1], [9, 9]])
    patch = Flat(places, np.array([[0, 1, 2], [0, 2, 3]]), np.array([1.0, 1, 1, -9, 0]))
    figure, axes = plt.subplots()
    _draw_patch(axes, patch, np.array([0.3, 0.6, 0.9, np.nan, 0.5]), module.Normalize(0, 1))
    grey, r = (drawn.get_array().tolist() for drawn in axes.collections)
    plt.close(figure)
    assert grey == [1.0, 0.0]
    assert r == pytest.approx([0.6])


@pytest.fixture
def placed(project, rng):
    """Outputs of an encoder whose vertices have random places on fsaverage, and random r, for both hemispheres."""
    vertex = np.concatenate([np.sort(rng.permutation(FSAVERAGE_VERTICES)[:60_000]) for _ in range(2)])
    hemi = np.repeat([0, 1], 60_000)
    write_store(paths.ENCODER_VERTICES, {"pearson": rng.uniform(-0.2, 0.9, 120_000).astype(np.float32)}, {}, 1 << 20)
    membership = torch.zeros(2, 120_000, dtype=torch.bool)
    membership[0, :900] = membership[1, 60_000:60_900] = True
    save_tensors(paths.ENCODER / WEIGHTS, {"membership": membership})
    record = {"fsaverage_vertex": vertex.tolist(), "hemi": hemi.tolist(), "roi_names": ["lh.V1v", "rh.EBA"]}
    return SimpleNamespace(encoder_record=record)


def test_the_map_is_drawn_and_counts_what_it_draws(placed):
    charts = {}
    html = cortex(placed, charts)
    vertex, hemi = (np.array(placed.encoder_record[key]) for key in ("fsaverage_vertex", "hemi"))
    drawn = 0
    for side, name in enumerate(module.SIDES):
        flat = set(load_surf_mesh(fetch_surf_fsaverage(MESH)[f"flat_{name}"]).faces.flatten().tolist())
        drawn += len(flat & set(vertex[hemi == side].tolist()))
    assert 6000 < drawn < 8000
    assert f"{drawn:,} of the 120,000 vertices" in html
    assert "<image" in charts["cortex"].svg
    assert ">V1<" in charts["cortex"].svg
    assert len(charts["cortex"].rows) == drawn
    again = {}
    cortex(placed, again)
    assert again == charts


def test_vertices_without_a_place_have_no_map_and_need_no_nilearn():
    code = (
        "import sys; from types import SimpleNamespace; from neuralood.report.cortex import cortex; "
        "print(repr(cortex(SimpleNamespace(encoder_record={'fsaverage_vertex': None}), {})), 'nilearn' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["''", "False"]


def test_without_nilearn_the_page_says_how_to_get_it(placed, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    charts = {}
    assert "pip install &#x27;neuralood[map]&#x27;" in cortex(placed, charts)
    assert charts == {}


def test_an_encoder_whose_single_vertices_are_not_scored_has_no_map(placed, tmp_path):
    paths.ENCODER_VERTICES.rename(tmp_path / "away")
    assert "no map" in cortex(placed, {})
    paths.ENCODER_VERTICES.mkdir()
    assert "no map" in cortex(placed, {})
