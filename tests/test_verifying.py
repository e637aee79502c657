"""Damage: each kind is named when all of a store is verified, and refused by the reader as early as it can be seen."""

import json
import threading

import numpy as np
import pytest
import zarr

from neuralood.base import checking, store
from neuralood.base.chunks import chunk_file
from neuralood.base.console import track
from neuralood.base.errors import UserError
from neuralood.base.store import encode_ids, open_store
from neuralood.base.verifying import store_problems
from neuralood.base.writing import ArraySpec, create_store, write_rows, write_store

ROWS, CHUNK = 11, 4  # three chunks, one row of the last is filled up
ATTRIBUTES = {"backbone": "vit", "layers": [1, -1], "grid": [2, 2], "versions": {"torch": "2"}}
ARRAYS = ("cls", "patches", "patches_scale", "label", "image_id")


@pytest.fixture
def arrays(rng):
    return {
        "cls": rng.standard_normal((ROWS, 5)).astype(np.float16),
        "patches": rng.integers(-127, 128, (ROWS, 1, 4, 6)).astype(np.int8),
        "patches_scale": rng.random((ROWS, 1, 4)).astype(np.float32),
        "label": rng.integers(0, 3, ROWS).astype(np.int32),
        "image_id": encode_ids([f"cat/é{row}.png" for row in range(ROWS)]),
    }


@pytest.fixture
def path(tmp_path, arrays):
    write_store(tmp_path / "set.zarr", arrays, ATTRIBUTES, CHUNK)
    return tmp_path / "set.zarr"


@pytest.fixture(autouse=True)
def _mode():
    """The mode is the process's: back to the usual one after each test."""
    yield
    checking.verify_chunks("first_touch")


def problems(path):
    return list(store_problems(path, track))


def chunk(path, name, number):
    """A chunk's file, whatever its axes."""
    (file,) = (path / name).glob(f"c.{number}*")
    return file


def flip(file, place, bit=3):
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def edit(file, change):
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def test_a_whole_store_has_no_problem(path):
    assert problems(path) == []


# Contents


@pytest.mark.parametrize("place", [0, 7, -5, -4, -1], ids=["first", "inside", "last", "checksum", "checksum's end"])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_bit_in_any_array_is_named_and_refused_at_first_touch(path, arrays, name, place):
    file = chunk(path, name, 1)
    flip(file, place)
    assert problems(path) == [f"{file} is damaged (its checksum does not fit its content)"]
    opened = open_store(path)
    np.testing.assert_array_equal(opened[name][:CHUNK], arrays[name][:CHUNK])  # other chunks are read
    with pytest.raises(UserError, match=rf"{file.name} is damaged .*: delete .*set\.zarr and run `dvc repro`"):
        opened[name][np.array([0, CHUNK])]
    with pytest.raises(UserError, match="is damaged"):  # and it stays refused
        opened[name][CHUNK : CHUNK + 1]


def test_every_bit_of_a_chunk_counts(path):
    file = chunk(path, "label", 2)
    for place in range(file.stat().st_size):
        for bit in (0, 7):
            flip(file, place, bit)
            assert len(problems(path)) == 1, (place, bit)
            flip(file, place, bit)
    assert problems(path) == []


@pytest.mark.parametrize("name", ARRAYS)
def test_zarr_itself_sees_a_flipped_bit(path, arrays, name):
    flip(chunk(path, name, 1), 5)
    array = zarr.open_group(path, mode="r")[name]
    np.testing.assert_array_equal(array[:CHUNK], arrays[name][:CHUNK])
    with pytest.raises(ValueError, match="checksum"):
        array[CHUNK:]


def test_two_chunks_exchanged_are_named_though_each_is_whole(path):
    first, second = chunk(path, "patches", 0), chunk(path, "patches", 1)
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    (problem,) = problems(path)
    assert "holds whole chunks that are not its own" in problem


def test_a_chunk_of_another_store_is_named(path, tmp_path, arrays):
    other = {**arrays, "cls": arrays["cls"] + 1}
    write_store(tmp_path / "other.zarr", other, ATTRIBUTES, CHUNK)
    chunk(path, "cls", 2).write_bytes(chunk(tmp_path / "other.zarr", "cls", 2).read_bytes())
    (problem,) = problems(path)
    assert "holds whole chunks that are not its own" in problem


