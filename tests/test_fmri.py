"""Measured fMRI from its record to its store, and which vertices a choice of ROIs means."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers_data import (
    IMAGES,
    LH,
    RH,
    files_params,
    in_project,
    make_params,
    nsd_manifest,
    picture,
    save,
    write_nsd_images,
    write_subject,
)
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json
from neuralood.base.store import Array
from neuralood.base.writing import write_store
from neuralood.config import Params
from neuralood.data.algonauts.subject import read_subject
from neuralood.data.fmri import (
    TEST,
    TRAIN,
    VALIDATION,
    draw_split,
    draw_validation,
    groups_with_others,
    index_fmri,
    prepare_fmri,
    present_groups,
    read_measured,
    roi_members,
    simulated_fmri,
    vertices_of,
)
from neuralood.data.index import index_set
from neuralood.data.manifest import write_manifest
from neuralood.data.subject import UNMEASURED

NAMES = ("lh.V1v", "lh.EBA", "rh.V1v", "rh.EBA", "rh.FFA-2")
ROI = np.eye(5, 7, dtype=bool)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return in_project(tmp_path, monkeypatch)


@pytest.fixture
def params(root: Path) -> Params:
    """A user's subject, indexed, beside a manifest of its images."""
    write_subject(root / "subj01")
    params = files_params(root, nsd={"path": "subj01"})
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    write_manifest(nsd_manifest())
    return params


def test_record(params: Params) -> None:
    record = read_json(paths.FMRI_MANIFEST)
    assert record["shapes"] == {"lh": [IMAGES, LH], "rh": [IMAGES, RH]}
    assert (record["root"], record["folder"], record["simulated"]) == ("data_root", "subj01", False)
    assert (record["source"], record["subject"]) == ("algonauts2023", "subj01")
    assert len(record["files"]) == 2 + 12 + 4
    file = paths.data_root() / "subj01" / "roi_masks/lh.streams_challenge_space.npy"
    save(file, np.ones(LH, np.int64))
    assert index_fmri(params)["fingerprint"] != record["fingerprint"]


def test_simulated_record(root: Path) -> None:
    write_subject(paths.DEMO_FMRI, optional=False)
    record = simulated_fmri(make_params(root, {}))
    assert (record["root"], record["folder"], record["simulated"]) == ("project", "data/demo/fmri", True)
    assert record["source"] == "simulated"


def test_store_holds_what_was_measured(params: Params) -> None:
    prepare_fmri(params)
    measured, subject = read_measured(), read_subject(paths.data_root() / "subj01")
    assert (measured.fmri[:] == np.concatenate(subject.fmri, axis=1)).all()
    assert measured.fmri.dtype == np.float32
    assert (measured.roi == subject.roi).all()
    assert measured.roi_names == subject.roi_names
    assert measured.hemi.tolist() == [0] * LH + [1] * RH
    assert measured.ceiling is not None
    assert measured.ceiling.dtype == np.float32
    assert measured.fsaverage_vertex is not None
    assert measured.fsaverage_vertex.dtype == np.int32
    assert [len(measured.rows(split)) for split in (TRAIN, VALIDATION, TEST)] == [24, 3, 3]
    assert (measured.source, measured.subject, measured.space) == ("algonauts2023", "subj01", "fsaverage")
    assert not measured.simulated
    assert measured.dataset == "images-fingerprint"
    assert measured.fingerprint == read_json(paths.FMRI_MANIFEST)["fingerprint"]


def test_store_without_what_is_not_known(params: Params) -> None:
    folder = paths.data_root() / "subj01"
    for file in [*folder.glob("test_split/*/*.npy"), *folder.glob("roi_masks/*all-vertices*")]:
        file.unlink()
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    prepare_fmri(params)
    measured = read_measured()
    assert measured.ceiling is None
    assert measured.fsaverage_vertex is None


def test_rows_must_be_images(params: Params) -> None:
    write_manifest(nsd_manifest(29))
    with pytest.raises(UserError, match=r"subj01 has fMRI of 30 images, but nsd \(subj01\) has 29"):
        prepare_fmri(params)


