"""params.yaml: what is right is read as DVC reads it, what is wrong is said before any work."""

import json
import os
import subprocess
import sys

import pytest
from conftest import DELETE, ROOT, as_yaml
from ruamel.yaml import YAML

from neuralood.base.errors import UserError
from neuralood.config import load_params

SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "profiles").glob("*.yaml"))]


def key_tree(content, free=("sets", "files", "rendered", "made", "simulated", "imported", "geometry")):
    """Keys at every depth, but for sections whose keys are names of the user's own."""
    if not isinstance(content, dict):
        return None
    return {key: None if key in free else key_tree(value) for key, value in content.items()}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_params_load(file, project, tmp_path):
    params = YAML(typ="safe", pure=True).load(file.read_text())
    own = [entry["path"] for entry in (*params["files"].values(), *params["fmri"]["files"].values())]
    own += [params["backbone"]["weights"], params["encoder"]["control_features"]["weights"]]
    for path in own:
        if path != "hub" and not path.startswith("package:"):
            (tmp_path / "data/raw" / path).mkdir(parents=True, exist_ok=True)
    assert as_yaml(load_params(file)) == params


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_params_have_the_same_keys(file):
    first, other = (YAML(typ="safe", pure=True).load(one.read_text()) for one in (SHIPPED[0], file))
    assert len(key_tree(first)) == 17
    assert key_tree(other) == key_tree(first)


NOTATIONS = {
    "encoder.lr": "1e-3",
    "fusion.lr": "1E-4",
    "evaluation.bootstrap": "1_000",
    "seed": "010",
    "backbone.name": "on",
    "backbone.weights": "off",
    "fmri.validation": "+.1",
    "demo.repeats": "0x3",
    "demo.vertices.rest": "0o17",
    "cache.compile": "False",
    "backbone.crop_pct": "~",
}


def test_values_are_what_dvc_takes_them_for(project, tmp_path):
    """One subprocess: importing dvc.api takes seconds."""
    project.edit(**{key: f"<{key}>" for key in NOTATIONS})
    for key, notation in NOTATIONS.items():
        project.replace(f"<{key}>", notation)
    (tmp_path / "data/raw/off").mkdir(parents=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    script = "import json, dvc.api; print(json.dumps(dvc.api.params_show()))"
    shown = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DVC_GLOBAL_CONFIG_DIR": str(tmp_path), "DVC_SYSTEM_CONFIG_DIR": str(tmp_path)},
    )
    params = project.load()
    assert as_yaml(params) == json.loads(shown.stdout)
    assert (params.encoder.lr, params.evaluation.bootstrap, params.backbone.name) == (1e-3, 1000, "on")


@pytest.mark.parametrize("word", ["on", "yes", "Off"])
def test_a_word_is_no_truth_value(project, word):
    project.replace("progress: true", f"progress: {word}")
    with pytest.raises(UserError, match=rf"runtime\.progress: .*boolean.*'{word}'"):
        project.load()


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("fusoin", "fusion"),
        ("fusion.patchh", "patch"),
        ("encoder.control_features.layer", "layers"),
        ("demo.vertices.hihg", "high"),
        ("sets.val.classmap", "class_map"),
        ("rendered.val.scene", "scenes"),
        ("fmri.simulated.subj01.scene", "scenes"),
    ],
)
def test_unknown_key_names_the_nearest(project, key, near):
    project.edit(**{key: 1})
    with pytest.raises(UserError, match=rf"{key}: unknown key, did you mean '{near}'\?"):
        project.load()


def test_unknown_key_of_a_part_names_the_nearest(project):
    part = {"take": "first", "fraction": 0.5, "fractoin": 0.5}
    project.edit(**{"files.train": {"format": "folders", "path": "x", "part": part}, "rendered.train": DELETE})
    with pytest.raises(UserError, match=r"files\.train\.part\.fractoin: unknown key, did you mean 'fraction'\?"):
        project.load()


