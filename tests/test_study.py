"""The study: its arms, what an interruption leaves, and what is concluded from its numbers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json
from neuralood.config import load_params
from neuralood.predictions import Predictions, write_predictions
from neuralood.study import runs, study
from neuralood.study.arms import CONTROLS, further_arms
from neuralood.study.baselines import above_the_line, best_baseline
from neuralood.study.compare import Difference
from neuralood.study.results import Result
from neuralood.study.verdict import verdict

GROUPS = ("early", "high", "faces")
NAMES = ("lh.V1v", "rh.V1v", "lh.OFA", "rh.EBA")
SETS = ("val", "silhouette", "edges")


@pytest.fixture
def small(project):
    """A project whose study has two OOD sets and few resamples."""
    content = project.read()
    for name in ("conflict", "noise", "lowpass", "contrast"):
        del content["sets"][name], content["rendered"][name]
        content["evaluation"]["ood_mean"].remove(name)
    content["evaluation"]["bootstrap"] = 500
    content["study"] |= {"seeds": 2}
    project.write(content)
    return project


def pretend(name, skill=None):
    """What `dvc exp run` leaves of an arm: predictions whose skill its name fixes."""
    params = load_params(check_paths=False)
    rng = np.random.default_rng(len(params.encoder.control) + len(params.fusion.variant) + len(str(params.fusion.rois)))
    share = (skill or {}).get(name, 0.5)
    for set_name in SETS:
        labels = np.random.default_rng(0).integers(10, size=60).astype(np.int32)
        right = {"fusion": rng.random((2, 60)) < share, "linear": np.random.default_rng(1).random((2, 60)) < 0.3}
        ranked = {
            model: np.where(one, labels, (labels + 1) % 10)[..., None].astype(np.int32) for model, one in right.items()
        }
        confidence = {model: np.full((2, 60), 0.5, np.float32) for model in right}
        sources = tuple(f"image{row}" for row in range(60))
        scores = {model: np.full((2, 60), value, np.float32) for value in (-0.7, 0.3) for model in right}
        kept = Predictions(labels, ranked, confidence, scores, scores, sources)
        write_predictions(paths.evaluation(set_name), kept)
    write_json(paths.CATEGORIES, {})
    write_json(paths.ENCODER / "encoder.json", {"roi_names": NAMES})
    holdout = {"linear": [0.3, 0.5], "fusion": [0.2, 0.4]}
    write_json(paths.FUSION / "fusion.json", {"seeds": 2, "holdout": holdout})
    parameters = {"linear": 10, "fusion": 100, "encoder": 50}
    record = {"fmri": "simulated", "backbone": params.backbone.name, "parameters": parameters}
    write_json(paths.CLASSIFICATION_METRICS, record)


@pytest.fixture
def pretended(small, monkeypatch):
    """A project in which DVC only pretends, and which arms it ran."""
    ran = []

    def reproduce(name):
        ran.append(name)
        pretend(name)

    monkeypatch.setattr(runs, "reproduce", reproduce)
    monkeypatch.setattr(study, "dvc", lambda *arguments: 0)
    return ran


def test_the_quick_arms_are_those_that_the_verdict_needs_and_two_groups(project):
    arms = further_arms(project.load(), GROUPS, NAMES, quick=True)
    assert [arm.name for arm in arms] == [*CONTROLS, "early", "high"]


def test_the_full_grid(project):
    arms = {arm.name: arm.changes for arm in further_arms(project.load(), GROUPS, NAMES, quick=False)}
    assert arms["without_early"] == {"fusion.rois": ["OFA", "EBA"]}
    assert arms["without_faces"] == {"fusion.rois": ["V1v", "EBA"]}
    assert arms["pcc_0"] == {"fusion.pcc_weight": 0.0}
    assert "pcc_1" not in arms  # the main arm
    assert arms["concat"] == {"fusion.variant": "concat"}
    assert arms["images_500"] == {"encoder.images": 500}


def test_an_imported_encoder_has_no_controls_of_its_own(project):
    project.edit(**{"fmri.source": "imported", "fmri.space": "simulated"})
    project.edit(**{"fmri.simulated": {}, "fmri.imported": {"subj01": {"path": "encoder"}}})
    content = project.read()
    for name in ("nsd", "nsd_restyled"):
        del content["sets"][name], content["rendered"][name]
    project.write(content)
    arms = further_arms(load_params(check_paths=False), GROUPS, NAMES, quick=False)
    assert not [arm.name for arm in arms if "encoder.control" in arm.changes or "encoder.images" in arm.changes]
    assert "image_only" in [arm.name for arm in arms]


def test_fmri_kept_of_some_rois_has_no_arms_of_others(project):
    project.edit(**{"synthesis.rois": "early", "fusion.rois": "early"})
    assert not [arm for arm in further_arms(project.load(), GROUPS, NAMES, quick=False) if arm.kind == "rois"]


@pytest.mark.parametrize("file", [ROOT / "params.yaml", ROOT / "profiles" / "paper.yaml"], ids=lambda file: file.stem)
def test_every_arm_is_a_valid_params_file(project, file):
    project.file.write_bytes(file.read_bytes())
    arms = further_arms(load_params(check_paths=False), GROUPS[:1], NAMES, quick=False)
    for arm in arms:
        Path("arm.yaml").write_text(runs.params_text(arm.changes))
        load_params(Path("arm.yaml"), check_paths=False)
    assert len(arms) > 10


def test_an_arm_changes_its_values_and_no_comment(project):
    before, after = project.file.read_text(), runs.params_text({"fusion.variant": "concat"})
    assert [line for line in after.splitlines() if line not in before.splitlines()] == ["  variant: concat"]


def test_a_study_runs_each_arm_once_and_leaves_params_as_they_were(pretended, small):
    before = small.file.read_bytes()
    study.study(quick=True)
    study.study(quick=True)
    assert pretended == ["bmfl", "image_only", "early", "high", "shuffled", "untrained", "features"]
    assert small.file.read_bytes() == before
    assert set(read_json(paths.STUDY_METRICS)["arms"]) == {"linear", *pretended}


def test_an_arm_runs_again_when_its_params_change(pretended, small):
    study.study(quick=True)
    small.edit(**{"runtime.threads": 1})
    study.study(quick=True)
    assert len(pretended) == 7
    small.edit(**{"fusion.epochs": 3})
    study.study(quick=True)
    assert len(pretended) == 14


def test_a_failed_arm_costs_no_other_one(pretended, small, monkeypatch):
    before, work = small.file.read_bytes(), runs.reproduce

    def fail(name):
        if name == "untrained":
            raise UserError("study: arm untrained failed")
        work(name)

    monkeypatch.setattr(runs, "reproduce", fail)
    with pytest.raises(UserError, match="untrained"):
        study.study(quick=True)
    assert small.file.read_bytes() == before
    monkeypatch.setattr(runs, "reproduce", work)
    study.study(quick=True)
    assert sorted(pretended) == sorted(["bmfl", *CONTROLS, "early", "high"])


KILLED = """
import os, signal
from neuralood.study import runs, study
from test_study import pretend
def reproduce(name):
    if name == "untrained" and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    pretend(name)
