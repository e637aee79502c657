"""`neuralood doctor`: each thing that can be wrong is its own red line with a remedy, and none hides another."""

import io
import struct
import tarfile

import numpy as np
import pytest
from conftest import DELETE
from helpers_data import picture, write_classes, write_nsd_images, write_subject
from helpers_nsd import SURFACE, betas_folder, plan, write_mgh, write_plan, write_surface, write_volume

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.config import FileSet, load_params
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.doctor import fmri, images, machine, tables, weights
from neuralood.doctor.findings import Check, Finding, findings_of
from neuralood.plan import counts
from neuralood.plan.counts import images_in_folder, tally, vertices_in_folder

CLASSES = {"cat": 6, "dog": 5}
LABELLED = {"train": {"format": "folders", "path": "train"}, "val": {"format": "folders", "path": "val"}}
SMALL = {"backbone.name": "test_vit", "backbone.weights": "hub", "backbone.image_size": 32, "backbone.layers": [-1]}


@pytest.fixture
def root(project, monkeypatch):
    """A data root with train and val of two classes, and params that read them; fMRI is simulated."""
    folder = project.folder / "raw"
    monkeypatch.setenv(paths.DATA_ROOT_VARIABLE, str(folder))
    for name in LABELLED:
        write_classes(folder / name, CLASSES)
    ood = [name for name in project.read()["sets"] if name not in ("nsd", "train", "val")]
    project.edit(
        **{"files": LABELLED, "evaluation.ood_mean": [], **SMALL},
        **{f"{section}.{name}": DELETE for name in ood for section in ("sets", "rendered")},
        **{f"rendered.{name}": DELETE for name in LABELLED},
    )
    return folder


def load():
    return load_params(check_paths=False)


def look(checks):
    """Findings of all checks by name; several of one name are joined."""
    found = {}
    for check in checks:
        for one in findings_of(check):
            found.setdefault(one.check, []).append(one)
    return found


def images_found():
    return look(images.image_checks(load()))


def only(found, name):
    assert len(found[name]) == 1, found[name]
    return found[name][0]


def reds(found):
    return {name for name, rows in found.items() if any(row.verdict == "red" for row in rows)}


def test_whole_sets_are_green(root):
    found = images_found()
    assert not reds(found)
    assert only(found, "train: images").found == "2 classes, 11 images (folders)"
    assert only(found, "train: class order").found == "2 classes by name: cat, dog"
    assert only(found, "val: sample") == Finding("val: sample", "11 images decode, all of 12 x 10 px")
    assert only(found, "data root").found == str(root)


def test_a_missing_folder_is_a_red_line_that_says_what_lies_there_and_the_others_are_looked_at(root):
    (root / "train").rename(root / "trian")
    found = images_found()
    one = only(found, "train: images")
    assert one.found.startswith(f"{root}/train is not there; {root} holds trian, val")
    assert "mend files.train.path in params.yaml" in one.remedy
    assert "val: sample" in found


def test_a_missing_folder_names_the_one_that_looks_alike(root, project):
    project.edit(**{"files.val": {"format": "imagenet_v2", "path": "imagenetv2"}})
    (root / "v2" / "0").mkdir(parents=True)
    assert images_found()["val: images"][0].found.endswith("; v2 looks like format imagenet_v2")


