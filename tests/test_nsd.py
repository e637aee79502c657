"""NSD's betas, masks, ROIs and noise ceiling, from files in the true layout to the one store."""

import gzip
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from helpers_data import LFS, in_project
from helpers_nsd import (
    GRID,
    NATIVE,
    SURFACE,
    Array,
    Plan,
    Surface,
    Volume,
    averages,
    betas_folder,
    fewer,
    nsd_params,
    plan,
    write_hdf5,
    write_mgh,
    write_nifti,
    write_plan,
    write_responses,
    write_stimuli,
    write_surface,
    write_volume,
)

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.base.store import open_store
from neuralood.config import Params
from neuralood.data import fmri
from neuralood.data.fmri import TEST, TRAIN, VALIDATION, index_fmri, prepare_fmri, read_measured
from neuralood.data.index import index_set
from neuralood.data.manifest import write_manifest
from neuralood.data.nsd import betas as nsd_betas
from neuralood.data.nsd.betas import find_sessions, read_session
from neuralood.data.nsd.images import STIMULUS_FILE
from neuralood.data.nsd.space import find_vertices, read_ncsnr, read_rois
from neuralood.data.nsd.subject import ceiling_of_r, find_subject, fingerprint_ends, standardise
from neuralood.data.rois import ROI_FAMILIES
from neuralood.data.subject import UNMEASURED

SUBJECT = "subj02"


@pytest.fixture
def planned(rng: np.random.Generator) -> Plan:
    return plan(rng)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: Plan) -> Path:
    """NSD's top folder in a project's data root, without betas."""
    folder = in_project(tmp_path, monkeypatch) / "nsd"
    write_plan(folder, planned)
    return folder


@pytest.fixture
def surface(root: Path, planned: Plan, rng: np.random.Generator) -> Surface:
    return write_surface(root, planned, rng)


@pytest.fixture
def volume(root: Path, planned: Plan, rng: np.random.Generator) -> Volume:
    return write_volume(root, planned, rng)


def prepared(planned: Plan, root: Path, space: str = "fsaverage", **nsd: object) -> Params:
    """Index images and fMRI and write the store, as the three stages do."""
    if not (root / STIMULUS_FILE).exists():
        write_stimuli(root, planned.ids)
    params = nsd_params(root.parent, planned, space, **nsd)
    write_manifest(index_set("nsd", params))
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    prepare_fmri(params)
    return params


# Betas


def coded_surface(folder: Path, trials: int) -> dict[str, Array]:
    """One session whose values tell hemisphere, vertex and trial: 1000 + vertex + trial / 64 in rh."""
    values = {
        side: 1000 * hemi + np.arange(SURFACE)[:, None] + np.arange(trials) / 64
        for hemi, side in enumerate(("lh", "rh"))
    }
    for side, coded in values.items():
        write_mgh(betas_folder(folder, SUBJECT, "fsaverage") / f"{side}.betas_session01.mgh", coded)
    return values


@pytest.mark.parametrize("trials", [1, 24])
@pytest.mark.parametrize("block", [1, 64 * 2**20])
def test_mgh_gives_each_vertex_its_trials(
    surface: Surface, monkeypatch: pytest.MonkeyPatch, trials: int, block: int
) -> None:
    monkeypatch.setattr(nsd_betas, "BLOCK_BYTES", block)
    folder = betas_folder(surface.folder, SUBJECT, "fsaverage")
    coded = coded_surface(surface.folder, trials)
    vertices = find_vertices(surface.folder, SUBJECT, "fsaverage")
    session = find_sessions(folder, vertices)[0]
    values = read_session(session, vertices)
    assert values.dtype == np.dtype("=f4")
    left, right = surface.kept["lh"], surface.kept["rh"]
    assert (values == np.concatenate([coded["lh"][left], coded["rh"][right]]).T).all()


def coded_volume(folder: Path, trials: int) -> Array:
    """One session whose values tell voxel and trial, in both kinds of files; int16, 300 times percent."""
    x, y, z, trial = np.indices((*GRID, trials))
    stored = (x + 10 * y + 100 * z + 1000 * trial).astype(np.int16)
    where = betas_folder(folder, SUBJECT, "func1pt8mm")
    write_hdf5(where / "betas_session01.hdf5", stored)
    write_nifti(where / "betas_session01.nii.gz", stored)
    return stored / 300


