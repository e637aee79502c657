"""One stage as several processes: the same bytes, one line for what goes wrong, and going on after it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import helpers_ranks
import pytest
import torch
from conftest import ROOT
from helpers_tokens import contents, make_manifest, unfinished, write_images

from neuralood import stage
from neuralood.base import collectives, console, device, paths, ranks
from neuralood.base.errors import UserError
from neuralood.data.manifest import write_manifest
from neuralood.tokens.unfinished import finished_chunks

IMAGES, CHUNK, BATCH = 14, 3, 1  # five chunks, the last of two images


@pytest.fixture
def names(project, rng):
    """The images' names; the project runs its stages as two processes."""
    project.edit(
        **{
            "runtime.nproc": 2,
            "runtime.device": "cpu",
            "runtime.threads": 1,
            "cache.chunk": CHUNK,
            "cache.batch_size": BATCH,
        }
    )
    names = write_images(rng, IMAGES)
    write_manifest(make_manifest(names))
    return names


@pytest.fixture
def whole(project, names):
    """Both stores as one process makes them, which are gone again."""
    helpers_ranks.main(project.load(), "train")
    return taken()


def taken():
    """All bytes of both stores, which are removed."""
    stores = (paths.tokens("train"), paths.predicted_fmri("train"))
    bytes_of = [contents(store) for store in stores]
    for store in stores:
        shutil.rmtree(store)
    return bytes_of


def start():
    """The stage, as a user starts it."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-W", "ignore", "-m", "helpers_ranks", "train"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})


def run_stage():
    """Its exit status, and its lines on stderr."""
    process = start()
    said = process.communicate(timeout=200)[1]
    return process.returncode, said.splitlines()


def wait_until(condition):
    """Look again and again, for two minutes at most."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come")


def is_alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


# Two processes


def test_a_killed_process_is_one_line_and_the_next_run_gives_the_bytes_of_one_process(whole):
    helpers_ranks.FAULT.write_text("kill")
    assert run_stage() == (
        1,
        ["error: worker 2 of 2 was killed (signal 9): finished work is kept, run the stage again to go on"],
    )
    kept = len(finished_chunks(unfinished()))
    assert 1 <= kept < 5
    assert not paths.tokens("train").exists()
    helpers_ranks.FAULT.unlink()
    status, said = run_stage()
    assert status == 0
    assert [line for line in said if not line.startswith("going on: ")] == [
        "wrote data/tokens/train.zarr (tokens)",
        "wrote data/fmri/train.zarr (predicted fMRI, 14 images x 7 vertices)",
    ]
    assert taken() == whole
    assert not list(Path("data").rglob(".?*.*.partial"))


@pytest.mark.slow
def test_what_several_find_wrong_is_said_once_in_order(names):
    bad = [names[row] for row in (13, 0, 5, 4)]  # chunks 4, 0 and 1, which is the second process's
    for name in bad:
        Path("data/images", name).write_bytes(b"no image")
    status, said = run_stage()
    assert status == 1
    assert said[0].startswith("error: 4 image(s) of train cannot be read; all others are stored.")
    assert len(said) == 5
    assert [next(name for name in bad if name in line) for line in said[1:]] == sorted(bad, key=names.index)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGINT, 130, ["error: interrupted: finished work is kept, run the stage again to go on"]),
        pytest.param(signal.SIGKILL, -9, [], marks=pytest.mark.slow),
    ],
)
def test_the_end_of_the_launching_process_is_that_of_all(names, number, status, says):
    helpers_ranks.FAULT.write_text("wait")
    waiting = [Path(f"waiting.{rank}") for rank in (0, 1)]
    process = start()
    wait_until(lambda: all(file.exists() and file.read_text() for file in waiting))
    workers = [int(file.read_text()) for file in waiting]
    process.send_signal(number)
    assert (process.communicate(timeout=60)[1].splitlines(), process.returncode) == (says, status)
    wait_until(lambda: not any(map(is_alive, workers)))


# This process, as if it were one of several


@pytest.fixture
def as_rank(monkeypatch):
    """Become one of several."""

    def become(rank, count):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(count))
        monkeypatch.setattr(os, "_exit", sys.exit)

    return become


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("items", [0, 1, 5, 20])
def test_every_item_is_the_share_of_one(as_rank, count, items):
    shares = []
    for rank in range(count):
        as_rank(rank, count)
        assert (ranks.rank(), ranks.count(), ranks.is_first()) == (rank, count, rank == 0)
        shares.append(ranks.share(range(items)))
    assert sorted(item for one in shares for item in one) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_that_was_started_alone_is_the_first_of_one(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.rank(), ranks.count(), ranks.place(), ranks.is_first()) == (0, 1, 0, True)
    assert ranks.share([3, 4]) == [3, 4]
    assert collectives.broadcast(lambda: (3,)) == (3,)
    assert collectives.gather((3,)) == [(3,)]
    collectives.join(own_card=False)
    collectives.barrier()
    collectives.leave()


def test_the_first_speaks_for_all(as_rank, capsys):
    as_rank(1, 2)
    console.note("a note")
    console.wrote(Path("store"), "a store")
    console.results("scores", {"r": "1"})
    assert list(console.track([1, 2], "steps", 2)) == [1, 2]
    assert capsys.readouterr().err == ""
    console.warn("a warning")
    assert "a warning" in capsys.readouterr().err


def test_another_process_waits_for_the_first_before_it_says_why_it_stops(as_rank, capsys, monkeypatch):
    as_rank(1, 2)
    waited = []
    monkeypatch.setattr(stage.time, "sleep", waited.append)
    with pytest.raises(SystemExit) as stopped, stage.errors_in_one_line():
        raise UserError("a reason")
    assert stopped.value.code == 1
    assert waited == [stage.FIRST_SPEAKS_S]
    assert capsys.readouterr().err == "error: (worker 2 of 2) a reason\n"


def test_a_stage_that_cannot_be_shared_refuses_torchrun(project, as_rank, capsys, monkeypatch):
    as_rank(0, 2)
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit):
        stage.run(lambda params: None)
    assert capsys.readouterr().err == "error: this stage is one process's: start it without torchrun\n"


def test_wrong_params_are_found_before_any_process_starts(project, capsys, monkeypatch):
    project.edit(**{"runtime.nproc": 0})
    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit):
        stage.run(lambda params: None, lambda count: pytest.fail("launched"))
    assert "runtime.nproc: Input should be greater than 0" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_each_process_takes_a_card_of_its_own(as_rank, monkeypatch, wanted):
    """There need be none: what is asked of them is noted."""
    asked = []
    as_rank(3, 4)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(device, "choose_device", lambda chosen, key: asked.append(chosen) or torch.device("cpu"))
    monkeypatch.setattr(collectives, "join", lambda own_card: asked.append(own_card))
    device.prepare_torch(wanted, torch.get_num_threads())
    assert asked == [1, "cuda:1", True]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"a CUDA device of its own, and here are 2: lower runtime\.nproc"):
        device.prepare_torch(wanted, torch.get_num_threads())
    asked.clear()
    device.prepare_torch("cuda:0", torch.get_num_threads())  # shared: over gloo
    assert asked == ["cuda:0", False]