def test_an_empty_folder_is_red(root):
    for file in sorted((root / "val").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    one = only(images_found(), "val: images")
    assert (one.found, one.verdict) == (f"{root}/val is empty", "red")


def test_a_folder_that_is_gone_after_its_tokens_were_cached_is_no_more_than_a_note(root):
    (root / "val").rename(root / "elsewhere")
    paths.tokens("val").mkdir(parents=True)
    one = only(images_found(), "val: images")
    assert one.verdict == "note"
    assert one.found.endswith("; its tokens are cached")


def test_bad_images_of_the_sample_are_named(root):
    (root / "val" / "cat" / "002.png").write_bytes(b"no image")
    (root / "val" / "dog" / "001.png").write_bytes(b"")
    one = only(images_found(), "val: sample")
    assert one.verdict == "red"
    assert "2 of 11 cannot be decoded" in one.found
    assert f"{root}/val/cat/002.png" in one.found
    assert f"{root}/val/dog/001.png" in one.found
    assert "files.val.exclude" in one.remedy


def test_what_the_index_stage_would_refuse_is_red(root):
    (root / "val" / "cow").mkdir()
    picture().save(root / "val" / "cow" / "1.png")
    assert "class 'cow' is unknown to training" in images_found()["val: images"][0].found


def test_a_folder_of_another_format_has_that_as_its_remedy(root, project):
    (root / "flat").mkdir()
    picture().save(root / "flat" / "ILSVRC2012_val_00000001.JPEG")
    project.edit(**{"files.val": {"format": "imagenet_folders", "path": "flat"}})
    one = only(images_found(), "val: images")
    assert one.verdict == "red"
    assert one.remedy.startswith("if it is imagenet_flat, set files.val.format to that")


def test_a_data_root_that_is_not_set_is_said(root, monkeypatch):
    monkeypatch.delenv(paths.DATA_ROOT_VARIABLE)
    one = only(images_found(), "data root")
    assert one.verdict == "red"
    assert one.remedy.startswith("export NEURALOOD_DATA=")


def test_the_demo_needs_no_data(project):
    found = look(images.image_checks(load()))
    assert not reds(found)
    assert set(found) == {"data root", "rendered sets"}


@pytest.fixture
def large(root, project, monkeypatch):
    """ImageNet's train as three classes out of three, which count as too many to list."""
    monkeypatch.setattr(images, "WNIDS", WNIDS[:3])
    monkeypatch.setattr(images, "TRAIN_IMAGES", 11)
    monkeypatch.setattr(images, "MOST_LISTED", 10)
    write_classes(root / "imagenet", {WNIDS[0]: 4, WNIDS[1]: 4, WNIDS[2]: 3})
    project.edit(**{"files.train": {"format": "imagenet_folders", "path": "imagenet"}})
    return root / "imagenet"


def test_a_large_set_is_counted_and_not_listed(large, monkeypatch):
    monkeypatch.setattr(images, "read_listing", None)
    found = images_found()
    one = only(found, "train: images")
    assert one == Finding("train: images", "3 classes, 11 images (imagenet_folders), counted and not listed")
    assert only(found, "train: sample").found == "3 images decode, all of 12 x 10 px"


def test_a_large_set_that_lacks_images_or_classes_is_not_green(large):
    picture().save(large / WNIDS[0] / "more.png")
    one = images_found()["train: images"][0]
    assert one.verdict == "note"
    assert one.found.endswith("; a whole copy has 11")
    (large / WNIDS[2]).rename(large / "n99999999")
    rows = images_found()["train: images"]
    assert [row.verdict for row in rows] == ["note", "red", "red"]
    assert rows[1].found == f"1 of 1,000 classes have no image: {WNIDS[2]}"
    assert rows[2].found.startswith("n99999999: none of ImageNet's")


def test_the_class_order_is_compared_with_imagenets(large):
    assert "3 classes by name" in only(images_found(), "train: class order").found
    assert "ImageNet's 1,000 wnids, ascending (sha256 385e0240...)" in images._class_order(WNIDS).found
    assert "ImageNet's" not in images._class_order(WNIDS[::-1]).found


def test_images_in_shards_are_estimated_from_bytes_and_their_first_members_decoded(root, project, monkeypatch):
    monkeypatch.setattr(images, "MOST_LISTED", 10)
    monkeypatch.setattr(counts, "IMAGE_BYTES", 1000)
    monkeypatch.setattr(images, "TRAIN_IMAGES", 21)
    content = io.BytesIO()
    picture(size=(20, 30)).save(content, "PNG")
    (root / "shards").mkdir()
    for number in range(2):
        with tarfile.open(root / "shards" / f"train-{number}.tar", "w") as tar:
            for name, data in ((f"{number}.cls", b"5"), (f"{number}.png", content.getvalue())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    project.edit(**{"files.train": {"format": "imagenet_shards", "path": "shards"}})
    found = images_found()
    assert only(found, "train: images").found.startswith("2 files, about 20 images (imagenet_shards)")
    assert only(found, "train: sample").found == "2 images decode, all of 20 x 30 px"


def test_a_tally_takes_names_only_and_follows_links_once(tmp_path):
    write_classes(tmp_path / "set", {"a": 2, "b": 3})
    for name in ("a/notes.txt", ".DS_Store", "b/.hidden.png"):
        (tmp_path / "set" / name).touch()
    (tmp_path / "set" / "c").symlink_to(tmp_path / "set" / "b")
    (tmp_path / "set" / "b" / "loop").symlink_to(tmp_path / "set")
    found = tally("val", FileSet("folders", "set"), tmp_path / "set")
    assert found.by_folder[str(tmp_path / "set" / "a")] == 2
    assert found.by_folder[str(tmp_path / "set" / "c")] == 3
    assert found.exact


def test_containers_of_the_own_split_are_counted(tmp_path):
    for name in ("train-0.parquet", "validation-0.parquet", "test-0.parquet"):
        (tmp_path / name).write_bytes(bytes(len(name)))
    entry = FileSet("imagenet_parquet", "")
    assert [len(tally(name, entry, tmp_path).containers) for name in ("train", "val")] == [1, 1]


def test_rows_of_parquet_files_are_counted_by_their_own_account(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"label": list(range(17))}), tmp_path / "validation-0.parquet")
    found = tally("val", FileSet("imagenet_parquet", ""), tmp_path)
    assert (found.images, found.exact) == (17, True)


