"""The study: its arms, what an interruption leaves, and what is concluded from its numbers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from neuralood.base import paths
from neuralood.base.checkpoint import save_tensors
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, write_json
from neuralood.config import load_params
from neuralood.encoder.trained import RECORD, WEIGHTS
from neuralood.predictions import Predictions, write_predictions
from neuralood.study import runs, study
from neuralood.study.arms import CONTROLS, further_arms
from neuralood.study.baselines import above_the_line, best_baseline
from neuralood.study.compare import Difference
from neuralood.study.results import Result
from neuralood.study.verdict import verdict
from neuralood.study.workspaces import FOLDER, Pool, Workspace, git, open_workspaces

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


def pretend(name, workspace, skill=None):
    """What `dvc exp run` leaves of an arm in a workspace: predictions whose skill its name fixes."""
    folder = workspace.folder
    params = load_params(folder / paths.PARAMS, check_paths=False)
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
        write_predictions(folder / paths.evaluation(set_name), kept)
    write_json(folder / paths.CATEGORIES, {})
    holdout = {"linear": [0.3, 0.5], "fusion": [0.2, 0.4]}
    write_json(folder / paths.FUSION / "fusion.json", {"seeds": 2, "holdout": holdout})
    parameters = {"linear": 10, "fusion": 100, "encoder": 50}
    record = {"fmri": "simulated", "backbone": params.backbone.name, "parameters": parameters}
    write_json(folder / paths.CLASSIFICATION_METRICS, record)


def folders(count):
    """Workspaces without Git or DVC."""
    pool = [Workspace(FOLDER / str(number)) for number in range(count)]
    for one in pool:
        one.folder.mkdir(parents=True, exist_ok=True)
    return Pool(pool)


@pytest.fixture
def pretended(small, monkeypatch):
    """A project in which DVC only pretends, and which arms it ran."""
    ran = []

    def reproduce(name, workspace):
        pretend(name, workspace)
        ran.append(name)

    monkeypatch.setattr(runs, "reproduce", reproduce)
    monkeypatch.setattr(runs, "open_workspaces", folders)
    monkeypatch.setattr(Workspace, "restore", lambda workspace: None)
    monkeypatch.setattr(study, "dvc", lambda *arguments: 0)
    small.edit(**{"runtime.arms": 1})
    write_json(paths.ENCODER / RECORD, {"roi_names": NAMES})
    save_tensors(paths.ENCODER / WEIGHTS, {"membership": torch.eye(len(NAMES) + 2, dtype=torch.bool)})
    return ran


def test_the_quick_arms_are_those_that_the_verdict_needs_and_two_groups(project):
    arms = further_arms(project.load(), GROUPS, GROUPS, quick=True)
    assert [arm.name for arm in arms] == [*CONTROLS, "early", "high"]


def test_the_full_grid(project):
    arms = {arm.name: arm.changes for arm in further_arms(project.load(), GROUPS, GROUPS, quick=False)}
    assert arms["without_early"] == {"fusion.rois": ["all", "-early"]}
    assert arms["without_faces"] == {"fusion.rois": ["all", "-faces"]}
    assert arms["pcc_0"] == {"fusion.pcc_weight": 0.0}
    assert "pcc_1" not in arms  # the main arm
    assert arms["concat"] == {"fusion.variant": "concat"}
    assert arms["images_500"] == {"encoder.images": 500}


def test_a_group_of_all_vertices_is_not_left_out(project):
    arms = further_arms(project.load(), GROUPS, ("early", "faces"), quick=False)
    assert [arm.name for arm in arms if arm.name.startswith("without_")] == ["without_early", "without_faces"]


def test_an_imported_encoder_has_no_controls_of_its_own(project):
    project.edit(**{"fmri.source": "imported", "fmri.space": "simulated"})
    project.edit(**{"fmri.simulated": {}, "fmri.imported": {"subj01": {"path": "encoder"}}})
    content = project.read()
    for name in ("nsd", "nsd_restyled"):
        del content["sets"][name], content["rendered"][name]
    project.write(content)
    arms = further_arms(load_params(check_paths=False), GROUPS, GROUPS, quick=False)
    assert not [arm.name for arm in arms if "encoder.control" in arm.changes or "encoder.images" in arm.changes]
    assert "image_only" in [arm.name for arm in arms]


def test_fmri_kept_of_some_rois_has_no_arms_of_others(project):
    project.edit(**{"synthesis.rois": "early", "fusion.rois": "early"})
    assert not [arm for arm in further_arms(project.load(), GROUPS, GROUPS, quick=False) if arm.kind == "rois"]


@pytest.mark.parametrize("file", [ROOT / "params.yaml", ROOT / "profiles" / "paper.yaml"], ids=lambda file: file.stem)
def test_every_arm_is_a_valid_params_file(project, file):
    project.file.write_bytes(file.read_bytes())
    arms = further_arms(load_params(check_paths=False), GROUPS[:1], GROUPS[:1], quick=False)
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
    assert pretended == ["shuffled", "untrained", "features", "bmfl", "image_only", "early", "high"]
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

    def fail(name, workspace):
        if name == "untrained":
            raise UserError("study: arm untrained failed")
        work(name, workspace)

    monkeypatch.setattr(runs, "reproduce", fail)
    with pytest.raises(UserError, match="untrained"):
        study.study(quick=True)
    assert small.file.read_bytes() == before
    monkeypatch.setattr(runs, "reproduce", work)
    study.study(quick=True)
    assert sorted(pretended) == sorted(["bmfl", *CONTROLS, "early", "high"])


@pytest.mark.parametrize("at_a_time", [2, 3])
def test_arms_that_run_side_by_side_give_the_same_numbers(pretended, small, at_a_time):
    study.study(quick=True)
    alone = paths.STUDY_METRICS.read_bytes()
    for arm in pretended:
        (runs.ARMS / arm / runs.RECORD).unlink()
    small.edit(**{"runtime.arms": at_a_time})
    study.study(quick=True)
    assert sorted(pretended[7:]) == sorted(pretended[:7])
    assert paths.STUDY_METRICS.read_bytes() == alone


KILLED = """
import os, signal
from neuralood.study import runs, study
from neuralood.study.workspaces import Workspace
from test_study import folders, pretend
def reproduce(name, workspace):
    if name == "untrained" and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    pretend(name, workspace)
