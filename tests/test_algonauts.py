"""The reader of an Algonauts 2023 subject: what it reads, and what it refuses."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers_data import FSAVERAGE, IMAGES, LFS, LH, RH, save, write_subject

from neuralood.base.errors import UserError
from neuralood.base.store import Array
from neuralood.data.algonauts import subject as algonauts
from neuralood.data.algonauts.subject import read_subject, shape_problem, without_dead_vertices
from neuralood.data.fmri import aligned
from neuralood.data.subject import TEST, TRAIN

FMRI = "training_split/training_fmri/{}_training_fmri.npy"
CEILING = "test_split/noise_ceiling/{}_noise_ceiling.npy"
BODIES = "roi_masks/rh.floc-bodies_challenge_space.npy"
TEST_FMRI = "test_split/test_fmri/{}_test_fmri.npy"
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


def test_a_vertex_without_a_ceiling_has_a_ceiling_of_0(folder: Path) -> None:
    file = folder / CEILING.format("lh")
    save(file, np.where(np.arange(LH) == 3, np.nan, np.load(file)))
    ceiling = read_subject(folder).ceiling
    assert ceiling is not None
    assert ceiling[3] == 0
    assert ceiling[LH - 1] == pytest.approx(0.9)


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


def spoil(folder: Path, hemisphere: str, change: Callable[[Array], None], name: str = FMRI) -> Path:
    """Change the values of one file in place."""
    file = folder / name.format(hemisphere)
    fmri = np.load(file)
    change(fmri)
    save(file, fmri)
    return file


def test_vertices_that_are_not_finite_or_do_not_vary_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(fmri: Array) -> None:
        fmri[29, 1] = np.nan
        fmri[:, 10] = 7

    def right(fmri: Array) -> None:
        fmri[4, [0, 5]] = np.inf, -np.inf
        fmri[:, 13] = 0

    whole = read_subject(folder)
    spoil(folder, "lh", left)
    spoil(folder, "rh", right)
    monkeypatch.setattr(algonauts, "BLOCK_BYTES", 200)  # a few rows a block
    subject = without_dead_vertices(read_subject(folder))
    kept = np.setdiff1d(np.arange(LH + RH), [1, 10, LH, LH + 5, LH + 13])
    assert subject.n_vertices == len(kept) == 20
    fmri = np.concatenate([block for _, block in subject.blocks(7)])
    assert (fmri == np.concatenate(whole.fmri, axis=1)[:, kept]).all()
    assert subject.roi_names == ("lh.V1v", "lh.EBA", "rh.V1v", "rh.EBA")
    assert (subject.roi == whole.roi[:4, kept]).all()
    for name in ("hemi", "ceiling", "fsaverage_vertex"):
        assert (getattr(subject, name) == getattr(whole, name)[kept]).all()
    assert subject.provenance == {"vertices_left_out": 5, "rois_left_out": ["rh.FFA-1"]}


def test_a_good_subject_keeps_all(folder: Path) -> None:
    bare = without_dead_vertices(read_subject(write_subject(folder / "bare", optional=False)))
    assert bare.n_vertices == LH + RH
    assert bare.provenance == {"vertices_left_out": 0, "rois_left_out": []}
    assert bare.ceiling is None
    assert bare.fsaverage_vertex is None


def test_a_vertex_must_be_good_in_the_test_images_as_well(folder: Path) -> None:
    """One that is constant among them only, or differs between the two parts only, stays."""
    write_test_fmri(folder)
    spoil(folder, "lh", lambda fmri: fmri[:, 3].fill(1))
    spoil(folder, "lh", lambda fmri: fmri[:, 3:5].fill(2), TEST_FMRI)
    spoil(folder, "rh", lambda fmri: fmri[2:3, 7].fill(np.nan), TEST_FMRI)
    subject = without_dead_vertices(read_subject(folder))
    assert subject.kept.tolist() == [*range(LH + 7), *range(LH + 8, LH + RH)]


def test_memory_stays_at_a_few_blocks(folder: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    images, nbytes = 20_000, 4 * 20_000 * (LH + RH)
    for hemisphere, width in (("lh", LH), ("rh", RH)):
        save(folder / FMRI.format(hemisphere), rng.standard_normal((images, width), np.float32))
    monkeypatch.setattr(algonauts, "BLOCK_BYTES", nbytes // 50)
    subject = read_subject(folder)
    tracemalloc.start()
    try:
        for _ in without_dead_vertices(subject).blocks(images // 50):
            pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < nbytes // 5


BAD_VALUES = {
    "row": ("rh", FMRI, lambda fmri: fmri[6].fill(np.nan), r"in 1 of 30 rows, first in row 6 \("),
    "test row": ("lh", TEST_FMRI, lambda fmri: fmri[3].fill(np.inf), r"lh_test_fmri\.npy .*in 1 of 4 rows, .* row 3"),
    "all": ("lh", FMRI, lambda fmri: fmri.fill(np.nan), r"in 30 of 30 rows, first in row 0 \("),
    "zeros": ("lh", FMRI, lambda fmri: fmri.fill(0), r"lh_training_fmri\.npy: no vertex is finite and varies"),
    "each": ("rh", FMRI, lambda fmri: np.fill_diagonal(fmri, np.nan), r"rh_training.*: no vertex is finite and"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_images_and_hemispheres_without_a_value_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    hemisphere, kind, change, said = BAD_VALUES[name]
    if kind == TEST_FMRI:
        write_test_fmri(folder)
    file = spoil(folder, hemisphere, change, kind)
    monkeypatch.setattr(algonauts, "BLOCK_BYTES", 200)
    with pytest.raises(UserError, match=said) as caught:
        without_dead_vertices(read_subject(folder))
    assert str(caught.value).startswith(str(file))


def test_fsaverage_has_its_size(folder: Path) -> None:
    assert np.load(folder / PLACES.format("lh")).shape == (FSAVERAGE,)


def write_test_fmri(folder: Path, rows: int = 4) -> None:
    """Values that tell the row and the vertex."""
    for hemisphere, width in (("lh", LH), ("rh", RH)):
        fmri = 100 * np.arange(rows)[:, None] + np.arange(width)
        save(folder / TEST_FMRI.format(hemisphere), fmri.astype(np.float32))


def test_test_images_follow_the_training_images(folder: Path) -> None:
    write_test_fmri(folder)
    subject = read_subject(folder)
    assert subject.n_images == IMAGES + 4
    assert subject.given_split is not None
    assert subject.given_split.tolist() == [TRAIN] * IMAGES + [TEST] * 4
    for rows in (7, 8, 31, 100):  # blocks that end before, at and beyond the first test image
        fmri = np.concatenate([block for _, block in subject.blocks(rows)])
        assert (fmri[:IMAGES, :LH] == np.load(folder / FMRI.format("lh"))).all()
        assert (fmri[:IMAGES, LH:] == np.load(folder / FMRI.format("rh"))).all()
        assert fmri[IMAGES:, LH - 1].tolist() == [LH - 1, LH + 99, LH + 199, LH + 299]
        assert fmri[IMAGES:, LH].tolist() == [0, 100, 200, 300]
    assert {TEST_FMRI.format("lh"), TEST_FMRI.format("rh")} <= set(subject.files)


def test_test_fmri_of_others_is_refused(folder: Path) -> None:
    write_test_fmri(folder)
    save(folder / TEST_FMRI.format("lh"), np.zeros((4, LH + 1), np.float32))
    with pytest.raises(UserError, match=r"lh_test_fmri\.npy has 12 vertices and lh_training_fmri\.npy has 11"):
        read_subject(folder)
    save(folder / TEST_FMRI.format("lh"), np.zeros((5, LH), np.float32))
    with pytest.raises(UserError, match=r"lh_test_fmri\.npy has 5 rows and rh_test_fmri\.npy has 4"):
        read_subject(folder)
    (folder / TEST_FMRI.format("lh")).unlink()
    with pytest.raises(UserError, match=r"lh_test_fmri\.npy is missing while"):
        read_subject(folder)


def test_without_test_fmri_nothing_is_given(folder: Path) -> None:
    assert read_subject(folder).given_split is None


SHAPES = {1: (9841, 19004, 20544), 4: (8779, 19004, 20544), 6: (9082, 18978, 20220), 8: (8779, 18981, 20530)}


@pytest.mark.parametrize("number", SHAPES)
def test_shapes_of_the_eight_subjects_are_known(tmp_path: Path, number: int) -> None:
    images, left, right = SHAPES[number]
    folder = tmp_path / f"subj0{number}"
    known = {"lh": [images, left], "rh": [images, right]}
    assert shape_problem(folder, known) is None
    assert shape_problem(tmp_path / "fmri", {"lh": [3, 4], "rh": [3, 5]}) is None
    problem = shape_problem(folder, {**known, "lh": [images - 1, left]})
    assert problem is not None
    assert f"{images - 1} x {left} and {images} x {right}" in problem
    assert f"has {images} x {left} and {images} x {right}" in problem
    save(folder / TEST_FMRI.format("lh"), np.zeros((1, 1)))
    assert shape_problem(folder, known) is not None


def test_published_totals_agree_with_the_known_shapes() -> None:
    columns = [
        algonauts.VERTICES[side].get(number, algonauts.MOST_VERTICES[side])
        for side in ("lh", "rh")
        for number in range(1, 9)
    ]
    assert sum(columns) == 315_997
    assert [train + test for train, test in zip(algonauts.TRAINING_IMAGES, algonauts.TEST_IMAGES, strict=True)][:3] == [
        10_000,
        10_000,
        9375,
    ]


def place(folder: Path, left: list[int], right: list[int]) -> None:
    """Which fsaverage vertices a subject's columns are; the mask is a sum of two, so any non-zero counts."""
    for hemisphere, places in (("lh", left), ("rh", right)):
        mask = np.zeros(FSAVERAGE, np.int64)
        mask[places] = np.arange(len(places)) % 2 + 1
        save(folder / PLACES.format(hemisphere), mask)


