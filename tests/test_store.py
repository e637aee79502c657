"""Stores: what is written comes back, to any zarr reader, and nothing damaged or unfinished is ever read."""

import shutil

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base import chunks, writing
from neuralood.base.errors import UserError
from neuralood.base.store import decode_ids, encode_ids, open_store, require_same
from neuralood.base.writing import ArraySpec, complete_store, create_store, write_rows, write_store

ROWS, CHUNK = 11, 4  # the last chunk has three rows


@pytest.fixture
def arrays(rng):
    return {
        "cls": rng.standard_normal((ROWS, 5)).astype(np.float16),
        "patches": rng.standard_normal((ROWS, 2, 3, 4)).astype(np.float32),
        "label": rng.integers(-1, 9, ROWS).astype(np.int32),
        "zeros": np.zeros((ROWS, 2), np.int64),
        "flag": rng.random(ROWS) < 0.5,
    }


@pytest.fixture
def path(tmp_path, arrays):
    path = tmp_path / "set.zarr"
    write_store(path, arrays, {"backbone": "vit", "layers": [1, -1], "versions": {"torch": "2"}}, CHUNK)
    return path


def test_round_trip(path, arrays):
    store = open_store(path)
    assert set(store.arrays) == set(arrays)
    for name, values in arrays.items():
        assert store[name].shape == values.shape
        assert store[name].dtype == values.dtype
        np.testing.assert_array_equal(store[name][:], values)
    assert set(store.attributes) == {"backbone", "layers", "versions", "complete", "contents", "checksum"}
    assert store.attributes["backbone"] == "vit"
    assert store.attributes["layers"] == [1, -1]
    assert store.attributes["versions"] == {"torch": "2"}
    assert store.attributes["complete"] is True
    assert "cls" in store
    assert "fmri" not in store


def test_a_chunk_of_zeros_is_stored_too(tmp_path):
    """As the labels of a set with one class are: zarr itself leaves such chunks out."""
    write_store(tmp_path / "set.zarr", {"label": np.zeros(ROWS, np.int32)}, {}, CHUNK)
    assert {file.name for file in (tmp_path / "set.zarr/label").iterdir()} == {"zarr.json", "c.0", "c.1", "c.2"}
    np.testing.assert_array_equal(open_store(tmp_path / "set.zarr")["label"][:], np.zeros(ROWS, np.int32))


def test_any_zarr_reader_opens_it(path, arrays):
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == 3
    for name, values in arrays.items():
        np.testing.assert_array_equal(group[name][...], values)


@pytest.mark.parametrize(("rows", "chunk"), [(0, 4), (1, 4), (4, 4), (8, 4), (5, 100)])
def test_round_trip_of_other_lengths(tmp_path, rng, rows, chunk):
    values = rng.standard_normal((rows, 3))
    write_store(tmp_path / "a.zarr", {"values": values}, {}, chunk)
    read = open_store(tmp_path / "a.zarr")["values"]
    assert len(read) == rows
    np.testing.assert_array_equal(read[:], values)
    np.testing.assert_array_equal(read[np.arange(rows)], values)


@given(rows=st.lists(st.integers(0, ROWS - 1), max_size=30))
def test_any_rows_in_any_order_are_numpys(path, arrays, rows):
    store = open_store(path)
    index = np.array(rows, np.int64)
    for name in ("cls", "patches", "label"):
        np.testing.assert_array_equal(store[name][index], arrays[name][index])


@given(rows=st.slices(ROWS))
def test_slices_are_numpys(path, arrays, rows):
    for name in ("cls", "label"):
        np.testing.assert_array_equal(open_store(path)[name][rows], arrays[name][rows])


@pytest.mark.parametrize("row", [-1, ROWS])
def test_rows_that_are_not_there_are_refused(path, row):
    with pytest.raises(IndexError, match=r"row out of 0\.\.10"):
        open_store(path)["cls"][np.array([0, row])]


def test_a_mask_is_never_taken_for_row_numbers(path, arrays):
    mask = arrays["label"] > 3
    try:
        read = open_store(path)["cls"][mask]
    except (IndexError, TypeError):
        return
    np.testing.assert_array_equal(read, arrays["cls"][mask])


def damage_truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def damage_extend(file):
    file.write_bytes(file.read_bytes() + b"\0")


def damage_remove(file):
    file.unlink()


@pytest.mark.parametrize("chunk", ["c.0.0", "c.2.0"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_truncate, "has 43 bytes where 44 belong"),  # 4 rows x 5 float16, and 4 of the checksum
        (damage_extend, "has 45 bytes where 44 belong"),
        (damage_remove, "is missing"),
    ],
)
def test_damaged_chunk_is_refused_by_name(path, damage, said, chunk):
    damage(path / "cls" / chunk)
    with pytest.raises(UserError, match=rf"set\.zarr/cls/{chunk} {said}: delete .*set\.zarr and run `dvc repro`"):
        open_store(path)


def test_missing_store_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"none\.zarr is missing: run `dvc repro`"):
        open_store(tmp_path / "none.zarr")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"zarr_format": 3}'])
def test_damaged_metadata_is_refused(path, content):
    (path / "zarr.json").write_text(content)
    with pytest.raises(UserError, match=r"set\.zarr is (damaged|incomplete)"):
        open_store(path)


