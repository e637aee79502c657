"""profiles/photos.yaml on PACS, as a user runs it: one `dvc repro` from photos to metrics."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import copy_project

CHANCE = 100 / 7


@pytest.fixture(scope="module")
def run(real: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """metrics/classification.json of the profile with the demo's light backbone, and shorter training."""
    folder = tmp_path_factory.mktemp("photos")
    yaml = copy_project(folder)
    params = yaml.load(folder / "profiles" / "photos.yaml")
    demo = yaml.load(folder / "params.yaml")
    params["backbone"] = {**demo["backbone"], "image_size": 224}
    params["encoder"]["control_features"] = demo["encoder"]["control_features"]
    params["rendered"]["nsd"]["n"] = 200
    params["encoder"] |= {"epochs": 3, "ridge_components": 50}
    params["fusion"] |= {"epochs": 5, "seeds": 1}
    params["evaluation"]["bootstrap"] = 500
    params["runtime"] |= {"threads": 1, "workers": 0, "progress": False}
    yaml.dump(params, folder / "params.yaml")
    environment = {**os.environ, "PYTHONPATH": str(folder), "NEURALOOD_DATA": str(real), "DVC_NO_ANALYTICS": "1"}
    subprocess.run(["dvc", "repro", "summarize"], cwd=folder, env=environment, check=True, timeout=900)
    return json.loads((folder / "metrics" / "classification.json").read_text())


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.timeout(1200)
def test_the_probe_on_photos_is_scored_on_photos_two_made_sets_and_three_domains(run: dict[str, dict]) -> None:
    assert set(run["ood"]) == {"art_painting", "cartoon", "sketch", "val_line_drawing", "val_cartoon"}
    assert run["id"]["val"]["linear"]["top1"] > 85
    for cell in run["ood"].values():
        assert cell["n_classes"] == 7
        assert CHANCE < cell["linear"]["top1"] < run["id"]["val"]["linear"]["top1"]


@pytest.mark.slow
@pytest.mark.real
def test_made_sets_are_resampled_with_the_photos_that_they_are_made_from(run: dict[str, dict]) -> None:
    val = run["id"]["val"]["n"]
    assert run["ood"]["val_line_drawing"]["n"] == run["ood"]["val_cartoon"]["n"] == val