def test_unknown_key_near_none_is_named_all_the_same(project):
    project.edit(**{"fusion.zzzzzz": 1})
    with pytest.raises(UserError, match=r"fusion\.zzzzzz: unknown key$"):
        project.load()


@pytest.mark.parametrize(
    "key", ["seed", "fusion", "fusion.lr", "demo.vertices.rest", "encoder.control_features.layers"]
)
def test_missing_key_is_named(project, key):
    project.edit(**{key: DELETE})
    with pytest.raises(UserError, match=rf"{key}: missing key"):
        project.load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "0"),
        ("seed", 0.5),
        ("seed", True),
        ("seed", None),
        ("fusion.lr", "fast"),
        ("fusion.width", [64]),
        ("cache.compile", 1),
        ("cache.compile", "false"),
        ("backbone.layers", "blocks.4"),
        ("backbone.name", 5),
        ("sets", ["nsd", "train"]),
        ("sets.val", "val"),
        ("fusion.rois", 3),
    ],
)
def test_wrong_type_is_refused(project, key, value):
    project.edit(**{key: value})
    with pytest.raises(UserError, match=rf"(?m)^  {key}\b.*, got "):
        project.load()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", -1),
        ("encoder.epochs", 0),
        ("encoder.dropout", 1.0),
        ("encoder.weight_decay", -0.1),
        ("encoder.control", "shufled"),
        ("fusion.holdout", 0.0),
        ("fusion.holdout", 1.0),
        ("fusion.variant", "blmf"),
        ("fusion.probe_c", [0.0]),
        ("fusion.seeds", 0),
        ("fmri.ceiling_threshold", 1.0),
        ("demo.confound", 1.5),
        ("demo.reliability", [0.3, 1.0]),
        ("backbone.crop_pct", 0.0),
        ("backbone.image_size", 0),
        ("cache.dtype", "float64"),
        ("evaluation.bootstrap", 0),
        ("runtime.device", "gpu"),
        ("runtime.workers", -1),
        ("runtime.threads", 0),
        ("sets.val.role", "test"),
        ("rendered.val.style", "blurred"),
    ],
)
def test_impossible_value_is_refused(project, key, value):
    project.edit(**{key: value})
    with pytest.raises(UserError, match=rf"(?m)^  {key}\b.*, got "):
        project.load()


def float_keys(content, above=""):
    for key, value in content.items():
        if isinstance(value, dict):
            yield from float_keys(value, f"{above}{key}.")
        elif isinstance(value, float):
            yield f"{above}{key}"


@pytest.mark.parametrize("key", list(float_keys(YAML(typ="safe", pure=True).load(SHIPPED[0].read_text()))))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_number_may_be_infinite_or_not_a_number(project, key, value):
    project.edit(**{key: value})
    with pytest.raises(UserError, match=rf"(?m)^  {key}: "):
        project.load()


