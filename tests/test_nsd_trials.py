"""Which image each NSD trial showed: the table of responses, the design, the shared images, the stimulus file."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers_data import LFS, in_project, nsd_manifest
from helpers_nsd import (
    COLUMNS,
    Plan,
    nsd_params,
    plan,
    write_design,
    write_plan,
    write_responses,
    write_stimuli,
    write_table,
)

from neuralood.base.errors import UserError
from neuralood.data.images import read_image
from neuralood.data.index import index_set
from neuralood.data.nsd.images import STIMULUS_FILE, image_ids
from neuralood.data.nsd.trials import DESIGN, SESSIONS, STIMULUS_TABLE, read_trials, shared_images

FIRST_SHARED = {0: 46002, 28: 48617, 35: 44980, 44: 32625, 55: 53052}
"""0-based id of the trials (from 0) in which subject 1 first saw a shared image, as others have printed them."""


@pytest.fixture
def planned(rng: np.random.Generator) -> Plan:
    return plan(rng)


@pytest.fixture
def folder(tmp_path: Path, planned: Plan) -> Path:
    write_plan(tmp_path, planned)
    return tmp_path


def test_trials_show_the_ids_of_the_design_counted_from_0(folder: Path, planned: Plan) -> None:
    trials = read_trials(folder, "subj02")
    assert trials.image.tolist() == planned.ids.tolist()
    assert trials.session.tolist() == planned.session.tolist()
    assert trials.images.tolist() == sorted(set(planned.ids.tolist()))
    assert {0, 72_999} <= set(trials.image.tolist())
    assert DESIGN in trials.files


def test_the_table_of_responses_is_enough(folder: Path, planned: Plan) -> None:
    (folder / DESIGN).unlink()
    trials = read_trials(folder, "subj02")
    assert trials.image.tolist() == planned.ids.tolist()
    assert DESIGN not in trials.files


def test_columns_are_found_by_name(folder: Path, planned: Plan) -> None:
    write_responses(folder, planned, columns=COLUMNS[::-1])
    assert read_trials(folder, "subj02").image.tolist() == planned.ids.tolist()


def test_all_sessions_of_subject_1(tmp_path: Path, rng: np.random.Generator) -> None:
    ordering = np.repeat(np.arange(1, 10_001), 3)
    ordering = np.concatenate(
        [np.arange(1, 101), rng.permutation(ordering[ordering > 100]), np.tile(np.arange(1, 101), 2)]
    )
    own = rng.permutation(73_000)[:10_000]
    for trial, number in FIRST_SHARED.items():
        own[own == number] = own[trial]
        own[trial] = number
    planned = Plan(1, np.tile(own + 1, (8, 1)), ordering, np.sort(own[:1000]), (750,) * SESSIONS[0])
    write_responses(tmp_path, planned)
    write_design(tmp_path, replace(planned, shared=own[:1000]))
    trials = read_trials(tmp_path, "subj01")
    assert {trial: int(trials.image[trial]) for trial in FIRST_SHARED} == FIRST_SHARED
    assert len(trials.images) == 10_000
    assert np.bincount(trials.session)[1:].tolist() == [750] * 40
    assert len(shared_images(tmp_path, "subj01")[0]) == 1000


def test_sessions_are_those_of_all_trials_published() -> None:
    assert 750 * sum(SESSIONS) == 213_000


def test_a_design_that_says_otherwise_is_refused(folder: Path, planned: Plan) -> None:
    ordering = planned.masterordering.copy()
    other = int(np.flatnonzero(ordering[20:] != ordering[17])[0]) + 20
    ordering[[17, other]] = ordering[[other, 17]]
    write_design(folder, replace(planned, masterordering=ordering))
    shown = planned.ids[other] + 1
    with pytest.raises(
        UserError, match=rf"trial 18 of subject 2 shows 73KID {shown}, in responses.tsv {planned.ids[17] + 1}"
    ):
        read_trials(folder, "subj02")


def test_a_design_with_too_few_trials_is_refused(folder: Path, planned: Plan) -> None:
    write_design(folder, replace(planned, masterordering=planned.masterordering[:40]))
    with pytest.raises(UserError, match=r"orders 40 trials, responses\.tsv has 66"):
        read_trials(folder, "subj02")


BAD_TABLES = {
    "an id of 0": ({"73KID": {4: 0}}, "73KID runs from 0 to 73000"),
    "no id": ({"73KID": {4: "nan"}}, "line 6: 73KID is no whole number"),
    "half an id": ({"73KID": {4: "7.5"}}, "line 6: 73KID is no whole number"),
    "text": ({"73KID": {4: "x"}}, "is no number"),
    "other subject": ({"SUBJECT": dict.fromkeys(range(66), 3)}, "is of subject 3, not 2: take the file of subj02"),
    "order": ({"SESSION": {40: 1}}, "line 42: trials are not in the order"),
    "gap": ({"SESSION": dict.fromkeys(range(44, 66), 4)}, "sessions do not run 1, 2, 3"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_table(folder: Path, planned: Plan, name: str) -> None:
    changes, said = BAD_TABLES[name]
    file = write_responses(folder, planned, **changes)
    with pytest.raises(UserError, match=said) as caught:
        read_trials(folder, "subj02")
    assert str(file) in str(caught.value)


def test_a_table_that_is_no_table(folder: Path, planned: Plan) -> None:
    file = write_responses(folder, planned)
    text = file.read_text()
    for content, said in (
        (text.replace("73KID", "KID"), "has no column 73KID"),
        (text.splitlines()[0] + "\n", "has no trials"),
        (text + "2\t1\n", "line 68: too few columns"),
        (LFS.decode(), "git lfs pull"),
        ("", "is empty"),
    ):
        file.write_text(content)
        with pytest.raises(UserError, match=said):
            read_trials(folder, "subj02")
    file.unlink()
    with pytest.raises(UserError, match=r"responses\.tsv cannot be opened"):
        read_trials(folder, "subj02")


@pytest.mark.parametrize(
    "content", [b"no MATLAB file", b"x" * 500, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\0" * 200]
)
def test_a_damaged_design(folder: Path, content: bytes) -> None:
    (folder / DESIGN).write_bytes(content)
    with pytest.raises(UserError, match=r"nsd_expdesign\.mat is no MATLAB 5 file"):
        read_trials(folder, "subj02")


@pytest.mark.parametrize("name", ["subj00", "subj09", "subj1", "01"])
def test_there_are_eight_subjects(folder: Path, name: str) -> None:
    (folder / "nsddata/ppdata/subj02").rename(folder / "nsddata/ppdata" / name)
    with pytest.raises(UserError, match="subj01 to subj08"):
        read_trials(folder, name)


def test_shared_images_from_either_file(folder: Path, planned: Plan) -> None:
    shared, files = shared_images(folder, "subj02")
    assert shared.tolist() == planned.shared.tolist()
    assert files == (DESIGN, STIMULUS_TABLE)
    (folder / DESIGN).unlink()
    assert shared_images(folder, "subj02")[0].tolist() == planned.shared.tolist()
    (folder / STIMULUS_TABLE).unlink()
    with pytest.raises(UserError, match="says which images are the test set"):
        shared_images(folder, "subj02")
    write_design(folder, planned)
    assert shared_images(folder, "subj02")[0].tolist() == planned.shared.tolist()


def test_shared_images_that_differ_are_refused(folder: Path, planned: Plan) -> None:
    write_table(folder, replace(planned, shared=planned.shared[1:]))
    with pytest.raises(UserError, match="name other shared images"):
        shared_images(folder, "subj02")
    write_design(folder, replace(planned, shared=planned.shared + 1))
    with pytest.raises(UserError, match="sharedix are not the first columns of subjectim"):
        shared_images(folder, "subj02")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: Plan) -> Path:
    """A project whose NSD has no betas."""
    root = in_project(tmp_path, monkeypatch)
    write_plan(root / "nsd", planned)
    write_stimuli(root / "nsd", planned.ids)
    return root


def test_images_are_the_rows_of_the_stimulus_file(root: Path, planned: Plan) -> None:
    manifest = index_set("nsd", nsd_params(root, planned))
    seen = sorted(set(planned.ids.tolist()))
    assert manifest.paths == tuple(f"{STIMULUS_FILE}::{number}" for number in seen)
    assert image_ids(manifest).tolist() == seen
    assert manifest.format == "nsd"
    assert set(manifest.labels) == {-1}
    for row in (0, 7, len(seen) - 1):
        pixels = np.asarray(read_image(manifest.image_files()[row]))
        assert pixels.shape == (425, 425, 3)
        assert pixels[424, 0].tolist() == [seen[row] % 251, seen[row] // 251 % 256, 7]


def test_images_may_be_excluded(root: Path, planned: Plan) -> None:
    left_out = int(planned.ids[3])
    manifest = index_set("nsd", nsd_params(root, planned, exclude=[f"*::{left_out}"]))
    assert image_ids(manifest).tolist() == sorted(set(planned.ids.tolist()) - {left_out})


def test_images_of_another_format_have_no_ids() -> None:
    with pytest.raises(UserError, match=r"nsd lists 0\.png, expected rows of .*nsd_stimuli\.hdf5"):
        image_ids(nsd_manifest())


def test_images_are_not_shared_out(root: Path, planned: Plan) -> None:
    with pytest.raises(UserError, match=r"files\.nsd\.part: .*remove it"):
        index_set("nsd", nsd_params(root, planned, part={"take": "first", "fraction": 0.5}))


def test_a_stimulus_file_of_another_shape(root: Path, planned: Plan) -> None:
    params, file = nsd_params(root, planned), root / "nsd" / STIMULUS_FILE
    for shape, dtype, name in (
        ((3, 425, 425, 73_000), "u1", "imgBrick"),
        ((73_000, 425, 425, 3), "f4", "imgBrick"),
        ((73_000, 425, 425, 3), "u1", "images"),
    ):
        with h5py.File(file, "w") as opened:
            opened.create_dataset(name, shape, dtype, chunks=True)
        said = "found no such dataset" if name == "images" else rf"found \w+ of shape \({shape[0]}, "
        with pytest.raises(UserError, match=said):
            index_set("nsd", params)


def test_a_stimulus_file_that_is_none(root: Path, planned: Plan) -> None:
    params, file = nsd_params(root, planned), root / "nsd" / STIMULUS_FILE
    whole = file.read_bytes()
    for content, said in (
        (whole[: len(whole) // 2], "cut short"),
        (LFS, "git lfs pull"),
        (b"x" * 5000, "no HDF5 file"),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match=said):
            index_set("nsd", params)
    file.unlink()
    with pytest.raises(UserError, match=r"nsd_stimuli\.hdf5 cannot be opened"):
        index_set("nsd", params)