def test_imagenet_c_is_counted_as_it_is_chosen(tmp_path):
    for corruption in ("snow", "speckle_noise"):
        for severity in "12":
            write_classes(tmp_path / corruption / severity, {WNIDS[0]: 2})
    assert tally("c", FileSet("imagenet_c", ""), tmp_path).images == 4
    assert tally("c", FileSet("imagenet_c", "", severities=(2,)), tmp_path).images == 2


def test_the_plan_counts_a_folder_that_is_not_listed_yet(root, project):
    assert images_in_folder(load(), "train") == (11, 2)
    project.edit(**{"files.train.part": {"take": "rest", "fraction": 0.8}})
    assert images_in_folder(load(), "train") == (2, 2)
    (root / "train").rename(root / "gone")
    assert images_in_folder(load(), "train") is None


def algonauts(project, root):
    write_nsd_images(write_subject(root / "subj"))
    files = {**LABELLED, "nsd": {"format": "algonauts2023", "path": "subj"}}
    own = {"subj01": {"format": "algonauts2023", "path": "subj"}}
    project.edit(
        **{"files": files, "rendered": {}, "fmri.simulated": {}, "fmri.files": own},
        **{"fmri.source": "algonauts2023", "fmri.space": "fsaverage"},
    )
    return root / "subj"


def fmri_found():
    return look(fmri.fmri_checks(load()))


def test_a_whole_algonauts_subject_is_green(root, project):
    algonauts(project, root)
    found = fmri_found()
    assert not reds(found)
    assert only(found, "fMRI: shapes").found == "lh 30 x 11 and rh 30 x 14, float32"
    assert "0 % NaN" in only(found, "fMRI: values").found
    assert only(found, "fMRI: ROIs").found == "5 ROIs; early 6, high 7, faces 1, bodies 6"
    assert only(found, "fMRI: noise ceiling").found == "median 40.5 % of variance"
    assert vertices_in_folder(load()) == 25


def spoil(root, project, change):
    """Change the values of a subject's right hemisphere in place."""
    file = algonauts(project, root) / "training_split/training_fmri/rh_training_fmri.npy"
    values = np.load(file)
    change(values)
    np.save(file, values)


def test_vertices_that_will_be_left_out_are_noted(root, project):
    def change(values):
        values[:, 3] = np.nan
        values[:, 5] = 1

    spoil(root, project, change)
    found = fmri_found()
    assert not reds(found)
    assert "4 % NaN" in only(found, "fMRI: values").found
    one = only(found, "fMRI: left out")
    assert one.found == "2 of 25 are NaN or constant in the sample: such vertices are left out"
    assert one.verdict == "note"


def test_an_image_without_a_value_is_red(root, project):
    spoil(root, project, lambda values: values[9].fill(np.nan))
    one = only(fmri_found(), "fMRI: images")
    assert one.verdict == "red"
    assert one.found == "rh_training_fmri.npy has no finite value in row 9 (counted from 0)"


def test_fmri_of_test_images_is_counted(root, project):
    folder = algonauts(project, root)
    for hemisphere, width in (("lh", 11), ("rh", 14)):
        file = folder / f"test_split/test_fmri/{hemisphere}_test_fmri.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, np.ones((2, width), np.float32))
    found = fmri_found()
    assert only(found, "fMRI: shapes").found == "lh 32 x 11 and rh 32 x 14, float32"
    assert only(found, "fMRI: rows").found == "32 rows of fMRI for 30 images"