runs.reproduce, runs.open_workspaces, study.dvc = reproduce, folders, lambda *arguments: 0
Workspace.restore = lambda workspace: None
study.study(quick=True)
"""


def test_a_killed_study_goes_on_and_ends_with_the_same_numbers(small, pretended):
    small.edit(**{"runtime.arms": 2})
    before = small.file.read_bytes()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", KILLED]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert any(one.last_arm == "untrained" for one in (Workspace(folder) for folder in FOLDER.iterdir()))
    subprocess.run(command, env=environment, check=True)
    assert small.file.read_bytes() == before
    killed = paths.STUDY_METRICS.read_bytes()
    for arm in runs.ARMS.glob(f"*/{runs.RECORD}"):
        arm.unlink()
    study.study(quick=True)
    assert len(pretended) == 7
    assert paths.STUDY_METRICS.read_bytes() == killed


# Workspaces


def test_an_arm_goes_back_to_the_workspace_that_it_was_in(pretended):
    for number, arm in enumerate(("bmfl", "shuffled", "concat")):
        folders(3)
        Workspace(FOLDER / str(number)).hold(arm, "seed: 0")
    pool = folders(3)
    with pool.lend("shuffled") as one, pool.lend("early") as other:
        assert one.folder == FOLDER / "1"
        assert other.folder == FOLDER / "0"
        with pool.lend("bmfl") as third:
            assert third.folder == FOLDER / "2"
    with pool.lend("concat") as one:
        assert one.folder == FOLDER / "2"


def test_an_arm_starts_from_the_project_and_goes_on_where_it_was(small, monkeypatch):
    checked_out = []
    monkeypatch.setattr(Workspace, "_dvc", lambda workspace, *arguments: checked_out.append(arguments[0]))
    Path("dvc.lock").write_text("the project's")
    for file in (paths.ENCODER_METRICS, paths.ENCODER_OOD_METRICS):
        write_json(file, {})
        write_json(FOLDER / "0" / file, {})
    workspace = folders(1).lend("bmfl").__enter__()
    lock = workspace.folder / "dvc.lock"
    workspace.hold("bmfl", "seed: 0")
    assert lock.read_text() == "the project's"
    lock.write_text("the arm's")
    workspace.hold("bmfl", "seed: 1")
    assert lock.read_text() == "the arm's"
    workspace.hold("early", "seed: 0")
    assert lock.read_text() == "the project's"
    assert checked_out == ["checkout", "checkout"]
    assert (workspace.folder / paths.ENCODER_METRICS).exists()
    assert not (workspace.folder / paths.ENCODER_OOD_METRICS).exists()  # the scores of the project's encoder


def test_a_workspace_is_the_project_as_it_lies_there(small):
    for file, text in {"stages/one.py": "1", "stages/two.py": "2", "dvc.lock": "", ".gitignore": "data/"}.items():
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(text)
    git("init")
    subprocess.run([sys.executable, "-m", "dvc", "-q", "init"], check=True)
    git("add", ".")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "all")
    with open_workspaces(1).lend("bmfl") as workspace:
        own = workspace.folder / paths.PARAMS
        workspace.hold("bmfl", "seed: 1")
    Path("stages/one.py").write_text("edited")
    Path("stages/two.py").unlink()
    Path("stages/three.py").write_text("new")
    Path("data/other").mkdir(parents=True, exist_ok=True)
    with open_workspaces(1).lend("bmfl") as workspace:
        stages = workspace.folder / "stages"
        assert {file.name: file.read_text() for file in stages.iterdir()} == {"one.py": "edited", "three.py": "new"}
        assert own.read_text() == "seed: 1"
        assert not (workspace.folder / "data").exists()
        command = [sys.executable, "-m", "dvc", "cache", "dir"]
        cache = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, check=True)
        assert Path(cache.stdout.strip()).resolve() == Path(".dvc/cache").resolve()


def test_a_project_without_git_is_said_in_one_line(small):
    with pytest.raises(UserError, match=r"git .* failed"):
        open_workspaces(1)


def test_what_a_failed_arm_said_last_is_said(small, monkeypatch):
    def run(self, experiment, target, log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("first\n" * 50 + "error: the disk is full\n")
        return 1

    monkeypatch.setattr(Workspace, "run", run)
    with pytest.raises(UserError, match=r"(?s)arm early failed.*data/study/early\.log.*the disk is full"):
        runs.reproduce("early", Workspace(FOLDER / "0"))


def test_an_arm_that_cannot_run_is_said_before_any_work(pretended, small):
    small.edit(**{"encoder.control_features.weights": "missing.pth"})
    with pytest.raises(UserError, match=r"(?s)arm features cannot run.*missing\.pth"):
        study.study(quick=True)
    assert pretended == []


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
    monkeypatch.setattr(runs, "reproduce", lambda name, workspace: pretend(name, workspace, {"bmfl": 0.95}))
    study.study(quick=True)
    found = read_json(paths.STUDY_METRICS)["verdict"]
    assert found["brain_information"]
    assert found["text"].startswith("Brain information")
    assert "SIMULATED" in found["text"]


def test_the_printed_table_says_what_its_intervals_are_and_lines_up(small, pretended, capsys):
    study.study(quick=True)
    lines = capsys.readouterr().err.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("Top-1 %"))
    assert "bmfl minus each arm [over images] [over seeds]" in lines[first]
    rows = lines[first + 1 : first + 1 + len(read_json(paths.STUDY_METRICS)["arms"])]
    assert len({line.index("mean OOD") for line in rows}) == 1


def test_the_shuffled_control_as_the_main_arm_is_no_evidence(small, pretended, monkeypatch):
    """Then `shuffled` is the same run."""
    small.edit(**{"encoder.control": "shuffled"})
    monkeypatch.setattr(
        runs, "reproduce", lambda name, workspace: pretend(name, workspace, {"bmfl": 0.95, "shuffled": 0.95})
    )
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