@pytest.mark.parametrize("trials", [1, 24])
@pytest.mark.parametrize("block", [1, 64 * 2**20])
@pytest.mark.parametrize("kind", ["hdf5", "nii.gz"])
def test_volumes_give_each_voxel_its_trials_in_percent(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, trials: int, block: int, kind: str
) -> None:
    monkeypatch.setattr(nsd_betas, "BLOCK_BYTES", block)
    folder = betas_folder(volume.folder, SUBJECT, "func1pt8mm")
    coded = coded_volume(volume.folder, trials)
    if kind == "nii.gz":
        (folder / "betas_session01.hdf5").unlink()
    vertices = find_vertices(volume.folder, SUBJECT, "func1pt8mm")
    session = find_sessions(folder, vertices)[0]
    assert session.files[0].name == f"betas_session01.{kind}"
    x, y, z = np.concatenate([volume.voxels["lh"], volume.voxels["rh"]]).T
    assert read_session(session, vertices) == pytest.approx(coded[x, y, z].T, rel=1e-6)


def test_hdf5_with_its_axes_as_matlab_names_them_is_refused(volume: Volume) -> None:
    file = betas_folder(volume.folder, SUBJECT, "func1pt8mm") / "betas_session02.hdf5"
    with h5py.File(file, "w") as opened:
        opened["betas"] = np.zeros((20, *GRID), np.int16)
    with pytest.raises(UserError, match=r"betas_session02\.hdf5 holds int16 of shape .* expected betas as int16 of "):
        find_subject(volume.folder, SUBJECT, "func1pt8mm")


def test_a_transposed_volume_is_refused(volume: Volume, planned: Plan) -> None:
    folder = betas_folder(volume.folder, SUBJECT, "func1pt8mm")
    (folder / "betas_session02.hdf5").unlink()
    write_nifti(folder / "betas_session02.nii.gz", np.zeros((*GRID[::-1], planned.trials[1]), np.int16))
    with pytest.raises(
        UserError, match=r"session02\.nii\.gz holds int16 of shape \(4, 7, 5, 20\), expected .*\(5, 7, 4\)"
    ):
        find_subject(volume.folder, SUBJECT, "func1pt8mm")


def test_a_volume_that_scales_itself_is_refused(volume: Volume, planned: Plan) -> None:
    file = betas_folder(volume.folder, SUBJECT, "func1pt8mm") / "betas_session02.nii.gz"
    file.with_name("betas_session02.hdf5").unlink()
    write_nifti(file, np.zeros((*GRID, planned.trials[1]), np.int16))
    content = bytearray(gzip.decompress(file.read_bytes()))
    struct.pack_into("<f", content, 112, 1 / 300)
    file.write_bytes(gzip.compress(content))
    found = find_subject(volume.folder, SUBJECT, "func1pt8mm")
    with pytest.raises(UserError, match=r"session02\.nii\.gz scales its numbers by 0\.00333"):
        read_session(found.sessions[1], found.vertices)


def test_floats_where_int16_belongs_are_refused(volume: Volume, planned: Plan) -> None:
    file = betas_folder(volume.folder, SUBJECT, "func1pt8mm") / "betas_session02.hdf5"
    write_hdf5(file, np.zeros((*GRID, planned.trials[1]), np.float32))
    with pytest.raises(UserError, match=r"holds float32 .* expected betas as int16"):
        find_subject(volume.folder, SUBJECT, "func1pt8mm")


def test_missing_betas_are_named(surface: Surface) -> None:
    folder = betas_folder(surface.folder, SUBJECT, "fsaverage")
    (folder / "rh.betas_session03.mgh").unlink()
    with pytest.raises(UserError, match=r"up to session 3, but rh\.betas_session03\.mgh is missing"):
        find_subject(surface.folder, SUBJECT, "fsaverage")
    (folder / "lh.betas_session02.mgh").unlink()
    with pytest.raises(UserError, match=r"but lh\.betas_session02\.mgh, rh\.betas_session03\.mgh is missing"):
        find_subject(surface.folder, SUBJECT, "fsaverage")
    for file in folder.glob("*.betas_*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no betas such as lh\.betas_session01\.mgh"):
        find_subject(surface.folder, SUBJECT, "fsaverage")
    folder.rename(folder.with_name("betas_assumehrf"))
    with pytest.raises(UserError, match=r"is missing \(.*has betas_assumehrf\): download NSD's betas_fithrf_GLM"):
        find_subject(surface.folder, SUBJECT, "fsaverage")