runs.reproduce, study.dvc = reproduce, lambda *arguments: 0
study.study(quick=True)
"""


def test_a_killed_study_goes_on_and_ends_with_the_same_numbers(small, pretended):
    before = small.file.read_bytes()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", KILLED]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert small.file.read_bytes() != before  # the arm's
    subprocess.run(command, env=environment, check=True)
    assert small.file.read_bytes() == before
    killed = paths.STUDY_METRICS.read_bytes()
    for arm in [folder for folder in runs.ARMS.iterdir() if folder.is_dir()]:
        (arm / runs.RECORD).unlink()
    study.study(quick=True)
    assert len(pretended) == 7
    assert paths.STUDY_METRICS.read_bytes() == killed


def killed_while(running):
    """What a study leaves that was killed while params.yaml was an arm's."""
    runs.ARMS.mkdir(parents=True)
    (runs.ARMS / runs.OWN_PARAMS).write_text("own")
    (runs.ARMS / runs.RUNNING_PARAMS).write_text(running)


def test_params_that_were_edited_after_a_kill_are_kept_and_so_are_the_users_own(small):
    killed_while("the arm's")
    before = small.file.read_bytes()
    with pytest.raises(UserError, match=r"was edited.*own_params\.yaml is your own"):
        runs.restore_params()
    assert small.file.read_bytes() == before
    assert (runs.ARMS / runs.OWN_PARAMS).read_text() == "own"


def test_a_study_killed_before_params_were_replaced_leaves_nothing(small):
    killed_while("the arm's")
    small.file.write_text("own")
    runs.restore_params()
    assert small.file.read_text() == "own"
    assert not list(runs.ARMS.iterdir())


def test_an_arm_that_cannot_run_is_said_before_any_work(pretended, small):
    small.edit(**{"encoder.control_features.weights": "missing.pth"})
    with pytest.raises(UserError, match=r"(?s)arm features cannot run.*missing\.pth"):
        study.study(quick=True)
    assert pretended == ["bmfl"]


def test_the_study_is_of_bmfl(small):
    small.edit(**{"fusion.variant": "concat"})
    with pytest.raises(UserError, match=r"fusion\.variant"):
        study.study(quick=True)


def test_terms_of_the_decomposition_add_up(pretended):
    study.study(quick=True)
    record = read_json(paths.STUDY_METRICS)
    terms = {name: one["difference"] for name, one in record["decomposition"].items()}
    assert terms["total"] == pytest.approx(
        terms["image_network"] + terms["training_on_fmri"] + terms["brain"], abs=1e-5
    )
    top1 = {name: one["top1"]["ood_mean"]["mean"] for name, one in record["arms"].items()}
    assert terms["brain"] == pytest.approx(top1["bmfl"] - top1["shuffled"], abs=1e-5)


