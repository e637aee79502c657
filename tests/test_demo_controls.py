"""The demo's promises: in the committed table of the benchmark, and measured anew by its short form."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def committed() -> dict:
    """What the benchmark wrote, over three simulated subjects and all arms."""
    return json.loads((ROOT / "benchmarks" / "demo_controls.json").read_text())


@pytest.fixture(scope="module")
def fresh() -> dict:
    """What its short form writes now, of one simulated subject."""
    command = [sys.executable, "-m", "benchmarks.demo_controls", "--short"]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True)
    return json.loads((ROOT / "build" / "demo_controls" / "demo_controls.json").read_text())


def difference(record: dict, other: str, arm: str = "bmfl") -> dict:
    return next(one for one in record["differences"] if one["arm"] == arm and one["other"] == other)


def require_lead(record: dict) -> None:
    """BMFL leads where the brain knows shape, and only there."""
    assert difference(record, "linear")["ood_mean"]["mean"] >= 15
    assert difference(record, "image_only")["ood_mean"]["mean"] >= 10
    shuffled = difference(record, "shuffled")
    assert shuffled["ood_mean"]["mean"] >= 10
    assert min(shuffled["ood_mean"]["per_seed"]) > 4
    assert shuffled["conflict"]["mean"] >= 25
    assert difference(record, "linear")["val"]["mean"] >= -1
    knows_nothing = difference(record, "shuffled, high ROIs know nothing", "bmfl, high ROIs know nothing")
    assert abs(knows_nothing["conflict"]["mean"]) < 10
    assert knows_nothing["ood_mean"]["mean"] < shuffled["ood_mean"]["mean"] / 2


def require_encoder(record: dict) -> None:
    """The encoder reaches its share of the ceiling and beats ridge."""
    early, high = record["encoder"]["early"], record["encoder"]["high"]
    assert np.mean(early["fraction_of_ceiling"]) >= 0.82
    assert np.mean(high["fraction_of_ceiling"]) >= 0.68
    assert np.mean(high["pearson"]) - np.mean(high["ridge"]) >= 0.05


def require_verdicts(record: dict) -> None:
    """Evidence where the brain knows shape; none where it knows nothing, or its images are exchanged."""
    found = {main: {one["brain_information"] for one in of_seeds} for main, of_seeds in record["verdicts"].items()}
    assert found == {"bmfl": {True}, "bmfl, high ROIs know nothing": {False}, "shuffled": {False}}


def test_bmfl_leads_in_the_committed_table(committed):
    require_lead(committed)
    assert committed["seeds"] == [0, 1, 2]
    assert difference(committed, "shuffled")["ood_mean"]["t_interval_over_seeds"][0] > 4


def test_the_encoder_of_the_committed_table_beats_ridge(committed):
    require_encoder(committed)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_bmfl_leads_where_the_brain_knows_shape_and_only_there(fresh):
    require_lead(fresh)


def test_verdicts_of_the_committed_table(committed):
    require_verdicts(committed)
    nothing = committed["verdicts"]["shuffled"][0]
    assert nothing["text"].startswith(
        "No evidence that the brain helps: on mean OOD bmfl does not stand above shuffled"
    )


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_verdict_is_evidence_where_the_brain_knows_shape_and_only_there(fresh):
    require_verdicts(fresh)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_encoder_reaches_its_share_of_the_ceiling_and_beats_ridge(fresh):
    require_encoder(fresh)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_committed_table_is_of_this_code(fresh, committed):
    """Per-seed gains over shuffled may differ by what another machine's arithmetic does, no more."""
    for other in ("linear", "shuffled", "image_only"):
        ours = difference(fresh, other)["ood_mean"]["per_seed"]
        theirs = difference(committed, other)["ood_mean"]["per_seed"][: len(ours)]
        np.testing.assert_allclose(ours, theirs, atol=8)