FOLDER = {"format": "folders", "path": "photos"}
MADE = {"source": "val", "transform": "cartoon", "level": 1.0, "seed": 0}
FIRST, REST = ({"take": take, "fraction": 0.8} for take in ("first", "rest"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets.val": DELETE}, r"sets\.val: missing; the set named val has role val"),
        ({"sets.val.role": "ood"}, r"sets\.val\.role: must be val for a set named val, got ood"),
        (
            {"sets.edges.role": "train"},
            r"sets\.edges\.role: must be ood or probe or fmri_ood or fmri_more for a set named edges, got train",
        ),
        ({"sets.train.class_map": {"a": [0]}}, r"sets\.train\.class_map: only val and ood sets have one"),
        ({"sets.val.class_map": {"a": []}}, r"sets\.val\.class_map\.a: wants at least one index"),
        ({"sets.val.class_map": {"a": [0, -1]}}, r"sets\.val\.class_map\.a: wants .*none below 0"),
        ({"evaluation.ood_mean": ["edges", "edgse"]}, r"evaluation\.ood_mean: edgse is no ood set"),
        ({"evaluation.ood_mean": ["val"]}, r"evaluation\.ood_mean: val is no ood set"),
        ({"evaluation.ood_mean": ["edges", "edges"]}, r"evaluation\.ood_mean: names a set twice"),
        ({"rendered.edges": DELETE}, r"sets\.edges: wants exactly one entry .* has none of them"),
        ({"files.edges": FOLDER}, r"sets\.edges: wants exactly one entry .* has files and rendered"),
        ({"sets.edges": DELETE, "evaluation.ood_mean": []}, r"rendered\.edges: is not in `sets`"),
        ({"files.photos": FOLDER}, r"files\.photos: is not in `sets`"),
        (
            {
                "rendered.edges": DELETE,
                "made.edges": {**MADE, "source": "vla"},
            },
            r"made\.edges\.source: vla is no set of files or rendered",
        ),
        (
            {
                "rendered.edges": DELETE,
                "made.edges": {**MADE, "source": "edges"},
            },
            r"made\.edges\.source: edges is no set of files or rendered",
        ),
        (
            {
                "rendered.edges": DELETE,
                "made.edges": {**MADE, "source": "nsd"},
            },
            r"made\.edges\.source: nsd has no labels",
        ),
        (
            {"rendered.edges": DELETE, "made.edges": {**MADE, "transform": "carton"}},
            r"made\.edges\.transform: unknown transform 'carton', did you mean 'cartoon'\?",
        ),
        (
            {"rendered.edges": DELETE, "made.edges": {**MADE, "transform": "fog", "level": 2.5}},
            r"made\.edges\.level: fog wants a whole number from 1 to 5",
        ),
        ({"rendered.val.scenes": "train"}, r"rendered\.val\.scenes: must be test for this set, got train"),
        ({"rendered.train.scenes": "test"}, r"rendered\.train\.scenes: must be train for this set, got test"),
        (
            {"rendered.val": DELETE, "files.val": {**FOLDER, "format": "algonauts2023"}},
            r"files\.val\.format: algonauts2023 and nsd are for nsd",
        ),
        ({"rendered.nsd": DELETE, "files.nsd": FOLDER}, r"files\.nsd\.format: algonauts2023 and nsd are for nsd"),
        (
            {"rendered.val": DELETE, "rendered.train": DELETE, "files.val": FOLDER, "files.train": FOLDER},
            r"files\.val\.path: is also files\.train\.path; give one `part: \{take: first, fraction: f\}`",
        ),
        (
            {
                "rendered.val": DELETE,
                "rendered.train": DELETE,
                "files.train": {**FOLDER, "part": FIRST},
                "files.val": {**FOLDER, "path": "./photos/", "part": FIRST},
            },
            r"files\.val\.path: is also files\.train\.path",
        ),
        (
            {
                "rendered.val": DELETE,
                "rendered.train": DELETE,
                "files.train": {**FOLDER, "part": FIRST},
                "files.val": {**FOLDER, "part": {**REST, "fraction": 0.7}},
            },
            r"files\.val\.path: is also files\.train\.path",
        ),
        (
            {
                "rendered.val": DELETE,
                "rendered.train": DELETE,
                "files.train": {**FOLDER, "part": FIRST, "exclude": ["a.png"]},
                "files.val": {**FOLDER, "part": REST},
            },
            r"files\.val\.exclude: must equal files\.train\.exclude",
        ),
        (
            {"rendered.edges": DELETE, "made.edges": {**MADE, "source": "nsd_restyled"}},
            r"made\.edges\.source: nsd_restyled has no labels",
        ),
        ({"sets.nsd_restyled.role": "ood"}, r"rendered\.nsd_restyled\.scenes: must be test for this set, got nsd_test"),
        ({"sets.edges.role": "fmri_ood"}, r"rendered\.edges\.scenes: must be nsd_test for this set, got test"),
        ({"rendered.nsd_restyled.style": "edges"}, r"rendered\.nsd_restyled\.style: restyled goes with .* got edges"),
        ({"rendered.edges.style": "restyled"}, r"rendered\.edges\.style: restyled goes with scenes nsd_test"),
        ({"rendered.nsd_restyled.n": 240}, r"rendered\.nsd_restyled\.n: must be that of rendered\.nsd, 2400, got 240"),
        (
            {
                "sets.more": {"role": "fmri_ood"},
                "rendered.more": {"scenes": "nsd_test", "style": "restyled", "n": 2400},
            },
            r"rendered\.nsd_restyled: more has every style already",
        ),
        (
            {"rendered.nsd_restyled": DELETE, "files.nsd_restyled": {**FOLDER, "format": "nsdsynthetic"}},
            r"sets\.nsd_restyled: a simulated subject looks at rendered images only",
        ),
        (
            {"rendered.nsd_restyled": DELETE, "files.nsd_restyled": FOLDER},
            r"files\.nsd_restyled\.format: nsdsynthetic and role fmri_ood go together, got folders",
        ),
        (
            {"rendered.edges": DELETE, "files.edges": {**FOLDER, "format": "nsdsynthetic", "subject": "subj01"}},
            r"files\.edges\.format: nsdsynthetic and role fmri_ood go together",
        ),
        (
            {
                "rendered.nsd": DELETE,
                "fmri.simulated": {},
                "fmri.files": {"subj01": {"format": "nsd", "path": "nsd"}},
                "fmri.source": "nsd",
                "fmri.space": "fsaverage",
            },
            r"sets\.nsd_restyled: no scanned person saw these images",
        ),
        (
            {"fmri.simulated": {}, "fmri.source": "imported", "fmri.imported": {"subj01": {"path": "e"}}},
            r"sets\.nsd_restyled: an imported encoder comes without fMRI",
        ),
        ({"fmri.subject": "subj02"}, r"fmri\.subject: wants exactly one entry of its name .* got subj02"),
        (
            {"fmri.simulated.subj02": {"scenes": "nsd"}},
            r"fmri\.subject: wants exactly one entry .*\['subj01', 'subj02'\]",
        ),
        ({"fmri.simulated": {}}, r"fmri\.subject: wants exactly one entry .* entries \[\]"),
        ({"fmri.source": "algonauts2023"}, r"fmri\.source: is algonauts2023, but the entry given is simulated"),
        ({"fmri.space": "fsaverage"}, r"fmri\.space: fsaverage does not go with fmri\.source simulated"),
        ({"fmri.simulated.subj01.scenes": "val"}, r"fmri\.simulated\.subj01\.scenes: must be nsd"),
        (
            {
                "fmri.source": "algonauts2023",
                "fmri.space": "fsaverage",
                "fmri.simulated": {},
                "fmri.files": {"subj01": {"format": "algonauts2023", "path": "subj01"}},
            },
            r"rendered\.nsd: is drawn, but fmri\.files was measured on other images",
        ),
        (
            {"fmri.simulated": {}, "fmri.source": "imported"},
            r"fmri\.subject: wants .* fmri\.imported, got .* entries \[\]",
        ),
        (
            {
                "fmri.simulated": {},
                "fmri.source": "imported",
                "fmri.space": "fsaverage",
                "fmri.imported": {"subj01": {"path": "encoders/subj01"}},
            },
            r"sets\.nsd: an imported encoder was trained elsewhere; remove the set",
        ),
        (
            {"rendered.nsd": DELETE, "files.nsd": {**FOLDER, "format": "nsd", "subject": "subj02"}},
            r"files\.nsd\.subject: must be fmri\.subject, subj01, got subj02",
        ),
        (
            {"rendered.nsd": DELETE, "files.nsd": {**FOLDER, "format": "nsd", "subject": "subj01"}},
            r"files\.nsd\.format: is nsd, but fmri\.source is simulated",
        ),
        (
            {"rendered.val": DELETE, "files.val": {**FOLDER, "severities": [3]}},
            r"files\.val\.severities: only format imagenet_c has it, not folders",
        ),
        (
            {"rendered.val": DELETE, "files.val": {**FOLDER, "format": "imagenet_flat"}},
            r"files\.val\.labels: missing; a flat val has its labels in Kaggle's CSV or the devkit",
        ),
        (
            {"rendered.val": DELETE, "files.val": {**FOLDER, "path": "../photos"}},
            r"files\.val\.path: \.\./photos leaves NEURALOOD_DATA",
        ),
        ({"fmri.space": "func1pt8mm"}, r"fmri\.space: func1pt8mm does not go with fmri\.source simulated"),
        ({"fmri.validation": 0.6, "fmri.test": 0.4}, r"fmri\.validation, fmri\.test: leave nothing to train on"),
        ({"demo.reliability": [0.6, 0.3]}, r"demo\.reliability: wants low, high, got \[0\.6, 0\.3\]"),
        ({"encoder.heads": 5}, r"encoder\.heads: 5 does not divide encoder\.width 128"),
        ({"fusion.heads": 7}, r"fusion\.heads: 7 does not divide fusion\.width 64"),
        ({"backbone.layers": []}, r"(?m)^  backbone\.layers: wants at least one layer"),
        ({"encoder.control_features.layers": []}, r"encoder\.control_features\.layers: wants at least one"),
        ({"backbone.weights": "/weights/a.pth"}, r"backbone\.weights: wants a path relative to NEURALOOD_DATA"),
        ({"fusion.rois": "erly"}, r"fusion\.rois: unknown ROI 'erly', did you mean 'early'\?"),
        ({"fusion.rois": ["faces", "qqqqq"]}, r"fusion\.rois: unknown ROI 'qqqqq'; groups are early, high"),
        ({"fusion.rois": "-faces"}, r"fusion\.rois: wants 'all', a group or a list of ROIs; \[all, -faces\]"),
        ({"fusion.rois": ["all", "-erly"]}, r"fusion\.rois: unknown ROI 'erly', did you mean 'early'\?"),
        ({"synthesis.rois": ["early", "-V1v"], "fusion.rois": "early"}, r"synthesis\.rois: names what is kept"),
        ({"fusion.rois": []}, r"fusion\.rois: wants 'all', a group or a list of ROIs"),
        ({"fusion.probe_c": []}, r"fusion\.probe_c: wants at least one strength"),
    ],
)
def test_contradiction_is_refused(project, changes, message):
    project.edit(**changes)
    with pytest.raises(UserError, match=message):
        project.load()


