"""Token stores in the making: killed, interrupted, out of space, written twice, with a changed list of images."""

import errno
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_tokens import (
    ERROR,
    SETTINGS,
    Run,
    Stub,
    cache,
    contents,
    count_operations,
    kill_at_operation,
    kill_self,
    limit_file_size,
    make_manifest,
    unfinished,
    wait_for,
    write_image,
    write_images,
)

from neuralood.base import chunks, paths, writing
from neuralood.base.errors import UserError
from neuralood.base.store import open_store
from neuralood.base.verifying import store_problems
from neuralood.base.writing import ArraySpec, complete_store, require_space, write_rows
from neuralood.tokens import cache as cache_module
from neuralood.tokens.unfinished import Unfinished, finished_chunks, only_writer, resume_chunks, set_aside_stores

IMAGES, CHUNK = 14, SETTINGS.chunk  # five chunks, the last of two images
CHUNKS = -(-IMAGES // CHUNK)


@pytest.fixture
def names(project, rng):
    return write_images(rng, IMAGES)


@pytest.fixture
def manifest(names):
    return make_manifest(names)


def fresh(manifest):
    """The bytes of an uninterrupted run, nothing left of it."""
    whole = contents(cache(manifest, Stub()))
    shutil.rmtree(paths.tokens("train"))
    return whole


def interrupted(manifest, batch=6, **changes):
    """A run interrupted in the given batch: there are two in a chunk."""

    def stop(number):
        if number == batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(manifest, Stub(stop), **changes)
    return len(finished_chunks(unfinished()))


def left_behind():
    """What lies where stores grow, all but locks."""
    return [file.name for file in unfinished().parent.iterdir() if file.suffix != ".lock"]


def is_under_way():
    """Whether some chunks, not all, are finished."""
    return 0 < len(finished_chunks(unfinished())) < CHUNKS


# Killed


def operations(manifest):
    """How many file operations an uninterrupted run has."""
    assert Run(manifest, count_operations("count")).end() == 0
    shutil.rmtree(paths.tokens("train"))
    return Path("count").stat().st_size


def killed_and_resumed(manifest, whole, operation):
    """Whether the kill left some chunks finished; the resumed run gives the same bytes and computes only the others."""
    assert Run(manifest, kill_at_operation(operation)).end() == -9
    under_way, kept = is_under_way(), len(finished_chunks(unfinished()))
    final_stands = paths.tokens("train").exists()
    if final_stands:  # killed after it was moved into place
        assert contents(paths.tokens("train")) == whole
    backbone = Stub()
    assert contents(cache(manifest, backbone)) == whole, operation
    assert left_behind() == []
    assert final_stands or backbone.counted == max(IMAGES - kept * CHUNK, 0), operation
    shutil.rmtree(paths.tokens("train"))
    return under_way


def test_killed_at_20_random_moments_and_resumed_gives_the_same_bytes(manifest, rng):
    """A moment is just before one of the run's file operations: half a chunk, a chunk without its stamps, ..."""
    whole, count = fresh(manifest), operations(manifest)
    moments = rng.choice(np.arange(1, count + 1), 20, replace=False)
    hits = [killed_and_resumed(manifest, whole, int(moment)) for moment in moments]
    assert sum(hits) >= 5


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_gives_the_same_bytes(manifest):
    whole, count = fresh(manifest), operations(manifest)
    for moment in range(1, count + 1):
        killed_and_resumed(manifest, whole, moment)


def nap(_batch):
    """A slow backbone."""
    time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_after_random_times_again_and_again_gives_the_same_bytes(manifest, rng, workers):
    Run(manifest).end()  # whatever has to start, has started
    shutil.rmtree(paths.tokens("train"))
    start = time.monotonic()
    assert Run(manifest, before=nap, workers=workers).end() == 0
    seconds = time.monotonic() - start
    whole = contents(paths.tokens("train"))
    landed = 0
    for share in rng.uniform(0.05, 0.8, 20):
        run = Run(manifest, before=nap, workers=workers)
        time.sleep(share * seconds)
        landed += run.kill() == -9 and is_under_way()
        if paths.tokens("train").exists():
            assert contents(paths.tokens("train")) == whole
            shutil.rmtree(paths.tokens("train"))
    assert contents(cache(manifest, Stub())) == whole
    assert left_behind() == []
    assert landed >= 3


def kill_in_sixth_batch(batch):
    if batch == 6:
        kill_self()


def test_a_killed_writers_hold_is_gone_though_its_decoding_processes_live_on(manifest):
    """They were forked from it, and see only after seconds that it is gone."""
    run = Run(manifest, before=kill_in_sixth_batch, workers=1)
    while run.is_alive():
        time.sleep(0.01)
    with only_writer(unfinished()):
        pass


def test_what_a_killed_writer_left_of_a_chunk_is_cleared_away(manifest):
    whole = fresh(manifest)
    interrupted(manifest)
    for stray in (".c.1.0.partial", "zarr.123.partial"):
        (unfinished() / "cls" / stray).write_bytes(b"half a chunk")
    assert contents(cache(manifest, Stub())) == whole


@pytest.mark.parametrize("name", ["cls", "patches"])
def test_a_chunk_cut_short_by_a_crash_is_computed_again(manifest, name):
    """Its stamps are there, its bytes are not all: as after a power cut."""
    whole, kept = fresh(manifest), interrupted(manifest)
    file = next((unfinished() / name).glob("c.0.*"))
    file.write_bytes(file.read_bytes()[:-10])
    backbone = Stub()
    assert contents(cache(manifest, backbone)) == whole
    assert backbone.counted == IMAGES - (kept - 1) * CHUNK


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array"])
def test_damaged_stamps_are_as_none(manifest, content):
    whole, kept = fresh(manifest), interrupted(manifest)
    unfinished().with_suffix(".stamps").joinpath("1.npy").write_bytes(content)
    backbone = Stub()
    assert contents(cache(manifest, backbone)) == whole
    assert backbone.counted == IMAGES - (kept - 1) * CHUNK


# Completing


def test_a_crash_between_the_complete_mark_and_the_move_costs_nothing(manifest, monkeypatch):
    whole = fresh(manifest)

    def crash(_folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writing, "sync", crash)
        with pytest.raises(KeyboardInterrupt):
            cache(manifest, Stub())
    assert not paths.tokens("train").exists()
    backbone = Stub()
    assert contents(cache(manifest, backbone)) == whole
    assert backbone.counted == 0


def test_a_crash_after_the_move_leaves_the_store_and_a_later_run_is_not_misled(manifest, monkeypatch):
    whole = fresh(manifest)

    def crash(_partial):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cache_module, "discard", crash)
        with pytest.raises(KeyboardInterrupt):
            cache(manifest, Stub())
    assert contents(paths.tokens("train")) == whole
    assert left_behind() == ["train.stamps"]
    assert contents(cache(manifest, Stub())) == whole
    assert left_behind() == []


