"""NSD-synthetic in its true layout, with few vertices: images, betas lined up with the encoder's, noise ceiling."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers_data import SETS, in_project, make_params
from helpers_nsd import (
    GRID,
    SURFACE,
    Array,
    Plan,
    Surface,
    plan,
    write_mgh,
    write_nifti,
    write_plan,
    write_stimuli,
    write_surface,
    write_volume,
)
from scipy.io import savemat
from scipy.stats import zscore

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.config import Params
from neuralood.data.fmri import index_fmri, measured_vertices, prepare_fmri, read_measured
from neuralood.data.images import from_linear, read_image
from neuralood.data.index import index_set
from neuralood.data.manifest import read_manifest, write_manifest
from neuralood.data.nsd.betas import SYNTHETIC
from neuralood.data.nsd.synthetic import COLOUR_STIMULI, DESIGN, STIMULI, pooled_ncsnr, read_order, read_synthetic
from neuralood.generalisation import ood_fmri
from neuralood.tokens.decode import _Images

REPETITIONS = np.repeat([2, 4, 8, 10], [236, 32, 8, 8])
"""How often NSD-synthetic shows its images, in some order."""


@pytest.fixture
def planned(rng: np.random.Generator) -> Plan:
    return plan(rng)


@pytest.fixture
def shown(rng: np.random.Generator) -> Array:
    """Image of each of the 744 trials, counted from 0."""
    return rng.permutation(np.repeat(rng.permutation(284), REPETITIONS))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: Plan, shown: Array) -> Path:
    """NSD's top folder with the tables of both experiments, without betas."""
    folder = in_project(tmp_path, monkeypatch) / "nsd"
    write_plan(folder, planned)
    write_design(folder, shown)
    return folder


def write_design(folder: Path, shown: Array) -> None:
    """As MATLAB has it: a row, counted from 1."""
    (folder / DESIGN).parent.mkdir(parents=True, exist_ok=True)
    savemat(folder / DESIGN, {"masterordering": (shown[None] + 1).astype(np.uint16), "stimpattern": np.zeros((1, 8))})