SEEN = {"sets.nsd_b": {"role": "fmri_more"}, "encoder.more_subjects": {"b": {"images": "nsd_b"}}}
FURTHER = {**SEEN, "rendered.nsd_b": {"scenes": "nsd", "style": "photo", "n": 9}}
OF_NSD = {
    "rendered.nsd": DELETE,
    "sets.nsd_restyled": DELETE,
    "rendered.nsd_restyled": DELETE,
    "sets.nsd_b": {"role": "fmri_more"},
    "files.nsd": {"format": "nsd", "path": "nsd", "subject": "subj01"},
    "files.nsd_b": {"format": "nsd", "path": "nsd", "subject": "subj02"},
    "fmri.simulated": {},
    "fmri.files": {"subj01": {"format": "nsd", "path": "nsd"}},
    "fmri.source": "nsd",
    "fmri.space": "fsaverage",
    "encoder.more_subjects": {"subj02": {"images": "nsd_b", "path": "nsd"}},
}


def test_further_subjects_may_be_simulated_or_lie_in_the_folder_of_the_first(project, tmp_path):
    (tmp_path / "data/raw/nsd").mkdir(parents=True)
    project.edit(**FURTHER)
    assert project.load().encoder.more_subjects["b"].path is None
    project.edit(**{"rendered.nsd_b": DELETE, **OF_NSD})
    assert project.load().encoder.more_subjects["subj02"].images == "nsd_b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {**FURTHER, "encoder.more_subjects": {}},
            r"sets\.nsd_b: exactly one entry of encoder\.more_subjects has these images, not 0",
        ),
        (
            {**FURTHER, "encoder.more_subjects": {"b": {"images": "nsd_b"}, "c": {"images": "nsd_b"}}},
            r"sets\.nsd_b: exactly one entry of encoder\.more_subjects has these images, not 2",
        ),
        (
            {**FURTHER, "encoder.more_subjects.b": {"images": "nsd"}},
            r"encoder\.more_subjects\.b\.images: nsd is no set of role fmri_more",
        ),
        (
            {**FURTHER, "encoder.more_subjects": {"subj01": {"images": "nsd_b"}}},
            r"encoder\.more_subjects\.subj01: is fmri\.subject itself",
        ),
        (
            {**FURTHER, "encoder.more_subjects.b": {"images": "nsd_b", "path": "b"}},
            r"encoder\.more_subjects\.b\.path: remove it, the fMRI is simulated",
        ),
        ({**FURTHER, "rendered.nsd_b.scenes": "test"}, r"rendered\.nsd_b\.scenes: must be nsd for this set, got test"),
        (
            {**SEEN, "files.nsd_b": {"format": "algonauts2023", "path": "b"}},
            r"encoder\.more_subjects\.b\.images: a simulated subject looks at rendered images only",
        ),
        (
            {**FURTHER, "fmri.simulated": {}, "fmri.source": "imported", "fmri.imported": {"subj01": {"path": "e"}}},
            r"encoder\.more_subjects\.b: an imported encoder was trained elsewhere",
        ),
        (
            {**OF_NSD, "encoder.more_subjects.subj02": {"images": "nsd_b"}},
            r"encoder\.more_subjects\.subj02\.path: missing",
        ),
        (
            {**OF_NSD, "encoder.more_subjects.subj02": {"images": "nsd_b", "path": "../nsd"}},
            r"encoder\.more_subjects\.subj02\.path: \.\./nsd leaves NEURALOOD_DATA",
        ),
        (
            {**OF_NSD, "files.nsd_b.subject": "subj03"},
            r"files\.nsd_b\.subject: must be subj02, who saw these images, got subj03",
        ),
        (
            {**OF_NSD, "files.nsd_b": {"format": "algonauts2023", "path": "b"}},
            r"encoder\.more_subjects\.subj02\.images: nsd_b must be in files, with format nsd as fmri\.source",
        ),
        ({**OF_NSD, "files.nsd_b.subject": "subj01"}, r"files\.nsd_b\.path: is also files\.nsd\.path"),
        ({**OF_NSD, "made.edges": {**MADE, "source": "nsd_b"}}, r"made\.edges\.source: nsd_b has no labels"),
        (OF_NSD, r"encoder\.more_subjects\.subj02\.path: .*nsd does not exist"),
    ],
)
def test_further_subject_that_does_not_fit_is_refused(project, changes, message):
    project.edit(**changes)
    with pytest.raises(UserError, match=message):
        project.load()


