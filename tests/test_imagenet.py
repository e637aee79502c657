"""ImageNet-1k in every layout: one class order, all images there, and a plain word where not."""

import hashlib
import json
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import files_params, in_project, picture, real_data, write_classes, write_nsd_images
from helpers_imagenet import (
    code_of,
    coded,
    half,
    request,
    val_labels,
    val_name,
    write_devkit,
    write_kaggle,
    write_parquet,
    write_shards,
    write_tar,
    write_train_folders,
    write_val_flat,
    write_val_folders,
    write_val_parquet,
)

from neuralood.base import console
from neuralood.base.errors import UserError
from neuralood.data.files import Listing
from neuralood.data.imagenet import layouts as imagenet
from neuralood.data.imagenet.layouts import READERS, wnid_listing
from neuralood.data.imagenet.nearest import nearest_format, nearest_hint
from neuralood.data.imagenet.wnids import WNIDS, WNIDS_SHA256, checked_wnids, class_index, packaged_wnids, val_source
from neuralood.data.images import read_image
from neuralood.data.index import index_set, training_classes


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root of a project whose ImageNet has two images a class in val and one in train."""
    monkeypatch.setattr(imagenet, "VAL_PER_CLASS", 2)
    monkeypatch.setattr(imagenet, "TRAIN_IMAGES", 1000)
    monkeypatch.setattr(imagenet, "TRAIN_PER_CLASS", (1, 1))
    return in_project(tmp_path, monkeypatch)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes and warnings."""
    messages: list[str] = []
    monkeypatch.setattr(console, "warn", lambda message: messages.append(f"warning: {message}"))
    monkeypatch.setattr(console, "note", messages.append)
    return messages


def listed(folder: Path, name: str, form: str, **options: Any) -> Listing:
    return READERS[form](request(folder, name, form, **options))


def shown_classes(folder: Path, listing: Listing, rows: Sequence[int]) -> list[int]:
    """The class that each image shows."""
    return [code_of(read_image(folder / listing.images[row].path))[0] for row in rows]


def test_the_1000_classes_are_the_sorted_wnids() -> None:
    assert len(WNIDS) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    assert (WNIDS[0], WNIDS[999]) == ("n01440764", "n15075141")
    assert hashlib.sha256("\n".join(WNIDS).encode()).hexdigest() == WNIDS_SHA256
    assert [class_index(wnid) for wnid in (WNIDS[0], WNIDS[500])] == [0, 500]
    with pytest.raises(UserError, match="n01440765 is none of ImageNet's 1000 classes"):
        class_index("n01440765")
    for wrong in (WNIDS[::-1], WNIDS[1:], ("n00000000", *WNIDS[1:])):
        with pytest.raises(UserError, match="install timm anew"):
            checked_wnids(wrong)


def test_the_list_is_read_without_torch(tmp_path: Path) -> None:
    import subprocess

    slow = "{'torch', 'timm'} & {*sys.modules}"
    code = f"import sys; from neuralood.data.imagenet.wnids import WNIDS; print(len(WNIDS), *({slow}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1000"]


def test_sources_of_versions_of_val() -> None:
    assert val_source("x/ILSVRC2012_val_00000293.JPEG") == "imagenet_val/ILSVRC2012_val_00000293"
    assert val_source("ILSVRC2012_val_00000293_n01751748.JPEG") == "imagenet_val/ILSVRC2012_val_00000293"
    assert val_source("n01440764_10026.JPEG") is None


def test_folders_of_val(root: Path) -> None:
    folder = write_val_folders(root / "val", 2)
    listing = listed(folder, "val", "imagenet_folders")
    assert listing.classes == WNIDS
    assert [image.label for image in listing.images] == sorted(val_labels(2))
    assert list(listing.images) == sorted(listing.images, key=lambda image: (image.label, image.path))
    rows = [0, 1, 999, 1998]
    assert shown_classes(folder, listing, rows) == [listing.images[row].label for row in rows]
    assert listing.sources is not None
    number = val_labels(2).index(0) + 1
    assert listing.sources[0] == f"imagenet_val/ILSVRC2012_val_{number:08d}"


def test_folders_of_train(root: Path, said: list[str]) -> None:
    listing = listed(write_train_folders(root / "train"), "train", "imagenet_folders")
    assert (len(listing.images), listing.sources, said) == (1000, None, [])
    (root / "train" / WNIDS[3] / "more.jpg").write_bytes(coded(3))
    listed(root / "train", "train", "imagenet_folders")
    assert "has 1,001 images, ImageNet's train 1,000; 1 of 1000 classes have not 1 to 1 images" in said[0]


