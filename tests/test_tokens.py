"""Token caches: the backbone's output for each image, whatever happened on the way."""

import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import zarr
from conftest import randomise
from PIL import Image

from neuralood.backbone import FrozenBackbone, Preprocessing
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.store import decode_ids, open_store
from neuralood.config import Cache
from neuralood.data.images import read_image
from neuralood.data.manifest import Manifest
from neuralood.tokens import cache_tokens, provenance

IMAGES, CLASSES = 11, ("cat", "dog", "kiwi")
SETTINGS = Cache(dtype="float16", pool=1, autocast="none", compile=False, batch_size=2, chunk=4)
CPU = torch.device("cpu")
PREPROCESSING = Preprocessing(32, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def cnn():
    """A map of 4 x 4 positions, 48 features each."""
    return randomise(timm.create_model("test_efficientnet", num_classes=0).eval())


@pytest.fixture
def backbone(cnn):
    return Counting(cnn, ("blocks.2",), "tokens", PREPROCESSING)


class Counting(FrozenBackbone):
    """A backbone that counts the images it sees, and can be interrupted in its nth batch."""

    def __init__(self, *args):
        self.counted, self.batches, self.interrupt_in = 0, 0, None
        super().__init__(*args)
        self.counted = self.batches = 0

    def tokens(self, images):
        self.batches += 1
        if self.batches == self.interrupt_in:
            raise KeyboardInterrupt
        self.counted += int(images.flatten(1).any(dim=1).sum())  # blank ones fill up a batch
        return super().tokens(images)


@pytest.fixture
def manifest(project, rng):
    """Eleven images of different sizes, 8 to 32 pixels, in the project's folder."""
    names = [f"{CLASSES[row % 3]}/{row:02d}é.png" for row in range(IMAGES)]
    for row, name in enumerate(names):
        write_image(Path("data/images", name), rng, 8 + 2 * row, 32 - row)
    return make_manifest(names)


def write_image(file, rng, width=16, height=16):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file)


def make_manifest(names):
    """As an index stage makes it: the fingerprint hashes names and contents."""
    files = [Path("data/images", name) for name in names]
    digest = sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()
    labels = tuple(CLASSES.index(name.split("/")[0]) for name in names)
    return Manifest("train", "project", "data/images", True, CLASSES, tuple(names), labels, tuple(names), digest)


def cache(manifest, backbone, workers=0, **changes):
    return cache_tokens(manifest, "test_efficientnet", backbone, replace(SETTINGS, **changes), CPU, workers)


def one_by_one(manifest, backbone):
    """[CLS] and patches of each image by itself, float32."""
    transform = backbone.preprocessing.transform()
    with torch.no_grad():
        parts = [FrozenBackbone.tokens(backbone, transform(read_image(file))[None]) for file in manifest.image_files()]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))


def contents(store):
    """Every file of a store and its bytes."""
    return {str(file.relative_to(store)): file.read_bytes() for file in sorted(store.rglob("*")) if file.is_file()}


def partial():
    return paths.partial(paths.tokens("train"))


@pytest.mark.parametrize(
    ("batch_size", "chunk"), [(2, 4), (1, 1), (3, 4), (100, 100), (5, IMAGES), (4, 5)], ids=lambda size: str(size)
)
def test_tokens_are_the_backbones_whatever_batch_and_chunk(manifest, backbone, batch_size, chunk):
    store = open_store(cache(manifest, backbone, dtype="float32", batch_size=batch_size, chunk=chunk))
    cls, patches = one_by_one(manifest, backbone)
    np.testing.assert_allclose(store["cls"][:], cls, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(store["patches"][:], patches, rtol=1e-4, atol=1e-5)
    assert backbone.counted == IMAGES


def test_labels_and_ids_stand_in_the_store(manifest, backbone):
    store = open_store(cache(manifest, backbone))
    np.testing.assert_array_equal(store["label"][:], manifest.labels)
    assert decode_ids(store["image_id"][:]) == list(manifest.paths)
    assert set(store.arrays) == {"cls", "patches", "label", "image_id"}


def test_labels_of_a_single_class_stand_in_the_store(manifest, backbone):
    alike = replace(manifest, labels=(0,) * IMAGES)
    np.testing.assert_array_equal(open_store(cache(alike, backbone))["label"][:], np.zeros(IMAGES))


def test_float16_is_the_rounded_float32(manifest, backbone):
    full = open_store(cache(manifest, backbone, dtype="float32"))["patches"][:]
    half = open_store(cache(manifest, backbone, dtype="float16"))["patches"]
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half[:], full.astype(np.float16))


