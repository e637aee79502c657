"""A dry run at full size: `plan` and `doctor` on ImageNet-1k, OOD sets and NSD subject 1, in files full of holes."""

import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers_fullsize import (
    OOD,
    TRAIN,
    apparent_bytes,
    bytes_on_disk,
    shard_paths,
    write_algonauts,
    write_fullsize,
)

from neuralood.base import paths
from neuralood.config import load_params
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.manifest import UNLABELLED, Manifest, write_manifest
from neuralood.doctor.findings import findings_of
from neuralood.doctor.fmri import fmri_checks

MOST_BYTES, MOST_S = 3e9, 300

RUN = """
import resource, sys
from neuralood.cli import main
sys.argv = ["neuralood", sys.argv[1]]
try:
    main()
finally:
    sys.stderr.flush()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def run(command):
    """Exit status, what it says, and peak bytes of memory of a command in a process of its own."""
    started = time.monotonic()
    environment = {
        **os.environ,
        "HF_ENDPOINT": "https://hub.invalid",
        "HF_HOME": "no-hub-here",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run([sys.executable, "-c", RUN, command], capture_output=True, text=True, env=environment)
    assert time.monotonic() - started < MOST_S
    assert "Traceback" not in done.stderr, done.stderr
    peak = int(done.stdout)
    assert peak < MOST_BYTES
    return done.returncode, re.sub(r" +", " ", done.stderr)


def use_paper_profile(project):
    """profiles/paper.yaml with train in shards and val in parquet files, the fewest files that ImageNet comes in."""
    shutil.copy(ROOT / "profiles" / "paper.yaml", project.file)
    shutil.copytree(ROOT / ".dvc", project.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "*.local"))
    formats = {"files.train.format": "imagenet_shards", "files.val.format": "imagenet_parquet"}
    project.edit(**formats, **{"runtime.progress": False})


def red_lines(text):
    return [line for line in text.splitlines() if line.rstrip().endswith(" red")]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_paper_at_full_size_passes_doctor_and_plan(project, monkeypatch):
    root = project.folder / "holes"
    use_paper_profile(project)
    monkeypatch.setenv(paths.DATA_ROOT_VARIABLE, str(root))
    write_fullsize(root)
    assert apparent_bytes(root) > 170e9
    assert bytes_on_disk(root) < 1.5e9

    status, said = run("doctor")
    assert status == 1
    assert {line.split()[0] for line in red_lines(said)} <= {"weights:", "disk"}
    assert "1,024 files, about 1,275,345 images (imagenet_shards)" in said
    assert "1,000 classes, 50,000 images (imagenet_parquet)" in said
    for images in (count for _, count in OOD.values()):
        assert f" {images:,} images (imagenet_" in said
    assert "30,000 trials of 10,000 images in 40 sessions" in said
    assert "18,500 + 19,484 of fsaverage in nsdgeneral, as known" in said
    assert "40 of 40 sessions" in said
    assert "ventral stream: lh 5,723, rh 5,445, as known" in said

    _, said = run("plan")
    assert "vit_base_patch14_dinov2 at 224 px, 37,984 vertices" in said
    assert " train train about 1,275,345 1 x 256 x 768 float16 504 GB " in said
    assert " val val about 50,000 " in said
    assert " made images 10.0 GB estimate" in said
    assert " nsd fmri about 10,000 " in said

    write_lists()
    _, said = run("plan")
    assert " train train 1,281,167 1 x 256 x 768 float16 506 GB 97.3 GB " in said
    assert " measured fMRI 1.52 GB " in said
    assert re.search(r"stores need \d{3} GB more", said)


def write_lists():
    """Manifests of all sets, as long as they are."""
    names = shard_paths()
    listed = {"train": (names, WNIDS), "val": ([f"v.parquet::{row}" for row in range(50_000)], WNIDS)}
    listed |= {
        f"imagenet_{name}": ([f"{row % len(classes)}/{row}.jpg" for row in range(count)], classes)
        for name, (classes, count) in zip(("a", "r", "sketch", "v2"), OOD.values(), strict=True)
    }
    listed["nsd"] = ([f"nsd_stimuli.hdf5::{row}" for row in range(10_000)], ())
    assert len(names) == TRAIN
    for name, (images, classes) in listed.items():
        labels = [row % len(classes) if classes else UNLABELLED for row in range(len(images))]
        sources = tuple(f"{name}/{image}" for image in images)
        folder = {"train": "imagenet/train"}.get(name, name)
        write_manifest(
            Manifest(name, "data_root", folder, False, tuple(classes), tuple(images), tuple(labels), sources, name)
        )


@pytest.mark.slow
def test_an_algonauts_subject_at_full_size_is_looked_at_in_seconds(project, monkeypatch):
    use_paper_profile(project)
    monkeypatch.setenv(paths.DATA_ROOT_VARIABLE, str(project.folder))
    own = {"format": "algonauts2023", "path": "subj01"}
    project.edit(**{"files.nsd": own, "fmri.files": {"subj01": own}, "fmri.source": "algonauts2023"})
    write_algonauts(project.folder / "subj01")
    file = project.folder / "subj01/training_split/training_fmri/lh_training_fmri.npy"
    assert file.stat().st_size == pytest.approx(748.1e6, rel=1e-3)
    values = np.load(file, mmap_mode="r+")
    values[::10] = 0.5
    values.flush()
    started = time.monotonic()
    (check,) = fmri_checks(load_params(check_paths=False))
    found = {one.check: one for one in findings_of(check)}
    assert time.monotonic() - started < 60
    assert found["fMRI: shapes"].found == "lh 9,841 x 19,004 and rh 9,841 x 20,544, float32"
    assert found["fMRI: values"].verdict == "ok"
    assert found["fMRI: rows"].found == "9,841 rows of fMRI for 0 images"
