"""Public OOD sets as they are distributed: which class each image is of, and how the network is to see it."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from helpers_data import files_params, in_project
from helpers_imagenet import code_of, coded, request, val_name
from helpers_ood import (
    A_INDICES,
    O_INDICES,
    OBJECTNET_OTHERS,
    OBJECTNET_PARTS,
    R_INDICES,
    bordered_image,
    corrupted_image,
    write_c,
    write_hard,
    write_objectnet,
    write_v2,
    write_versions,
    write_wnids,
)

from neuralood.base.errors import UserError
from neuralood.data.imagenet import corrupted as imagenet_c
from neuralood.data.imagenet import expected as layouts
from neuralood.data.imagenet import hard as imagenet_hard
from neuralood.data.imagenet import objectnet, ood
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.images import read_image
from neuralood.data.index import index_set
from neuralood.data.manifest import read_manifest, write_manifest
from neuralood.evaluation import class_columns, restrict
from neuralood.tokens.decode import _Images


@pytest.fixture
def root(tmp_path, monkeypatch):
    root = in_project(tmp_path, monkeypatch)
    (root / "train").mkdir()
    return root


@pytest.fixture
def few_classes(monkeypatch):
    """Only the first of ImageNet's classes, for sets of many folders."""
    wnids = WNIDS[:3]
    monkeypatch.setattr(imagenet_c, "WNIDS", wnids)
    monkeypatch.setattr(imagenet_c, "IMAGES", len(wnids))
    return wnids


def manifest_of(name, form, root, **entry):
    """The manifest of a set below the data root, training classes those of ImageNet, written and read again."""
    train = {"format": "imagenet_folders", "path": "train"}
    write_manifest(index_set(name, files_params(root, train=train, **{name: {"format": form, "path": name, **entry}})))
    return read_manifest(name)


def read(folder, form, name="set", **options):
    return ood.READERS[form](request(folder, name, form, **options))


def seen_by(manifest, row, size, crop_pct):
    """Pixels 3 H W, 0 to 1, that a network of that input size gets of one image."""
    from neuralood.backbone import Preprocessing

    preprocessing = Preprocessing(size, crop_pct, "bicubic", (0.0,) * 3, (1.0,) * 3)
    return _Images(manifest, SimpleNamespace(preprocessing=preprocessing))[row][1].numpy()


# ImageNet-A and -R


def test_the_200_classes_of_a_and_of_r_are_the_published_ones():
    assert tuple(WNIDS[index] for index in A_INDICES) == ood.A_WNIDS
    assert tuple(WNIDS[index] for index in R_INDICES) == ood.R_WNIDS
    assert (len(A_INDICES), len(R_INDICES), len({*A_INDICES} & {*R_INDICES})) == (200, 200, 86)


@pytest.mark.parametrize(("form", "indices"), [("imagenet_a", A_INDICES), ("imagenet_r", R_INDICES)])
def test_classes_of_a_and_r_are_scored_by_their_own_logits(root, monkeypatch, form, indices):
    monkeypatch.setitem(ood.IMAGES, form, 200)
    write_wnids(root / "hard", [WNIDS[index] for index in indices])
    manifest = manifest_of("hard", form, root)
    assert (len(manifest), manifest.format, manifest.cropped, manifest.margin_px) == (200, form, False, 0)
    columns = class_columns(manifest, list(WNIDS), None)
    assert columns == [[index] for index in indices]
    for row, label in enumerate(manifest.labels):
        assert code_of(read_image(manifest.image_file(row)))[0] == columns[label][0]


def test_logits_of_other_classes_do_not_count_in_a(root, monkeypatch):
    monkeypatch.setitem(ood.IMAGES, "imagenet_a", 200)
    write_wnids(root / "hard", ood.A_WNIDS)
    columns = class_columns(manifest_of("hard", "imagenet_a", root), list(WNIDS), None)
    logits = np.zeros((1, 1000), np.float32)
    logits[0, [A_INDICES[7], 0]] = 1, 9
    assert restrict(logits, columns).argmax() == 7


@pytest.mark.parametrize("form", ["imagenet_a", "imagenet_sketch"])
def test_folders_of_another_set_are_refused_with_the_nearest_format(tmp_path, form):
    folder = write_wnids(tmp_path / "imagenet-r", ood.R_WNIDS)
    with pytest.raises(UserError, match=r"imagenet-r .*expected.*found 200.*format imagenet_r"):
        read(folder, form)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_a_missing_or_extra_class_is_named(tmp_path, change):
    folder = write_wnids(tmp_path / "a", ood.A_WNIDS[:-1] if change == "missing" else [*ood.A_WNIDS, WNIDS[0]])
    with pytest.raises(UserError, match=ood.A_WNIDS[-1] if change == "missing" else WNIDS[0]):
        read(folder, "imagenet_a")


