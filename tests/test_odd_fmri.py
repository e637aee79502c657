"""fMRI as it comes: vertices without a signal, ROIs of none or one vertex, subjects of different sizes, end to end."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers_data import IMAGES, LH, RH, files_params, in_project, nsd_manifest, save, write_subject

from neuralood.base import paths
from neuralood.base.records import write_json
from neuralood.base.store import open_store
from neuralood.base.writing import write_store
from neuralood.data.fmri import TEST, TRAIN, index_fmri, prepare_fmri, read_measured
from neuralood.data.manifest import write_manifest
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.train import train_encoder
from neuralood.encoder.trained import EXTRACTION, RECIPE, load_encoder, predict

FMRI = "training_split/training_fmri/{}_training_fmri.npy"
LABELS = "roi_masks/{}.{}_challenge_space.npy"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The data root of a project with tokens of the images that all subjects saw."""
    folder = in_project(tmp_path, monkeypatch)
    write_manifest(nsd_manifest())
    patches = np.random.default_rng(5).standard_normal((IMAGES, 1, 4, 6)).astype(np.float32)
    made_of = {**dict.fromkeys((*RECIPE, *EXTRACTION), "a test"), "grid": [2, 2], "dataset": nsd_manifest().fingerprint}
    write_store(paths.tokens("nsd"), {"patches": patches}, made_of, 8)
    return folder


def change(folder, hemisphere, rows, vertex, value):
    """Overwrite values of a vertex."""
    file = folder / FMRI.format(hemisphere)
    fmri = np.load(file)
    fmri[rows, vertex] = value
    save(file, fmri)


def label(folder, hemisphere, family, places):
    """Which vertices a family labels: {vertex: label}, all others none."""
    file = folder / LABELS.format(hemisphere, family)
    labels = np.zeros_like(np.load(file))
    labels[list(places)] = list(places.values())
    save(file, labels)


def trained(root, folder):
    """Prepare, train and score a subject; its store and metrics."""
    params = files_params(root, nsd={"path": folder.name})
    params = replace(
        params,
        encoder=replace(params.encoder, epochs=2, width=8, heads=2, ridge_components=5),
        runtime=replace(params.runtime, progress=False, device="cpu"),
    )
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    prepare_fmri(params)
    fit_baselines(params)
    train_encoder(params)
    return read_measured(), json.loads(paths.ENCODER_METRICS.read_text())


def numbers(record):
    """Every number of nested dicts."""
    for value in record.values():
        if isinstance(value, dict):
            yield from numbers(value)
        elif not isinstance(value, str | list):
            yield value


def require_whole(measured, metrics):
    """All that is stored and scored is finite, and of the same vertices."""
    assert np.isfinite(measured.fmri[:]).all()
    assert np.isfinite(np.hstack(list(numbers(metrics)))).all()
    assert metrics["n_vertices"] == len(measured.hemi) == measured.fmri.shape[1]
    assert {name: scores["n_vertices"] for name, scores in metrics["roi"].items()} == {
        name: int(members.sum()) for name, members in zip(measured.roi_names, measured.roi, strict=True)
    }
    scores = open_store(paths.ENCODER_VERTICES)
    for name in ("pearson", "baseline_ridge", "baseline_ridge_gap", "baseline_factorised"):
        assert scores[name].shape == measured.hemi.shape
        assert np.isfinite(scores[name][:]).all()
    model, record = load_encoder()
    predicted = predict(model, open_store(paths.tokens("nsd")), np.arange(3))
    assert predicted.shape == (3, len(measured.hemi))
    assert np.isfinite(predicted).all()
    assert record["hemi"] == measured.hemi.tolist()