def test_what_lies_about_shifts_no_class(root: Path, said: list[str]) -> None:
    folder = write_train_folders(root / "train")
    expected = listed(folder, "train", "imagenet_folders")
    for litter in (".DS_Store", "README.txt", "Thumbs.db", "n00000000.txt"):
        (folder / litter).write_bytes(b"x")
    (folder / "lost+found").mkdir()
    assert listed(folder, "train", "imagenet_folders") == expected
    assert "ignoring lost+found, README.txt, n00000000.txt" in said[-1]


@pytest.mark.parametrize("stray", ["n00000000", "n99999999", "aaa", "n01440764 copy"])
def test_an_extra_folder_is_refused(root: Path, stray: str) -> None:
    folder = write_train_folders(root / "train")
    (folder / stray).mkdir()
    with pytest.raises(UserError, match=rf"{stray} is no wnid .*files\.train\.exclude"):
        listed(folder, "train", "imagenet_folders")
    assert len(listed(folder, "train", "imagenet_folders", exclude=(stray,)).images) == 1000


def test_a_class_that_is_missing_is_named(root: Path) -> None:
    folder = write_train_folders(root / "train", WNIDS[:998])
    with pytest.raises(
        UserError, match=rf"expected the folders of 1000 classes.*2 missing \({WNIDS[998]}, {WNIDS[999]}\)"
    ):
        listed(folder, "train", "imagenet_folders")


def test_a_val_that_is_short_is_refused_unless_on_purpose(root: Path, said: list[str]) -> None:
    folder = write_val_folders(root / "val", 2)
    gone = next((folder / WNIDS[7]).iterdir())
    gone.unlink()
    (folder / WNIDS[9] / "extra.jpg").write_bytes(coded(9))
    message = (
        rf"has 2,000 images, ImageNet's val 2,000; 2 classes have not 2 images: {WNIDS[7]} has 1, {WNIDS[9]} has 3"
    )
    with pytest.raises(UserError, match=rf"{message}.*files\.val\.exclude"):
        listed(folder, "val", "imagenet_folders")
    with pytest.raises(UserError, match=rf"{WNIDS[9]} has 3"):
        listed(folder, "val", "imagenet_folders", exclude=(f"{WNIDS[7]}/none*",))
    listed(folder, "val", "imagenet_folders", exclude=("*/extra.jpg",))
    listed(folder, "val", "imagenet_folders", part=half())
    listed(folder, "drawn", "imagenet_folders")
    assert len(said) == 2
    assert f"{WNIDS[7]} has 1" in said[0]


def test_the_images_of_val_are_not_those_of_train(root: Path, said: list[str]) -> None:
    folder = write_val_folders(root / "val", 2)
    with pytest.raises(UserError, match="2 images a class, as val has: let the path lead to train's"):
        listed(folder, "train", "imagenet_folders")
    listed(folder, "train", "imagenet_folders", part=half())
    assert len(said) == 1


def test_wnid_folders_are_any_classes(root: Path) -> None:
    folder = write_train_folders(root / "few", (WNIDS[900], WNIDS[5], WNIDS[77]), 2)
    listing = listed(folder, "few", "wnid_folders")
    assert listing.classes == (WNIDS[5], WNIDS[77], WNIDS[900])
    assert [image.label for image in listing.images] == [0, 0, 1, 1, 2, 2]
    assert wnid_listing(request(folder, "few", "imagenet_a"), [WNIDS[900], WNIDS[77], WNIDS[5]]) == listing
    with pytest.raises(
        UserError, match=rf"folders of 3 classes, found 3 folders, 1 missing \({WNIDS[6]}\) and 1 unknown"
    ):
        wnid_listing(request(folder, "few", "imagenet_a"), [WNIDS[5], WNIDS[6], WNIDS[77]])
    (folder / "loose.jpg").write_bytes(coded(0))
    with pytest.raises(UserError, match=r"beside the class folders(.|\n)*loose\.jpg"):
        listed(folder, "few", "wnid_folders")


