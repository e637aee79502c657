"""The whole way on a very small demo world: every stage, twice, in one process."""

import json
import re
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from neuralood.config import Params, load_params

PROJECT = Path(__file__).resolve().parent.parent
SMALL = {"nsd": 90, "nsd_restyled": 90, "train": 60}
"""Images of the large sets; the others have 20."""


def small_params(folder: Path, **changes: dict[str, object]) -> Params:
    """params.yaml with little of everything, in `folder`."""
    yaml = YAML()
    content = yaml.load(PROJECT / "params.yaml")
    for name in ("edges", "noise", "lowpass", "contrast"):
        del content["sets"][name], content["rendered"][name]
        content["evaluation"]["ood_mean"].remove(name)
    for name, entry in content["rendered"].items():
        entry["n"] = SMALL.get(name, 20)
    content["demo"]["vertices"] = {"early": 3, "high": 4, "rest": 2}
    content["backbone"]["image_size"] = content["encoder"]["control_features"]["image_size"] = 64
    content["cache"] |= {"chunk": 16, "batch_size": 10}
    content["encoder"] |= {"epochs": 3, "width": 16, "ridge_components": 20}
    content["fusion"] |= {"epochs": 3, "width": 16, "patch": 10, "seeds": 2, "probe_c": [0.1, 1.0]}
    content["evaluation"]["bootstrap"] = 200
    content["runtime"] |= {"progress": False, "threads": 1, "device": "cpu"}
    for section, values in changes.items():
        content[section] |= values
    yaml.dump(content, folder / "params.yaml")
    return load_params(folder / "params.yaml")


def run_images(params: Params) -> None:
    """The stages whose results no control or variant changes."""
    from neuralood.data.fmri import prepare_fmri
    from neuralood.demo.drawing import render_set
    from neuralood.demo.subject import simulate_subject

    for name in params.sets:
        render_set(params, name)
    simulate_subject(params, params.fmri.subject)
    prepare_fmri(params)


def run_models(params: Params) -> None:
    """The other stages, in the order of dvc.yaml."""
    from neuralood.encoder.baselines.every import fit_baselines
    from neuralood.encoder.train import train_encoder
    from neuralood.fusion.train import train_fusion
    from neuralood.summary import summarize, summarize_encoder
    from stages.cache_tokens import main as cache_tokens
    from stages.evaluate import main as evaluate
    from stages.score_encoder import main as score_encoder
    from stages.synthesize import main as synthesize

    for name in params.sets:
        cache_tokens(params, name)
    fit_baselines(params)
    train_encoder(params)
    for name in params.sets:
        score_encoder(params, name)
        synthesize(params, name)
    train_fusion(params)
    for name in params.sets:
        evaluate(params, name)
    summarize_encoder(params)
    summarize(params)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything ran once."""
    folder = tmp_path_factory.mktemp("world")
    with chdir(folder):
        params = small_params(folder)
        run_images(params)
        run_models(params)
    return folder


def metrics(folder: Path) -> dict[str, dict]:
    return {
        name: json.loads((folder / "metrics" / f"{name}.json").read_text())
        for name in ("encoder", "classification", "robustness", "encoder_ood", "geometry")
    }


def test_metrics_have_the_keys_that_people_diff(finished: Path) -> None:
    record = metrics(finished)
    assert {"data", "groups", "pearson", "ridge", "roi", "fraction_of_ceiling"} <= set(record["encoder"])
    assert set(record["classification"]["ood"]) == {"silhouette", "conflict"}
    cell = record["classification"]["ood"]["conflict"]
    assert set(cell) == {"n", "n_classes", "linear", "fusion", "gain", "extra"}
    assert set(cell["fusion"]) == {"top1", "top1_sd", "top5"}
    assert record["classification"]["ood_mean"]["n_sets"] == 2
    assert set(record["robustness"]["ood"]) == {"silhouette", "conflict"}
    assert set(record["robustness"]["id"]["val"]["fusion"]) == {"ece", "nll", "brier", "worst_class"}
    assert json.loads((finished / "metrics" / "humans.json").read_text()) == {}  # nobody's answers in the demo
    assert set(record["encoder_ood"]) == {"silhouette", "edges", "conflict", "noise", "lowpass", "contrast"}
    for scores in record["encoder_ood"].values():
        assert {"n", "pearson", "groups", "photo"} <= set(scores)
        assert set(scores["photo"]["groups"]) == {"early", "high"}
    assert record["geometry"] == {}


def test_everything_says_simulated(finished: Path) -> None:
    record = metrics(finished)
    assert record["encoder"]["data"] == record["classification"]["fmri"] == "simulated"


def test_the_same_seed_gives_the_same_metrics_byte_for_byte(finished: Path, tmp_path: Path) -> None:
    with chdir(tmp_path):
        params = small_params(tmp_path)
        run_images(params)
        run_models(params)
    for name in ("encoder.json", "classification.json", "robustness.json", "encoder_ood.json"):
        assert (tmp_path / "metrics" / name).read_bytes() == (finished / "metrics" / name).read_bytes()


SLOW = pytest.mark.slow  # the same way once more


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": {"control": "shuffled"}},
        {"encoder": {"control": "features"}},
        {"fusion": {"variant": "image_only"}},
        {"fusion": {"rois": ["FFA-1", "places"], "vertex_order": "native", "pcc_weight": 0.0}},
        pytest.param({"encoder": {"control": "untrained"}}, marks=SLOW),
        pytest.param({"fusion": {"variant": "concat"}}, marks=SLOW),
        pytest.param({"fusion": {"variant": "brain_only"}}, marks=SLOW),
        pytest.param({"fusion": {"rois": "early"}}, marks=SLOW),
        pytest.param({"cache": {"pool": 2}}, marks=SLOW),
    ],
    ids=str,
)
def test_every_control_and_variant_runs(finished: Path, tmp_path: Path, changes: dict) -> None:
    for part in ("demo", "manifests", "fmri/measured.zarr"):
        shutil.copytree(finished / "data" / part, tmp_path / "data" / part)
    with chdir(tmp_path):
        run_models(small_params(tmp_path, **changes))
    record = metrics(tmp_path)["classification"]
    assert record["control"] == changes.get("encoder", {}).get("control", "none")
    assert record["variant"] == changes.get("fusion", {}).get("variant", "bmfl")


@pytest.fixture
def page_of(finished: Path, tmp_path: Path) -> Callable[[], str]:
    """Writes the report in a copy of the finished run and reads it."""
    from neuralood.report.write import write_report

    shutil.copytree(finished, tmp_path / "copy")

    def write() -> str:
        with chdir(tmp_path / "copy"):
            write_report(load_params())
            return Path("metrics/report.html").read_text()

    return write


def test_the_page_needs_nothing_but_itself(page_of: Callable[[], str]) -> None:
    page = page_of()
    assert "SIMULATED" in page
    assert not re.search(r"<script|<link|(src|href)=[\"'](?!data:|#)", page)


def test_the_page_is_the_same_the_second_time(page_of: Callable[[], str]) -> None:
    assert page_of() == page_of()


def test_a_hostile_class_name_stays_text(page_of: Callable[[], str], tmp_path: Path) -> None:
    manifest = tmp_path / "copy" / "data" / "manifests" / "val.json"
    record = json.loads(manifest.read_text())
    record["classes"] = [f"<script>alert({label})</script>" for label, _ in enumerate(record["classes"])]
    manifest.write_text(json.dumps(record))
    page = page_of()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_pictures_that_are_gone_cost_no_page(page_of: Callable[[], str], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "copy" / "data" / "demo")
    assert "not on this machine" in page_of()