def test_more_betas_than_trials_are_refused(surface: Surface, planned: Plan) -> None:
    write_responses(surface.folder, fewer(planned, 2))
    with pytest.raises(UserError, match=r"session03\.mgh has 22 trials, .*responses\.tsv has 0 in session 3"):
        find_subject(surface.folder, SUBJECT, "fsaverage")


def test_hemispheres_of_other_sessions_are_refused(surface: Surface) -> None:
    folder = betas_folder(surface.folder, SUBJECT, "fsaverage")
    write_mgh(folder / "rh.betas_session02.mgh", np.zeros((SURFACE, 24)))
    with pytest.raises(UserError, match=r"lh\.betas_session02\.mgh has 20 trials and rh\.betas_session02\.mgh 24"):
        find_subject(surface.folder, SUBJECT, "fsaverage")


DAMAGE = {
    "cut": (lambda whole: whole[:-40], "is damaged or cut short"),
    "header": (lambda whole: whole[:100], "session02"),
    "pointer": (lambda whole: LFS, "git lfs pull"),
    "empty": (lambda whole: b"", "is empty"),
    "noise": (lambda whole: b"\x07" * 4000, "is damaged or cut short"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_betas_leave_no_store(surface: Surface, planned: Plan, name: str) -> None:
    change, said = DAMAGE[name]
    file = betas_folder(surface.folder, SUBJECT, "fsaverage") / "rh.betas_session02.mgh"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=said) as caught:
        prepared(planned, surface.folder)
    assert file.name in str(caught.value)
    assert not paths.MEASURED.exists()


def test_a_packed_volume_that_is_cut_short(root: Path, planned: Plan, rng: np.random.Generator) -> None:
    write_volume(root, planned, rng, "nii.gz")
    file = betas_folder(root, SUBJECT, "func1pt8mm") / "betas_session03.nii.gz"
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"session03\.nii\.gz is damaged or cut short"):
        prepared(planned, root, "func1pt8mm")


# Vertices, ROIs, noise ceiling


def test_vertices_are_those_of_nsdgeneral_left_first(surface: Surface) -> None:
    vertices = find_vertices(surface.folder, SUBJECT, "fsaverage")
    left, right = surface.kept["lh"], surface.kept["rh"]
    assert vertices.index.tolist() == [*left.tolist(), *right.tolist()]
    assert vertices.hemi.tolist() == [0] * len(left) + [1] * len(right)


def test_voxels_are_those_of_label_1_in_c_order(volume: Volume) -> None:
    vertices = find_vertices(volume.folder, SUBJECT, "func1pt8mm")
    wanted = np.concatenate([volume.voxels["lh"], volume.voxels["rh"]])
    assert len(wanted) == 5 * 5 * 3
    assert vertices.grid == GRID
    assert np.stack(vertices.coordinates, axis=1).tolist() == wanted.tolist()
    assert vertices.hemi.tolist() == [0] * 45 + [1] * 30
    assert vertices.index[:45].tolist() == sorted(vertices.index[:45].tolist())


def test_voxels_of_no_hemisphere_are_refused(volume: Volume) -> None:
    file = volume.folder / f"nsddata/ppdata/{SUBJECT}/func1pt8mm/roi/nsdgeneral.nii.gz"
    write_nifti(file, np.ones(GRID, np.float32))
    with pytest.raises(UserError, match="marks voxels of neither hemisphere"):
        find_vertices(volume.folder, SUBJECT, "func1pt8mm")
    write_nifti(file, np.ones(GRID[::-1], np.float32))
    with pytest.raises(UserError, match=r"nsdgeneral differ in shape .*\(4, 7, 5\)"):
        find_vertices(volume.folder, SUBJECT, "func1pt8mm")


def test_an_empty_mask_is_refused(surface: Surface) -> None:
    file = write_mgh(surface.folder / "nsddata/freesurfer/fsaverage/label/rh.nsdgeneral.mgz", np.zeros(SURFACE))
    with pytest.raises(UserError, match=rf"{file.name} marks nothing"):
        find_vertices(surface.folder, SUBJECT, "fsaverage")