# Two writers


def test_a_second_writer_refuses_and_the_first_goes_on(manifest):
    whole = fresh(manifest)
    first = Run(manifest, before=wait_for("go", 4))
    while not Path("go.waiting").exists():
        time.sleep(0.01)
    backbone = Stub()
    with pytest.raises(UserError, match=r"train\.zarr is being written by another process: wait for it, or stop it"):
        cache(manifest, backbone)
    assert backbone.batches == 0
    Path("go").touch()
    assert first.end() == 0
    assert contents(paths.tokens("train")) == whole


def test_a_killed_writers_hold_is_gone(manifest):
    first = Run(manifest, before=wait_for("go", 4))
    while not Path("go.waiting").exists():
        time.sleep(0.01)
    first.kill()
    cache(manifest, Stub())


def test_the_hold_ends_with_an_error(project):
    with pytest.raises(UserError, match="a reason"), only_writer(unfinished()):
        raise UserError("a reason")
    with only_writer(unfinished()), pytest.raises(UserError, match="another process"), only_writer(unfinished()):
        pass


# No space left


@pytest.mark.parametrize(("batch", "at_least"), [(1, 0), (9, 2)])
def test_a_disk_that_is_full_in_mid_chunk_is_one_clear_line_and_the_next_run_goes_on(manifest, batch, at_least):
    """No other file of the tokens is as large as a chunk of patches; writing follows some batches behind."""
    whole = fresh(manifest)
    largest = max((len(content), name) for name, content in whole.items() if name.startswith("patches/c."))[0]
    run = Run(manifest, before=limit_file_size(largest - 100, batch))
    assert run.end() == 1
    message = ERROR.read_text()
    assert message.count("\n") == 0
    assert "the disk is full (File too large) at data/.partial/tokens/train.zarr/patches/c." in message
    assert "free some space and run again; finished chunks are kept" in message
    assert not list(unfinished().rglob("*.partial"))
    kept, backbone = len(finished_chunks(unfinished())), Stub()
    assert at_least <= kept < CHUNKS
    assert contents(cache(manifest, backbone)) == whole
    assert backbone.counted == IMAGES - kept * CHUNK


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_no_part_of_a_chunk(tmp_path, monkeypatch, reason):
    def fsync(_handle):
        raise OSError(reason, "No space left")

    monkeypatch.setattr(chunks.os, "fsync", fsync)
    with pytest.raises(UserError, match=r"the disk is full \(No space left\) at .*c\.0"):
        chunks.write_chunk(tmp_path / "c.0", np.arange(3), 4)
    assert list(tmp_path.iterdir()) == []