def test_an_incomplete_copy_is_warned_of_in_one_line(tmp_path, capsys):
    read(write_wnids(tmp_path / "a", ood.A_WNIDS), "imagenet_a")
    [line] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "has 200 images, a whole copy has 7,500" in line


def test_a_whole_copy_is_not_warned_of(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(ood.IMAGES, "imagenet_a", 200)
    read(write_wnids(tmp_path / "a", ood.A_WNIDS), "imagenet_a")
    assert "warning" not in capsys.readouterr().err


def test_published_counts():
    assert ood.IMAGES == {
        "imagenet_a": 7500,
        "imagenet_r": 30000,
        "imagenet_sketch": 50889,
        "imagenet_v2": 10000,
        "imagenet_stylized": 50000,
        "imagenet_cartoon": 50000,
        "imagenet_drawing": 50000,
    }
    assert (objectnet.IMAGES, objectnet.FOLDERS, imagenet_c.IMAGES) == (18574, 313, 50000)


# ImageNet-O


@pytest.mark.parametrize("name", ["imagenet-o", "outliers"])
@pytest.mark.parametrize("form", ["imagenet_a", "imagenet_r", "imagenet_sketch", "wnid_folders"])
def test_imagenet_o_is_refused_by_its_folders(tmp_path, name, form):
    from neuralood.data.formats import READERS

    folder = write_wnids(tmp_path / name, [WNIDS[index] for index in O_INDICES])
    with pytest.raises(UserError, match=r"is ImageNet-O, .*not accuracy; remove the set"):
        READERS[form](request(folder, "set", form))


def test_imagenet_o_is_refused_by_its_name(tmp_path):
    with pytest.raises(UserError, match="is ImageNet-O"):
        read(write_wnids(tmp_path / "imagenet-o", WNIDS[:4]), "imagenet_a")


def test_the_folders_of_imagenet_o_are_known_by_their_hash():
    names = "\n".join(sorted(WNIDS[index] for index in O_INDICES))
    assert hashlib.sha256(names.encode()).hexdigest() == layouts.IMAGENET_O


# Sketch, Stylized, Cartoon, Drawing


def test_sketch_has_all_classes_and_sources_of_its_own(root):
    write_wnids(root / "sketch", WNIDS, "sketch_3.JPEG")
    manifest = manifest_of("sketch", "imagenet_sketch", root)
    assert (manifest.classes, manifest.labels) == (WNIDS, tuple(range(1000)))
    assert manifest.sources[5] == f"sketch/{WNIDS[5]}/sketch_3.JPEG"


def test_sketch_of_50889_images_is_whole(tmp_path, capsys, monkeypatch):
    folder = write_wnids(tmp_path / "sketch", WNIDS, "sketch_0.JPEG")
    read(folder, "imagenet_sketch")
    assert "1,000 images, a whole copy has 50,889" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["imagenet_stylized", "imagenet_cartoon", "imagenet_drawing"])
def test_versions_of_one_val_image_share_its_source(tmp_path, form):
    listing = read(write_versions(tmp_path / "set", WNIDS), form)
    assert listing.sources[41] == "imagenet_val/ILSVRC2012_val_00000042"
    assert (listing.cropped, listing.classes) == (False, WNIDS)


def test_train_and_val_of_stylized_are_not_its_classes(tmp_path):
    for split in ("train", "val"):
        write_versions(tmp_path / "sin" / split, WNIDS[:2])
    with pytest.raises(UserError, match="found 2 folders, 0 files: train, val"):
        read(tmp_path / "sin", "imagenet_stylized")


# ImageNetV2


def test_the_number_of_a_v2_folder_is_its_class(root):
    write_v2(root / "v2")
    manifest = manifest_of("v2", "imagenet_v2", root)
    assert manifest.classes == WNIDS
    assert sorted(manifest.labels) == list(range(1000))
    for row in (0, 2, 11, 999):
        label = int(manifest.paths[row].split("/")[0])
        assert manifest.labels[row] == label == code_of(read_image(manifest.image_file(row)))[0]


def test_v2_is_found_one_level_deeper(tmp_path):
    write_v2(tmp_path / "v2" / "imagenetv2-top-images-format-val")
    listing = read(tmp_path / "v2", "imagenet_v2")
    labels = {image.path.split("/")[1]: image.label for image in listing.images}
    assert labels == {str(label): label for label in range(1000)}
    assert listing.images[0].path.startswith("imagenetv2-top-images-format-val/0/")


