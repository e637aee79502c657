"""The token cache's promises, measured by the short form of its benchmark."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def record() -> dict:
    """What the benchmark writes, run anew."""
    for package in ("tensorstore", "zarrs"):
        pytest.importorskip(package, reason=f"the benchmark compares with {package}: pip install -e '.[benchmark]'")
    command = [sys.executable, "-m", "benchmarks.token_cache", "--short"]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True)
    return json.loads((ROOT / "build" / "token_cache" / "token_cache.json").read_text())


@pytest.mark.parametrize(
    ("what", "least"),
    [
        ("random rows over numpy.memmap's", 0.8),
        ("training order over numpy.memmap's sequential", 0.8),
        ("random rows over zarr's oindex", 50),
    ],
)
def test_reads_from_memory_reach_their_share(record, what, least):
    assert record["reads"][what]["median"] >= least


def test_training_order_keeps_up_with_the_disk(record):
    """Shared disks burst: the best repeat shows what the reader can do, the median is in the full benchmark."""
    assert record["reads"]["training order over a plain sequential read, from the disk"]["high"] >= 0.8


def test_caching_hides_decoding_and_writing(record):
    """64 photos start and end too often for the 0.95 of the full benchmark."""
    assert record["caching"]["caching over the bare forward pass"]["median"] >= 0.9


def test_a_probe_epoch_from_the_cache_is_a_hundred_times_faster(record):
    assert record["caching"]["probe epoch from the cache over the backbone in the loop"]["median"] >= 100


@pytest.mark.parametrize("what", ["caching", "training epoch"])
def test_memory_does_not_grow_with_the_images(record, what):
    few, many = record["memory"][what].values()
    assert many < 1.1 * few


def test_the_training_order_trains_as_well_as_a_full_shuffle(record):
    scores = {name: sum(of_seed) / len(of_seed) for name, of_seed in record["mixing"].items()}
    assert abs(scores["training order"] - scores["full shuffle"]) < 1
    assert scores["as stored"] < scores["training order"]