def test_another_fault_of_a_disk_is_not_called_full(tmp_path, monkeypatch):
    def fsync(_handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(chunks.os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output"):
        chunks.write_chunk(tmp_path / "c.0", np.arange(3), 4)
    assert list(tmp_path.iterdir()) == []


def set_free(monkeypatch, nbytes):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _folder: SimpleNamespace(free=nbytes))


def token_bytes(store):
    return sum(file.stat().st_size for name in ("cls", "patches") for file in (store / name).glob("c.*"))


def test_a_store_that_cannot_fit_is_refused_before_the_first_image(manifest, monkeypatch):
    needed = token_bytes(cache(manifest, Stub()))
    shutil.rmtree(paths.tokens("train"))
    backbone = Stub()
    set_free(monkeypatch, needed - 1)
    with pytest.raises(UserError, match=r"train\.zarr needs .* GB more and its disk has .* GB free"):
        cache(manifest, backbone)
    assert backbone.batches == 0
    set_free(monkeypatch, needed)
    cache(manifest, backbone)


def test_what_is_stored_already_needs_no_space_again(manifest, monkeypatch):
    needed = token_bytes(cache(manifest, Stub()))
    shutil.rmtree(paths.tokens("train"))
    interrupted(manifest)
    left = needed - token_bytes(unfinished())
    assert 0 < left < needed
    set_free(monkeypatch, left - 1)
    with pytest.raises(UserError, match="GB more"):
        cache(manifest, Stub())
    set_free(monkeypatch, left)
    cache(manifest, Stub())


def test_what_is_set_aside_needs_no_space_again(names, monkeypatch):
    interrupted(make_manifest(names))
    fewer = make_manifest(names[1:])
    set_free(monkeypatch, 0)
    with pytest.raises(UserError, match="GB more"):
        cache(fewer, Stub())
    needed = token_bytes(set_aside_stores(unfinished())[0])
    set_free(monkeypatch, CHUNKS * 1000 - needed)
    cache(fewer, Stub())


def test_the_message_has_what_is_needed_and_what_is_free(tmp_path, monkeypatch):
    set_free(monkeypatch, 2_340_000_000)
    with pytest.raises(UserError, match=r"a\.zarr needs 1,234\.50 GB more and its disk has 2\.34 GB free: free some"):
        require_space(tmp_path / "not" / "there" / "a.zarr", 1_234_500_000_000)
    require_space(tmp_path / "a.zarr", 2_340_000_000)


# A changed list of images


@pytest.mark.parametrize("dropped", [[0], [5], [2, 3, 4], [0, 13], [8]])
def test_without_some_images_nothing_stored_is_computed_again(names, dropped):
    kept = interrupted(make_manifest(names)) * CHUNK
    left = [row for row in range(IMAGES) if row not in dropped]
    fewer = make_manifest([names[row] for row in left])
    backbone = Stub()
    resumed = contents(cache(fewer, backbone))
    assert backbone.counted == sum(row >= kept for row in left)
    assert left_behind() == []
    assert resumed == contents(cache(fewer, Stub()))


def test_reordered_images_keep_their_tokens(names, rng):
    kept = interrupted(make_manifest(names)) * CHUNK
    other = make_manifest([names[row] for row in rng.permutation(IMAGES)])
    backbone = Stub()
    resumed = contents(cache(other, backbone))
    assert backbone.counted == IMAGES - kept
    assert resumed == contents(cache(other, Stub()))


def test_added_images_are_the_only_ones_computed(names, rng):
    interrupted(make_manifest(names[:12]), batch=8)
    write_image(Path("data/images/cat/00a.png"), rng)
    more = make_manifest(["cat/00a.png", *names])
    backbone = Stub()
    resumed = contents(cache(more, backbone))
    assert backbone.counted == 1 + IMAGES - 9
    assert resumed == contents(cache(more, Stub()))


def test_another_size_of_chunks_keeps_all_tokens(manifest):
    kept = interrupted(manifest) * CHUNK
    backbone = Stub()
    resumed = contents(cache(manifest, backbone, chunk=4))
    assert backbone.counted == IMAGES - kept
    assert resumed == contents(cache(manifest, Stub(), chunk=4))


def test_int8_tokens_move_with_their_scales(names):
    kept = interrupted(make_manifest(names), dtype="int8") * CHUNK
    fewer, backbone = make_manifest(names[1:]), Stub()
    resumed = contents(cache(fewer, backbone, dtype="int8"))
    assert backbone.counted == IMAGES - kept
    assert resumed == contents(cache(fewer, Stub(), dtype="int8"))


def test_moving_tokens_takes_the_space_of_a_few_chunks(project, rng, monkeypatch):
    names = write_images(rng, 60)
    interrupted(make_manifest(names), batch=36)
    before = token_bytes(unfinished())
    most, write = [0], Unfinished.write

    def watch(store, *args):
        write(store, *args)
        most[0] = max(most[0], sum(token_bytes(path) for path in (store.path, *set_aside_stores(store.path))))

    monkeypatch.setattr(Unfinished, "write", watch)

    def stop(_batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(make_manifest(names[1:]), Stub(stop))
    of_chunk = before / len(range(0, 51, CHUNK))
    assert most[0] <= before + 3 * of_chunk
    assert set_aside_stores(unfinished()) == []


def test_two_lists_of_images_that_both_went_unfinished(names, monkeypatch):
    """Interrupted while tokens move to a second list of images; a third list has both old stores to draw on."""
    kept = interrupted(make_manifest(names)) * CHUNK
    left, write = [1], Unfinished.write

    def stop(store, *args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(store, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Unfinished, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            cache(make_manifest(names[1:]), Stub())
    third = make_manifest([*names[2:], names[0]])
    backbone = Stub()
    resumed = contents(cache(third, backbone))
    lost = 1  # the second list lacks names[0]; its tokens went with the first chunk that was used up
    assert backbone.counted <= IMAGES - 1 - kept + 1 + lost
    assert resumed == contents(cache(third, Stub()))
    assert left_behind() == []


def adoption_killed(names, operation, template):
    """Kill a run for fewer images at an operation, then resume: what was stored is not computed again."""
    shutil.rmtree("data/.partial")
    shutil.copytree(template, "data/.partial")
    fewer = make_manifest(names[1:])
    status = Run(fewer, kill_at_operation(operation)).end()
    backbone = Stub()
    store = cache(fewer, backbone)
    assert left_behind() == [], operation
    found = contents(store), backbone.counted
    shutil.rmtree(store)
    return status, *found


def adoption_template(names):
    """An unfinished store to start from, the bytes that come of it for fewer images, the file operations until then."""
    kept = interrupted(make_manifest(names)) * CHUNK
    shutil.copytree("data/.partial", "template")
    fewer = make_manifest(names[1:])
    assert Run(fewer, count_operations("count")).end() == 0
    whole = contents(paths.tokens("train"))
    shutil.rmtree(paths.tokens("train"))
    return kept, whole, Path("count").stat().st_size


def check_adoption(names, moments, kept, whole):
    computed = {}
    for moment in moments:
        status, found, counted = adoption_killed(names, int(moment), "template")
        assert status == -9
        assert found == whole, moment
        computed[int(moment)] = counted
    too_many = {moment: counted for moment, counted in computed.items() if counted > IMAGES - kept}
    assert too_many == {}


def test_killed_while_tokens_move_at_random_moments_loses_none(names, rng):
    kept, whole, count = adoption_template(names)
    moments = rng.choice(np.arange(1, int(0.9 * count)), 12, replace=False)
    check_adoption(names, moments, kept, whole)


@pytest.mark.slow
def test_killed_while_tokens_move_at_any_moment_loses_none(names):
    """All but the last moments, when the store stands already and only stamps are removed."""
    kept, whole, count = adoption_template(names)
    last = next(moment for moment in range(count, 0, -1) if not final_stands_at(names, moment))
    check_adoption(names, range(1, last + 1), kept, whole)


def final_stands_at(names, moment):
    shutil.rmtree("data/.partial")
    shutil.copytree("template", "data/.partial")
    Run(make_manifest(names[1:]), kill_at_operation(moment)).end()
    stands = paths.tokens("train").exists()
    shutil.rmtree(paths.tokens("train"), ignore_errors=True)
    return stands


def test_a_store_set_aside_that_is_half_deleted_does_not_stop_the_next_run(names):
    """As after a kill while used-up stores are deleted."""
    interrupted(make_manifest(names))
    fewer = make_manifest(names[1:])

    def stop(_batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache(fewer, Stub(stop))
    aside = unfinished().with_name("train.old0.zarr")
    (aside / "cls").mkdir(parents=True)
    (aside / "cls/zarr.json").write_text("{}")
    resumed = contents(cache(fewer, Stub()))
    assert resumed == contents(cache(fewer, Stub()))
    assert left_behind() == []


def test_a_kill_between_setting_aside_and_the_new_store_loses_nothing(names):
    kept = interrupted(make_manifest(names)) * CHUNK
    unfinished().with_suffix(".stamps").rename(unfinished().with_name("train.old0.stamps"))
    unfinished().rename(unfinished().with_name("train.old0.zarr"))
    backbone = Stub()
    cache(make_manifest(names[1:]), backbone)
    assert backbone.counted == IMAGES - kept


def test_a_store_set_aside_of_other_tokens_is_never_drawn_on(names):
    interrupted(make_manifest(names), dtype="float32")
    unfinished().with_suffix(".stamps").rename(unfinished().with_name("train.old0.stamps"))
    unfinished().rename(unfinished().with_name("train.old0.zarr"))
    backbone = Stub()
    resumed = contents(cache(make_manifest(names), backbone))
    assert backbone.counted == IMAGES
    assert resumed == contents(cache(make_manifest(names), Stub()))
    assert left_behind() == []


def test_every_store_that_was_resumed_passes_all_checks(names):
    interrupted(make_manifest(names))
    store = cache(make_manifest(names[1:]), Stub())
    assert list(store_problems(store, lambda items, _description, _total: items)) == []


# Stores of one array: predicted fMRI

SPEC, ATTRIBUTES = ArraySpec((10, 3), "float16", 4), {"kind": "predicted fMRI", "encoder": "a", "tokens": "b"}


def fill(partial, numbers, value):
    for number in numbers:
        rows = min(4, 10 - 4 * number)
        write_rows(partial, "fmri", SPEC, 4 * number, np.full((rows, 3), value + number))


def test_only_missing_chunks_of_predicted_fmri_are_to_be_written(tmp_path):
    partial = tmp_path / "partial.zarr"
    assert resume_chunks(partial, "fmri", SPEC, ATTRIBUTES) == [0, 1, 2]
    fill(partial, [1], 10)
    assert resume_chunks(partial, "fmri", SPEC, ATTRIBUTES) == [0, 2]
    fill(partial, [0, 2], 10)
    assert resume_chunks(partial, "fmri", SPEC, ATTRIBUTES) == []
    complete_store(partial, tmp_path / "a.zarr")
    np.testing.assert_array_equal(open_store(tmp_path / "a.zarr")["fmri"][:][:, 0], [10] * 4 + [11] * 4 + [12] * 2)


def test_a_truncated_chunk_of_predicted_fmri_is_to_be_written_again(tmp_path):
    partial = tmp_path / "partial.zarr"
    resume_chunks(partial, "fmri", SPEC, ATTRIBUTES)
    fill(partial, [0, 1], 10)
    file = partial / "fmri/c.1.0"
    file.write_bytes(file.read_bytes()[:-1])
    assert resume_chunks(partial, "fmri", SPEC, ATTRIBUTES) == [1, 2]


@pytest.mark.parametrize("key", list(ATTRIBUTES))
def test_predicted_fmri_of_another_making_starts_afresh(tmp_path, key):
    partial = tmp_path / "partial.zarr"
    resume_chunks(partial, "fmri", SPEC, ATTRIBUTES)
    fill(partial, [0, 1, 2], 10)
    assert resume_chunks(partial, "fmri", SPEC, {**ATTRIBUTES, key: "other"}) == [0, 1, 2]
    assert not list(partial.glob("fmri/c.*"))


@pytest.mark.parametrize("spec", [ArraySpec((10, 3), "float32", 4), ArraySpec((10, 3), "float16", 5)])
def test_predicted_fmri_in_another_layout_starts_afresh(tmp_path, spec):
    partial = tmp_path / "partial.zarr"
    resume_chunks(partial, "fmri", SPEC, ATTRIBUTES)
    fill(partial, [0, 1, 2], 10)
    for number in resume_chunks(partial, "fmri", spec, ATTRIBUTES):
        rows = np.arange(number * spec.chunk, min((number + 1) * spec.chunk, 10))
        write_rows(partial, "fmri", spec, int(rows[0]), np.full((len(rows), 3), 5))
    complete_store(partial, tmp_path / "a.zarr")
    fmri = open_store(tmp_path / "a.zarr")["fmri"]
    assert (fmri.dtype, fmri.chunk) == (np.dtype(spec.dtype), spec.chunk)
    np.testing.assert_array_equal(fmri[:], np.full((10, 3), 5))


def test_predicted_fmri_that_cannot_fit_is_refused(tmp_path, monkeypatch):
    set_free(monkeypatch, 3 * 28 - 1)
    with pytest.raises(UserError, match="GB more"):
        resume_chunks(tmp_path / "partial.zarr", "fmri", SPEC, ATTRIBUTES)