def test_several_v2_variants_are_refused(tmp_path):
    for variant in ("matched-frequency", "top-images"):
        write_v2(tmp_path / "v2" / f"imagenetv2-{variant}-format-val", range(2))
    with pytest.raises(UserError, match=r"one level deeper, found imagenetv2-matched-.*, imagenetv2-top-"):
        read(tmp_path / "v2", "imagenet_v2")


@pytest.mark.parametrize("damage", ["missing", "padded", "extra"])
def test_v2_of_other_folders_is_refused(tmp_path, damage):
    folder = write_v2(tmp_path / "v2")
    if damage == "extra":
        (folder / "1000").mkdir()
    else:
        (folder / "7").rename(folder / "007" if damage == "padded" else tmp_path / "7")
    with pytest.raises(UserError, match=r"expected class folders 0, 1, 2, .* found .*(7|1000)"):
        read(folder, "imagenet_v2")


def test_v2_with_wnid_folders_is_another_format(tmp_path):
    with pytest.raises(UserError, match="not laid out as imagenet_v2"):
        read(write_wnids(tmp_path / "v2", WNIDS), "imagenet_v2")


def test_excluded_v2_folders_shift_no_class(tmp_path):
    listing = read(write_v2(tmp_path / "v2"), "imagenet_v2", exclude=("5", "10"))
    assert {image.label for image in listing.images} == set(range(1000)) - {5, 10}
    assert all(image.label == int(image.path.split("/")[0]) for image in listing.images)


# ImageNet-C


def test_c_takes_its_15_corruptions_and_no_extra_one(tmp_path, few_classes):
    known = [name for names in imagenet_c.ARCHIVES.values() for name in names]
    folder = write_c(tmp_path / "c", known, range(1, 6), few_classes)
    listing = read(folder, "imagenet_c")
    places = [imagenet_c.place_of(image.path) for image in listing.images]
    assert (len(known), len(listing.images), len(set(places))) == (19, 15 * 5 * 3, 15 * 5)
    assert {corruption for corruption, _ in places} == set(known[:15])
    assert known[15:] == ["speckle_noise", "gaussian_blur", "spatter", "saturate"]
    assert listing.cropped
    assert [image.label for image in listing.images[:4]] == [0, 1, 2, 0]


def test_versions_of_one_image_in_c_share_its_source(tmp_path, few_classes):
    folder = write_c(tmp_path / "c", ["fog", "snow"], [1, 5], few_classes)
    listing = read(folder, "imagenet_c", corruptions=("snow", "fog"), severities=(5, 1))
    assert [imagenet_c.place_of(image.path) for image in listing.images[::3]] == [
        ("snow", 1),
        ("snow", 5),
        ("fog", 1),
        ("fog", 5),
    ]
    assert set(listing.sources) == {f"imagenet_val/ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)}


def test_c_of_all_1000_classes(root):
    write_c(root / "c", ["fog"], [3], WNIDS)
    manifest = manifest_of("c", "imagenet_c", root, corruptions=["fog"], severities=[3])
    assert (manifest.labels, manifest.cropped) == (tuple(range(1000)), True)
    assert manifest.paths[4] == f"fog/3/{WNIDS[4]}/{val_name(5)}"


def test_missing_corruptions_are_named_with_their_archive(tmp_path, few_classes):
    folder = write_c(tmp_path / "c", ["gaussian_noise", "shot_noise", "impulse_noise"], [1], few_classes)
    with pytest.raises(UserError, match=r"come with blur\.tar, weather\.tar, digital\.tar, found gaussian_noise"):
        read(folder, "imagenet_c")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"corruptions": ("gausian_noise",)}, r"files\.set\.corruptions: .*did you mean 'gaussian_noise'"),
        ({"severities": (0, 1)}, r"files\.set\.severities: ImageNet-C has severities 1 to 5, got 0"),
        ({"corruptions": ()}, "want at least one entry"),
        ({"corruptions": ("fog",), "severities": (2,)}, r"c/fog .*expected folders 2 \(severities\), found 1"),
    ],
)
def test_options_of_c_that_lead_nowhere(tmp_path, few_classes, options, said):
    with pytest.raises(UserError, match=said):
        read(write_c(tmp_path / "c", ["fog"], [1], few_classes), "imagenet_c", **options)


@pytest.mark.parametrize("change", ["missing", "extra"])
def test_other_classes_in_c_are_refused(tmp_path, few_classes, change):
    wnids = few_classes[:-1] if change == "missing" else [*few_classes, WNIDS[9]]
    with pytest.raises(UserError, match=WNIDS[2] if change == "missing" else WNIDS[9]):
        read(write_c(tmp_path / "c", ["fog"], [1], wnids), "imagenet_c", corruptions=("fog",), severities=(1,))