def write_synthetic_stimuli(folder: Path, subject: str) -> None:
    """Both files with all their rows, of which two each are written: pixels are 4 x row + 1 + file."""
    for number, (name, count) in enumerate(((STIMULI, 220), (COLOUR_STIMULI.format(subject), 64))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(folder / name, "w") as opened:
            brick = opened.create_dataset("imgBrick", (count, 714, 1360, 3), np.uint8, chunks=(1, 714, 1360, 3))
            for row in (0, 3):
                brick[row] = 4 * row + 1 + number


def synthetic_params(root: Path, planned: Plan, space: str = "fsaverage", **synthetic: object) -> Params:
    """Params with NSD and NSD-synthetic in one folder."""
    own = {"path": "nsd", "subject": planned.name}
    rendered = {
        name: {"scenes": "train" if name == "train" else "test", "style": "photo", "n": 10} for name in ("train", "val")
    }
    changes = {
        "sets": {**SETS, "synthetic": {"role": "fmri_ood"}},
        "files": {"nsd": {"format": "nsd", **own}, "synthetic": {"format": "nsdsynthetic", **own, **synthetic}},
        "rendered": rendered,
        "fmri": {
            "source": "nsd",
            "subject": planned.name,
            "space": space,
            "validation": 0.25,
            "simulated": {},
            "files": {planned.name: {"format": "nsd", "path": "nsd"}},
        },
        "evaluation": {"ood_mean": []},
    }
    return make_params(root.parent, changes)


def prepared(root: Path, planned: Plan, space: str = "fsaverage") -> Params:
    """Both sets are listed and the measured fMRI is in its store."""
    write_stimuli(root, planned.ids)
    write_synthetic_stimuli(root, planned.name)
    params = synthetic_params(root, planned, space)
    for name in ("nsd", "synthetic"):
        write_manifest(index_set(name, params))
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    prepare_fmri(params)
    return params


def synthetic_folder(root: Path, planned: Plan, space: str = "fsaverage") -> Path:
    return root / f"nsddata_betas/ppdata/{planned.name}/{space}/{SYNTHETIC}"


def write_surface_betas(root: Path, planned: Plan, rng: np.random.Generator, trials: int = 744) -> dict[str, Array]:
    """Percent signal change, vertices by trials of each hemisphere."""
    betas = {side: rng.normal(3, 2, (SURFACE, trials)).astype(np.float32) for side in ("lh", "rh")}
    for side, values in betas.items():
        write_mgh(synthetic_folder(root, planned) / f"{side}.betas_nsdsynthetic.mgh", values)
    return betas


def test_images_are_those_of_all_subjects_and_then_the_colour_ones_of_the_own(root: Path, planned: Plan) -> None:
    write_synthetic_stimuli(root, planned.name)
    write_manifest(index_set("synthetic", synthetic_params(root, planned)))
    manifest = read_manifest("synthetic")
    assert len(manifest) == 284
    assert manifest.classes == ("synthetic",)
    assert manifest.paths[0] == "nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_stimuli.hdf5::0"
    assert (
        manifest.paths[220] == f"nsddata_stimuli/stimuli/nsdsynthetic/nsdsynthetic_colorstimuli_{planned.name}.hdf5::0"
    )
    pixels = [np.unique(read_image(manifest.image_file(row))).tolist() for row in (0, 3, 220, 223)]
    assert pixels == [[1], [13], [2], [14]]
    assert manifest.linear
    assert read_image(manifest.image_file(0)).size == (1360, 714)


def test_linear_pixels_become_what_other_pictures_hold(rng: np.random.Generator) -> None:
    from PIL import Image

    pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
    rooted = np.asarray(from_linear(Image.fromarray(pixels)))
    np.testing.assert_array_equal(rooted, np.floor(np.sqrt(pixels / 255) * 255))


@pytest.mark.parametrize(
    ("file", "shape", "message"),
    [(STIMULI, (284, 714, 1360, 3), "must be uint8 of shape"), (STIMULI, None, "cannot be opened")],
)
def test_other_stimuli_are_refused(root: Path, planned: Plan, file: str, shape: tuple[int, ...], message: str) -> None:
    write_synthetic_stimuli(root, planned.name)
    (root / file).unlink()
    if shape:
        with h5py.File(root / file, "w") as opened:
            opened.create_dataset("imgBrick", shape, np.uint8, chunks=(1, 714, 1360, 3))
    with pytest.raises(UserError, match=message):
        index_set("synthetic", synthetic_params(root, planned))


@pytest.fixture
def surface(root: Path, planned: Plan, rng: np.random.Generator) -> Surface:
    return write_surface(root, planned, rng)


def test_fmri_is_lined_up_with_the_vertices_that_the_encoder_predicts(
    root: Path, planned: Plan, surface: Surface, shown: Array, rng: np.random.Generator
) -> None:
    surface.betas["rh"][0][surface.kept["rh"][4]] = np.nan  # so that the store lacks a vertex
    write_surface_again(surface)
    params = prepared(root, planned)
    betas = write_surface_betas(root, planned, rng)
    measured = read_measured()
    seen = ood_fmri(params, read_manifest("synthetic"), measured)
    assert measured.fsaverage_vertex is not None
    places = zip(measured.hemi, measured.fsaverage_vertex, strict=True)
    trials = np.stack([betas[("lh", "rh")[hemi]][vertex] for hemi, vertex in places]).astype(np.float64)
    scores = zscore(trials, axis=1)
    expected = np.stack([scores[:, shown == number].mean(axis=1) for number in range(284)])
    assert seen.fmri.shape == (284, len(surface.kept["lh"]) + len(surface.kept["rh"]) - 1)
    np.testing.assert_allclose(seen.fmri, expected, atol=1e-5)


def write_surface_again(surface: Surface) -> None:
    folder = surface.folder / f"nsddata_betas/ppdata/{surface.plan.name}/fsaverage/betas_fithrf_GLMdenoise_RR"
    for side, sessions in surface.betas.items():
        for number, values in enumerate(sessions, start=1):
            write_mgh(folder / f"{side}.betas_session{number:02d}.mgh", values)


def test_voxels_are_lined_up_and_in_percent(root: Path, planned: Plan, shown: Array, rng: np.random.Generator) -> None:
    volume = write_volume(root, planned, rng)
    params = prepared(root, planned, "func1pt8mm")
    stored = rng.integers(-3000, 3000, (*GRID, 744)).astype(np.int16)
    write_nifti(synthetic_folder(root, planned, "func1pt8mm") / "betas_nsdsynthetic.nii.gz", stored)
    seen = ood_fmri(params, read_manifest("synthetic"), read_measured())
    x, y, z = np.concatenate([volume.voxels["lh"], volume.voxels["rh"]]).T
    scores = zscore(stored[x, y, z].astype(np.float64), axis=1)
    expected = np.stack([scores[:, shown == number].mean(axis=1) for number in range(284)])
    np.testing.assert_allclose(seen.fmri, expected, atol=1e-5)


def test_excluded_images_leave_the_others_in_their_place(
    root: Path, planned: Plan, surface: Surface, shown: Array, rng: np.random.Generator
) -> None:
    params = prepared(root, planned)
    write_surface_betas(root, planned, rng)
    whole = ood_fmri(params, read_manifest("synthetic"), read_measured())
    some = synthetic_params(root, planned, exclude=["*nsdsynthetic_stimuli.hdf5::1*"])
    fewer = ood_fmri(some, index_set("synthetic", some), read_measured())
    left = [row for row in range(284) if row >= 220 or not str(row).startswith("1")]
    np.testing.assert_array_equal(fewer.fmri, whole.fmri[left])


def test_noise_is_pooled_over_images_by_their_degrees_of_freedom(shown: Array, rng: np.random.Generator) -> None:
    values = rng.standard_normal((744, 5)).astype(np.float32) + rng.standard_normal((284, 5))[shown].astype(np.float32)
    images = [values[shown == number] for number in range(284)]
    noise = np.average([own.var(axis=0, ddof=1) for own in images], axis=0, weights=[len(own) - 1 for own in images])
    signal = values.var(axis=0, ddof=1) - noise
    np.testing.assert_allclose(pooled_ncsnr(values, shown), np.sqrt(signal / noise), rtol=1e-4)


def test_vertices_without_signal_or_noise_have_no_ratio(shown: Array) -> None:
    alternating = np.zeros(744, np.float32)
    for number in range(284):
        own = np.flatnonzero(shown == number)
        alternating[own] = np.resize([1, -1], len(own))
    values = np.stack([alternating, np.zeros(744, np.float32)], axis=1)
    assert pooled_ncsnr(values, shown).tolist() == [0, 0]


def test_the_ceiling_is_what_a_perfect_model_reaches(
    root: Path, planned: Plan, surface: Surface, shown: Array, rng: np.random.Generator
) -> None:
    params = prepared(root, planned)
    truth = rng.standard_normal((2, SURFACE, 284))
    for side, own in zip(("lh", "rh"), truth, strict=True):
        values = own[:, shown] + 1.2 * rng.standard_normal((SURFACE, 744))
        write_mgh(synthetic_folder(root, planned) / f"{side}.betas_nsdsynthetic.mgh", values.astype(np.float32))
    measured = read_measured()
    seen = ood_fmri(params, read_manifest("synthetic"), measured)
    perfect = truth[measured.hemi, measured.fsaverage_vertex]
    reached = [np.corrcoef(one, other)[0, 1] for one, other in zip(perfect, seen.fmri.T, strict=True)]
    assert seen.ceiling.shape == (1, len(measured.hemi))
    assert np.median(seen.ceiling) == pytest.approx(np.median(reached), abs=0.02)


def test_a_vertex_without_values_is_zero_and_said(
    root: Path, planned: Plan, surface: Surface, rng: np.random.Generator
) -> None:
    params = prepared(root, planned)
    betas = write_surface_betas(root, planned, rng)
    betas["lh"][surface.kept["lh"][2], 5] = np.nan
    write_mgh(synthetic_folder(root, planned) / "lh.betas_nsdsynthetic.mgh", betas["lh"])
    with console.collected() as warnings:
        seen = ood_fmri(params, read_manifest("synthetic"), read_measured())
    assert np.flatnonzero(~seen.fmri.any(axis=0)).tolist() == [2]
    assert seen.ceiling[0, 2] == 0
    assert f"1 of {len(seen.fmri.T)} vertices have no values" in warnings[0]


def test_betas_that_are_missing_or_of_other_trials_are_refused(
    root: Path, planned: Plan, surface: Surface, rng: np.random.Generator
) -> None:
    params = prepared(root, planned)
    images, measured = read_manifest("synthetic"), read_measured()
    with pytest.raises(UserError, match=rf"lh\.betas_nsdsynthetic\.mgh is missing: download NSD's {SYNTHETIC}"):
        ood_fmri(params, images, measured)
    write_surface_betas(root, planned, rng, trials=743)
    with pytest.raises(UserError, match=r"has 743 trials, .* 744"):
        read_synthetic(root, planned.name, "fsaverage", measured_vertices(), images)


@pytest.mark.parametrize("wrong", [lambda shown: shown + 1, lambda shown: np.where(shown == 7, 8, shown)])
def test_a_design_of_other_images_is_refused(root: Path, shown: Array, wrong) -> None:
    write_design(root, wrong(shown))
    with pytest.raises(UserError, match="masterordering must show images 1 to 284, each of them"):
        read_order(root / DESIGN)


def test_design_counts_from_one(root: Path, shown: Array) -> None:
    np.testing.assert_array_equal(read_order(root / DESIGN), shown)


def test_another_persons_images_are_refused(root: Path, planned: Plan) -> None:
    with pytest.raises(UserError, match=r"files\.synthetic\.subject: must be fmri\.subject, subj02, got subj03"):
        synthetic_params(root, planned, subject="subj03")


def test_images_of_nobody_are_refused(root: Path, planned: Plan) -> None:
    params = synthetic_params(root, planned)
    entry = replace(params.files["synthetic"], subject=None)
    with pytest.raises(UserError, match=r"files\.synthetic\.subject: missing"):
        index_set("synthetic", replace(params, files={**params.files, "synthetic": entry}))


class AsTheyAre:
    """A network that takes pictures as they are decoded."""

    @property
    def preprocessing(self) -> "AsTheyAre":
        return self

    def transform(self, **_: object):
        return np.asarray


def test_the_network_sees_the_root_of_linear_pixels(root: Path, planned: Plan) -> None:
    write_synthetic_stimuli(root, planned.name)
    manifest = index_set("synthetic", synthetic_params(root, planned))
    for linear, seen in ((True, 57), (False, 13)):  # 255 sqrt(13 / 255) = 57.6
        assert np.unique(_Images(replace(manifest, linear=linear), AsTheyAre())[3][1]).tolist() == [seen]
