"""Token caches: the backbone's output for each image, whatever happened on the way."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import zarr
from conftest import randomise
from helpers_tokens import CLASSES, CPU, Stub, contents, make_manifest, unfinished, write_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from neuralood.backbone import FrozenBackbone, Preprocessing
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.reading import patch_batch
from neuralood.base.store import decode_ids, open_store
from neuralood.config import Cache
from neuralood.data.images import read_image
from neuralood.tokens import cache as cache_module
from neuralood.tokens import decode, extract
from neuralood.tokens.cache import cache_tokens, provenance
from neuralood.tokens.extract import TokenEncoder, stored_form, token_specs

IMAGES = 11
SETTINGS = Cache(dtype="float16", pool=1, autocast="none", compile=False, batch_size=2, chunk=4)
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


def cache(manifest, backbone, workers=0, **changes):
    return cache_tokens(manifest, "test_efficientnet", backbone, replace(SETTINGS, **changes), CPU, workers)


def one_by_one(manifest, backbone):
    """[CLS] and patches of each image by itself, float32."""
    transform = backbone.preprocessing.transform()
    with torch.no_grad():
        parts = [FrozenBackbone.tokens(backbone, transform(read_image(file))[None]) for file in manifest.image_files()]
    return tuple(torch.cat(part).numpy() for part in zip(*parts, strict=True))


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
    assert {**store.attributes} == {
        **expected,
        "complete": True,
        "contents": store.attributes["contents"],
        "checksum": store.attributes["checksum"],
    }
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

    stored = zarr.open_group(unfinished(), mode="r")
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
    assert not unfinished().exists()
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
    assert unfinished().exists()
    cache(manifest, backbone)
    assert not unfinished().exists()


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
    (unfinished() / "zarr.json").write_text("{")
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


# Smaller tokens


def int8(cls=None, patches=None, pool=1, grid=(2, 2)):
    """What is stored of tokens in int8."""
    patches = torch.zeros(1, 1, 4, 3) if patches is None else patches
    cls = torch.zeros(len(patches), 5) if cls is None else cls
    return stored_form(cls, patches, grid, replace(SETTINGS, dtype="int8", pool=pool))


def restored(stored):
    return stored["patches"].float() * stored["patches_scale"][..., None]


@given(values=st.lists(st.floats(-(2.0**15), 2.0**15, width=16, allow_subnormal=False), min_size=12, max_size=12))
def test_int8_is_off_by_half_a_scale_at_most(values):
    patches = torch.tensor(values).reshape(1, 1, 4, 3)
    stored = int8(patches=patches)
    assert stored["patches"].dtype == torch.int8
    assert stored["patches_scale"].dtype == torch.float32
    half = stored["patches_scale"][..., None] / 2
    assert ((restored(stored) - patches).abs() <= half * (1 + 1e-5)).all()


def test_the_scale_of_a_token_is_its_largest_feature_over_127():
    patches = torch.tensor([[[[1.0, -2.54, 0.0], [127.0, 1.0, -127.0], [0.0, 0.0, 0.0], [1e-6, 0.0, 2.5e-7]]]])
    stored = int8(patches=patches)
    torch.testing.assert_close(stored["patches_scale"][0, 0], torch.tensor([0.02, 1.0, 0.0, 1e-6 / 127]))
    assert stored["patches"][0, 0].tolist() == [[50, -127, 0], [127, 1, -127], [0, 0, 0], [127, 0, 32]]


def test_a_token_of_zeros_stays_zeros():
    stored = int8()
    assert not stored["patches_scale"].any()
    assert not restored(stored).any()


def test_int8_pools_before_it_rounds(rng):
    patches = torch.from_numpy(rng.standard_normal((2, 1, 16, 3))).float()
    pooled = patches.reshape(2, 1, 2, 2, 2, 2, 3).mean(dim=(3, 5)).flatten(2, 3)
    stored = int8(patches=patches, pool=2, grid=(4, 4))
    expected = int8(patches=pooled)
    assert torch.equal(stored["patches"], expected["patches"])
    assert torch.equal(stored["patches_scale"], expected["patches_scale"])


def test_each_layer_has_its_own_scales(rng):
    patches = (
        torch.from_numpy(rng.standard_normal((2, 3, 4, 5))).float() * torch.tensor([1.0, 10.0, 100.0])[:, None, None]
    )
    together = int8(patches=patches)
    for layer in range(3):
        apart = int8(patches=patches[:, layer : layer + 1])
        assert torch.equal(together["patches"][:, layer], apart["patches"][:, 0])
        assert torch.equal(together["patches_scale"][:, layer], apart["patches_scale"][:, 0])


def test_cls_of_int8_tokens_is_float16(rng):
    cls = torch.from_numpy(rng.standard_normal((1, 5))).float()
    assert torch.equal(int8(cls=cls)["cls"], cls.half())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_in_the_scale_of_int8(bad):
    patches = torch.ones(1, 1, 4, 3)
    patches[0, 0, 2, 1] = bad
    scale = int8(patches=patches)["patches_scale"][0, 0]
    assert scale.isfinite().tolist() == [True, True, False, True]


@pytest.mark.parametrize(("pool", "layers"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_an_int8_cache_gives_the_tokens_back(manifest, pool, layers):
    backbone = Stub(layers=layers)
    full = open_store(cache(manifest, backbone, dtype="float32", pool=pool, chunk=3))
    whole = patch_batch(full, np.arange(IMAGES), CPU)
    store = open_store(cache(manifest, backbone, dtype="int8", pool=pool, chunk=3))
    specs = token_specs(IMAGES, backbone.shape, replace(SETTINGS, dtype="int8", pool=pool, chunk=3))
    assert set(store.arrays) == {*specs, "label", "image_id"}
    for name, spec in specs.items():
        assert (store[name].shape, store[name].dtype, store[name].chunk) == (spec.shape, spec.dtype, 3), name
    assert store.attributes["dtype"] == "int8"
    assert store["cls"].dtype == np.float16
    scale = torch.from_numpy(store["patches_scale"][:]).transpose(1, 2).repeat_interleave(6, dim=2)
    off = (patch_batch(store, np.arange(IMAGES), CPU) - whole).abs()
    assert (off <= scale / 2 * (1 + 1e-4)).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_image_whose_int8_tokens_are_not_finite_is_named_and_not_stored(manifest, monkeypatch, bad):
    backbone = Stub()
    original, seen = backbone.tokens, iter(range(IMAGES))

    def tokens(images):
        cls, patches = original(images)
        patches = patches.clone()
        for place in range(len(images)):
            if next(seen, None) == 4:
                patches[place, 0, 3, 2] = bad
        return cls, patches

    with monkeypatch.context() as patched:
        patched.setattr(backbone, "tokens", tokens)
        with pytest.raises(UserError, match=r"^1 image\(s\) of train cannot be read") as caught:
            cache(manifest, backbone, dtype="int8")
    assert str(manifest.image_files()[4]) in str(caught.value)
    stored = zarr.open_group(unfinished(), mode="r")
    assert not stored["patches_scale"][4].any()
    counted = backbone.counted
    resumed = contents(cache(manifest, backbone, dtype="int8"))
    assert backbone.counted == counted + 1
    assert contents(cache(manifest, backbone, dtype="int8")) == resumed


# Batches that fit


class Small(Stub):
    """A backbone on a device without memory for more than `most` images at a time."""

    def __init__(self, most, error=None):
        super().__init__()
        self.most, self.error = most, error or torch.OutOfMemoryError("out of memory. Tried to allocate 2 GiB")
        self.sizes = []

    def tokens(self, images):
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.error
        return super().tokens(images)


def encoder(backbone, device=CPU, **changes):
    return TokenEncoder(backbone, replace(SETTINGS, **changes), device)


@pytest.fixture
def pixels(rng):
    return torch.from_numpy(rng.standard_normal((13, 3, 16, 16))).float()


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8])
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9")]
)
def test_a_batch_that_does_not_fit_is_halved_and_the_tokens_are_the_same(pixels, most, error):
    expected = encoder(Stub(), batch_size=8, dtype="float32")(pixels)
    backbone = Small(most, error)
    encode = encoder(backbone, batch_size=8, dtype="float32")
    found = encode(pixels)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)
    tried = len(backbone.sizes)
    encode(pixels)
    assert max(backbone.sizes[tried:]) <= most  # for the rest of the run


def test_halving_says_so(pixels, capsys):
    encoder(Small(4), batch_size=8)(pixels)
    assert "cpu is out of memory: going on with batches of 4" in capsys.readouterr().err


def test_no_memory_for_a_single_image_is_one_plain_line(pixels):
    with pytest.raises(UserError, match="cpu has no memory for one image") as caught:
        encoder(Small(0, torch.OutOfMemoryError("out of\nmemory")), batch_size=8)(pixels)
    assert "backbone.image_size smaller" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_error_of_the_backbone_is_passed_on(pixels):
    backbone = Small(4, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        encoder(backbone, batch_size=8)(pixels)
    assert backbone.sizes == [8]


def test_every_forward_pass_has_the_same_shape(pixels):
    backbone = Small(100)
    tokens = encoder(backbone, batch_size=5)(pixels)
    assert backbone.sizes == [5, 5, 5]
    assert len(tokens["cls"]) == len(pixels)


def test_a_cache_on_a_device_that_runs_out_of_memory_is_the_same(manifest):
    whole = cache(manifest, Stub(), dtype="float32", batch_size=4)
    expected = open_store(whole)["patches"][:]
    found = open_store(cache(manifest, Small(1), dtype="float32", batch_size=4))["patches"][:]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("chunk", "size"), [(4, 4), (32, 32), (1000, 32)])
def test_auto_is_a_fixed_size_on_the_cpu(chunk, size):
    backbone = Small(100)
    assert encoder(backbone, batch_size="auto", chunk=chunk).batch_size == size
    assert backbone.sizes == []


ACCELERATOR = torch.device("meta")
"""Stands for an accelerator: the search looks at nothing but its type."""


@pytest.fixture
def on_accelerator(monkeypatch):
    """Tensors stay where they are, whatever device they are meant for."""
    monkeypatch.setattr(extract, "autocast", lambda _device, _dtype: torch.no_grad())
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_args, **_options: tensor)


@pytest.mark.parametrize(
    ("most", "chunk", "size"), [(100, 1000, 64), (64, 1000, 64), (512, 512, 512), (1000, 300, 256), (33, 1000, 32)]
)
def test_auto_finds_the_largest_power_of_two_that_fits_an_accelerator(on_accelerator, most, chunk, size):
    backbone = Small(most)
    found = encoder(backbone, ACCELERATOR, batch_size="auto", chunk=chunk, dtype="int8")
    assert found.batch_size == size
    assert max(backbone.sizes, default=0) <= 2 * size


def test_auto_is_no_more_than_a_chunk_on_an_accelerator(on_accelerator):
    assert encoder(Small(100), ACCELERATOR, batch_size="auto", chunk=8).batch_size == 8


def test_auto_passes_another_error_on(on_accelerator):
    with pytest.raises(RuntimeError, match="no kernel image"):
        encoder(Small(40, RuntimeError("no kernel image")), ACCELERATOR, batch_size="auto", chunk=1000)


# Decoding processes


def loader_that_fails(monkeypatch, message):
    def load(*_args, **_options):
        yield SimpleNamespace()
        raise RuntimeError(message)

    monkeypatch.setattr(decode, "DataLoader", load)
    return decode.decoded_batches(SimpleNamespace(cropped=False, margin_px=0), Stub(), [], CPU, 2)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 1) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 17) exited unexpectedly",
    ],
)
def test_a_killed_decoding_process_is_one_plain_line(monkeypatch, message):
    batches = loader_that_fails(monkeypatch, message)
    next(batches)
    with pytest.raises(UserError, match=r"was killed \(out of memory\?\): lower runtime\.workers and run again"):
        next(batches)


@pytest.mark.parametrize(
    "message", ["Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback ...", "a bug"]
)
def test_an_error_in_a_decoding_process_is_not_taken_for_its_death(monkeypatch, message):
    batches = loader_that_fails(monkeypatch, message)
    next(batches)
    with pytest.raises(RuntimeError) as caught:
        next(batches)
    assert str(caught.value) == message


def test_the_backbone_works_on_while_a_chunk_is_written(manifest, monkeypatch):
    """The first chunk's writing waits for a batch of the next chunk, and so would wait for ever otherwise."""
    later, write, waited = threading.Event(), cache_module._Chunk.write, []

    def wait(chunk, of):
        waited.append(later.wait(30))
        return write(chunk, of)

    monkeypatch.setattr(cache_module._Chunk, "write", wait)
    cache(manifest, Stub(lambda batch: later.set() if batch == 3 else None), chunk=4)
    assert all(waited)
