"""The promises of fusion's training, measured by the short form of its benchmark."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def record() -> dict:
    """What the benchmark writes, run anew."""
    subprocess.run([sys.executable, "-m", "benchmarks.fusion", "--short"], cwd=ROOT, env=os.environ, check=True)
    return json.loads((ROOT / "build" / "fusion" / "fusion.json").read_text())


def test_a_step_waits_less_than_a_twentieth_for_data(record):
    assert record["step"]["waiting"] < 0.05


def test_a_step_at_full_shapes_fits_in_20_gb(record):
    assert record["peak"]["8"] < 20_000


def test_ten_probes_cost_less_than_two_where_reading_costs_most(record):
    assert record["probes"]["classes"]["10"]["ten over one"] < 2
    assert all(one["ten passes over one pass"] > 1.5 for one in record["probes"]["classes"].values())


def test_seeds_in_one_pass_are_not_a_quarter_slower_than_a_pass_each(record):
    assert record["seeds"]["ratio"]["median"] > 0.8


def test_low_rank_fmri_gives_the_same_logits_at_a_tenth_of_the_bytes(record):
    full, low_rank = record["forms"]["vertices"], record["forms"]["roi_tokens"]
    assert low_rank["bytes"] < full["bytes"] / 10
    assert low_rank["from float16"] < 1e-3


def test_vertices_of_some_rois_are_exactly_those_of_all(record):
    assert record["forms"]["vertices of early"]["from float16"] == 0


def test_processes_write_the_same_bytes(record):
    runs = record["processes"]
    assert runs["1 process, 1 thread"]["contents"] == runs["2 processes, 1 thread each"]["contents"]


@pytest.mark.parametrize("stage", ["cache_tokens", "synthesize", "train_fusion", "evaluate"])
def test_memory_does_not_grow_with_the_images(record, stage):
    peaks = record["growth"][stage]
    assert peaks["20000"] < 1.1 * peaks["1000"]