def test_rows_and_images_of_two_subjects_are_red(root, project):
    folder = algonauts(project, root)
    (folder / "training_split/training_images/train-0030_nsd-00216.png").unlink()
    one = only(fmri_found(), "fMRI: rows")
    assert one.found == "30 rows of fMRI for 29 images"
    assert one.verdict == "red"


def test_an_odd_shape_of_a_known_subject_is_a_note(root, project):
    algonauts(project, root).rename(root / "subj01")
    project.edit(**{"files.nsd.path": "subj01", "fmri.files.subj01.path": "subj01"})
    one = only(fmri_found(), "fMRI: shapes")
    assert one.verdict == "note"
    assert "9841 x 19004" in one.found


@pytest.fixture
def further(root, project):
    """The folder of a second subject's fMRI and images, whose fMRI trains the trunk as well."""
    algonauts(project, root)
    write_nsd_images(write_subject(root / "other", lh=9))
    project.edit(
        **{
            "sets.seen": {"role": "fmri_more"},
            "files.seen": {"format": "algonauts2023", "path": "other"},
            "encoder.more_subjects": {"subj02": {"images": "seen", "path": "other"}},
        }
    )
    return root / "other"


def test_the_fmri_of_further_subjects_is_looked_at_too(further):
    found = fmri_found()
    assert not reds(found)
    assert only(found, "fMRI: shapes").found == "lh 30 x 11 and rh 30 x 14, float32"
    assert only(found, "fMRI of subj02: shapes").found == "lh 30 x 9 and rh 30 x 14, float32"


def test_a_further_subjects_rows_are_compared_with_the_images_of_its_own_set(further):
    next(further.glob("training_split/training_images/*")).unlink()
    one = only(fmri_found(), "fMRI of subj02: rows")
    assert one.found == "30 rows of fMRI for 29 images"
    assert one.remedy.startswith("let files.seen.path and encoder.more_subjects.subj02.path lead to the same subject")


def test_a_further_subjects_missing_folder_is_named_by_its_key(further):
    further.rename(further.parent / "elsewhere")
    found = fmri_found()
    assert reds(found) == {"fMRI of subj02: files"}
    assert "mend encoder.more_subjects.subj02.path" in only(found, "fMRI of subj02: files").remedy


@pytest.fixture
def nsd(root, project, rng, monkeypatch):
    """A small NSD on fsaverage, and known figures that are its own."""
    planned = plan(rng)
    write_plan(root / "nsd", planned)
    write_surface(root / "nsd", planned, rng)
    own = {planned.name: {"format": "nsd", "path": "nsd"}}
    files = {**LABELLED, "nsd": {"format": "nsd", "path": "nsd", "subject": planned.name}}
    project.edit(
        **{"files": files, "rendered": {}, "fmri.simulated": {}, "fmri.files": own},
        **{"fmri.source": "nsd", "fmri.space": "fsaverage", "fmri.subject": planned.name},
    )
    folder = root / "nsd"
    known = {side: fmri._count(label_file(folder, side, "streams"), (5,)) for side in ("lh", "rh")}
    monkeypatch.setattr(fmri, "VENTRAL_VERTICES", known)
    monkeypatch.setattr(fmri, "MASK_VERTICES", 47)
    monkeypatch.setattr(fmri, "SESSIONS", (9, 3))
    vertices = fmri.find_vertices(folder, planned.name, "fsaverage")
    ncsnr = fmri.read_ncsnr(folder, fmri.ncsnr_files(relative_betas(planned), vertices), vertices)
    monkeypatch.setattr(fmri, "MEDIAN_NCSNR", {"fsaverage": (9.0, float(np.median(ncsnr)))})
    return folder, planned


def relative_betas(planned):
    return fmri.betas_folder(planned.name, "fsaverage")


def label_file(folder, side, name):
    return folder / f"nsddata/freesurfer/fsaverage/label/{side}.{name}.mgz"


