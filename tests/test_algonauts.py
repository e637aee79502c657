"""The reader of an Algonauts 2023 subject: what it reads, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers_data import FSAVERAGE, IMAGES, LFS, LH, RH, save, write_subject

from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.data import algonauts
from neuralood.data.algonauts import check_finite, read_subject

FMRI = "training_split/training_fmri/{}_training_fmri.npy"
CEILING = "test_split/noise_ceiling/{}_noise_ceiling.npy"
BODIES = "roi_masks/rh.floc-bodies_challenge_space.npy"
PLACES = "roi_masks/{}.all-vertices_fsaverage_space.npy"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_subject(tmp_path / "subj01")


def test_one_vertex_axis(folder: Path) -> None:
    subject = read_subject(folder)
    assert (subject.n_images, subject.n_vertices) == (IMAGES, LH + RH)
    assert subject.hemi.tolist() == [0] * LH + [1] * RH
    blocks = list(subject.blocks(7))
    assert [start for start, _ in blocks] == [0, 7, 14, 21, 28]
    fmri = np.concatenate([block for _, block in blocks])
    assert fmri.dtype == np.float32
    assert (fmri[:, :LH] == np.load(folder / FMRI.format("lh"))).all()
    assert (fmri[:, LH:] == np.load(folder / FMRI.format("rh"))).all()


def test_rois_come_from_the_tables(folder: Path) -> None:
    subject = read_subject(folder)
    assert subject.roi_names == ("lh.V1v", "lh.EBA", "rh.V1v", "rh.EBA", "rh.FFA-1")
    members = [np.flatnonzero(row).tolist() for row in subject.roi]
    assert members == [[0, 1, 2], [2, 3, 4], [LH, LH + 1, LH + 2], [LH + 2, LH + 3, LH + 4], [LH + 5]]
    assert not any("mapping" in file for file in subject.files)


def test_ceiling_and_places_are_optional(folder: Path, tmp_path: Path) -> None:
    subject = read_subject(folder)
    assert subject.ceiling is not None
    assert subject.ceiling[[0, LH - 1, LH, -1]] == pytest.approx([0, 0.9, 0, 0.9])
    assert subject.fsaverage_vertex is not None
    assert subject.fsaverage_vertex.tolist() == [*range(100, 100 + 2 * LH, 2), *range(100, 100 + 2 * RH, 2)]
    bare = read_subject(write_subject(tmp_path / "bare", optional=False))
    assert bare.ceiling is None
    assert bare.fsaverage_vertex is None


def test_missing_files_are_all_named(folder: Path, tmp_path: Path) -> None:
    (folder / BODIES).unlink()
    (folder / FMRI.format("lh")).unlink()
    with pytest.raises(UserError, match=r"npy files, such as roi_masks/lh\.all") as caught:
        read_subject(folder)
    assert str(caught.value).splitlines()[1:] == [f"  {FMRI.format('lh')}", f"  {BODIES}"]
    with pytest.raises(UserError, match=r"no \.npy file"):
        read_subject(tmp_path / "nowhere")


def _rewrite(name: str, change: Callable[[Array], Array]) -> Callable[[Path], None]:
    return lambda folder: save(folder / name, change(np.load(folder / name)))


BAD_INPUT = {
    "rows": (
        _rewrite(FMRI.format("rh"), lambda fmri: fmri[1:]),
        "has 30 rows and rh_training_fmri.npy has 29",
    ),
    "flat": (_rewrite(FMRI.format("lh"), np.ravel), r"shape \(330,\), expected images x vertices"),
    "mask": (_rewrite(BODIES, lambda labels: labels[1:]), r"floc-bodies.*shape \(13,\), expected \(14,\)"),
    "label": (_rewrite(BODIES, lambda labels: labels * 9), "has labels 9, expected 0 to 4"),
    "percent": (_rewrite(CEILING.format("lh"), lambda nc: nc * 100), "0 to 81.*divide by 100"),
    "negative": (_rewrite(CEILING.format("lh"), lambda nc: nc - 1), "-1 to -0.19.*replace it"),
    "nan": (_rewrite(CEILING.format("lh"), lambda nc: nc * np.nan), "expected fractions"),
    "places": (
        _rewrite(PLACES.format("rh"), lambda mask: mask[::-1] * 0),
        "marks 0 vertices, the fMRI has 14",
    ),
    "half": (lambda folder: (folder / PLACES.format("rh")).unlink(), "is missing while .*lh.* is there"),
    "pointer": (lambda folder: (folder / BODIES).write_bytes(LFS), "git lfs pull"),
    "empty": (lambda folder: (folder / FMRI.format("lh")).write_bytes(b""), "is empty"),
    "pickle": (lambda folder: save(folder / BODIES, np.array({1: "EBA"}, object)), "Python objects"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input(folder: Path, name: str) -> None:
    spoil, said = BAD_INPUT[name]
    spoil(folder)
    with pytest.raises(UserError, match=said) as caught:
        read_subject(folder)
    assert str(folder) in str(caught.value)


def test_values_that_are_not_finite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_finite(read_subject(folder))
    for hemisphere, places in (("lh", [(0, 1), (29, 1)]), ("rh", [(4, 0), (4, 3)])):
        fmri = np.load(folder / FMRI.format(hemisphere))
        for place in places:
            fmri[place] = np.nan if hemisphere == "lh" else np.inf
        save(folder / FMRI.format(hemisphere), fmri)
    monkeypatch.setattr(algonauts, "BLOCK_BYTES", 200)
    with pytest.raises(UserError) as caught:
        check_finite(read_subject(folder))
    left, right = str(caught.value).splitlines()
    assert "lh_training_fmri.npy has NaN or infinite values in 2 of 30 rows and 1 of 11 vertices" in left
    assert "rh_training_fmri.npy has NaN or infinite values in 1 of 30 rows and 2 of 14 vertices" in right


def test_fsaverage_has_its_size(folder: Path) -> None:
    assert np.load(folder / PLACES.format("lh")).shape == (FSAVERAGE,)
