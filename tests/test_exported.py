"""Encoders that are exported, imported elsewhere, and put to use there without any fMRI."""

import json
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import randomise
from helpers_berg import FEATURES, SmallAlexNet
from ruamel.yaml import YAML
from test_end_to_end import run_images, small_params

from neuralood.backbone import Preprocessing
from neuralood.base import paths
from neuralood.base.checkpoint import load_tensors, save_tensors
from neuralood.base.errors import UserError
from neuralood.base.store import open_store
from neuralood.base.weights import fingerprint
from neuralood.config import load_params
from neuralood.data.images import read_image
from neuralood.data.manifest import read_manifest
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.berg import PREPROCESSING
from neuralood.encoder.exported import CHECKSUM, VERSION, export_encoder, read_exported, record_digest, write_exported
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.model import RoiEncoder
from neuralood.encoder.scores import encoder_scores
from neuralood.encoder.trained import RECORD, WEIGHTS, load_encoder
from neuralood.fusion.train import train_fusion
from neuralood.plan.sizes import vertex_count
from neuralood.report.write import write_report
from neuralood.summary import summarize, summarize_encoder
from neuralood.synthesis import synthesize
from stages.cache_tokens import main as cache_tokens
from stages.evaluate import main as evaluate
from stages.import_encoder import main as import_encoder
from stages.prepare_fmri import main as prepare_fmri
from stages.score_encoder import main as score_encoder
from stages.train_encoder import main as train_encoder

IMPORTED = {
    "source": "imported",
    "simulated": {},
    "files": {},
    "imported": {"subj01": {"path": "encoders/subj01"}},
}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory):
    """A small demo whose encoder is trained, used on val, and exported to `shared/subj01`."""
    folder = tmp_path_factory.mktemp("exporter")
    with chdir(folder):
        params = small_params(folder, fusion={"epochs": 1, "seeds": 1, "patch": 20})
        run_images(params)
        for name in params.sets:
            cache_tokens(params, name)
        fit_baselines(params)
        train_encoder(params)
        synthesize(params, "val")
        export_encoder(Path("shared/subj01"), params)
    return folder


@pytest.fixture
def shared(exporter, tmp_path):
    """A copy of the exported folder, to be damaged."""
    return Path(shutil.copytree(exporter / "shared" / "subj01", tmp_path / "subj01"))


def without_nsd(folder):
    """Take the sets with fMRI out of params.yaml, as an importing project has none."""
    yaml, file = YAML(), folder / "params.yaml"
    content = yaml.load(file)
    for name in ("nsd", "nsd_restyled"):
        del content["sets"][name], content["rendered"][name]
    content["fmri"] |= IMPORTED
    yaml.dump(content, file)