# Files


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), r"has \d+ bytes where \d+ belong"),
        (lambda file: file.write_bytes(b""), r"has 0 bytes where \d+ belong"),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), r"has \d+ bytes where \d+ belong"),
        (lambda file: file.unlink(), "is missing"),
    ],
    ids=["truncated", "empty", "extended", "missing"],
)
def test_a_chunk_of_another_size_is_named_and_refused_at_opening(path, name, number, damage, said):
    file = chunk(path, name, number)
    damage(file)
    (problem,) = problems(path)
    assert problem.startswith(str(file))
    with pytest.raises(UserError, match=rf"{file.name} {said}: delete .*set\.zarr and run `dvc repro`"):
        open_store(path)


def test_all_that_is_wrong_is_named_at_once(path):
    chunk(path, "cls", 0).unlink()
    flip(chunk(path, "cls", 1), 3)
    flip(chunk(path, "label", 2), 3)
    edit(path / "zarr.json", lambda record: record["attributes"].update(backbone="cnn"))
    found = "\n".join(problems(path))
    assert len(found.splitlines()) == 4
    for said in ("attributes were changed", "cls/c.0.0 is missing", "cls/c.1.0 is damaged", "label/c.2 is damaged"):
        assert said in found


@pytest.mark.parametrize("name", ["c.3.0", ".c.0.0.partial", "notes.txt"])
def test_a_stray_file_in_an_array_is_named(path, name):
    (path / "cls" / name).write_bytes(b"x")
    assert problems(path) == [f"{path / 'cls' / name} does not belong there"]


@pytest.mark.parametrize("name", ["notes.txt", "more/notes.txt"])
def test_a_stray_file_beside_the_arrays_is_named(path, name):
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(b"x")
    assert problems(path) == [f"{path / name.split('/')[0]} does not belong there"]


# Attributes


@pytest.mark.parametrize("key", [*ATTRIBUTES, "contents", "checksum"])
@pytest.mark.parametrize("how", ["edited", "removed"])
def test_an_edited_attribute_is_named_and_refused_at_opening(path, key, how):
    def change(record):
        if how == "removed":
            del record["attributes"][key]
        else:
            record["attributes"][key] = "0" * 64

    edit(path / "zarr.json", change)
    assert any("attributes were changed after it was made" in problem for problem in problems(path))
    with pytest.raises(UserError, match=r"set\.zarr: attributes were changed after it was made .*: delete"):
        open_store(path)


@pytest.mark.parametrize("value", [False, None, 1, "true"])
def test_a_store_whose_complete_mark_is_not_true_is_incomplete(path, value):
    edit(path / "zarr.json", lambda record: record["attributes"].update(complete=value))
    assert problems(path)[0] == f"{path} is incomplete"
    with pytest.raises(UserError, match="is incomplete"):
        open_store(path)


def test_an_added_attribute_is_refused(path):
    edit(path / "zarr.json", lambda record: record["attributes"].update(more=1))
    with pytest.raises(UserError, match="attributes were changed"):
        open_store(path)


def set_shape(record):
    record["shape"][0] = ROWS + 1  # as many chunks as before


def set_chunk(record):
    record["chunk_grid"]["configuration"]["chunk_shape"][0] = CHUNK + 1  # another file size is wanted


def set_dtype(record):
    record["data_type"] = "int16"  # as many bytes as before


def set_width(record):
    record["shape"][1] = record["chunk_grid"]["configuration"]["chunk_shape"][1] = 4


@pytest.mark.parametrize("change", [set_shape, set_chunk, set_dtype, set_width])
def test_an_array_edited_in_its_metadata_is_named_and_refused_at_opening(path, change):
    edit(path / "cls/zarr.json", change)
    assert any("attributes were changed" in problem for problem in problems(path))
    with pytest.raises(UserError, match="attributes were changed"):
        open_store(path)


def test_an_array_moved_away_is_named_and_refused_at_opening(path, tmp_path):
    (path / "label").rename(tmp_path / "label")
    assert any("attributes were changed" in problem for problem in problems(path))
    with pytest.raises(UserError, match="attributes were changed"):
        open_store(path)