def test_flat_and_folders_list_the_same(root: Path) -> None:
    folders = listed(write_val_folders(root / "val", 2), "val", "imagenet_folders")
    flat = write_val_flat(root / "flat", 2)
    write_kaggle(root / "LOC_val_solution.csv", 2)
    write_devkit(root / "devkit", 2)
    data = "devkit/data"
    for labels in ("LOC_val_solution.csv", "devkit", data, f"{data}/ILSVRC2012_validation_ground_truth.txt"):
        listing = listed(flat, "val", "imagenet_flat", labels=labels)
        assert [image.label for image in listing.images] == [image.label for image in folders.images]
        assert [image.path for image in listing.images] == [image.path.split("/")[1] for image in folders.images]
        assert (listing.sources, listing.classes) == (folders.sources, WNIDS)
    rows = [0, 77, 1999]
    assert shown_classes(flat, listing, rows) == [listing.images[row].label for row in rows]


def test_a_missing_image_shifts_no_label_of_a_flat_val(root: Path, said: list[str]) -> None:
    flat = write_val_flat(root / "flat", 2)
    write_devkit(root / "devkit", 2)
    (flat / val_name(4)).unlink()
    with pytest.raises(UserError, match="1 classes have not 2 images"):
        listed(flat, "val", "imagenet_flat", labels="devkit")
    listing = listed(flat, "val", "imagenet_flat", labels="devkit", exclude=("*_00000009.JPEG",))
    rows = range(0, 1998, 111)
    assert shown_classes(flat, listing, rows) == [listing.images[row].label for row in rows]