@pytest.fixture
def importer(exporter, tmp_path, monkeypatch):
    """Another project with the labelled sets and the shared encoder, and nothing of nsd or fMRI."""
    for part in ("demo", "manifests", "tokens"):
        shutil.copytree(exporter / "data" / part, tmp_path / "data" / part)
    for stray in ("demo/nsd", "demo/fmri", "tokens/nsd.zarr"):
        shutil.rmtree(tmp_path / "data" / stray)
    for stray in ("nsd.json", "fmri.json"):
        (tmp_path / "data" / "manifests" / stray).unlink()
    shutil.copytree(exporter / "shared" / "subj01", tmp_path / "data" / "raw" / "encoders" / "subj01")
    shutil.copy(exporter / "params.yaml", tmp_path)
    without_nsd(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEURALOOD_DATA", raising=False)
    return tmp_path


def import_and_adopt(params):
    """The stages that stand in for fMRI and training."""
    import_encoder(params, "subj01")
    prepare_fmri(params)
    train_encoder(params)


def test_an_imported_encoder_predicts_the_same_to_the_last_bit(exporter, importer):
    params = load_params()
    import_and_adopt(params)
    synthesize(params, "val")
    here, there = (open_store(folder / paths.predicted_fmri("val")) for folder in (importer, exporter))
    assert here["fmri"][:].tobytes() == there["fmri"][:].tobytes()
    assert here.attributes["source"] == "imported"


def run_all(params):
    """Every stage from the import on."""
    import_and_adopt(params)
    for name in params.sets:
        score_encoder(params, name)
        synthesize(params, name)
    train_fusion(params)
    for name in params.sets:
        evaluate(params, name)
    summarize_encoder(params)
    summarize(params)
    write_report(params)


def test_without_fmri_the_whole_way_runs_and_says_imported(exporter, importer):
    run_all(load_params())
    encoder, classification = (
        json.loads(Path("metrics", f"{name}.json").read_text()) for name in ("encoder", "classification")
    )
    assert encoder["data"] == classification["fmri"] == "imported"
    assert json.loads(Path("metrics/encoder_ood.json").read_text()) == {}
    made = json.loads((exporter / "metrics/encoder.json").read_text())
    assert encoder == {**made, "data": "imported", "trained_on": "simulated"}
    assert not any(paths.ENCODER_VERTICES.iterdir())  # an output of the stage all the same
    page = Path("metrics/report.html").read_text()
    assert "SIMULATED" in page
    assert "trained elsewhere, on simulated" in page


@pytest.fixture
def sees_images(importer, monkeypatch):
    """The importing project with a small encoder that reads images, in the place of the one that reads tokens."""
    monkeypatch.setattr(torchvision.models, "alexnet", SmallAlexNet)
    membership = torch.zeros(3, 30, dtype=torch.bool)
    membership[0, :8] = membership[1, 5:14] = membership[2, 14:] = True
    model = randomise(ImageEncoder("alexnet", membership, features=FEATURES["alexnet"], components=5)).eval()
    record = {
        "reads": "images",
        "network": "alexnet",
        "preprocessing": PREPROCESSING,
        "control": "none",
        "trained_on": "nsd",
        "subject": "subj01",
        "space": "fsaverage",
        "fingerprint": fingerprint(model),
        "epochs": 0,
        "roi_names": ["lh.V1v", "lh.EBA", "rh.EBA"],
        "hemi": [0] * 14 + [1] * 16,
    }
    r, names = np.linspace(0, 1, 30), record["roi_names"]
    scores = encoder_scores(r, None, np.full(30, 0.9), 0.2, names, membership.numpy())
    scores |= {"data": "nsd", "subject": "subj01", "n_train": 9000, "n_test": 515}
    shutil.rmtree("data/raw/encoders/subj01")
    write_exported(Path("data/raw/encoders/subj01"), model, record, scores, 0.2, "")
    file = importer / "params.yaml"
    file.write_text(file.read_text().replace("space: simulated", "space: fsaverage"))
    return model


def test_an_encoder_of_images_goes_the_whole_way(sees_images):
    run_all(load_params())
    encoder = json.loads(Path("metrics/encoder.json").read_text())
    classification = json.loads(Path("metrics/classification.json").read_text())
    assert encoder["data"] == classification["fmri"] == "imported"
    assert classification["parameters"]["encoder"] == 30 * 5 + 30
    page = Path("metrics/report.html").read_text()
    assert "trained elsewhere, on nsd" in page
    assert "it has no attention to show" in page


def test_fmri_is_predicted_from_the_sets_own_pixels(sees_images):
    params = load_params()
    import_and_adopt(params)
    synthesize(params, "val")
    see = Preprocessing(**PREPROCESSING).transform()
    pixels = torch.stack([see(read_image(file)) for file in read_manifest("val").image_files()])
    with torch.inference_mode():
        wanted = sees_images(pixels).numpy()
    found = open_store(paths.predicted_fmri("val"))["fmri"][:]
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=2e-3)  # float16


def test_an_interrupted_prediction_from_images_goes_on(sees_images, monkeypatch):
    params = load_params()
    import_and_adopt(params)
    batches = []

    def seen(model, pixels):
        batches.append(len(pixels[0]))
        if len(batches) == 2:
            raise KeyboardInterrupt

    hook = ImageEncoder.register_forward_pre_hook
    monkeypatch.setattr(ImageEncoder, "to", lambda model, device: hook(model, seen) and model)
    with pytest.raises(KeyboardInterrupt):
        synthesize(params, "val")
    synthesize(params, "val")
    assert batches == [16, 4, 4]


def test_image_only_wants_an_encoder_of_tokens(sees_images):
    file = Path("params.yaml")
    file.write_text(file.read_text().replace("variant: bmfl", "variant: image_only"))
    params = load_params()
    import_and_adopt(params)
    with pytest.raises(UserError, match=r"fusion.variant: image_only .* reads images: choose bmfl"):
        train_fusion(params)