def test_comparisons_are_of_the_predictions(pretended):
    study.study(quick=True)
    record = read_json(paths.STUDY_METRICS)
    row = next(one for one in record["comparisons"] if (one["other"], one["set"]) == ("linear", "edges"))
    top1 = {name: record["arms"][name]["top1"]["edges"]["per_seed"] for name in ("bmfl", "linear")}
    assert row["per_seed"] == pytest.approx(np.subtract(top1["bmfl"], top1["linear"]).tolist())
    for test, share in zip(row["mcnemar"], row["per_seed"], strict=True):
        assert test["only_arm"] - test["only_other"] == pytest.approx(0.6 * share)
    assert row["holm_p"] >= row["p"]
    mean = next(one for one in record["comparisons"] if (one["other"], one["set"]) == ("linear", "ood_mean"))
    assert "holm_p" not in mean
    assert "mcnemar" not in mean


def arm(name, kind, val, ood, holdout=0.5):
    """One seed's result on 100 images a set, of which so many are right."""
    sources = tuple(f"image{row}" for row in range(100))
    correct = {one: np.arange(100)[None] < right for one, right in (("val", val), ("edges", ood))}
    return Result(name, kind, {}, correct, dict.fromkeys(correct, sources), 10, holdout)


SETS_OF_ARMS = {"ood_mean": ["edges"], "val": ["val"], "edges": ["edges"]}


def test_the_best_baseline_is_chosen_on_the_holdout():
    arms = [
        arm("linear", "baseline", 90, 40, 0.3),
        arm("mlp", "baseline", 80, 60, 0.4),
        arm("bmfl", "main", 99, 70, 0.1),
    ]
    assert best_baseline(arms).name == "linear"


def test_effective_robustness_is_the_height_above_the_baselines_line():
    arms = [arm("linear", "baseline", 90, 40), arm("mlp", "baseline", 60, 20), arm("bmfl", "main", 90, 70)]
    found = above_the_line(arms, SETS_OF_ARMS)
    assert found["arms"]["linear"] == pytest.approx(0, abs=1e-4)
    assert found["arms"]["bmfl"] == pytest.approx(30 * 100 / 101, abs=1e-4)


def test_effective_robustness_of_equal_baselines_is_not_applicable():
    arms = [arm("linear", "baseline", 100, 40), arm("mlp", "baseline", 100, 20), arm("bmfl", "main", 100, 70)]
    assert above_the_line(arms, SETS_OF_ARMS)["arms"] == {}


def test_bmfl_above_all_controls_is_brain_information(small, pretended, monkeypatch):
    monkeypatch.setattr(runs, "reproduce", lambda name: pretend(name, {"bmfl": 0.95}))
    study.study(quick=True)
    found = read_json(paths.STUDY_METRICS)["verdict"]
    assert found["brain_information"]
    assert found["text"].startswith("Brain information")
    assert "SIMULATED" in found["text"]


def test_the_shuffled_control_as_the_main_arm_is_no_evidence(small, pretended, monkeypatch):
    """Then `shuffled` is the same run."""
    small.edit(**{"encoder.control": "shuffled"})
    monkeypatch.setattr(runs, "reproduce", lambda name: pretend(name, {"bmfl": 0.95, "shuffled": 0.95}))
    study.study(quick=True)
    found = read_json(paths.STUDY_METRICS)["verdict"]
    assert not found["brain_information"]
    assert "does not stand above shuffled" in found["text"]
    assert json.loads(paths.STUDY_METRICS.read_text())["decomposition"]["brain"]["difference"] == 0


def difference(name, mean, sd=1.0):
    draws = np.random.default_rng(len(name)).normal(mean, sd, 4_000)
    return Difference(f"bmfl - {name}", np.array([mean - 0.1, mean + 0.1]), draws)


def test_one_control_that_is_not_beaten_is_enough_for_no_evidence():
    for name in CONTROLS:
        against = {one: difference(one, 0.5 if one == name else 20.0) for one in CONTROLS}
        found = verdict(against, None, simulated=False)
        assert not found["brain_information"]
        assert name in found["text"]


def test_a_control_that_was_not_run_is_no_evidence():
    against = {name: difference(name, 20.0) for name in CONTROLS if name != "features"}
    found = verdict(against, None, simulated=False)
    assert not found["brain_information"]
    assert "features" in found["text"]


def test_intervals_are_wider_than_for_a_single_question():
    against = {name: difference(name, 2.1) for name in CONTROLS}  # each alone is above 0 by 95 %
    assert not verdict(against, None, simulated=False)["brain_information"]
    levels = sorted(row["level"] for row in verdict(against, None, simulated=False)["against"].values())
    assert levels == pytest.approx([0.95, 0.975, 1 - 0.05 / 3, 0.9875], abs=1e-6)


@given(st.lists(st.floats(-3, 8), min_size=4, max_size=4))
def test_the_verdict_is_that_of_corrected_p_values(means):
    against = {name: difference(name, mean) for name, mean in zip(CONTROLS, means, strict=True)}
    found = verdict(against, None, simulated=False)
    largest = max(row["holm_p"] for row in found["against"].values())
    if largest < 0.045:
        assert found["brain_information"] == (min(means) > 0)
    if largest > 0.055:
        assert not found["brain_information"]