def test_a_whole_nsd_is_green(nsd):
    found = fmri_found()
    assert not reds(found)
    assert "66 trials of 28 images in 3 sessions; responses.tsv and nsd_expdesign.mat agree" in (
        only(found, "fMRI: trials").found
    )
    assert only(found, "fMRI: vertices").found == "21 + 26 of fsaverage in nsdgeneral, as known"
    assert "3 of 3 sessions" in only(found, "fMRI: sessions").found
    assert "percent signal change" in only(found, "fMRI: values").found
    assert only(found, "fMRI: ROI sizes").found.endswith("as known")
    assert only(found, "fMRI: noise ceiling").verdict == "ok"
    assert vertices_in_folder(load()) == 47


def test_the_order_of_trials_is_compared(nsd):
    folder, planned = nsd
    from dataclasses import replace

    from helpers_nsd import write_responses

    write_responses(folder, replace(planned, masterordering=planned.masterordering[::-1]))
    found = fmri_found()
    assert reds(found) == {"fMRI: trials"}
    assert "fMRI: noise ceiling" in found


def test_an_off_by_one_image_id_is_red(nsd):
    folder, planned = nsd
    from helpers_nsd import write_responses

    write_responses(folder, planned, **{"73KID": {5: int(planned.ids[5])}})
    assert "fMRI: trials" in reds(fmri_found())


def test_hemispheres_that_are_swapped_are_said_to_be(nsd, monkeypatch):
    folder, _ = nsd
    left, right = (label_file(folder, side, "streams") for side in ("lh", "rh"))
    labels = {"lh": np.r_[np.full(7, 5), np.zeros(SURFACE - 7)], "rh": np.r_[np.full(4, 5), np.zeros(SURFACE - 4)]}
    monkeypatch.setattr(fmri, "VENTRAL_VERTICES", {"lh": 7, "rh": 4})
    write_mgh(left, labels["lh"])
    write_mgh(right, labels["rh"])
    assert only(fmri_found(), "fMRI: ROI sizes").verdict == "ok"
    write_mgh(left, labels["rh"])
    write_mgh(right, labels["lh"])
    one = only(fmri_found(), "fMRI: ROI sizes")
    assert one.verdict == "red"
    assert one.remedy.startswith("the hemispheres are swapped")


def test_another_mask_is_red(nsd, monkeypatch):
    monkeypatch.setattr(fmri, "MASK_VERTICES", 46)
    one = only(fmri_found(), "fMRI: vertices")
    assert one.verdict == "red"
    assert "nsdgeneral has 47, known is 46" in one.found


@pytest.mark.parametrize(("times", "verdict"), [(1.09, "ok"), (0.91, "ok"), (1.11, "red"), (0.7, "red")])
def test_the_noise_ceiling_may_be_a_tenth_off(nsd, monkeypatch, times, verdict):
    known = fmri.MEDIAN_NCSNR["fsaverage"][1]
    monkeypatch.setattr(fmri, "MEDIAN_NCSNR", {"fsaverage": (9.0, known / times)})
    assert only(fmri_found(), "fMRI: noise ceiling").verdict == verdict


@pytest.mark.parametrize(("whole", "says"), [(6, "from before August 2023"), (5, "not the whole dataset")])
def test_fewer_sessions_are_a_note(nsd, monkeypatch, whole, says):
    monkeypatch.setattr(fmri, "SESSIONS", (9, whole))
    one = only(fmri_found(), "fMRI: sessions")
    assert one.verdict == "note"
    assert says in one.found


def fill_betas(nsd, change):
    """Every session's lh with other numbers."""
    folder, planned = nsd
    for number, count in enumerate(planned.trials, start=1):
        file = betas_folder(folder, planned.name, "fsaverage") / f"lh.betas_session{number:02d}.mgh"
        values = np.frombuffer(file.read_bytes()[284:], ">f4").reshape(count, SURFACE).T.astype(np.float32)
        write_mgh(file, change(values))
        other = file.with_name(file.name.replace("lh", "rh"))
        write_mgh(other, change(values))


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        (lambda values: values * 0, "red", "only zeros"),
        (lambda values: values * np.nan, "red", "only NaN"),
        (lambda values: values * 3000, "red", "another scale"),
        (lambda values: np.where(np.arange(SURFACE)[:, None] % 5, values, np.nan), "note", "% NaN"),
        (lambda values: values.astype(">f4").view("<f4"), "red", ""),
    ],
    ids=["zeros", "nan", "scale", "some nan", "byte order"],
)
def test_values_that_cannot_be_right_are_red(nsd, change, verdict, says):
    with np.errstate(all="ignore"):
        fill_betas(nsd, change)
        one = only(fmri_found(), "fMRI: values")
    assert one.verdict == verdict
    assert says in f"{one.found} {one.remedy}"