def test_an_exported_encoder_holds_no_fmri_and_no_image(exporter):
    folder = exporter / "shared" / "subj01"
    assert sorted(file.name for file in folder.iterdir()) == [RECORD, WEIGHTS]
    record, weights = json.loads((folder / RECORD).read_text()), load_tensors(folder / WEIGHTS)
    assert set(weights) == set(load_encoder(exporter / paths.ENCODER)[0].state_dict())
    assert record["trained_on"] == "simulated"
    assert "no fMRI" in record["terms"]


def test_an_imported_encoder_can_be_passed_on(exporter, importer):
    params = load_params()
    import_and_adopt(params)
    export_encoder(Path("again"), params)
    before, after = read_exported(exporter / "shared" / "subj01"), read_exported(Path("again"))
    assert after.record == {**before.record, "source": "imported"}
    assert after.scores["data"] == "imported"


def test_an_exported_folder_is_never_overwritten(exporter, shared):
    with chdir(exporter), pytest.raises(UserError, match="exists: remove it"):
        export_encoder(shared, load_params())


def test_an_export_that_fails_leaves_nothing(exporter, tmp_path):
    model, record = load_encoder(exporter / paths.ENCODER)
    with pytest.raises(ValueError, match="JSON"):
        write_exported(tmp_path / "new", model, record, {"r": float("nan")}, 0.2, "")
    assert list(tmp_path.iterdir()) == []


def test_metrics_of_another_encoder_are_not_exported(exporter, tmp_path):
    for part in (paths.ENCODER, Path("metrics")):
        shutil.copytree(exporter / part, tmp_path / part)
    file = tmp_path / paths.ENCODER_METRICS
    file.write_text(json.dumps({**json.loads(file.read_text()), "n_vertices": 5}))
    with chdir(exporter):
        params = load_params()
    with chdir(tmp_path), pytest.raises(UserError, match="different encoders"):
        export_encoder(Path("new"), params)


def edit(key, value):
    """A damage: one key of encoder.json gets another value."""

    def damage(folder):
        record = json.loads((folder / RECORD).read_text())
        above = record
        *path, last = key.split(".")
        for part in path:
            above = above[part]
        if value is None:
            del above[last]
        else:
            above[last] = value(above[last]) if callable(value) else value
        (folder / RECORD).write_text(json.dumps({**record, CHECKSUM: record_digest(record)}))

    return damage


def reweigh(change):
    """A damage: the weights are changed and written as a whole file."""

    def damage(folder):
        weights = load_tensors(folder / WEIGHTS)
        change(weights)
        save_tensors(folder / WEIGHTS, weights)

    return damage


def flip(file, part):
    """A damage: one bit of a file, that share of the way through it."""

    def damage(folder):
        content = bytearray((folder / file).read_bytes())
        content[int(part * len(content))] ^= 1
        (folder / file).write_bytes(content)

    return damage