def test_damaged_metadata_of_an_array_is_refused(path):
    (path / "cls/zarr.json").write_text("{")
    with pytest.raises(UserError, match=r"set\.zarr is damaged"):
        open_store(path)


def test_incomplete_store_is_refused(tmp_path, arrays):
    path = tmp_path / "set.zarr"
    spec = ArraySpec((ROWS, 5), "float16", CHUNK)
    create_store(path, {"cls": spec}, {})
    write_rows(path, "cls", spec, 0, arrays["cls"])
    with pytest.raises(UserError, match=r"set\.zarr is incomplete: delete .*set\.zarr and run"):
        open_store(path)


def test_completing_moves_a_store_and_replaces_an_older_one(tmp_path, path):
    partial = tmp_path / "deep" / "partial.zarr"
    spec = ArraySpec((2,), "int32", 2)
    create_store(partial, {"new": spec}, {})
    write_rows(partial, "new", spec, 0, np.array([1, 2]))
    complete_store(partial, path)
    assert not partial.exists()
    assert list(open_store(path).arrays) == ["new"]


def test_a_created_store_replaces_what_was_there(path):
    create_store(path, {"other": ArraySpec((2,), "int32", 2)}, {})
    assert list(zarr.open_group(path, mode="r").array_keys()) == ["other"]


def test_compressed_arrays_of_somebody_else_are_refused(tmp_path, arrays):
    group = zarr.create_group(tmp_path / "other.zarr", attributes={"complete": True})
    group.create_array("cls", data=arrays["cls"])
    with pytest.raises(UserError, match=r"other\.zarr/cls is not stored in plain chunks of whole rows"):
        open_store(tmp_path / "other.zarr")


def test_arrays_chunked_along_features_are_refused(tmp_path, arrays):
    group = zarr.create_group(tmp_path / "other.zarr", attributes={"complete": True})
    stored = group.create_array("cls", shape=(ROWS, 5), chunks=(4, 2), dtype="float16", compressors=None)
    stored[...] = arrays["cls"]
    with pytest.raises(UserError, match=r"other\.zarr/cls is not stored in plain chunks of whole rows"):
        open_store(tmp_path / "other.zarr")


def test_same_provenance_passes(path):
    assert require_same(open_store(path), {"backbone": "vit", "layers": [1, -1]}) == []


def test_another_provenance_is_refused_with_every_key_that_differs(path):
    expected = {"backbone": "cnn", "layers": [1, -1], "pool": 2, "versions": {"torch": "3"}}
    with pytest.raises(UserError, match=r"set\.zarr was made differently") as caught:
        require_same(open_store(path), expected)
    assert "backbone is 'vit', expected 'cnn'" in str(caught.value)
    assert "pool is None, expected 2" in str(caught.value)
    assert "layers" not in str(caught.value)
    assert "versions" not in str(caught.value)


def test_other_versions_are_returned_not_refused(path):
    assert require_same(open_store(path), {"backbone": "vit", "versions": {"torch": "3"}}) == ["versions"]


@pytest.mark.parametrize("write", [1, 2, 5])
def test_interrupted_write_leaves_no_store(tmp_path, arrays, monkeypatch, write):
    interrupt_write(monkeypatch, write)
    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "new.zarr", arrays, {}, CHUNK)
    assert not (tmp_path / "new.zarr").exists()


def test_interrupted_write_leaves_the_older_store_as_it_was(path, arrays, monkeypatch):
    interrupt_write(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        write_store(path, {name: values[:3] for name, values in arrays.items()}, {}, CHUNK)
    np.testing.assert_array_equal(open_store(path)["cls"][:], arrays["cls"])


def interrupt_write(monkeypatch, number):
    """Ctrl-C in the given write of a chunk, counted from 1: its bytes are there, its name is not."""
    left, original = [number], chunks.os.fsync

    def fsync(handle):
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        original(handle)

    monkeypatch.setattr(chunks.os, "fsync", fsync)


def test_failure_to_move_leaves_no_store(tmp_path, arrays, monkeypatch):
    def refuse(partial, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "complete_store", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_store(tmp_path / "new.zarr", arrays, {}, CHUNK)
    assert not (tmp_path / "new.zarr").exists()


def test_an_unfinished_store_moved_into_place_by_hand_is_refused(tmp_path, path, arrays, monkeypatch):
    interrupt_write(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        write_store(path, arrays, {}, CHUNK)
    shutil.rmtree(path)
    next(tmp_path.glob(".*")).rename(path)
    with pytest.raises(UserError, match="is incomplete"):
        open_store(path)


@given(ids=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), max_size=8))
def test_ids_come_back(ids):
    encoded = encode_ids(ids)
    assert encoded.dtype == np.uint8
    assert decode_ids(encoded) == ids


def test_ids_come_back_from_a_store(tmp_path):
    ids = ["dog/été 1.png", "猫/🐈.jpg", "a"]
    write_store(tmp_path / "a.zarr", {"image_id": encode_ids(ids)}, {}, 2)
    assert decode_ids(open_store(tmp_path / "a.zarr")["image_id"][:]) == ids


def test_a_file_name_that_is_no_utf8_comes_back():
    ids = [b"caf\xe9.png".decode(errors="surrogateescape")]  # as Linux lists a Latin-1 name
    assert decode_ids(encode_ids(ids)) == ids
