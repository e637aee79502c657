"""Every benchmark can be imported, and the fusion one trains: whole runs, which are slow, are tests of their own."""

from contextlib import chdir
from importlib import import_module

import pytest
from conftest import ROOT

from benchmarks.fusion_training import measure_step
from benchmarks.fusion_world import SMALL_SHAPES, make_project, predicted

NAMES = sorted(file.stem for file in (ROOT / "benchmarks").glob("*.py") if file.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_benchmark_can_be_imported(name):
    import_module(f"benchmarks.{name}")


def test_the_fusion_benchmark_trains_what_the_stage_trains(tmp_path):
    folder = make_project(tmp_path / "project", SMALL_SHAPES, 160)
    with chdir(folder):
        predicted(store="vertices", rois="all")
    found, training = measure_step(folder, 160)
    assert found["steps"] == 5  # an epoch: 160 images, 8 of them held out, in batches of 32
    assert len(training.models) == 1