def test_a_missing_session_leaves_the_other_checks(nsd):
    folder, planned = nsd
    (betas_folder(folder, planned.name, "fsaverage") / "rh.betas_session02.mgh").unlink()
    found = fmri_found()
    assert reds(found) == {"fMRI: betas"}
    assert {"fMRI: ROIs", "fMRI: noise ceiling", "fMRI: trials"} <= set(found)


def test_a_truncated_header_of_betas_is_red(nsd):
    folder, planned = nsd
    (betas_folder(folder, planned.name, "fsaverage") / "lh.betas_session01.mgh").write_bytes(struct.pack(">i", 1))
    assert reds(fmri_found()) == {"fMRI: betas"}


@pytest.mark.parametrize("kind", ["hdf5", "nii.gz"])
def test_volumes_are_compared_with_their_own_figures(root, project, rng, monkeypatch, kind):
    planned = plan(rng)
    write_plan(root / "nsd", planned)
    written = write_volume(root / "nsd", planned, rng, kind)
    own = {planned.name: {"format": "nsd", "path": "nsd"}}
    project.edit(
        files={**LABELLED, "nsd": {"format": "nsd", "path": "nsd", "subject": planned.name}},
        rendered={},
        **{"fmri.simulated": {}, "fmri.files": own, "fmri.source": "nsd", "fmri.space": "func1pt8mm"},
        **{"fmri.subject": planned.name},
    )
    voxels = sum(len(side) for side in written.voxels.values())
    monkeypatch.setattr(fmri, "MASK_VOXELS", (0, voxels))
    found = fmri_found()
    assert only(found, "fMRI: vertices").verdict == "ok"
    assert "percent signal change" in only(found, "fMRI: values").found
    one = only(found, "fMRI: ROI sizes")  # -1 and 0 do not count
    assert one.verdict == "red"
    assert "V1 has 18, known is 1,102" in one.found
    assert "known 0.361" in only(found, "fMRI: noise ceiling").found