def members(surface: Surface) -> dict[str, list[int]]:
    """Name of each ROI -> columns, from what the fixture drew on each surface."""
    found, first = {}, 0
    for side in ("lh", "rh"):
        for family, table in ROI_FAMILIES.items():
            own = surface.labels[side][family][surface.kept[side]]
            found |= {
                f"{side}.{name}": (first + np.flatnonzero(own == label)).tolist() for label, name in enumerate(table, 1)
            }
        first += len(surface.kept[side])
    return {name: columns for name, columns in found.items() if columns}


def test_rois_come_to_fsaverage_from_the_subjects_own_surface(surface: Surface) -> None:
    rois = read_rois(surface.folder, SUBJECT, find_vertices(surface.folder, SUBJECT, "fsaverage"))
    found = {name: np.flatnonzero(row).tolist() for name, row in zip(rois.names, rois.members, strict=True)}
    assert found == members(surface)
    assert list(found) == list(members(surface))
    assert not rois.missing
    assert len(rois.files) == 2 * 6 + 2


def test_rois_without_the_way_to_fsaverage_are_left_out(surface: Surface, capsys: pytest.CaptureFixture[str]) -> None:
    for side in ("lh", "rh"):
        (surface.folder / f"nsddata/ppdata/{SUBJECT}/transforms/{side}.white-to-fsaverage.mgz").unlink()
    found = find_subject(surface.folder, SUBJECT, "fsaverage")
    assert {name.partition("-")[2] for name in found.rois.names} == {"stream"}
    (note,) = found.notes
    assert "ROIs are left out" in note
    assert note.count("transforms/lh.white-to-fsaverage.mgz") == 1
    index_fmri(nsd_params(surface.folder.parent, surface.plan))
    assert "transforms/rh.white-to-fsaverage.mgz" in capsys.readouterr().err


def test_a_family_that_is_missing_is_left_out(surface: Surface) -> None:
    (surface.folder / f"nsddata/freesurfer/{SUBJECT}/label/rh.floc-faces.mgz").unlink()
    rois = read_rois(surface.folder, SUBJECT, find_vertices(surface.folder, SUBJECT, "fsaverage"))
    assert not {name for name in rois.names if name.partition(".")[2] in ROI_FAMILIES["floc-faces"]}
    assert any("EBA" in name for name in rois.names)
    assert rois.missing == (f"nsddata/freesurfer/{SUBJECT}/label/rh.floc-faces.mgz",)


@pytest.mark.parametrize("places", [np.arange(SURFACE) % 47, np.arange(SURFACE) % 47 + 2, np.arange(1, SURFACE)])
def test_a_transform_of_another_surface_is_refused(surface: Surface, places: Array) -> None:
    write_mgh(surface.folder / f"nsddata/ppdata/{SUBJECT}/transforms/lh.white-to-fsaverage.mgz", places)
    with pytest.raises(UserError, match=rf"lh\.white-to-fsaverage\.mgz leads .* expected 60 to 1 to {NATIVE['lh']}"):
        find_subject(surface.folder, SUBJECT, "fsaverage")


def test_unknown_labels_are_refused(surface: Surface) -> None:
    write_mgh(surface.folder / f"nsddata/freesurfer/{SUBJECT}/label/lh.floc-places.mgz", np.arange(47) % 5)
    with pytest.raises(UserError, match=r"lh\.floc-places\.mgz has labels 0 to 4, expected -1 to 3"):
        find_subject(surface.folder, SUBJECT, "fsaverage")


def test_rois_of_volumes_are_labels_not_what_is_outside(volume: Volume) -> None:
    vertices = find_vertices(volume.folder, SUBJECT, "func1pt8mm")
    rois = read_rois(volume.folder, SUBJECT, vertices)
    assert rois.names == ("lh.V1v", "lh.V2d", "rh.V1v", "rh.V2d")
    y = vertices.coordinates[1]
    for name, row in zip(rois.names, rois.members, strict=True):
        side, wanted = int(name.startswith("rh")), 2 if name.endswith("V1v") else 4
        assert (row == ((vertices.hemi == side) & (y == wanted))).all()


def test_labels_are_rounded(volume: Volume) -> None:
    file = volume.folder / f"nsddata/ppdata/{SUBJECT}/func1pt8mm/roi/lh.prf-visualrois.nii.gz"
    labels = np.asarray(nibabel.load(file).dataobj)
    write_nifti(file, np.where(labels == 4, 3.9999999, labels))
    rois = read_rois(volume.folder, SUBJECT, find_vertices(volume.folder, SUBJECT, "func1pt8mm"))
    assert "lh.V2d" in rois.names


