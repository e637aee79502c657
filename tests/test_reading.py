"""Reading: any rows, the training order and how it mixes, read-ahead in threads, int8 tokens, few open files."""

import subprocess
import sys
import threading
import time
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base import checking, reading
from neuralood.base.errors import UserError
from neuralood.base.reading import (
    BATCHES_AHEAD,
    batches,
    host_patches,
    host_rows,
    patch_batch,
    read_ahead,
    read_batches,
    token_statistics,
    training_epochs,
    training_orders,
)
from neuralood.base.store import open_store
from neuralood.base.writing import write_store

CPU = torch.device("cpu")


def orders(rows, chunk, buffer, seed=0):
    return training_orders(rows, chunk, buffer, np.random.default_rng(seed))


# The training order


@given(
    chosen=st.lists(st.booleans(), min_size=1, max_size=80),
    chunk=st.integers(1, 20),
    buffer=st.integers(1, 100),
    seed=st.integers(0, 5),
)
def test_each_epoch_is_a_permutation_of_the_rows(chosen, chunk, buffer, seed):
    rows = np.flatnonzero([True, *chosen])
    for order in islice(orders(rows, chunk, buffer, seed), 3):
        assert order.dtype == rows.dtype
        np.testing.assert_array_equal(np.sort(order), rows)


@given(count=st.integers(1, 300), chunk=st.integers(1, 40), buffer=st.integers(1, 120), seed=st.integers(0, 3))
def test_few_chunks_are_wanted_at_a_time(count, chunk, buffer, seed):
    """Those that a buffer's rows come from, one that comes and one that goes; a last chunk is shorter."""
    order = next(orders(np.arange(count), chunk, buffer, seed))
    if buffer >= count:
        return
    numbers = order // chunk
    first = {number: place for place, number in reversed(list(enumerate(numbers.tolist())))}
    last = {number: place for place, number in enumerate(numbers.tolist())}
    wanted = [sum(first[number] <= place <= last[number] for number in first) for place in range(count)]
    assert max(wanted) <= buffer / chunk + 3


