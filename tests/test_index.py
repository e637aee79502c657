"""Folders become manifests; what is odd about a folder is said in a line that names it."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import files_params, in_project, picture, real_data, write_classes, write_nsd_images
from helpers_imagenet import write_parquet
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.config import Part
from neuralood.data import files
from neuralood.data.files import Listed, Listing, fingerprint_listing
from neuralood.data.index import _share, index_set, made_manifest, rendered_manifest
from neuralood.data.manifest import read_manifest, write_manifest
from neuralood.demo.render import render_labelled, render_nsd
from neuralood.demo.scenes import draw_scenes


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return in_project(tmp_path, monkeypatch)


def test_class_folders(root: Path) -> None:
    folder = write_classes(root / "pets", {"dog": 2, "cat": 3, "Zebra": 1})
    (folder / "README.txt").write_text("about")
    for litter in (".hidden", "Thumbs.db", "desktop.ini"):
        (folder / "dog" / litter).write_bytes(b"x")
    picture().save(folder / "dog" / "no_extension", format="PNG")
    (folder / "cat" / "more").mkdir()
    picture().save(folder / "cat" / "more" / "a.JPG", format="JPEG")
    manifest = index_set("train", files_params(root, train={"path": "pets"}))
    assert manifest.classes == ("Zebra", "cat", "dog")
    assert manifest.paths[:2] == ("Zebra/000.png", "cat/000.png")
    assert manifest.paths[4:] == ("cat/more/a.JPG", "dog/000.png", "dog/001.png", "dog/no_extension")
    assert manifest.labels == (0, 1, 1, 1, 1, 2, 2, 2)
    assert manifest.sources[0] == "train/Zebra/000.png"
    assert (manifest.root, manifest.folder, manifest.simulated) == ("data_root", "pets", False)
    assert all(file.exists() for file in manifest.image_files())
    write_manifest(manifest)
    assert read_manifest("train") == manifest


def test_fingerprint_follows_the_content_only(root: Path) -> None:
    folder = write_classes(root / "pets", {"cat": 3, "dog": 2})
    params = files_params(root, train={"path": "pets"})
    first = index_set("train", params).fingerprint
    folder.rename(root / "moved")
    moved = files_params(root, train={"path": "moved"})
    assert index_set("train", moved).fingerprint == first
    picture(99).save(root / "moved" / "cat" / "000.png")
    assert index_set("train", moved).fingerprint != first


def test_symlinks_and_loops(root: Path) -> None:
    write_classes(root / "store", {"cat": 2})
    folder = root / "pets"
    folder.mkdir()
    (folder / "cat").symlink_to(root / "store" / "cat")
    params = files_params(root, train={"path": "pets"})
    assert len(index_set("train", params)) == 2
    (root / "store" / "cat" / "loop").symlink_to(root / "store" / "cat")
    with pytest.raises(UserError, match="links back"):
        index_set("train", params)
    (root / "store" / "cat" / "loop").unlink()
    (folder / "cat" / "gone.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"cat/gone\.png \(broken link\)"):
        index_set("train", params)


def test_every_stray_file_is_named(root: Path) -> None:
    folder = write_classes(root / "pets", {"cat": 1, "dog": 1})
    (folder / "cat" / "notes.txt").write_text("x")
    (folder / "dog" / "empty").write_bytes(b"")
    with pytest.raises(UserError, match=r"files\.train\.exclude") as caught:
        index_set("train", files_params(root, train={"path": "pets"}))
    assert "\n  cat/notes.txt\n  dog/empty" in str(caught.value)
    params = files_params(root, train={"path": "pets", "exclude": ["*.txt", "dog/empty"]})
    assert len(index_set("train", params)) == 2


def test_exclude(root: Path) -> None:
    write_classes(root / "pets", {"cat": 2, "dog": 2, "odd": 1})
    params = files_params(root, train={"path": "pets", "exclude": ["odd/", "dog/000.png"]})
    manifest = index_set("train", params)
    assert manifest.paths == ("cat/000.png", "cat/001.png", "dog/001.png")
    assert manifest.classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"files\.train\.exclude: dgo/\* matches nothing"):
        index_set("train", files_params(root, train={"path": "pets", "exclude": ["dgo/*"]}))
    with pytest.raises(UserError, match=r"without images(.|\n)*  dog"):
        index_set("train", files_params(root, train={"path": "pets", "exclude": ["dog/*"]}))


def test_folders_of_another_layout(root: Path) -> None:
    for name in ("empty", "flat", "splits", "loose", "hollow"):
        (root / name).mkdir()
    picture().save(root / "flat" / "a.png")
    write_classes(root / "splits" / "train", {"cat": 1})
    write_classes(root / "splits" / "val", {"cat": 1})
    write_classes(root / "loose", {"cat": 1})
    picture().save(root / "loose" / "a.png")
    write_classes(root / "hollow", {"cat": 1, "dog": 0})
    cases = {
        "empty": "one folder a class, found nothing",
        "flat": r"one folder a class, found 1 files such as a\.png",
        "splits": "one level deeper",
        "loose": r"beside the class folders(.|\n)*  a\.png",
        "hollow": r"without images(.|\n)*  dog",
    }
    for name, said in cases.items():
        with pytest.raises(UserError, match=said):
            index_set("train", files_params(root, train={"path": name}))


def test_classes_must_be_known_to_training(root: Path) -> None:
    write_classes(root / "train", {"cat": 1, "dog": 1})
    write_classes(root / "sketch", {"cat": 1, "dgo": 1})
    entries: dict[str, Any] = {"train": {"path": "train"}, "sketch": {"path": "sketch"}}
    with pytest.raises(UserError, match=r"'dgo' is unknown .*'dog'.*files\.sketch\.exclude.*class_map"):
        index_set("sketch", files_params(root, **entries))
    subset = {**entries, "sketch": {"path": "sketch", "exclude": ["dgo"]}}
    assert index_set("sketch", files_params(root, **subset)).classes == ("cat",)


def test_classes_must_be_known_to_the_demo(root: Path) -> None:
    write_classes(root / "drawn", {"star": 1, "ring": 1})
    assert index_set("drawn", files_params(root, drawn={"path": "drawn"})).classes == ("ring", "star")
    write_classes(root / "drawn", {"moon": 1})
    with pytest.raises(UserError, match="'moon' is unknown"):
        index_set("drawn", files_params(root, drawn={"path": "drawn"}))


def test_class_map(root: Path) -> None:
    write_classes(root / "train", {"cat": 1, "dog": 1})
    write_classes(root / "animals", {"pet": 1, "wild": 1})
    entries = {"train": {"path": "train"}, "animals": {"path": "animals"}}

    def indexed(class_map: dict[str, list[int]]) -> tuple[str, ...]:
        sets = {"animals": {"role": "ood", "class_map": class_map}}
        return index_set("animals", files_params(root, sets, **entries)).classes

    assert indexed({"pet": [0, 1], "wild": [1]}) == ("pet", "wild")
    with pytest.raises(UserError) as caught:
        indexed({"pet": [0, 2], "tame": [0]})
    said = str(caught.value)
    assert "class 'wild' is missing" in said
    assert "class_map.tame: no such class" in said
    assert "class_map.pet: 2 is no training class, they are 0 to 1" in said


def test_parts_of_one_folder(root: Path) -> None:
    write_classes(root / "pets", {"cat": 5, "dog": 2, "one": 1})
    parts = {
        name: {"path": "pets", "part": {"take": take, "fraction": 0.9}}
        for name, take in (("train", "first"), ("val", "rest"))
    }
    params = files_params(root, **parts)
    first, rest = index_set("train", params), index_set("val", params)
    assert not set(first.paths) & set(rest.paths)
    assert len(first) + len(rest) == 8
    assert first.classes == rest.classes
    assert first == index_set("train", params)
    assert "one/000.png" in first.paths


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.floats(0.01, 0.99), st.integers(0, 9))
def test_first_and_rest_are_all(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    listed = [Listed(str(index), 1, int(label)) for index, label in enumerate(labels)]
    names = [str(label) for label in range(len(counts))]
    found = Listing(tuple(listed), tuple(names), sources=tuple(f"source/{image.path}" for image in listed))
    parts = [_share(found, Part(take, fraction), seed, "pets") for take in ("first", "rest")]
    first, rest = (part.images for part in parts)
    assert sorted([*first, *rest]) == sorted(listed)
    for part in parts:
        assert part.sources == tuple(f"source/{image.path}" for image in part.images)
    for label, n_images in enumerate(counts):
        shared = [sum(image.label == label for image in part) for part in (first, rest)]
        assert min(shared) >= 1 or n_images == 1
        assert abs(shared[0] - fraction * n_images) <= 1


def test_algonauts_images(root: Path) -> None:
    folder = write_nsd_images(root / "subj01", 5)
    params = files_params(root, nsd={"path": "subj01"})
    manifest = index_set("nsd", params)
    assert manifest.classes == ()
    assert set(manifest.labels) == {-1}
    assert manifest.paths[0] == "training_split/training_images/train-0001_nsd-00013.png"
    (folder / manifest.paths[2]).unlink()
    with pytest.raises(UserError, match="expected train-0003_nsd"):
        index_set("nsd", params)


def test_algonauts_folder_of_another_layout(root: Path) -> None:
    (root / "subj01" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="training_split/training_images, found images"):
        index_set("nsd", files_params(root, nsd={"path": "subj01"}))


def test_rendered_styles_share_their_sources(root: Path) -> None:
    scenes = draw_scenes("labelled", 10, 0, 1.0)
    params = files_params(root)
    manifests = []
    for name, style in (("val", "photo"), ("train", "edges")):
        render_labelled(scenes, style, paths.rendered(name))
        manifests.append(rendered_manifest(name, params))
    val, train = manifests
    assert val.simulated
    assert val.root == "project"
    assert val.paths == train.paths
    assert [source.split("/")[1] for source in val.sources] == [source.split("/")[1] for source in train.sources]
    assert {source.split("/")[0] for source in val.sources} == {"test"}
    assert val.fingerprint != train.fingerprint
    render_nsd(draw_scenes("nsd", 4, 0, 1.0), paths.rendered("nsd"))
    nsd = rendered_manifest("nsd", params)
    assert nsd.sources == ("nsd/00000", "nsd/00001", "nsd/00002", "nsd/00003")
    assert all(file.exists() for file in nsd.image_files())


def test_made_manifest_copies_labels_and_sources(root: Path) -> None:
    write_classes(root / "pets", {"cat": 1, "dog": 1})
    source = index_set("train", files_params(root, train={"path": "pets"}))
    write_classes(paths.made("drawn"), {"cat": 1, "dog": 1})
    made = made_manifest("drawn", source, ["cat/000.png", "dog/000.png"], cropped=False)
    assert (made.labels, made.sources, made.classes) == (source.labels, source.sources, source.classes)
    assert (made.root, made.folder) == ("project", "data/made/drawn")


def test_a_manifest_that_leads_out_of_its_folder_is_refused(root: Path) -> None:
    write_classes(root / "pets", {"cat": 1})
    manifest = index_set("train", files_params(root, train={"path": "pets"}))
    place = write_manifest(manifest)
    whole = json.loads(place.read_text())
    outside = ("../secret.png", "cat/../../secret.png", "/etc/secret.png", "a.tar::0+9/../../b", "../a.hdf5::3")
    for change in (*({"paths": [path]} for path in outside), {"folder": "/etc"}, {"folder": "pets/../.."}):
        place.write_text(json.dumps({**whole, **change}))
        with pytest.raises(UserError, match=r"train\.json: .* leads out of the set's folder"):
            read_manifest("train")
    place.write_text(json.dumps({**whole, "paths": ["cat/a..b.png"]}))
    assert read_manifest("train").paths == ("cat/a..b.png",)


def test_a_manifest_that_lacks_something_is_damaged(root: Path) -> None:
    write_classes(root / "pets", {"cat": 1})
    place = write_manifest(index_set("train", files_params(root, train={"path": "pets"})))
    whole = json.loads(place.read_text())
    for record in ({**whole, "labels": None}, {**whole, "extra": 1}, {key: whole[key] for key in ("paths", "labels")}):
        place.write_text(json.dumps(record))
        with pytest.raises(UserError, match=r"train\.json is damaged .*dvc repro"):
            read_manifest("train")


def test_sources_that_say_nothing_are_not_stored(root: Path) -> None:
    write_classes(root / "pets", {"cat": 2})
    manifest = index_set("train", files_params(root, train={"path": "pets"}))
    assert json.loads(write_manifest(manifest).read_text())["sources"] is None
    assert read_manifest("train") == manifest
    other = replace(manifest, sources=("scene/1", "scene/1"))
    assert json.loads(write_manifest(other).read_text())["sources"] == ["scene/1", "scene/1"]
    assert read_manifest("train") == other


def test_contents_of_all_files_count_on_request(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SAMPLED_FILES", 1)
    folder = write_classes(root / "pets", {"cat": 4})

    def fingerprint(full: bool) -> str:
        entry = {"path": "pets", **({"full_hash": True} if full else {})}
        return index_set("train", files_params(root, train=entry)).fingerprint

    sampled, full = fingerprint(False), fingerprint(True)
    changed = 0
    for file in sorted(folder.rglob("*.png")):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + b"x")
        assert fingerprint(True) != full
        changed += fingerprint(False) != sampled
        file.write_bytes(content)
    assert changed == 1
    assert (fingerprint(False), fingerprint(True)) == (sampled, full)


def test_the_fingerprint_reads_images_inside_containers(tmp_path: Path) -> None:
    def fingerprint(*contents: bytes) -> str:
        file = write_parquet(tmp_path / "a.parquet", [(0, content, "") for content in contents])
        rows = tuple(Listed(f"a.parquet::{row}", 5, 0) for row in range(len(contents)))
        os.utime(file, ns=(next(times), next(times)))
        return fingerprint_listing(tmp_path, Listing(rows, ("cat",)))

    times = count(1)
    one = fingerprint(b"a", b"b")
    assert fingerprint(b"a", b"b") == one
    assert fingerprint(b"a", b"c") != one
    assert fingerprint(b"b", b"a") != one


def test_the_fingerprint_does_not_depend_on_the_order_of_a_listing(tmp_path: Path) -> None:
    names = [f"{number}.bin" for number in range(12)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    listed = [Listed(name, len(name), 0) for name in names]
    ways = {fingerprint_listing(tmp_path, Listing(tuple(way), ("a",))) for way in (listed, listed[::-1])}
    assert len(ways) == 1


@pytest.mark.slow
def test_200_000_files_are_listed_in_a_minute_and_a_gigabyte(root: Path) -> None:
    content = picture().tobytes()
    for label in range(1000):
        folder = root / "many" / f"c{label:03d}"
        folder.mkdir(parents=True)
        for number in range(200):
            (folder / f"{number:05d}.JPEG").write_bytes(content)
    files_params(root, train={"path": "many"})
    code = (
        "import re, time; from pathlib import Path; started = time.monotonic();"
        "from neuralood.config import load_params; from neuralood.data.index import index_set;"
        "from neuralood.data.manifest import read_manifest, write_manifest;"
        "manifest = index_set('train', load_params(Path('data/raw/changed-params.yaml')));"
        "write_manifest(manifest); assert read_manifest('train') == manifest;"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1];"  # of this process alone
        "print(len(manifest), time.monotonic() - started, int(peak) / 1e6)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    images, seconds, gigabytes = (float(word) for word in done.stdout.split())
    assert images == 200_000
    assert seconds < 60
    assert gigabytes < 1


@pytest.mark.real
def test_real_domains_are_indexed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURALOOD_DATA", str(real_data("pacs")))
    entries = {"train": {"path": "photo"}, **{name: {"path": name} for name in ("sketch", "cartoon")}}
    params = files_params(root, **entries)
    for name in entries:
        manifest = index_set(name, params)
        assert len(manifest.classes) == 7
        assert len(manifest) > 100