def test_one_folder_serves_as_two_sets_by_its_first_part_and_the_rest(project, tmp_path):
    (tmp_path / "data/raw/photos").mkdir(parents=True)
    files = {"train": {**FOLDER, "part": FIRST}, "val": {**FOLDER, "part": REST}}
    project.edit(**{"files": files, "rendered.train": DELETE, "rendered.val": DELETE})
    assert project.load().files["val"].part.fraction == 0.8


@pytest.mark.parametrize(
    "rois", ["all", "early", "parietal", ["FFA-1", "places"], ["V1v"], ["all", "-faces"]], ids=lambda rois: str(rois)
)
def test_rois_may_be_all_a_group_or_a_list(project, rois):
    project.edit(**{"fusion.rois": rois})
    assert project.load().fusion.rois == (rois if isinstance(rois, str) else tuple(rois))


@pytest.mark.parametrize(
    ("changes", "key", "path"),
    [
        ({"rendered.val": DELETE, "files.val": FOLDER}, "files.val.path", "photos"),
        ({"backbone.weights": "weights/vit.pth"}, "backbone.weights", "weights/vit.pth"),
        (
            {"encoder.control": "features", "encoder.control_features.weights": "cnn.pth"},
            "encoder.control_features.weights",
            "cnn.pth",
        ),
        (
            {
                "sets": {"nsd": {"role": "fmri"}, "train": {"role": "train"}, "val": {"role": "val"}},
                "rendered": {"train": {"scenes": "train", "style": "photo", "n": 9}},
                "files": {"nsd": {"format": "algonauts2023", "path": "s1"}, "val": FOLDER},
                "evaluation.ood_mean": [],
                "fmri.source": "algonauts2023",
                "fmri.space": "fsaverage",
                "fmri.simulated": {},
                "fmri.files": {"subj01": {"format": "algonauts2023", "path": "s1"}},
            },
            "fmri.files.subj01.path",
            "s1",
        ),
    ],
)
def test_missing_path_is_named_with_the_variable(project, tmp_path, monkeypatch, changes, key, path):
    monkeypatch.setenv("NEURALOOD_DATA", str(tmp_path / "mine"))
    project.edit(**changes)
    with pytest.raises(UserError, match=rf"{key}: .*mine/{path} does not exist \(set NEURALOOD_DATA") as caught:
        project.load()
    if len(str(caught.value).splitlines()) == 2:  # nothing else was missing
        (tmp_path / "mine" / path).mkdir(parents=True)
        project.load()