def test_files_that_changed_since_they_were_recorded(params: Params) -> None:
    (paths.data_root() / "subj01/test_split/noise_ceiling/lh_noise_ceiling.npy").unlink()
    (paths.data_root() / "subj01/test_split/noise_ceiling/rh_noise_ceiling.npy").unlink()
    with pytest.raises(UserError, match=r"lh_noise_ceiling\.npy is not as .*\(2 files differ\).*-s index_fmri@subj01"):
        prepare_fmri(params)


def test_fmri_of_the_test_images_makes_them_the_test_set(params: Params) -> None:
    folder = write_nsd_images(paths.data_root() / "subj01")
    for hemisphere, width in (("lh", LH), ("rh", RH)):
        save(folder / f"test_split/test_fmri/{hemisphere}_test_fmri.npy", np.full((3, width), 5, np.float32))
    images = folder / "test_split/test_images"
    images.mkdir()
    for row in (3, 1, 2):
        picture(90 + row).save(images / f"test-{row:04d}_nsd-{row:05d}.png")
    manifest = index_set("nsd", params)
    assert [Path(path).name[:10] for path in manifest.paths[-4:]] == [
        "train-0030",
        "test-0001_",
        "test-0002_",
        "test-0003_",
    ]
    write_manifest(manifest)
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    assert read_json(paths.FMRI_MANIFEST)["shapes"]["lh"] == [IMAGES + 3, LH]
    prepare_fmri(params)
    measured = read_measured()
    assert measured.rows(TEST).tolist() == [30, 31, 32]
    assert (measured.fmri[30:33] == 5).all()
    assert len(measured.rows(VALIDATION)) == 3
    (images / "test-0002_nsd-00002.png").unlink()
    with pytest.raises(UserError, match=r"expected test-0002_nsd-\*\.png here"):
        index_set("nsd", params)


def test_shares_are_drawn_from_what_is_not_the_test_set() -> None:
    given = np.array([TEST, TRAIN, UNMEASURED, TRAIN, TRAIN] * 8, np.int8)
    split = draw_validation(given, 0.25, 3)
    assert (split[given != TRAIN] == given[given != TRAIN]).all()
    assert (split == VALIDATION).sum() == 6
    assert (split == draw_validation(given, 0.25, 3)).all()
    assert (split != draw_validation(given, 0.25, 4)).any()
    with pytest.raises(UserError, match=r"fmri\.validation gets 1 of 32 images"):
        draw_validation(given, 0.05, 3)
    with pytest.raises(UserError, match="test gets 0 of 24 images"):
        draw_validation(np.where(given == TEST, UNMEASURED, given).astype(np.int8), 0.25, 3)


def spoil(change: Callable[[Array], None]) -> None:
    """Change the values of the left hemisphere in place."""
    file = paths.data_root() / "subj01/training_split/training_fmri/lh_training_fmri.npy"
    fmri = np.load(file)
    change(fmri)
    save(file, fmri)


def test_nothing_is_written_from_bad_values(params: Params) -> None:
    spoil(lambda fmri: fmri[3].fill(np.nan))
    with pytest.raises(UserError, match=r"lh_training_fmri\.npy has no finite value in 1 of 30 rows, first in row 3"):
        prepare_fmri(params)
    assert not paths.MEASURED.exists()