def test_a_transposed_roi_file_is_refused(volume: Volume) -> None:
    file = volume.folder / f"nsddata/ppdata/{SUBJECT}/func1pt8mm/roi/lh.floc-faces.nii.gz"
    write_nifti(file, np.zeros(GRID[::-1]))
    with pytest.raises(UserError, match=r"lh\.floc-faces\.nii\.gz has shape \(4, 7, 5\), expected \(5, 7, 4\)"):
        find_subject(volume.folder, SUBJECT, "func1pt8mm")


@pytest.mark.parametrize(
    ("ncsnr", "repetitions", "ceiling"),
    [(1, [3, 3], 0.75), (0.5, [3], 0.42857143), (0.5, [1, 1], 0.2), (0, [3, 2], 0), (1, [3, 3, 2, 1], 24 / 37)],
)
def test_ceiling_is_the_root_of_the_explainable_variance(ncsnr: float, repetitions: list[int], ceiling: float) -> None:
    found = ceiling_of_r(np.array([ncsnr], np.float64), np.array(repetitions))
    assert found**2 == pytest.approx(ceiling)
    assert found.dtype == np.float32


def test_ncsnr_is_that_of_each_vertex(surface: Surface, volume: Volume) -> None:
    found = find_subject(surface.folder, SUBJECT, "fsaverage")
    wanted = np.concatenate([surface.ncsnr[side][surface.kept[side]] for side in ("lh", "rh")])
    assert np.isnan(wanted).sum() == 2
    assert read_ncsnr(surface.folder, found.ncsnr, found.vertices) == pytest.approx(np.nan_to_num(wanted))
    found = find_subject(volume.folder, SUBJECT, "func1pt8mm")
    x, y, z = np.concatenate([volume.voxels["lh"], volume.voxels["rh"]]).T
    assert read_ncsnr(volume.folder, found.ncsnr, found.vertices) == pytest.approx(volume.ncsnr[x, y, z])


