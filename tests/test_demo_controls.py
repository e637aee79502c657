"""The demo's promises, measured by the benchmark over three simulated subjects."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "demo_controls.json"


@pytest.fixture(scope="module")
def record() -> dict:
    """What the benchmark writes, run anew."""
    subprocess.run([sys.executable, "-m", "benchmarks.demo_controls"], cwd=ROOT, env=os.environ, check=True)
    return json.loads(RECORD.read_text())


def difference(record: dict, other: str, arm: str = "bmfl") -> dict:
    return next(one for one in record["differences"] if one["arm"] == arm and one["other"] == other)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_bmfl_leads_where_the_brain_knows_shape_and_only_there(record):
    assert difference(record, "linear")["ood_mean"]["mean"] >= 15
    assert difference(record, "image_only")["ood_mean"]["mean"] >= 10
    shuffled = difference(record, "shuffled")
    assert shuffled["ood_mean"]["mean"] >= 10
    assert shuffled["ood_mean"]["t_interval_over_seeds"][0] > 4
    assert shuffled["conflict"]["mean"] >= 25
    assert difference(record, "linear")["val"]["mean"] >= -1
    knows_nothing = difference(record, "shuffled, high ROIs know nothing", "bmfl, high ROIs know nothing")
    assert abs(knows_nothing["conflict"]["mean"]) < 10
    assert knows_nothing["ood_mean"]["mean"] < shuffled["ood_mean"]["mean"] / 2


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_encoder_reaches_its_share_of_the_ceiling_and_beats_ridge(record):
    early, high = record["encoder"]["early"], record["encoder"]["high"]
    assert np.mean(early["fraction_of_ceiling"]) >= 0.82
    assert np.mean(high["fraction_of_ceiling"]) >= 0.68
    assert np.mean(high["pearson"]) - np.mean(high["ridge"]) >= 0.05