def test_a_short_corruption_is_warned_of(tmp_path, few_classes, capsys, monkeypatch):
    monkeypatch.setattr(imagenet_c, "IMAGES", 50_000)
    folder = write_c(tmp_path / "c", ["fog"], [1], few_classes)
    read(folder, "imagenet_c", corruptions=("fog",), severities=(1,))
    assert "3 images, a whole copy of fog/1 has 50,000" in capsys.readouterr().err


def test_images_of_c_are_neither_resized_nor_cropped(root, few_classes, rng):
    folder = write_c(root / "c", ["fog"], [1], few_classes)
    (folder / "fog/1" / few_classes[0] / val_name(1)).write_bytes(corrupted_image(rng))
    manifest = manifest_of("c", "imagenet_c", root, corruptions=["fog"], severities=[1])
    stored = np.asarray(read_image(manifest.image_file(0)), np.float32).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(seen_by(manifest, 0, 224, 0.875), stored, atol=1e-6)


def test_images_of_c_keep_their_edge_at_another_size(root, few_classes):
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[:16], pixels[-16:] = 255, 255
    folder = write_c(root / "c", ["fog"], [1], few_classes)
    from PIL import Image

    Image.fromarray(pixels).save(folder / "fog/1" / few_classes[0] / val_name(1), "PNG")
    manifest = manifest_of("c", "imagenet_c", root, corruptions=["fog"], severities=[1])
    seen = seen_by(manifest, 0, 112, 0.875)
    assert seen.shape == (3, 112, 112)
    assert seen[:, :6].min() > 0.9
    assert seen[:, -6:].min() > 0.9


# ObjectNet


def test_objectnet_takes_113_classes_by_their_folders(root, monkeypatch):
    monkeypatch.setattr(objectnet, "IMAGES", 113)
    write_objectnet(root / "objectnet" / "images", [*objectnet.CLASSES, *OBJECTNET_OTHERS])
    (root / "objectnet" / "mappings").mkdir()
    manifest = manifest_of("objectnet", "objectnet", root)
    assert (len(manifest), len(manifest.classes), manifest.margin_px) == (113, 113, 2)
    assert list(manifest.classes) == sorted(manifest.classes)
    assert all(
        path.split("/")[1] == manifest.classes[label]
        for path, label in zip(manifest.paths, manifest.labels, strict=True)
    )
    columns = dict(zip(manifest.classes, class_columns(manifest, list(WNIDS), None), strict=True))
    assert {name: tuple(columns[name]) for name in OBJECTNET_PARTS} == OBJECTNET_PARTS
    flat = [column for members in columns.values() for column in members]
    assert (len(flat), len(set(flat))) == (125, 125)


def test_objectnet_may_be_given_by_its_images(tmp_path):
    folder = write_objectnet(tmp_path / "images", objectnet.CLASSES)
    assert read(folder, "objectnet").images[0].path == "alarm_clock/0a1b2c3d4e5f.png"


def test_objectnet_without_a_class_is_refused(tmp_path):
    folder = write_objectnet(tmp_path / "images", [name for name in objectnet.CLASSES if name != "wok"])
    with pytest.raises(UserError, match=r"expected 313 class folders .*found 112 folders .* without wok"):
        read(folder, "objectnet")


def test_an_excluded_class_of_objectnet_is_left_out(tmp_path):
    folder = write_objectnet(tmp_path / "objectnet" / "images", objectnet.CLASSES)
    listing = read(folder.parent, "objectnet", exclude=("images/banana",))
    assert "banana" not in listing.classes
    assert len(listing.classes) == len(listing.members) == 112
    assert all(image.path.split("/")[1] == listing.classes[image.label] for image in listing.images)


def test_the_red_border_of_objectnet_is_not_seen(root):
    write_objectnet(root / "objectnet", objectnet.CLASSES)
    manifest = manifest_of("objectnet", "objectnet", root)
    (root / "objectnet" / manifest.paths[0].split("/", 1)[0] / "0a1b2c3d4e5f.png").write_bytes(bordered_image(57, 43))
    for row in (0, 1):
        assert seen_by(manifest, row, 32, 1.0)[0].max() < 0.02


# ImageNet-Hard