@pytest.mark.parametrize("kind", ["hdf5", "nii.gz"])
def test_sampled_values_of_a_volume_are_those_of_its_own_voxels_in_percent(tmp_path, rng, kind):
    planned = plan(rng)
    write_plan(tmp_path, planned)
    written = write_volume(tmp_path, planned, rng, kind)
    vertices = fmri.find_vertices(tmp_path, planned.name, "func1pt8mm")
    folder = betas_folder(tmp_path, planned.name, "func1pt8mm")
    session = fmri.find_sessions(folder, vertices)[1]
    voxels = np.concatenate(list(written.voxels.values()))
    within = written.betas[1][tuple(voxels.T)]  # V T
    if kind == "hdf5":  # all trials of the voxels in line with the middle one
        middle = np.stack(vertices.coordinates, axis=1)[len(vertices.index) // 2]
        wanted = within[(voxels[:, 1:] == middle[1:]).all(axis=1)]
    else:  # the first trial of all
        wanted = within[:, 0]
    np.testing.assert_allclose(
        np.sort(fmri._sampled(session, vertices), axis=None), np.sort(wanted, axis=None), atol=0.01
    )


def test_weights_that_are_in_no_reach_are_red_with_what_to_do(root, monkeypatch):
    def refuse(*_):
        raise OSError(111, "Connection refused")

    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr(weights.socket, "create_connection", refuse)
    monkeypatch.setattr(weights, "to_be_fetched", lambda _: True)
    found = look(weights.weights_checks(load()))
    one = only(found, "weights: backbone")
    assert one.verdict == "red"
    assert "does not answer (Connection refused)" in one.found
    assert "backbone.weights" in one.remedy


def test_weights_of_another_network_are_red(root, project):
    from safetensors.numpy import save_file

    save_file({"no.such": np.zeros(3, np.float32)}, root / "weights.safetensors")
    project.edit(**{"backbone.weights": "weights.safetensors"})
    assert reds(look(weights.weights_checks(load()))) == {"weights"}
    (root / "weights.safetensors").unlink()
    assert "is missing" in only(look(weights.weights_checks(load())), "weights").found


def test_the_controls_network_is_looked_at_where_it_is_used(root, project):
    assert [check.name for check in weights.weights_checks(load())] == ["weights"]
    project.edit(**{"encoder.control": "features"})
    assert [check.name for check in weights.weights_checks(load())] == ["weights", "weights of the control"]


def test_a_device_that_is_not_there_is_red(root, project):
    project.edit(**{"runtime.device": "cuda:77"})
    found = look([check for check in machine.machine_checks(load()) if check.name == "device"])
    assert reds(found) == {"device"}


def test_a_disk_that_will_not_do_is_red(root, monkeypatch):
    from collections import namedtuple

    monkeypatch.setattr(machine, "disk_need", lambda *_: namedtuple("Need", "text too_few whole")("x", 9, True))
    one = only(look([Check("disk", lambda: list(machine._stores(load()))[:1])]), "disk")
    assert one.verdict == "red"
    assert "cache.dtype int8" in one.remedy


def test_counted_sets_are_planned_for(root):
    found = look([check for check in machine.machine_checks(load()) if check.name == "disk"])
    assert only(found, "disk").found.startswith("stores need ")


@pytest.mark.parametrize(
    ("config", "verdict"),
    [
        ('[cache]\n    type = "hardlink,symlink"\n', "ok"),
        ("[cache]\n    type = copy\n", "note"),
        ("[core]\n    analytics = false\n", "note"),
        (None, "red"),
    ],
)
def test_the_links_of_dvcs_cache_are_looked_at(project, config, verdict):
    if config is not None:
        (project.folder / ".dvc").mkdir()
        (project.folder / ".dvc" / "config").write_text(config)
    assert [one.verdict for one in machine._dvc_links()] == [verdict]


def test_local_settings_of_dvc_come_last(project):
    (project.folder / ".dvc").mkdir()
    (project.folder / ".dvc" / "config").write_text("[cache]\n    type = copy\n")
    (project.folder / ".dvc" / "config.local").write_text(f"[cache]\n    type = symlink\n    dir = {project.folder}\n")
    assert [one.verdict for one in machine._dvc_links()] == ["ok"]


def test_errors_are_red_lines_and_warnings_are_notes():
    def looks():
        yield Finding("a", "fine")
        console.warn("odd")
        console.note("nobody wants to know")
        raise UserError("wrong: mend it\n" + "\n".join(map(str, range(20))))

    found = findings_of(Check("a", looks))
    assert [one.verdict for one in found] == ["ok", "red", "note"]
    assert found[1].found.startswith("wrong: mend it\n0\n")
    assert found[1].found.endswith("... and 15 more")
    assert found[2].found == "odd"


def test_an_unreadable_file_is_a_red_line():
    def looks():
        raise PermissionError(13, "Permission denied", "secret.npy")

    one = only({"a": findings_of(Check("a", looks))}, "a")
    assert (one.found, one.verdict) == ("secret.npy: Permission denied", "red")
    assert one.remedy


def test_what_is_collected_is_not_shown(capsys):
    with console.collected() as said:
        console.warn("one")
    console.warn("two")
    assert said == ["one"]
    assert "one" not in capsys.readouterr().err


@pytest.mark.parametrize(("verdict", "well"), [("ok", True), ("note", True), ("red", False)])
def test_the_table_has_a_remedy_under_each_red_line(monkeypatch, capsys, project, verdict, well):
    finding = Finding("thing", "[1] is odd", verdict, "do this" if verdict == "red" else "")
    monkeypatch.setattr(tables, "all_checks", lambda _: [Check("thing", lambda: [finding])])
    monkeypatch.setattr(console, "_progress_shown", True)
    assert tables.show_doctor(load()) is well
    text = capsys.readouterr().err
    assert "[1] is odd" in text
    assert ("remedy: do this" in text) is not well
    assert (("error: 1 of 1 checks are red" in text), "none red" in text) == (not well, well)


def test_it_writes_nothing(root, project, monkeypatch):
    monkeypatch.setattr(weights, "to_be_fetched", lambda _: True)
    monkeypatch.setattr(weights, "_fetchable", lambda check, name: Finding(check, name))
    monkeypatch.setattr(console, "_progress_shown", True)
    before = sorted(project.folder.rglob("*"))
    assert isinstance(tables.show_doctor(load()), bool)
    assert sorted(project.folder.rglob("*")) == before