def test_subjects_are_aligned_by_their_fsaverage_vertices(tmp_path: Path) -> None:
    first, second = (write_subject(tmp_path / name) for name in ("a", "b"))
    place(first, list(range(10, 10 + LH)), list(range(15, 15 + RH)))  # numbers in both hemispheres
    place(second, list(range(13, 13 + LH)), [15, *range(17, 16 + RH)])
    subjects = [read_subject(folder) for folder in (first, second)]
    columns = aligned(subjects)
    assert len(columns[0]) == len(columns[1]) == (LH - 3) + (RH - 1)
    assert columns[0].tolist() != columns[1].tolist()
    for key in ("hemi", "fsaverage_vertex"):
        one, other = (getattr(subject, key)[own] for subject, own in zip(subjects, columns, strict=True))
        assert one.tolist() == other.tolist()
    assert subjects[0].fsaverage_vertex is not None
    assert subjects[0].fsaverage_vertex[columns[0]].tolist() == [*range(13, 21), 15, *range(17, 29)]


def test_subjects_that_cannot_be_aligned(tmp_path: Path) -> None:
    first, bare = write_subject(tmp_path / "a"), write_subject(tmp_path / "b", optional=False)
    with pytest.raises(UserError, match="subject 2 of those to align has no all-vertices mask"):
        aligned([read_subject(first), read_subject(bare)])
    place(bare, list(range(LH)), list(range(RH)))
    place(first, list(range(500, 500 + LH)), list(range(500, 500 + RH)))
    with pytest.raises(UserError, match="no fsaverage vertex in common"):
        aligned([read_subject(first), read_subject(bare)])


def test_an_all_vertices_mask_has_the_size_of_fsaverage(folder: Path) -> None:
    save(folder / PLACES.format("lh"), np.ones(LH, np.int64))
    with pytest.raises(UserError, match=r"shape \(11,\), expected \(163842,\)"):
        read_subject(folder)