@given(count=st.integers(2, 300), chunk=st.integers(1, 40), buffer=st.integers(1, 120))
def test_a_row_moves_by_a_buffer_at_most_from_where_its_chunk_was_put(count, chunk, buffer):
    rows = np.arange(count)
    order = next(orders(rows, chunk, buffer))
    if buffer >= count:
        return
    _, number = np.unique(rows // chunk, return_inverse=True)
    put = np.argsort(np.random.default_rng(0).permutation(number.max() + 1)[number], kind="stable")
    moved = np.abs(np.argsort(order) - np.argsort(put))
    assert moved.max() <= buffer + 1


def test_a_buffer_of_all_rows_is_a_full_shuffle():
    rows = np.arange(3, 100, 2)
    np.testing.assert_array_equal(next(orders(rows, 8, len(rows), 7)), np.random.default_rng(7).permutation(rows))


def test_same_seed_same_epochs_another_seed_others():
    rows = np.arange(500)
    one, same, other = (np.stack(list(islice(orders(rows, 20, 100, seed), 4))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert len({tuple(order) for order in one.tolist()}) == 4


@pytest.mark.parametrize("buffer", [100, 500])
def test_going_on_at_an_epoch_and_a_step_gives_the_batches_that_were_left(buffer):
    rows, epoch, step, size = np.arange(500), 3, 5, 32
    whole = next(islice(orders(rows, 20, buffer), epoch, None))
    left = list(islice(batches(next(islice(orders(rows, 20, buffer), epoch, None)), size), step, None))
    np.testing.assert_array_equal(np.concatenate(left), whole[step * size :])


CLASSES, OF_CLASS, CHUNK, BUFFER, BATCH = 10, 1000, 100, 2000, 128


@pytest.fixture(scope="module")
def sorted_by_class():
    """Labels of five epochs' batches of a store that is sorted by class."""
    rows = np.arange(CLASSES * OF_CLASS)
    return [[part // OF_CLASS for part in batches(order, BATCH)] for order in islice(orders(rows, CHUNK, BUFFER), 5)]


def test_batches_of_a_store_sorted_by_class_have_many_classes(sorted_by_class):
    """Chunks are of one class each here: about 20 are mixed."""
    counts = [len(np.unique(labels)) for epoch in sorted_by_class for labels in epoch[:-1]]
    assert np.mean(counts) > 8.2  # 20 draws of 10 classes give 8.8
    assert min(counts) >= 4


@pytest.mark.parametrize("place", [0, 1, -2])
def test_the_first_and_last_batches_are_mixed_as_well(sorted_by_class, place):
    counts = [len(np.unique(epoch[place])) for epoch in sorted_by_class]
    assert min(counts) >= 4


def test_chunks_come_in_a_random_order():
    """The places of the chunks are no function of their numbers: correlation over many epochs near 0."""
    rows = np.arange(2000)
    r = [np.corrcoef(rows, order)[0, 1] for order in islice(orders(rows, 50, 200), 50)]
    assert abs(np.mean(r)) < 0.1


# Batches, read ahead


@pytest.fixture
def store(tmp_path, rng):
    patches = rng.integers(-127, 128, (50, 2, 3, 4)).astype(np.int8)
    scale = rng.random((50, 2, 3)).astype(np.float32)
    cls = rng.standard_normal((50, 5)).astype(np.float16)
    write_store(tmp_path / "a.zarr", {"patches": patches, "patches_scale": scale, "cls": cls}, {}, 8)
    return open_store(tmp_path / "a.zarr")


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(("reader", "disk"))]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_batches_come_in_order_whatever_the_number_of_threads(store, rng, monkeypatch, count):
    monkeypatch.setattr(reading, "READ_THREADS", count)
    order, cls = rng.permutation(50), store["cls"]
    naps = dict(zip(order.tolist(), rng.uniform(0, 0.004, 50).tolist(), strict=True))

    def load(rows):
        time.sleep(naps[int(rows[0])])
        return cls[rows]

    read = list(read_batches([store["patches"], cls], order, 4, load))
    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in read]), order)
    np.testing.assert_array_equal(np.concatenate([values for _, values in read]), cls[:][order])
    assert [len(rows) for rows, _ in read] == [4] * 12 + [2]
    assert threads() == []


def test_no_rows_are_no_batches(store):
    assert list(read_batches([store["cls"]], np.empty(0, np.int64), 4, len)) == []


def test_epochs_are_the_training_orders_batches(store):
    rows = np.arange(0, 50, 2)
    epochs = training_epochs([store["cls"]], rows, 10, 6, store["cls"].__getitem__, np.random.default_rng(3))
    for order, epoch in zip(orders(rows, 8, 10, 3), islice(epochs, 3), strict=False):
        read = list(epoch)
        np.testing.assert_array_equal(np.concatenate([part for part, _ in read]), order)
        np.testing.assert_array_equal(np.concatenate([values for _, values in read]), store["cls"][order])


@pytest.mark.parametrize("buffer", [10, 100])
@pytest.mark.parametrize("done", [*range(11), 37])
def test_epochs_after_some_batches_are_the_rest_which_alone_is_read(store, done, buffer):
    """25 rows in batches of 6: five an epoch."""
    rows, loaded = np.arange(0, 50, 2), []

    def load(chosen):
        loaded.extend(chosen)
        return store["cls"][chosen]

    def epochs(done):
        return training_epochs([store["cls"]], rows, buffer, 6, load, np.random.default_rng(3), done)

    every = [batch for epoch in islice(epochs(0), 9) for batch in epoch]
    loaded.clear()
    rest = [list(epoch) for epoch in islice(epochs(done), 9 - done // 5)]
    assert [len(epoch) for epoch in rest] == [5 - done % 5] + [5] * (8 - done // 5)
    for (found, values), (expected, wanted) in zip(chain(*rest), every[done:], strict=True):
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(values, wanted)
    assert len(loaded) == sum(len(chosen) for chosen, _ in every[done:])


def test_an_error_while_loading_reaches_whoever_reads_and_ends_the_threads():
    def load(rows):
        if rows[0] == 6:
            raise UserError("a damaged chunk")
        return rows[0]

    read = read_ahead(load, batches(np.arange(30), 2))
    assert [first for _, first in islice(read, 3)] == [0, 2, 4]
    with pytest.raises(UserError, match="a damaged chunk"):
        next(read)
    assert threads() == []


def test_a_damaged_chunk_is_refused_through_the_threads(store):
    file = store["cls"].file(2)
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    with pytest.raises(UserError, match=r"c\.2\.0 is damaged"):
        list(read_batches([store["cls"]], np.arange(50), 8, store["cls"].__getitem__))
    assert threads() == []


def test_stopping_early_ends_the_threads():
    read = read_ahead(lambda rows: rows, batches(np.arange(1000), 2))
    next(read)
    assert threads()
    read.close()
    assert threads() == []


def test_only_a_few_batches_are_loaded_ahead():
    """However slow the consumer is."""
    begun = []
    most = []
    for taken, _ in enumerate(read_ahead(lambda rows: begun.append(1), batches(np.arange(40), 1)), start=1):
        time.sleep(0.002)
        most.append(len(begun) - taken)
    assert max(most) <= BATCHES_AHEAD
    assert len(begun) == 40


def test_batches_are_loaded_while_the_consumer_works():
    begun = threading.Event()

    def load(rows):
        if rows[0] == 1:
            begun.set()

    read = read_ahead(load, batches(np.arange(4), 1))
    next(read)
    assert begun.wait(10)
    read.close()


# Tensors


@pytest.mark.parametrize("name", ["patches", "patches_scale", "cls"])
def test_host_rows_are_the_rows_as_a_tensor_of_the_same_dtype(store, name):
    rows = np.array([49, 0, 7, 7, 16])
    tensor = host_rows(store[name], rows, pin=False)
    np.testing.assert_array_equal(tensor.numpy(), store[name][rows])
    assert not tensor.is_pinned()


@pytest.mark.parametrize("pin", [False, True])
def test_pinned_memory_is_asked_for_where_it_is_wanted(store, monkeypatch, pin):
    asked, empty = [], torch.empty

    def record(*shape, dtype, pin_memory=False):
        asked.append(pin_memory)
        return empty(*shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", record)
    patches = host_patches(store, np.arange(3), pin=pin)
    np.testing.assert_array_equal(patches.values.numpy(), store["patches"][:3])
    assert asked.count(True) == 2 * pin


def test_memory_is_not_used_again_while_anything_shares_it(store):
    """A tensor, a view of one, an array of one: all keep it; what nobody holds may go into later batches."""
    cls, rng = store["cls"], np.random.default_rng(0)
    draws = [rng.integers(0, 50, 16) for _ in range(60)]
    parts = [lambda values: values, lambda values: values[3:, 1:], lambda values: np.asarray(values)[::2], len]
    held = [parts[number % 4](host_rows(cls, rows, pin=False)) for number, rows in enumerate(draws)]
    for number, (rows, kept) in enumerate(zip(draws, held, strict=True)):
        np.testing.assert_array_equal(np.asarray(kept), parts[number % 4](cls[rows]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_batches_are_pinned_where_there_is_cuda(store):
    patches = host_patches(store, np.arange(3), pin=True)
    assert patches.values.is_pinned()
    torch.testing.assert_close(patches.on(torch.device("cuda")).cpu(), patches.on(CPU))


def test_int8_tokens_are_their_integers_times_the_scale_layers_side_by_side(store):
    rows = np.array([30, 2, 2])
    tokens = host_patches(store, rows, pin=False).on(CPU)
    expected = store["patches"][rows].astype(np.float32) * store["patches_scale"][rows][..., None]  # B L N D
    assert tokens.dtype == torch.float32
    assert tokens.shape == (3, 3, 8)
    np.testing.assert_array_equal(tokens[..., :4].numpy(), expected[:, 0])
    np.testing.assert_array_equal(tokens[..., 4:].numpy(), expected[:, 1])
    assert torch.equal(patch_batch(store, rows, CPU), tokens)


def test_the_values_as_stored_are_left_as_they_are(store):
    patches = host_patches(store, np.arange(4), pin=False)
    before = patches.values.clone()
    assert torch.equal(patches.on(CPU), patches.on(CPU))
    assert torch.equal(patches.values, before)


def test_float32_tokens_are_not_changed_by_what_is_done_to_a_batch(tmp_path, rng):
    write_store(tmp_path / "a.zarr", {"patches": rng.random((6, 1, 2, 3)).astype(np.float32)}, {}, 4)
    store = open_store(tmp_path / "a.zarr")
    patch_batch(store, np.arange(6), CPU).mul_(0)
    assert store["patches"][:].all()


def test_statistics_of_int8_tokens_are_those_of_their_values(store):
    rows = np.array([5, 1, 40])
    mean, sd = token_statistics(store, rows)
    values = patch_batch(store, rows, CPU).flatten(0, 1).double()
    torch.testing.assert_close(mean, values.mean(0).float())
    torch.testing.assert_close(sd, values.std(0, correction=0).float())


# More chunk files than may be open

FEW_FILES = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
import sys
from pathlib import Path
import numpy as np
from neuralood.base.reading import read_batches, training_orders
from neuralood.base.store import open_store
store = open_store(Path(sys.argv[1]))
expected, rng = np.load(sys.argv[2]), np.random.default_rng(0)
one, other = store["one"], store["other"]
assert one.chunks == 200
for _ in range(20):
    rows = rng.integers(0, len(one), 64)
    assert np.array_equal(one[rows], expected[rows])
    assert np.array_equal(other[rows], -expected[rows])
assert np.array_equal(one[:], expected)
orders = training_orders(np.arange(len(one)), one.chunk, 300, rng)
for _ in range(2):
    for rows, (a, b) in read_batches([one, other], next(orders), 32, lambda rows: (one[rows], other[rows])):
        assert np.array_equal(a, expected[rows]) and np.array_equal(b, -expected[rows])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_a_store_of_more_chunk_files_than_may_be_open_is_read(tmp_path, rng):
    """64 files for 400 chunks; the limit is for good, so that it is a process of its own."""
    values = rng.integers(0, 1000, (600, 4))
    np.save(tmp_path / "values.npy", values)
    write_store(tmp_path / "a.zarr", {"one": values, "other": -values}, {}, 3)
    script = tmp_path / "few_files.py"
    script.write_text(FEW_FILES)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "a.zarr", tmp_path / "values.npy"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_no_more_chunks_are_mapped_than_said(store, monkeypatch):
    monkeypatch.setattr(checking, "most_mapped", lambda: 3)
    cls = open_store(store.path)["cls"]
    cls[:]
    for number in range(cls.chunks):
        cls.fetch(number)
    assert len(cls._mapped) == 3


@pytest.mark.parametrize(("limit", "mapped"), [(64, 8), (16, 4), (1024, 128), (10**6, 128), (-1, 128)])
def test_mapped_chunks_stay_below_the_limit_of_open_files(monkeypatch, limit, mapped):
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    assert checking.most_mapped() == mapped