def test_absolute_path_of_files_is_refused(project, tmp_path):
    project.edit(**{"rendered.val": DELETE, "files.val": {**FOLDER, "path": str(tmp_path)}})
    with pytest.raises(UserError, match=r"files\.val\.path: .* is absolute; paths are relative to NEURALOOD_DATA"):
        project.load()


def test_several_problems_come_in_one_message(project):
    project.edit(**{"encoder.heads": 5, "fusion.heads": 7, "fusion.rois": "erly", "fmri.subject": "subj02"})
    with pytest.raises(UserError, match=r"params\.yaml has 4 problems:") as caught:
        project.load()
    lines = str(caught.value).splitlines()[1:]
    assert sorted(line.split(":")[0].strip() for line in lines) == [
        "encoder.heads",
        "fmri.subject",
        "fusion.heads",
        "fusion.rois",
    ]


def test_one_wrong_value_is_one_problem(project):
    project.edit(**{"encoder.epochs": -3})
    with pytest.raises(UserError, match=r"params\.yaml has 1 problem:\n  encoder\.epochs: [^\n]*, got -3$"):
        project.load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [0", "params.yaml is no valid YAML"),
        ("seed: 0\nseed: 1\n", "params.yaml is no valid YAML: .*duplicate key"),
        ("", "params.yaml must hold sections such as"),
        ("- seed\n", "params.yaml must hold sections such as"),
        ("seed: 2024-01-01\n", "params.yaml holds a value that is no number, text, list or mapping"),
        ("seed: &a\n  b: *a\n", "params.yaml holds a value that is no number, text, list or mapping"),
    ],
)
def test_what_is_no_params_file_is_refused(project, text, message):
    project.file.write_text(text)
    with pytest.raises(UserError, match=message):
        project.load()


def test_params_that_are_no_text_are_refused(project):
    project.file.write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(UserError, match=r"params\.yaml is no valid YAML"):
        project.load()


def test_missing_params_say_where_to_run(project):
    project.file.unlink()
    with pytest.raises(UserError, match=r"params\.yaml is missing: run stages from the project's top folder"):
        project.load()


def test_a_stage_with_broken_params_says_so_and_does_nothing(project, tmp_path):
    project.edit(**{"encoder.heads": 5, "fusion.rois": "erly"})
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "stages.summarize"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: params.yaml has 2 problems:\n")
    assert "encoder.heads: 5 does not divide" in done.stderr
    assert "did you mean 'early'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
