"""`dvc repro` interrupted in cache_tokens goes on where it was: what DVC deletes is not the unfinished store."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from conftest import copy_project

from neuralood.base.store import CONTENTS, open_store

STORE, PARTIAL = Path("data/tokens/train.zarr"), Path("data/.partial/tokens")
IMAGES, CHUNK = 600, 10


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project in a Git repository of its own, with a small train set."""
    yaml = copy_project(tmp_path)
    params = yaml.load(tmp_path / "params.yaml")
    params["rendered"]["train"]["n"] = IMAGES
    params["cache"] |= {"chunk": CHUNK, "batch_size": 5}
    params["runtime"] |= {"threads": 1, "progress": False}
    yaml.dump(params, tmp_path / "params.yaml")
    return tmp_path


def repro(clone: Path) -> subprocess.Popen[str]:
    """`dvc repro cache_tokens@train`, with a DVC cache of its own, in a group of processes of its own."""
    return subprocess.Popen(
        ["dvc", "repro", "cache_tokens@train"],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone), "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )


def finished(clone: Path) -> int:
    """Chunks that are stored so far."""
    return len(list((clone / PARTIAL / "train.stamps").glob("[0-9]*.npy")))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "Ctrl-C"])
def test_an_interrupted_dvc_repro_goes_on_where_it_was(clone: Path, how: signal.Signals) -> None:
    running = repro(clone)
    while finished(clone) < 3 and running.poll() is None:
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.killpg(running.pid, how)
    running.communicate()
    assert not (clone / STORE).exists()
    stored = finished(clone)
    assert 3 <= stored < IMAGES // CHUNK
    output = repro(clone).communicate()[0]
    went_on = re.search(rf"going on: (\d+) of {IMAGES} images of train are stored already", output)
    assert went_on, output
    assert int(went_on[1]) == stored * CHUNK
    contents = open_store(clone / STORE).attributes[CONTENTS]
    again = subprocess.run(
        ["dvc", "repro", "--force", "--no-run-cache", "-s", "cache_tokens@train"],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "going on" not in again.stdout + again.stderr
    assert open_store(clone / STORE).attributes[CONTENTS] == contents