def test_pool_2_is_the_mean_of_squares(manifest, backbone):
    whole = open_store(cache(manifest, backbone, dtype="float32"))["patches"][:]
    pooled = open_store(cache(manifest, backbone, dtype="float32", pool=2))
    rows, columns = backbone.shape.grid
    assert pooled["patches"].shape == (IMAGES, 1, rows * columns // 4, backbone.shape.width)
    assert pooled.attributes["grid"] == [rows // 2, columns // 2]
    for row in range(rows // 2):
        for column in range(columns // 2):
            square = [(2 * row + down) * columns + 2 * column + right for down in (0, 1) for right in (0, 1)]
            expected = whole[:, 0, square].mean(axis=1)
            found = pooled["patches"][:][:, 0, row * (columns // 2) + column]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_pool_must_divide_the_grid(manifest, backbone):
    with pytest.raises(UserError, match=r"cache\.pool: 3 does not divide the patch grid 4 x 4"):
        cache(manifest, backbone, pool=3)


def test_attributes_say_what_tokens_were_made_of(manifest, backbone):
    store = open_store(cache(manifest, backbone))
    expected = provenance("test_efficientnet", backbone, SETTINGS, manifest.fingerprint)
    assert {**store.attributes} == {**expected, "complete": True}
    assert store.attributes["preprocessing"]["mean"] == [0.5, 0.5, 0.5]


def test_two_runs_give_the_same_bytes(manifest, backbone):
    first = contents(cache(manifest, backbone))
    assert contents(cache(manifest, backbone)) == first


def test_decoding_processes_change_nothing(manifest, backbone):
    """1 s: starts a process."""
    first = contents(cache(manifest, backbone))
    assert contents(cache(manifest, backbone, workers=1)) == first


# Bad images


@pytest.fixture
def spoilt(manifest):
    """The same, with three images that cannot be decoded: one truncated, one empty, one no image."""
    files = manifest.image_files()
    files[1].write_bytes(files[1].read_bytes()[:60])
    files[4].write_bytes(b"")
    files[5].write_text("no image at all")
    return make_manifest(manifest.paths)


def test_every_bad_image_is_listed_and_all_good_ones_are_stored(spoilt, backbone):
    with pytest.raises(UserError, match=r"^3 image\(s\) of train cannot be read; all others are stored") as caught:
        cache(spoilt, backbone)
    files = spoilt.image_files()
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 3
    assert all(str(files[row]) in line for row, line in zip((1, 4, 5), lines, strict=True))
    assert "files.train.exclude" in str(caught.value)
    assert not paths.tokens("train").exists()
    assert backbone.counted == IMAGES - 3

    stored = zarr.open_group(partial(), mode="r")
    cls, _ = one_by_one(good(spoilt), backbone)
    rows = [row for row in range(IMAGES) if row not in (1, 4, 5)]
    np.testing.assert_allclose(stored["cls"][...][rows].astype(np.float32), cls, rtol=1e-2, atol=1e-3)


def good(manifest):
    """The manifest once the three bad files stand under `exclude`."""
    return make_manifest([name for row, name in enumerate(manifest.paths) if row not in (1, 4, 5)])


def test_after_exclude_nothing_is_computed_again_and_the_result_is_a_fresh_runs(spoilt, backbone):
    with pytest.raises(UserError):
        cache(spoilt, backbone)
    counted = backbone.counted
    resumed = contents(cache(good(spoilt), backbone))
    assert backbone.counted == counted
    assert not partial().exists()
    assert contents(cache(good(spoilt), backbone)) == resumed
    assert backbone.counted == counted + IMAGES - 3


def test_mended_images_are_the_only_ones_computed_then(manifest, spoilt, backbone, rng):
    with pytest.raises(UserError):
        cache(spoilt, backbone)
    counted = backbone.counted
    for row in (1, 4, 5):
        write_image(manifest.image_files()[row], rng)
    mended = make_manifest(manifest.paths)
    resumed = contents(cache(mended, backbone))
    assert backbone.counted == counted + 3
    assert contents(cache(mended, backbone)) == resumed


def test_all_images_bad_is_an_error_that_lists_all(manifest, backbone):
    for file in manifest.image_files():
        file.write_bytes(b"")
    with pytest.raises(UserError, match=rf"^{IMAGES} image\(s\) of train cannot be read") as caught:
        cache(manifest, backbone)
    assert len(str(caught.value).splitlines()) == 1 + IMAGES


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tokens_that_are_not_finite_name_their_image(manifest, backbone, dtype, monkeypatch):
    """Image 6 gets 1e5, which float16 has no room for; in float32 image 7 gets NaN as well."""
    files = manifest.image_files()
    spoil = {6: 1e5, **({7: float("nan")} if dtype == "float32" else {})}
    seen = iter(range(IMAGES))
    original = backbone.tokens

    def tokens(images):
        cls, patches = original(images)
        patches = patches.clone()
        for place in range(len(images)):
            row = next(seen, None)  # None: a blank that fills up the batch
            if row in spoil:
                patches[place, 0, 0, 0] = spoil[row]
        return cls, patches

    monkeypatch.setattr(backbone, "tokens", tokens)
    bad, row = ("float16", 6) if dtype == "float16" else ("float32", 7)
    with pytest.raises(UserError, match=rf"not finite in {bad}") as caught:
        cache(manifest, backbone, dtype=dtype)
    named = [name for name in map(str, files) if name in str(caught.value)]
    assert named == [str(files[row])]
    assert not paths.tokens("train").exists()


# Interrupted runs


@pytest.mark.parametrize("batch", [1, 2, 4, 6])
def test_an_interrupted_run_resumed_gives_the_same_bytes(manifest, backbone, batch):
    whole = contents(cache(manifest, backbone))
    backbone.counted, backbone.batches, backbone.interrupt_in = 0, 0, batch
    paths.tokens("train").rename("kept")
    with pytest.raises(KeyboardInterrupt):
        cache(manifest, backbone)
    assert not paths.tokens("train").exists()
    done, backbone.interrupt_in = backbone.counted, None
    resumed = cache(manifest, backbone)
    assert contents(resumed) == whole
    kept = done // SETTINGS.chunk * SETTINGS.chunk  # whole chunks only
    assert backbone.counted == done + IMAGES - kept


def interrupt(manifest, backbone, batch=5):
    backbone.interrupt_in = batch
    with pytest.raises(KeyboardInterrupt):
        cache(manifest, backbone)
    backbone.interrupt_in, backbone.counted = None, 0


def test_no_store_until_complete(manifest, backbone):
    interrupt(manifest, backbone)
    assert not paths.tokens("train").exists()
    assert partial().exists()
    cache(manifest, backbone)
    assert not partial().exists()


def test_another_pooling_starts_afresh(manifest, backbone):
    interrupt(manifest, backbone)
    store = open_store(cache(manifest, backbone, pool=2))
    assert backbone.counted == IMAGES
    assert store["patches"].shape[2] == 4


def test_another_dtype_starts_afresh(manifest, backbone):
    interrupt(manifest, backbone)
    assert open_store(cache(manifest, backbone, dtype="float32"))["cls"].dtype == np.float32
    assert backbone.counted == IMAGES


def test_another_layer_starts_afresh(manifest, backbone, cnn):
    interrupt(manifest, backbone)
    other = Counting(cnn, ("blocks.3",), "tokens", PREPROCESSING)
    store = cache(manifest, other)
    assert other.counted == IMAGES
    assert open_store(store).attributes["layers"] == ["blocks.3"]


def test_other_weights_start_afresh(manifest, backbone):
    interrupt(manifest, backbone)
    model = randomise(timm.create_model("test_efficientnet", num_classes=0).eval(), seed=1)
    other = Counting(model, ("blocks.2",), "tokens", PREPROCESSING)
    cache(manifest, other)
    assert other.counted == IMAGES


def test_another_chunk_size_gives_the_bytes_of_a_fresh_run(manifest, backbone):
    interrupt(manifest, backbone)
    resumed = contents(cache(manifest, backbone, chunk=3))
    assert contents(cache(manifest, backbone, chunk=3)) == resumed


def test_damaged_unfinished_store_starts_afresh(manifest, backbone):
    interrupt(manifest, backbone)
    (partial() / "zarr.json").write_text("{")
    cache(manifest, backbone)
    assert backbone.counted == IMAGES


def replace_image(file):
    """Another picture under the same name, a second later."""
    later = file.stat().st_mtime_ns + 10**9
    Image.new("RGB", (16, 16), "red").save(file)
    os.utime(file, ns=(later, later))


def test_a_replaced_image_is_computed_again_after_a_new_index(manifest, backbone):
    interrupt(manifest, backbone)  # two chunks of four are stored
    replace_image(manifest.image_files()[0])
    changed = make_manifest(manifest.paths)
    store = open_store(cache(changed, backbone))
    assert backbone.counted == IMAGES - 8 + 1
    np.testing.assert_allclose(store["patches"][:], one_by_one(changed, backbone)[1], rtol=1e-2, atol=1e-2)


def test_a_replaced_image_is_computed_again_without_a_new_index(manifest, backbone):
    """An index samples contents: what was replaced meanwhile may leave the fingerprint as it was."""
    interrupt(manifest, backbone)
    replace_image(manifest.image_files()[0])
    store = open_store(cache(manifest, backbone))
    np.testing.assert_allclose(store["patches"][:], one_by_one(manifest, backbone)[1], rtol=1e-2, atol=1e-2)


def test_interrupted_twice_and_reindexed_between(manifest, backbone):
    interrupt(manifest, backbone, batch=3)
    fewer = make_manifest([name for row, name in enumerate(manifest.paths) if row != 2])
    backbone.batches = 0
    interrupt(fewer, backbone, batch=3)
    backbone.batches = 0
    resumed = contents(cache(fewer, backbone))
    assert contents(cache(fewer, backbone)) == resumed