def test_what_is_left_out_is_kept_with_the_store_and_told(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    prepare_fmri(params)
    whole = read_measured()
    fmri = whole.fmri[:].copy()
    assert (whole.vertices_left_out, whole.rois_left_out) == (0, ())
    assert "left out" not in capsys.readouterr().err
    spoil(lambda fmri: fmri[7:9, 2:5].fill(np.nan))
    prepare_fmri(params)
    measured = read_measured()
    assert (measured.vertices_left_out, measured.rois_left_out) == (3, ("lh.EBA",))
    assert (measured.fmri[:] == np.delete(fmri, [2, 3, 4], axis=1)).all()
    assert measured.roi.shape == (4, 22) == (len(measured.roi_names), len(measured.hemi))
    said = "left out 3 of 25 vertices (NaN or constant), ROIs that became empty: lh.EBA"
    assert said in capsys.readouterr().err.splitlines()
    spoil(lambda fmri: fmri[:, 2:4].fill(1))
    spoil(lambda fmri: fmri[7:9, 4].fill(1))
    prepare_fmri(params)
    assert "left out 2 of 25 vertices (NaN or constant)" in capsys.readouterr().err.splitlines()


def test_store_of_another_kind(root: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        read_measured()
    for attributes in ({"kind": "predicted fMRI"}, {"kind": "measured fMRI", "roi_names": []}):
        shutil.rmtree(paths.MEASURED, ignore_errors=True)
        write_store(paths.MEASURED, {"fmri": np.zeros((2, 2), np.float32)}, attributes, 2)
        with pytest.raises(UserError, match="is no measured fMRI"):
            read_measured()


@given(st.integers(20, 500), st.floats(0.1, 0.4), st.floats(0.1, 0.4), st.integers(0, 5))
def test_split_has_the_shares_asked_for(n_images: int, validation: float, test: float, seed: int) -> None:
    split = draw_split(n_images, validation, test, seed)
    assert (split == TEST).sum() == round(test * n_images)
    assert (split == VALIDATION).sum() == round(validation * n_images)
    assert (split == draw_split(n_images, validation, test, seed)).all()


def test_split_that_is_too_small() -> None:
    with pytest.raises(UserError, match=r"fmri\.test gets 1 of 10 images"):
        draw_split(10, 0.3, 0.1, 0)


def test_roi_choices() -> None:
    assert roi_members("all", NAMES).tolist() == [0, 1, 2, 3, 4]
    assert roi_members("early", NAMES).tolist() == [0, 2]
    assert roi_members("high", NAMES).tolist() == [1, 3, 4]
    assert roi_members(["FFA-2", "early"], NAMES).tolist() == [0, 2, 4]
    assert roi_members("EBA", NAMES).tolist() == [1, 3]
    assert present_groups(NAMES) == ("early", "high", "faces", "bodies")
    assert vertices_of("bodies", NAMES, ROI).tolist() == [1, 3]
    assert vertices_of("all", NAMES, ROI).tolist() == list(range(7))


def test_vertices_that_are_left_out_are_so_in_streams_too() -> None:
    names = ("lh.V1v", "lh.EBA", "lh.FFA-1", "lh.ventral-stream")
    roi = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 1, 1, 1, 0]], bool)
    assert vertices_of(["all", "-bodies"], names, roi).tolist() == [0, 1, 3, 4, 5]
    assert vertices_of(["all", "-faces", "-early"], names, roi).tolist() == [2, 4, 5]
    assert vertices_of(["ventral-stream", "-EBA"], names, roi).tolist() == [3, 4]
    with pytest.raises(UserError, match=r"ROI PPA is empty"):
        vertices_of(["all", "-PPA"], names, roi)
    with pytest.raises(UserError, match=r"fusion\.rois: without ventral no vertex is left"):
        vertices_of(["faces", "-ventral"], names, roi)


def test_a_group_of_all_vertices_has_no_others() -> None:
    names, roi = ("lh.V1v", "lh.EBA", "rh.EBA"), np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
    assert present_groups(names) == ("early", "high", "bodies")
    assert groups_with_others(names, roi) == ("early",)


def test_what_a_group_takes_and_what_is_there_without_it_are_all_vertices() -> None:
    for group in present_groups(NAMES):
        both = [*vertices_of(group, NAMES, ROI), *vertices_of(["all", f"-{group}"], NAMES, ROI)]
        assert sorted(both) == list(range(7))


@pytest.mark.parametrize("chosen", ["places", "PPA", ["EBA", "PPA"]])
def test_an_empty_choice_is_refused(chosen: str | list[str]) -> None:
    with pytest.raises(UserError, match=r"ROI (places|PPA) is empty for this subject.*EBA, FFA-2, V1v"):
        roi_members(chosen, NAMES)
