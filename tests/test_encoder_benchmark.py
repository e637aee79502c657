"""The promises of the encoder's training, measured by the short form of its benchmark."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
OURS, REFERENCE = "ours, 16 heads", "reference, 16 heads"


@pytest.fixture(scope="module")
def record() -> dict:
    """What the benchmark writes, run anew."""
    subprocess.run([sys.executable, "-m", "benchmarks.encoder", "--short"], cwd=ROOT, env=os.environ, check=True)
    return json.loads((ROOT / "build" / "encoder" / "encoder.json").read_text())


def test_the_readout_is_five_times_faster(record):
    assert record["readout"]["median"] >= 5


def test_the_step_is_one_and_a_half_times_faster(record):
    assert record["step"][OURS]["median"] >= 1.5


@pytest.mark.parametrize("what", ["forward", "forward and backward"])
def test_the_readout_takes_a_quarter_of_the_memory(record, what):
    memory = record["readout memory"]
    assert memory[OURS][what] <= memory[REFERENCE][what] / 4


def test_a_step_at_full_size_fits_in_20_gb(record):
    assert max(record["peak"].values()) < 20_000


def test_an_epoch_from_the_cache_is_fifteen_times_faster(record):
    assert record["epoch"]["ratio"]["median"] >= 15