def test_a_store_in_the_making_is_named_as_incomplete(tmp_path, arrays):
    spec = ArraySpec((ROWS, 5), "float16", CHUNK)
    create_store(tmp_path / "new.zarr", {"cls": spec}, {})
    write_rows(tmp_path / "new.zarr", "cls", spec, 0, arrays["cls"][: 2 * CHUNK])
    assert problems(tmp_path / "new.zarr") == [
        f"{tmp_path / 'new.zarr'} is incomplete",
        f"{tmp_path / 'new.zarr/cls/c.2.0'} is missing",
    ]


def test_no_store_at_all_is_one_plain_line(tmp_path):
    with pytest.raises(UserError, match=r"none\.zarr is missing"):
        problems(tmp_path / "none.zarr")


# When chunks are checked


@pytest.fixture
def checks(monkeypatch):
    """The files whose contents are checked from here on."""
    checked, original = [], store.content_problem

    def content_problem(file):
        checked.append(file.name)
        return original(file)

    monkeypatch.setattr(store, "content_problem", content_problem)
    return checked


def test_a_chunk_is_checked_when_first_touched_and_never_again(path, checks):
    cls = open_store(path)["cls"]
    assert checks == []
    cls[np.array([5, 6])]
    assert checks == ["c.1.0"]
    for _ in range(3):
        cls[:]
        cls[np.arange(ROWS)[::-1]]
    assert sorted(checks) == ["c.0.0", "c.1.0", "c.2.0"]


def test_a_chunk_fetched_ahead_is_checked_then_and_never_again(path, checks):
    cls = open_store(path)["cls"]
    cls.fetch(0)
    assert checks == ["c.0.0"]
    cls.fetch(0)
    cls[:1]
    assert checks == ["c.0.0"]


def test_fetching_ahead_checks_nothing_where_checks_are_off(path, checks):
    checking.verify_chunks("off")
    open_store(path)["cls"].fetch(0)
    assert checks == []


def test_a_chunk_that_was_unmapped_meanwhile_is_not_checked_again(path, checks, monkeypatch):
    monkeypatch.setattr(checking, "most_mapped", lambda: 1)
    cls = open_store(path)["cls"]
    for row in (0, 5, 9, 0, 5, 9):
        cls[np.array([row])]
    assert sorted(checks) == ["c.0.0", "c.1.0", "c.2.0"]


def test_sample_sees_a_flipped_bit_in_every_sixteenth_chunk(tmp_path, rng):
    write_store(tmp_path / "a.zarr", {"values": rng.random((2 * checking.SAMPLED, 2))}, {}, 1)
    for number in (0, 1, checking.SAMPLED):
        flip(chunk_file(tmp_path / "a.zarr/values", number, 2), 0)
    checking.verify_chunks("sample")
    values = open_store(tmp_path / "a.zarr")["values"]
    values[1:2]
    for number in (0, checking.SAMPLED):
        with pytest.raises(UserError, match=rf"c\.{number}\.0 is damaged"):
            values[number : number + 1]


def test_off_sees_no_flipped_bit_but_still_a_truncated_chunk(path):
    for number in range(3):
        flip(chunk(path, "cls", number), 0)
    checking.verify_chunks("off")
    opened = open_store(path)
    assert opened["cls"][:].shape == (ROWS, 5)
    file = chunk(path, "cls", 1)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="belong"):
        open_store(path)


def test_the_verifying_of_all_does_not_depend_on_the_mode(path):
    flip(chunk(path, "cls", 1), 0)
    checking.verify_chunks("off")
    assert len(problems(path)) == 1


def test_several_threads_read_the_right_rows(tmp_path, rng, monkeypatch, checks):
    """Few chunks are mapped at a time, so that each thread unmaps the others'."""
    monkeypatch.setattr(checking, "most_mapped", lambda: 2)
    values = rng.integers(0, 1000, (60, 3))
    write_store(tmp_path / "a.zarr", {"values": values}, {}, 5)
    read, wrong = open_store(tmp_path / "a.zarr")["values"], []

    def work(seed):
        draws = np.random.default_rng(seed)
        for _ in range(100):
            rows = draws.integers(0, 60, 7)
            if not np.array_equal(read[rows], values[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(checks) == sorted(f"c.{number}.0" for number in range(12))