def test_hard_has_all_right_labels_of_each_row(root):
    write_hard(root / "hard" / "data" / "validation-00000-of-00002-36ef.parquet", [[3], [7, 999], [0, 4, 2]])
    write_hard(root / "hard" / "data" / "validation-00001-of-00002-9bb2.parquet", [[5, 5]])
    manifest = manifest_of("hard", "imagenet_hard", root)
    assert manifest.classes == WNIDS
    assert manifest.labels == (3, 7, 0, 5)
    assert manifest.answers == ((3,), (7, 999), (0, 4, 2), (5,))
    assert manifest.paths[2] == "data/validation-00000-of-00002-36ef.parquet::2"
    assert [code_of(read_image(file))[0] for file in manifest.image_files()] == [0, 1, 2, 0]
    assert len(set(manifest.sources)) == 4


def test_hard_says_that_its_size_moves_and_that_it_overlaps(tmp_path, capsys):
    write_hard(tmp_path / "hard" / "0000.parquet", [[3]], {"id": pa.array([1])})
    read(tmp_path / "hard", "imagenet_hard")
    said = capsys.readouterr().err
    assert "1 images here" in said
    assert "moves from revision to revision" in said
    assert "counts images twice" in said


def test_other_answers_change_the_fingerprint(root):
    fingerprints = set()
    for answers in ([[3, 4]], [[3, 5]]):
        write_hard(root / "hard" / "0000.parquet", answers)
        fingerprints.add(manifest_of("hard", "imagenet_hard", root).fingerprint)
    assert len(fingerprints) == 2


def test_a_bad_row_of_hard_can_be_excluded(tmp_path):
    write_hard(tmp_path / "hard" / "0000.parquet", [[3], [7, 8], [5]])
    listing = read(tmp_path / "hard", "imagenet_hard", exclude=("0000.parquet::1",))
    assert (listing.answers, [image.path for image in listing.images]) == (
        ((3,), (5,)),
        ["0000.parquet::0", "0000.parquet::2"],
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["v-00000-of-00002.parquet"], "has 1 of 2 parquet files"),
        (["v-00000-of-00001.parquet", "v-00000-of-00002.parquet", "v-00001-of-00002.parquet"], "several revisions"),
        (["v-00000-of-00001-aa.parquet", "v-00000-of-00001-bb.parquet"], "several revisions"),
        (["v-00000-of-00001.parquet", "0000.parquet"], "several revisions"),
    ],
)
def test_files_of_several_revisions_of_hard_are_refused(tmp_path, names, said):
    for name in names:
        write_hard(tmp_path / "hard" / "data" / name, [[1]])
    with pytest.raises(UserError, match=said):
        read(tmp_path / "hard", "imagenet_hard")


@pytest.mark.parametrize("labels", [[[1], []], [[1], [1000]], [[1], [-1]]])
def test_rows_of_hard_without_a_right_label_are_refused(tmp_path, labels):
    write_hard(tmp_path / "hard" / "0000.parquet", labels)
    with pytest.raises(UserError, match=r"0000\.parquet: row 1 has labels .*expected class ids 0 to 999"):
        read(tmp_path / "hard", "imagenet_hard")


def test_parquet_of_single_labels_is_another_format(tmp_path):
    write_hard(tmp_path / "hard" / "0000.parquet", [[1], [2]], {"label": pa.array([1, 2])})
    with pytest.raises(UserError, match=r"holds single labels.*imagenet_parquet"):
        read(tmp_path / "hard", "imagenet_hard")


def test_hard_without_parquet_is_refused(tmp_path):
    (tmp_path / "hard").mkdir()
    (tmp_path / "hard" / "README.md").write_text("about")
    with pytest.raises(UserError, match=r"expected parquet files such as data/.*found README\.md"):
        read(tmp_path / "hard", "imagenet_hard")


# All


def test_every_format_of_a_public_set_has_a_reader():
    from typing import get_args

    from neuralood.config import FileFormat

    assert set(ood.READERS) == {
        name
        for name in get_args(FileFormat)
        if name.startswith(("imagenet_", "objectnet"))
        and name.split("_")[-1] not in ("folders", "flat", "parquet", "shards")
    }


@pytest.mark.parametrize("form", ood.READERS)
def test_an_empty_folder_is_refused_with_its_name(tmp_path, form):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"nothing \(files\.set\.path\)"):
        read(tmp_path / "nothing", form)


@pytest.mark.parametrize("form", ood.READERS)
def test_a_folder_of_photos_is_refused(tmp_path, form):
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "1.png").write_bytes(coded(1))
    with pytest.raises(UserError, match=r"pets \(files\.set\.path\).*expected .*found"):
        read(tmp_path / "pets", form)


def test_the_shard_pattern_reads_published_names():
    match = imagenet_hard.SHARD.search("data/validation-00002-of-00005-8b2962503f533218.parquet")
    assert match.groups() == ("00002", "00005")