DAMAGES = {
    "no folder": (shutil.rmtree, "encoder.json is missing"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "encoder.safetensors is missing"),
    "no record": (lambda folder: (folder / RECORD).unlink(), "encoder.json is missing"),
    "cut off weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        "encoder.safetensors is damaged",
    ),
    "cut off record": (
        lambda folder: (folder / RECORD).write_text((folder / RECORD).read_text()[:-9]),
        "encoder.json is damaged",
    ),
    "a flipped bit of a weight": (flip(WEIGHTS, 0.5), "other weights"),
    "an edited record": (
        lambda folder: (folder / RECORD).write_text((folder / RECORD).read_text().replace('"heads":8', '"heads":2')),
        "was edited or is damaged",
    ),
    "a pickle": (lambda folder: torch.save({}, folder / WEIGHTS), "encoder.safetensors is damaged"),
    "not exported": (edit("format", None), "no exported encoder"),
    "a later version": (edit("version", VERSION + 1), f"version {VERSION + 1}, this program reads {VERSION}"),
    "nothing to read": (edit("reads", "fmri"), "`reads` is 'fmri'"),
    "a missing key": (edit("hemi", None), "`hemi` is missing"),
    "a key of another kind": (edit("scores", "good"), "`scores` is missing, or no dict"),
    "another width": (edit("sizes.width", lambda old: 2 * old), "does not fit the sizes"),
    "an absurd width": (edit("sizes.width", 2**40), "does not fit the sizes"),
    "an absurd depth": (edit("sizes.depth", 2**40), "does not fit the sizes"),
    "depth as text": (edit("sizes.depth", "1"), "does not fit the sizes"),
    "heads that do not divide": (edit("sizes.heads", 0), "does not fit the sizes"),
    "a missing tensor": (reweigh(lambda weights: weights.pop("queries")), "does not fit the sizes"),
    "fewer vertices": (edit("hemi", lambda old: old[:-1]), "hemispheres do not fit"),
    "hemispheres the other way round": (edit("hemi", lambda old: old[::-1]), "hemispheres do not fit"),
    "a third hemisphere": (edit("hemi", lambda old: [*old[:-1], 2]), "hemispheres do not fit"),
    "more names than ROIs": (edit("roi_names", lambda old: [*old, *old]), "ROI names"),
    "a name without a hemisphere": (edit("roi_names", lambda old: ["V1v", *old[1:]]), "ROI names"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_export_is_refused_in_one_line(shared, damage):
    change, said = DAMAGES[damage]
    change(shared)
    with pytest.raises(UserError, match=said) as caught:
        read_exported(shared)
    assert "\n" not in str(caught.value)
    assert "dvc repro" not in str(caught.value)


def test_tokens_of_another_recipe_are_refused(importer):
    edit("tokens.grid", [3, 3])(Path("data/raw/encoders/subj01"))
    params = load_params()
    import_and_adopt(params)
    with pytest.raises(UserError, match=r"grid is .* expected \[3, 3\]"):
        synthesize(params, "val")


def test_an_encoder_of_another_subject_is_refused(importer):
    edit("subject", "subj02")(Path("data/raw/encoders/subj01"))
    with pytest.raises(UserError, match=r"fmri.subject: is subj01, but the encoder in .* is of subj02"):
        import_and_adopt(load_params())


def test_an_encoder_of_another_space_is_refused(importer):
    edit("space", "fsaverage")(Path("data/raw/encoders/subj01"))
    with pytest.raises(UserError, match=r"fmri.space: is simulated, but .* is of fsaverage"):
        import_and_adopt(load_params())


def test_an_encoder_that_changed_after_it_was_listed_is_refused(importer):
    params = load_params()
    import_encoder(params, "subj01")
    edit("control", "shuffled")(Path("data/raw/encoders/subj01"))
    with pytest.raises(UserError, match=r"changed: run `dvc repro -f -s import_encoder@subj01`"):
        train_encoder(params)


def test_an_imported_control_stays_a_control(importer):
    edit("control", "shuffled")(Path("data/raw/encoders/subj01"))
    import_and_adopt(load_params())
    assert load_encoder()[1]["control"] == "shuffled"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("control: none", "control: shuffled", "encoder.control: shuffled trains an encoder here"),
        ("path: encoders/subj01", "path: ../subj01", "fmri.imported.subj01.path: ../subj01 leaves"),
        ("path: encoders/subj01", "path: encoders/subj02", "fmri.imported.subj01.path: .* does not exist"),
    ],
)
def test_params_that_no_imported_encoder_allows_are_refused(importer, old, new, said):
    file = importer / "params.yaml"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        load_params()


def test_vertices_of_an_imported_encoder_are_planned(importer):
    params = load_params()
    import_and_adopt(params)
    assert vertex_count(params) == load_encoder()[0].membership.shape[1]


@pytest.mark.parametrize("positions", ["learned", "sine"])
def test_every_size_survives_the_way(tmp_path, rng, positions):
    """Two layers, hemispheres of unequal size, an ROI in both, a vertex in two ROIs."""
    membership = torch.from_numpy(rng.random((5, 13)) < 0.3)
    membership[4] |= ~membership.any(dim=0)
    sizes = {"grid": [2, 3], "token_width": 8, "width": 8, "depth": 2, "heads": 4, "dropout": 0.1}
    model = randomise(RoiEncoder(membership, **sizes, positions=positions, start="queries")).eval()
    record = {
        "reads": "tokens",
        "sizes": model.sizes,
        "control": "none",
        "trained_on": "nsd",
        "subject": "subj05",
        "space": "fsaverage",
        "fingerprint": fingerprint(model),
        "epochs": 3,
        "roi_names": ["lh.V1v", "lh.EBA", "rh.V1v", "rh.EBA"],
        "hemi": [0] * 6 + [1] * 7,
        "tokens": {},
    }
    write_exported(tmp_path / "new", model, record, {}, 0, "")
    tokens = torch.from_numpy(rng.standard_normal((3, 6, 8), np.float32))
    read = read_exported(tmp_path / "new")
    model.requires_grad_(False)  # matrix products differ in their last bit where gradients are wanted
    assert torch.equal(read.model(tokens), model(tokens))
    assert read.record == record