def test_vertices_without_a_signal(root):
    """lh: vertices 2 to 4 are all of EBA, 10 is of no ROI; rh: vertex 5 is all of FFA-1."""
    folder = write_subject(root / "person")
    change(folder, "lh", slice(None), 2, np.nan)
    change(folder, "lh", 7, 3, np.inf)
    change(folder, "lh", slice(None), 4, 1.5)
    change(folder, "lh", 0, 10, np.nan)
    change(folder, "rh", slice(None), 5, 0)
    measured, metrics = trained(root, folder)
    require_whole(measured, metrics)
    assert measured.hemi.tolist() == [0] * (LH - 4) + [1] * (RH - 1)
    assert measured.vertices_left_out == 5
    assert measured.rois_left_out == ("lh.EBA", "rh.FFA-1")
    assert metrics["vertices_left_out"] == 5
    assert metrics["rois_left_out"] == ["lh.EBA", "rh.FFA-1"]
    assert set(metrics["roi"]) == {"lh.V1v", "rh.V1v", "rh.EBA"}
    assert metrics["roi"]["lh.V1v"]["n_vertices"] == 2


def test_an_roi_that_the_tables_name_and_no_vertex_has(root):
    folder = write_subject(root / "person")
    for hemisphere in ("lh", "rh"):
        label(folder, hemisphere, "prf-visualrois", {})
    measured, metrics = trained(root, folder)
    require_whole(measured, metrics)
    assert set(metrics["roi"]) == {"lh.EBA", "rh.EBA", "rh.FFA-1"}
    assert set(metrics["groups"]) == {"high"}
    assert measured.rois_left_out == ()  # it had none to lose


@pytest.mark.parametrize("rest", [True, False])
def test_rois_of_one_vertex(root, rest):
    """Each vertex of lh an ROI of its own, with and without vertices that are in none."""
    folder = write_subject(root / "person", lh=8 if rest else 7)
    label(folder, "lh", "floc-bodies", {})
    label(folder, "lh", "prf-visualrois", {vertex: vertex + 1 for vertex in range(7)})
    measured, metrics = trained(root, folder)
    require_whole(measured, metrics)
    ones = [scores for name, scores in metrics["roi"].items() if name.startswith("lh.")]
    assert [scores["n_vertices"] for scores in ones] == [1] * 7
    r = open_store(paths.ENCODER_VERTICES)["pearson"][:]
    assert metrics["roi"]["lh.hV4"]["pearson"] == pytest.approx(r[6], abs=1e-6)
    assert len(load_encoder()[0].membership) == len(metrics["roi"]) + rest + 1


def test_no_roi_at_all(root):
    folder = write_subject(root / "person")
    for hemisphere in ("lh", "rh"):
        for family in ("prf-visualrois", "floc-bodies", "floc-faces"):
            label(folder, hemisphere, family, {})
    measured, metrics = trained(root, folder)
    require_whole(measured, metrics)
    assert metrics["roi"] == metrics["groups"] == {}


@pytest.mark.parametrize("sizes", [(LH, RH), (9, 6), (6, 23)])
def test_subjects_of_different_sizes(root, sizes):
    left, right = sizes
    measured, metrics = trained(root, write_subject(root / f"person{left}", lh=left, rh=right))
    require_whole(measured, metrics)
    assert measured.hemi.tolist() == [0] * left + [1] * right
    assert measured.vertices_left_out == 0


@pytest.mark.parametrize(("part", "zeros"), [(TRAIN, ["baseline_ridge"]), (TEST, ["pearson", "baseline_ridge"])])
def test_a_vertex_that_is_constant_in_one_part_only(root, part, zeros):
    """It stays. r is 0 where the prediction, or what was measured, is constant over the test images."""
    folder = write_subject(root / "person")
    split = trained(root, folder)[0].split
    change(folder, "lh", np.flatnonzero(split == part), 1, 0.25)
    measured, metrics = trained(root, folder)
    require_whole(measured, metrics)
    assert measured.vertices_left_out == 0
    scores = open_store(paths.ENCODER_VERTICES)
    assert [scores[name][:][1] for name in zeros] == [0] * len(zeros)