def test_the_ceiling_may_be_unknown(surface: Surface, planned: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    (betas_folder(surface.folder, SUBJECT, "fsaverage") / "rh.ncsnr.mgh").unlink()
    prepared(planned, surface.folder)
    assert read_measured().ceiling is None
    assert "noise ceiling stays unknown, as there is no nsddata_betas" in capsys.readouterr().err


@pytest.mark.parametrize(("values", "said"), [(np.full(SURFACE, -1.0), "lowest is -1"), (np.ones(9), "has shape")])
def test_a_ceiling_that_is_none_is_refused(surface: Surface, planned: Plan, values: Array, said: str) -> None:
    write_mgh(betas_folder(surface.folder, SUBJECT, "fsaverage") / "lh.ncsnr.mgh", values)
    with pytest.raises(UserError, match=said):
        prepared(planned, surface.folder)


# Averages


def test_standardise_takes_the_population_sd_and_finds_what_is_constant(rng: np.random.Generator) -> None:
    values = rng.normal(40, 3, (31, 1500)).astype(np.float32)
    values[:, 5], values[:, 6], values[7, 1400] = 0.1, 0, np.nan
    values[3, 1300] = np.inf
    with np.errstate(invalid="ignore"):
        wanted = (values - values.mean(0, dtype=np.float64)) / values.std(0, dtype=np.float64)[None].clip(1e-9)
    varies = standardise(values)
    assert np.flatnonzero(~varies).tolist() == [5, 6, 1300, 1400]
    assert (values[:, ~varies] == 0).all()
    assert values[:, varies] == pytest.approx(wanted[:, varies], abs=1e-5)
    assert (values[:, varies] ** 2).mean() == pytest.approx(1, abs=1e-6)


def test_the_store_holds_averages_of_session_wise_scores(surface: Surface, planned: Plan) -> None:
    prepared(planned, surface.folder)
    measured, ids = read_measured(), np.unique(planned.ids)
    sides = [
        averages([part[surface.kept[side]] for part in surface.betas[side]], planned, ids) for side in ("lh", "rh")
    ]
    assert measured.fmri.dtype == np.float32
    assert measured.fmri[:] == pytest.approx(np.concatenate(sides, axis=1), abs=1e-5)
    assert measured.fsaverage_vertex is not None
    assert measured.fsaverage_vertex.tolist() == [*surface.kept["lh"], *surface.kept["rh"]]
    assert measured.hemi.tolist() == [0] * 21 + [1] * 26
    found = {name: np.flatnonzero(row).tolist() for name, row in zip(measured.roi_names, measured.roi, strict=True)}
    assert found == members(surface)
    assert (measured.source, measured.subject, measured.space) == ("nsd", SUBJECT, "fsaverage")
    assert not measured.simulated


def test_the_shared_images_are_the_test_set(surface: Surface, planned: Plan) -> None:
    prepared(planned, surface.folder)
    measured, ids = read_measured(), np.unique(planned.ids)
    assert ids[measured.rows(TEST)].tolist() == np.intersect1d(ids, planned.shared).tolist()
    rest = len(ids) - len(measured.rows(TEST))
    assert len(measured.rows(VALIDATION)) == round(0.25 * rest)
    assert len(measured.rows(TRAIN)) == rest - round(0.25 * rest)


def ceilings(surface: Surface, places: dict[str, Array]) -> Array:
    """The ceiling of r at some places, by the formula with A, B and C images of 3, 2 and 1 repetitions."""
    ids, shared = surface.plan.ids, np.intersect1d(surface.plan.ids, surface.plan.shared)
    shown = [int((ids == number).sum()) for number in shared]
    norm = (shown.count(3) / 3 + shown.count(2) / 2 + shown.count(1)) / len(shown)
    ncsnr = np.concatenate([surface.ncsnr[side][places[side]] for side in ("lh", "rh")]).astype(np.float64)
    ceiling: Array = np.nan_to_num(np.sqrt(ncsnr**2 / (ncsnr**2 + norm)))
    return ceiling


def test_the_ceiling_counts_repetitions_of_the_test_images(surface: Surface, planned: Plan) -> None:
    prepared(planned, surface.folder)
    measured = read_measured()
    shown = [int((planned.ids == number).sum()) for number in np.intersect1d(planned.ids, planned.shared)]
    assert len(set(shown)) > 1
    assert measured.ceiling == pytest.approx(ceilings(surface, surface.kept), abs=1e-6)


def test_the_store_says_how_it_came_about(surface: Surface, planned: Plan) -> None:
    prepared(planned, surface.folder)
    attributes = open_store(paths.MEASURED).attributes
    assert attributes["betas"] == "betas_fithrf_GLMdenoise_RR"
    assert (attributes["sessions"], attributes["trials"]) == (3, 66)
    counts = {number: (planned.ids == number).sum() for number in np.unique(planned.ids)}
    for part, own in (("test", planned.shared), ("others", np.setdiff1d(planned.ids, planned.shared))):
        shown = [counts[number] for number in own if number in counts]
        assert attributes["repetitions"][part] == [shown.count(n) for n in (1, 2, 3)]


def test_a_copy_without_the_last_session(
    root: Path, planned: Plan, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    surface = write_surface(root, planned, rng, sessions=2)
    params = prepared(planned, root)
    measured, ids = read_measured(), np.unique(planned.ids)
    shown = fewer(planned, 2)
    never = ~np.isin(ids, shown.ids)
    assert never.sum() > 0
    assert (measured.split[never] == UNMEASURED).all()
    assert (measured.split[~never] != UNMEASURED).all()
    assert (measured.fmri[:][never] == 0).all()
    sides = [averages([part[surface.kept[side]] for part in surface.betas[side]], shown, ids) for side in ("lh", "rh")]
    assert measured.fmri[:] == pytest.approx(np.concatenate(sides, axis=1), abs=1e-5)
    assert f"betas of 2 of 3 sessions: {never.sum()} of {len(ids)} images" in capsys.readouterr().err
    assert index_fmri(params)["sessions"] == 2


def test_vertices_that_fail_in_one_session_are_left_out(surface: Surface, planned: Plan) -> None:
    where, right = betas_folder(surface.folder, SUBJECT, "fsaverage"), surface.kept["rh"]
    surface.betas["rh"][1][right[4], 7] = np.nan
    surface.betas["rh"][2][right[9]] = 0.1
    for number in (2, 3):
        write_mgh(where / f"rh.betas_session{number:02d}.mgh", surface.betas["rh"][number - 1])
    prepared(planned, surface.folder)
    measured = read_measured()
    kept = np.delete(right, [4, 9])
    assert measured.fsaverage_vertex is not None
    assert measured.fsaverage_vertex.tolist() == [*surface.kept["lh"], *kept]
    assert np.isfinite(measured.fmri[:]).all()
    ids = np.unique(planned.ids)
    wanted = averages([part[kept] for part in surface.betas["rh"]], planned, ids)
    assert measured.fmri[:][:, 21:] == pytest.approx(wanted, abs=1e-5)
    assert measured.ceiling is not None
    assert measured.roi.shape == (len(measured.roi_names), len(measured.hemi)) == (len(measured.roi_names), 45)
    assert measured.ceiling == pytest.approx(ceilings(surface, {**surface.kept, "rh": kept}), abs=1e-6)
    for name, row in zip(measured.roi_names, measured.roi, strict=True):
        side, label = name.split(".", 1)
        family = next(family for family, table in ROI_FAMILIES.items() if label in table)
        on_surface = surface.labels[side][family] == ROI_FAMILIES[family].index(label) + 1
        assert set(measured.fsaverage_vertex[row]) <= set(np.flatnonzero(on_surface))
    assert open_store(paths.MEASURED).attributes["vertices_left_out"] == 2


def test_rois_that_become_empty_are_named(surface: Surface, planned: Plan) -> None:
    prepared(planned, surface.folder)
    whole = read_measured()
    gone = whole.roi_names[0]
    assert gone.startswith("lh.")
    dead = whole.fsaverage_vertex[whole.roi[0]] if whole.fsaverage_vertex is not None else []
    surface.betas["lh"][0][dead] = np.nan
    where = betas_folder(surface.folder, SUBJECT, "fsaverage")
    write_mgh(where / "lh.betas_session01.mgh", surface.betas["lh"][0])
    prepared(planned, surface.folder)
    measured = read_measured()
    assert measured.vertices_left_out == len(dead) > 0
    assert set(measured.rois_left_out) == set(whole.roi_names) - set(measured.roi_names)
    assert gone in measured.rois_left_out


def test_a_trial_without_a_value_is_named(surface: Surface, planned: Plan) -> None:
    where = betas_folder(surface.folder, SUBJECT, "fsaverage")
    for side in ("lh", "rh"):
        surface.betas[side][1][:, 5] = np.nan
        write_mgh(where / f"{side}.betas_session02.mgh", surface.betas[side][1])
    with pytest.raises(UserError, match=r"lh\.betas_session02\.mgh has no finite value in trial 5 \(counted from 0\)"):
        prepared(planned, surface.folder)


def test_betas_without_any_vertex_that_varies(surface: Surface, planned: Plan) -> None:
    where = betas_folder(surface.folder, SUBJECT, "fsaverage")
    for side in ("lh", "rh"):
        write_mgh(where / f"{side}.betas_session02.mgh", np.zeros((SURFACE, planned.trials[1])))
    with pytest.raises(UserError, match="no vertex varies in every session"):
        prepared(planned, surface.folder)


@pytest.mark.parametrize("kind", ["hdf5", "nii.gz"])
def test_both_kinds_of_volume_give_the_same_store(
    root: Path, planned: Plan, rng: np.random.Generator, kind: str
) -> None:
    volume = write_volume(root, planned, rng, kind)
    prepared(planned, root, "func1pt8mm")
    measured, ids = read_measured(), np.unique(planned.ids)
    x, y, z = np.concatenate([volume.voxels["lh"], volume.voxels["rh"]]).T
    wanted = averages([part[x, y, z] for part in volume.betas], planned, ids)
    assert measured.fmri[:] == pytest.approx(wanted, abs=1e-5)
    assert measured.fsaverage_vertex is None
    store = open_store(paths.MEASURED)
    assert store["voxel"][:].tolist() == np.ravel_multi_index((x, y, z), GRID).tolist()
    assert store.attributes["grid"] == list(GRID)


def test_voxels_that_a_session_lost_are_left_out(volume: Volume, planned: Plan) -> None:
    x, y, z = volume.voxels["rh"][2]
    stored = np.rint(300 * volume.betas[1]).astype(np.int16)
    stored[x, y, z] = 0
    write_hdf5(betas_folder(volume.folder, SUBJECT, "func1pt8mm") / "betas_session02.hdf5", stored)
    prepared(planned, volume.folder, "func1pt8mm")
    assert np.ravel_multi_index((x, y, z), GRID) not in open_store(paths.MEASURED)["voxel"][:]
    assert len(read_measured().hemi) == 74


def test_an_excluded_image_takes_its_row_with_it(surface: Surface, planned: Plan) -> None:
    left_out = int(planned.ids[3])
    prepared(planned, surface.folder, exclude=[f"*::{left_out}"])
    ids = np.setdiff1d(planned.ids, left_out)
    wanted = averages([part[surface.kept["lh"]] for part in surface.betas["lh"]], planned, ids)
    assert read_measured().fmri[:][:, :21] == pytest.approx(wanted, abs=1e-5)


# Record, and what may go wrong between the stages


def test_record_of_nsd(surface: Surface, planned: Plan) -> None:
    record = index_fmri(nsd_params(surface.folder.parent, planned))
    images = len(np.unique(planned.ids))
    assert record["shapes"] == {"lh": [images, 21], "rh": [images, 26]}
    assert (record["source"], record["subject"], record["space"]) == ("nsd", SUBJECT, "fsaverage")
    assert (record["root"], record["folder"], record["simulated"]) == ("data_root", "nsd", False)
    assert record["sessions"] == 3
    assert len(record["files"]) == 6 + 2 + 14 + 2 + 3
    assert all((surface.folder / name).stat().st_size == size for name, size in record["files"].items())


def test_fingerprint_reads_both_ends(tmp_path: Path) -> None:
    file = tmp_path / "large"
    content = bytearray(3 * 2**20)
    prints = set()
    for place in (None, 0, 2**20 - 1, 2 * 2**20, len(content) - 1):
        if place is not None:
            content[place] ^= 1
        file.write_bytes(content)
        prints.add(fingerprint_ends(tmp_path, ["large"]))
    assert len(prints) == 5
    file.write_bytes(b"short")
    first = fingerprint_ends(tmp_path, ["large"])
    file.write_bytes(b"shoot")
    assert fingerprint_ends(tmp_path, ["large"]) != first


def test_files_that_changed_since_they_were_recorded(surface: Surface, planned: Plan) -> None:
    params = prepared(planned, surface.folder)
    for side in ("lh", "rh"):
        (betas_folder(surface.folder, SUBJECT, "fsaverage") / f"{side}.betas_session03.mgh").unlink()
    with pytest.raises(UserError, match=r"session03\.mgh is not as it was .*dvc repro -f -s index_fmri@subj02"):
        prepare_fmri(params)


def test_images_that_were_never_shown_are_refused(surface: Surface, planned: Plan) -> None:
    params = prepared(planned, surface.folder)
    manifest = index_set("nsd", params)
    stranger = next(number for number in range(73_000) if number not in planned.ids)
    strange = manifest.paths[0].replace("::0", f"::{stranger}")
    write_manifest(replace(manifest, paths=(strange, *manifest.paths[1:])))
    with pytest.raises(UserError, match=rf"nsd lists image {stranger}, which .*responses\.tsv does not have"):
        prepare_fmri(params)


def test_an_interruption_leaves_the_old_store_or_none(
    surface: Surface, planned: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fmri, "complete_store", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepared(planned, surface.folder)
    assert not paths.MEASURED.exists()
    prepared(planned, surface.folder)
    assert len(read_measured().fmri) == len(np.unique(planned.ids))


def test_memory_stays_under_twice_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    root, trials, size, kept = in_project(tmp_path, monkeypatch) / "nsd", (20,) * 30, 4000, 3500
    monkeypatch.setattr(nsd_betas, "BLOCK_BYTES", 5 * 4 * size)  # to the result as in truth
    monkeypatch.setattr(fmri, "CHUNK_ROWS", 16)
    planned = plan(rng, trials=trials)
    write_plan(root, planned)
    write_stimuli(root, planned.ids)
    where = betas_folder(root, SUBJECT, "fsaverage")
    for side in ("lh", "rh"):
        write_mgh(root / f"nsddata/freesurfer/fsaverage/label/{side}.nsdgeneral.mgz", np.arange(size) < kept)
        for number, count in enumerate(trials, start=1):
            values = rng.standard_normal((size, count), np.float32)
            write_mgh(where / f"{side}.betas_session{number:02d}.mgh", values)
    params = nsd_params(root.parent, planned)
    write_manifest(index_set("nsd", params))
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    result = len(np.unique(planned.ids)) * 2 * kept * 4
    tracemalloc.start()
    try:
        prepare_fmri(params)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read_measured().fmri.shape == (len(np.unique(planned.ids)), 2 * kept)
    assert peak < 1.5 * result  # twice is what may be