def test_labels_of_a_flat_val_that_are_no_good(root: Path) -> None:
    flat = write_val_flat(root / "flat", 1)
    devkit = write_devkit(root / "devkit", 1) / "data"
    csv_file = write_kaggle(root / "kaggle.csv", 1)
    rows = csv_file.read_text().splitlines(keepends=True)
    answers = (devkit / "ILSVRC2012_validation_ground_truth.txt").read_text()
    cases: dict[str, tuple[str, Callable[[Path], object]]] = {
        "nothing": ("expected Kaggle's LOC_val_solution.csv, .*, found nothing", lambda place: None),
        "folder": ("found a folder without these", Path.mkdir),
        "no.csv": ("expected Kaggle's CSV of ImageId,Pred.*, found a,b", lambda place: place.write_text("a,b\n1,2\n")),
        "class.csv": (
            "line 2 is ILSVRC2012_val_00000001,n00000000",
            lambda place: place.write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n00000000 1 2 3 4 \n"),
        ),
        "short.csv": (
            "has no label of:",
            lambda place: place.write_text("".join(rows[:500])),
        ),
        "devkit/data/short.txt": ("has no label of:", lambda place: place.write_text(answers[: len(answers) // 2 + 3])),
        "devkit/data/odd.txt": ("line 2 is '1001', expected an id", lambda place: place.write_text("1\n1001\n")),
        "alone.txt": ("meta.mat cannot be opened", lambda place: place.write_text(answers)),
    }
    for name, (message, make) in cases.items():
        make(root / name)
        with pytest.raises(UserError, match=message):
            listed(flat, "val", "imagenet_flat", labels=name)
    (devkit / "meta.mat").write_bytes(b"MATLAB 5.0 or so" * 30)
    with pytest.raises(UserError, match=r"meta\.mat.* is no meta.mat of the ILSVRC2012 devkit"):
        listed(flat, "val", "imagenet_flat", labels="devkit")


def test_a_flat_val_of_another_layout(root: Path) -> None:
    write_val_folders(root / "val", 1)
    with pytest.raises(UserError, match=r"expected files named ILSVRC2012_val_0+1\.JPEG.*looks like format imagenet_f"):
        listed(root / "val", "val", "imagenet_flat", labels="x")
    flat = write_val_flat(root / "flat", 1)
    (flat / "holiday.jpg").write_bytes(coded(1))
    with pytest.raises(UserError, match=r"found images such as holiday\.jpg"):
        listed(flat, "val", "imagenet_flat", labels="x")
    with pytest.raises(UserError, match=r"found 0 folders, 1001 files: .*looks like format imagenet_flat"):
        listed(flat, "val", "imagenet_folders")


def test_parquet_of_val(root: Path) -> None:
    folder = write_val_parquet(root / "hf", 2)
    listing = listed(folder, "val", "imagenet_parquet")
    assert [image.label for image in listing.images] == val_labels(2)
    rows = [0, 666, 667, 668, 1333, 1334, 1999]
    assert shown_classes(folder, listing, rows) == [listing.images[row].label for row in rows]
    assert listing.images[667].path == "validation-00001-of-00003.parquet::0"
    assert listing.sources is not None
    assert listing.sources[667] == "imagenet_val/ILSVRC2012_val_00000668"
    excluded = listed(folder, "val", "imagenet_parquet", exclude=("validation-00001-*::0",), part=half())
    assert len(excluded.images) == 1999


def test_the_split_of_parquet_is_chosen_but_never_trusted(root: Path) -> None:
    folder = write_val_parquet(root / "hf", 2, split="train")  # as an unofficial mirror of val names its files
    assert len(listed(folder, "val", "imagenet_parquet").images) == 2000
    write_val_parquet(folder, 2)
    rows = [(-1, coded(0), f"ILSVRC2012_test_{number:08d}.JPEG") for number in range(5)]
    write_parquet(folder / "test-00000-of-00001.parquet", rows)
    listing = listed(folder, "val", "imagenet_parquet")
    assert {image.path.split("-")[0] for image in listing.images} == {"validation"}
    with pytest.raises(UserError, match="as val has: let the path lead to train's"):
        listed(folder, "train", "imagenet_parquet")
    for file in folder.glob("[tv]*n-*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has label -1, expected .*the test split's labels are not public"):
        listed(folder, "val", "imagenet_parquet")
    write_parquet(folder / "train-00000-of-00001.parquet", [(0, coded(0), "a")])
    with pytest.raises(UserError, match=r"and val in their names.*found test-.*train-"):
        listed(folder, "val", "imagenet_parquet")


def test_train_and_val_may_be_splits_of_one_folder(root: Path) -> None:
    write_val_parquet(root / "hf", 2)
    write_parquet(root / "hf" / "train-00000-of-00001.parquet", [(label, coded(label), "a") for label in range(1000)])
    entry = {"path": "hf", "format": "imagenet_parquet"}
    params = files_params(root, train=entry, val=entry)
    assert [len(index_set(name, params)) for name in ("train", "val")] == [1000, 2000]
    with pytest.raises(UserError, match=r"is also files\.other\.path"):
        files_params(root, train=entry, other=entry)


def test_parquet_one_level_too_high(root: Path) -> None:
    write_val_parquet(root / "hf" / "data", 1)
    with pytest.raises(UserError, match=r"folder data looks like format imagenet_parquet: let the path go one level"):
        listed(root / "hf", "val", "imagenet_parquet")
    with pytest.raises(UserError, match=r"looks like format imagenet_parquet"):
        listed(root / "hf" / "data", "val", "imagenet_folders")


def test_shards_in_their_natural_order(root: Path) -> None:
    folder = write_shards(root / "wds", 2)
    (folder / "nshards.txt").write_text("11")
    listing = listed(folder, "val", "imagenet_shards")
    assert [image.label for image in listing.images] == val_labels(2)
    assert [image.path.split(".")[0] for image in listing.images[::182]] == [str(shard) for shard in range(11)]
    rows = range(0, 2000, 181)
    assert [code_of(read_image(folder / listing.images[row].path)) for row in rows] == [
        (listing.images[row].label, row % 256) for row in rows
    ]
    assert listing.images[0].size == len(coded(listing.images[0].label))


def test_timm_shards_of_two_splits(root: Path) -> None:
    folder = write_shards(root / "wds", 2, 3, "imagenet1k-validation-{:02d}.tar")
    write_shards(folder, 1, 3, "imagenet1k-train-{:04d}.tar")
    (folder / "_info.json").write_text("{}")
    assert len(listed(folder, "val", "imagenet_shards").images) == 2000
    assert len(listed(folder, "train", "imagenet_shards").images) == 1000


def test_labels_of_shards(root: Path) -> None:
    samples: list[tuple[str | tarfile.TarInfo, bytes]] = [
        (f"n{label:03d}.x{kind}", content)
        for label in range(1000)
        for kind, content in ((".json", json.dumps({"label": label}).encode()), (".jpeg", coded(label)))
    ]
    samples = [(str(name).replace(".x.", "."), content) for name, content in samples]
    left_out = [("skip.json", b'{"label": -1}'), ("skip.png", coded(3)), ("no.cls", b"-1"), ("no.webp", coded(3))]
    write_tar(root / "wds" / "0.tar", [*samples, *left_out])
    assert len(listed(root / "wds", "train", "imagenet_shards").images) == 1000
    cases: dict[str, list[tuple[str | tarfile.TarInfo, bytes]]] = {
        "sample a has no label": [("a.jpg", b"x")],
        r"a\.cls: expected a class index.*got b'1000'": [("a.jpg", b"x"), ("a.cls", b"1000")],
        r"a\.cls: expected a class index.*got b'cat'": [("a.jpg", b"x"), ("a.cls", b"cat")],
        r"a\.json: expected a class index": [("a.jpg", b"x"), ("a.json", b'{"label": "3"}')],
        "a label but no image of sample b": [("a.jpg", b"x"), ("a.cls", b"1"), ("b.cls", b"1"), ("b.jp2", b"x")],
        "two images of sample a": [("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")],
        "has no image": [("a.txt", b"x")],
        r"0\.tar: its member '\.\./a\.jpg' leads out": [("../a.jpg", b"x"), ("../a.cls", b"1")],
    }
    for message, members in cases.items():
        write_tar(root / "bad" / "0.tar", members)
        with pytest.raises(UserError, match=message):
            listed(root / "bad", "train", "imagenet_shards")


def test_classes_without_images_are_named(root: Path) -> None:
    write_tar(root / "wds" / "0.tar", [("a.jpg", coded(3)), ("a.cls", b"3")])
    with pytest.raises(UserError, match=rf"has no image of 999 classes: {WNIDS[0]}, .* and 994 more"):
        listed(root / "wds", "train", "imagenet_shards")


def test_archives_of_imagenet_itself_are_to_be_unpacked(root: Path) -> None:
    write_tar(root / "raw" / "ILSVRC2012_img_val.tar", [(val_name(1), coded(1))])
    write_tar(root / "train" / "n01440764.tar", [("n01440764_10026.JPEG", coded(1))])
    for folder in ("raw", "train"):
        with pytest.raises(UserError, match="an archive of ImageNet's own: unpack it"):
            listed(root / folder, "val", "imagenet_shards")


def write_layouts(root: Path) -> dict[str, str | None]:
    """A folder in each layout -> its format."""
    picture().save(write_classes(root / "pets", {"cat": 1, "dog": 1}) / "cat" / "a.png")
    write_nsd_images(root / "subj01", 2)
    (root / "nsd" / "nsddata_betas").mkdir(parents=True)
    write_classes(root / "objectnet" / "images", {"air_freshener": 1, "alarm_clock": 1, "t-shirt": 1})
    (root / "objectnet" / "mappings").mkdir()
    write_train_folders(root / "c" / "gaussian_noise" / "1", WNIDS[:2])
    write_classes(root / "imagenetv2-matched-frequency-format-val", {str(label): 0 for label in range(1000)})
    (root / "v2" / "imagenetv2-top-images-format-val").mkdir(parents=True)
    write_parquet(root / "imagenet-hard" / "validation-0.parquet", [(0, b"", "")])
    write_parquet(root / "hf" / "train-0.parquet", [(0, b"", "")])
    write_tar(root / "wds" / "0.tar", [("a.jpg", b"x")])
    (root / "flat").mkdir()
    (root / "flat" / val_name(1)).write_bytes(b"x")
    write_classes(root / "a", dict.fromkeys(packaged_wnids("imagenet_a_synsets.txt"), 0))
    write_classes(root / "r", dict.fromkeys(packaged_wnids("imagenet_r_synsets.txt"), 0))
    for name in ("sketch", "imagenet-cartoon", "imagenet-drawing", "stylized", "photos"):
        write_classes(root / name, dict.fromkeys(WNIDS, 0))
    write_classes(root / "few", dict.fromkeys(WNIDS[:3], 1))
    write_classes(root / "imagenet-o", {f"n99{number:06d}": 1 for number in range(3)})
    (root / "empty").mkdir()
    return {
        "pets": "folders",
        "subj01": "algonauts2023",
        "nsd": "nsd",
        "objectnet": "objectnet",
        "objectnet/images": "objectnet",
        "c": "imagenet_c",
        "imagenetv2-matched-frequency-format-val": "imagenet_v2",
        "v2": "imagenet_v2",
        "imagenet-hard": "imagenet_hard",
        "hf": "imagenet_parquet",
        "wds": "imagenet_shards",
        "flat": "imagenet_flat",
        "a": "imagenet_a",
        "r": "imagenet_r",
        "sketch": "imagenet_sketch",
        "imagenet-cartoon": "imagenet_cartoon",
        "imagenet-drawing": "imagenet_drawing",
        "stylized": "imagenet_stylized",
        "photos": "imagenet_folders",
        "few": "wnid_folders",
        "imagenet-o": None,
        "empty": None,
        "gone": None,
    }


def test_every_layout_is_recognised(root: Path) -> None:
    layouts = write_layouts(root)
    assert {name: nearest_format(root / name) for name in layouts} == layouts


def test_the_hint_says_where_the_format_is(root: Path) -> None:
    write_val_folders(root / "imagenet" / "val", 1)
    write_train_folders(root / "imagenet" / "train")
    deeper = "; its folder train looks like format imagenet_folders: let the path go one level deeper"
    assert nearest_hint(root / "imagenet", "imagenet_folders") == deeper
    assert nearest_hint(root / "imagenet", "imagenet_flat") == "; its folder train looks like format imagenet_folders"
    assert nearest_hint(root / "imagenet" / "val", "imagenet_v2") == "; this looks like format imagenet_folders"
    assert nearest_hint(root / "imagenet" / "val", "imagenet_folders") == ""
    assert nearest_hint(root / "nowhere", "imagenet_folders") == ""


def test_sets_of_imagenet_are_indexed_with_all_its_classes(root: Path) -> None:
    write_train_folders(root / "train")
    write_val_flat(root / "flat", 2)
    write_kaggle(root / "labels.csv", 2)
    write_train_folders(root / "few", WNIDS[4:6])
    params = files_params(
        root,
        train={"path": "train", "format": "imagenet_folders"},
        val={"path": "flat", "format": "imagenet_flat", "labels": "labels.csv"},
        few={"path": "few", "format": "wnid_folders"},
    )
    train, val, few = (index_set(name, params) for name in ("train", "val", "few"))
    assert (train.classes, val.classes, few.classes) == (WNIDS, WNIDS, WNIDS[4:6])
    assert train.sources[0] == f"train/{train.paths[0]}"
    assert val.sources[0].startswith("imagenet_val/ILSVRC2012_val_")
    assert training_classes(params) == list(WNIDS)


def test_training_on_a_part_of_the_classes(root: Path) -> None:
    write_train_folders(root / "few", WNIDS[4:6], 4)
    (root / "few" / "lost+found").mkdir()
    parts = {
        name: {"path": "few", "format": "wnid_folders", "part": {"take": take, "fraction": 0.5}}
        for name, take in (("train", "first"), ("val", "rest"))
    }
    params = files_params(root, **parts)
    assert training_classes(params) == list(WNIDS[4:6])
    assert index_set("val", params).classes == WNIDS[4:6]


@pytest.mark.real
def test_a_real_classifier_is_right_through_our_reader_and_class_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tf_efficientnet_lite0 with its own 1000 outputs on 150 photos of ImageNet: top-1 above 80 %."""
    import torch

    from neuralood.backbone import load_backbone
    from neuralood.tokens.decode import decoded_batches

    photos = real_data("imagenet_sample")
    for file in photos.glob("*.JPEG"):
        wnid = file.name.split("_")[0]
        (root / "photos" / wnid).mkdir(parents=True)
        (root / "photos" / wnid / file.name).symlink_to(file)
    (root / "train").symlink_to("photos")
    (root / "weights.safetensors").symlink_to(real_data("weights") / "tf_efficientnet_lite0.in1k.safetensors")
    manifest = index_set(
        "photos",
        files_params(
            root,
            photos={"path": "photos", "format": "wnid_folders"},
            train={"path": "train", "format": "wnid_folders"},
        ),
    )
    backbone = load_backbone(
        "tf_efficientnet_lite0",
        "weights.safetensors",
        image_size=224,
        crop_pct=None,
        layers=("blocks.6",),
        features="tokens",
        data_root=root,
    )
    rows = [list(range(start, min(start + 32, 150))) for start in range(0, 150, 32)]
    right = []
    for batch in decoded_batches(manifest, backbone, rows, torch.device("cpu"), 0):
        chosen = backbone.class_logits(batch.pixels).argmax(dim=1).tolist()
        truth = [class_index(manifest.classes[manifest.labels[row]]) for row in batch.rows]
        right += [one == other for one, other in zip(chosen, truth, strict=True)]
    assert len(right) == 150
    assert np.mean(right) > 0.8
