"""BMFL against its controls on the simulated demo world, over three simulated subjects.

    python -m benchmarks.demo_controls

Three runs of the demo (`seed` 0, 1, 2: each its own subject, scenes and weights) for each arm, in one process:
tokens and fMRI of a seed are shared by its arms. Per-image predictions stay in build/demo_controls/.
Writes benchmarks/demo_controls.json and benchmarks/demo_controls.md.

The world is SIMULATED and built so that the effect exists: this tests the pipeline and its controls, not the brain.
"""

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from neuralood import paths
from neuralood.config import Params, load_params
from neuralood.console import console
from neuralood.data.fmri import prepare_fmri
from neuralood.demo.drawing import render_set
from neuralood.demo.subject import simulate_subject
from neuralood.encoder.train import train_encoder
from neuralood.evaluation import evaluate
from neuralood.fusion.train import train_fusion
from neuralood.predictions import read_predictions
from neuralood.records import read_json, write_json, write_text
from neuralood.seeding import generator
from neuralood.statistics import PairedResult, bootstrap_interval
from neuralood.summary import summarize
from neuralood.synthesis import synthesize
from stages.cache_tokens import main as cache_tokens

SEEDS = (0, 1, 2)
ARMS: dict[str, dict[str, str]] = {
    "bmfl": {},
    "image_only": {"variant": "image_only"},
    "shuffled": {"control": "shuffled"},
    "untrained": {"control": "untrained"},
    "features": {"control": "features"},
}
HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parent / "build" / "demo_controls"


def main() -> None:
    """Run every arm of every seed, compare, write the two files."""
    started = time.monotonic()
    params = load_params()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    for seed in SEEDS:
        with _inside(SCRATCH / f"seed{seed}"):
            _run_seed(replace(params, seed=seed))
    record = compare(params)
    write_json(HERE / "demo_controls.json", record)
    write_text(HERE / "demo_controls.md", page(record, time.monotonic() - started))
    console.print((HERE / "demo_controls.md").read_text())


def _run_seed(params: Params) -> None:
    for name in params.sets:
        render_set(params, name)
        cache_tokens(params, name)
    simulate_subject(params, params.fmri.subject)
    prepare_fmri(params)
    for arm, change in ARMS.items():
        console.rule(f"seed {params.seed}, {arm}")
        encoder = replace(params.encoder, control=change.get("control", "none"))
        fusion = replace(params.fusion, variant=change.get("variant", "bmfl"))
        _run_arm(replace(params, encoder=encoder, fusion=fusion), reuse=arm == "image_only")
        shutil.copytree(paths.DATA / "eval", Path(arm) / "eval")
        shutil.copytree(paths.METRICS, Path(arm) / "metrics")


def _run_arm(params: Params, *, reuse: bool) -> None:
    """Train and score one arm; with `reuse`, on the brain encoder and predicted fMRI that lie there."""
    labelled = [name for name in params.sets if name != "nsd"]
    if not reuse:
        train_encoder(params)
        for name in labelled:
            synthesize(params, name)
    train_fusion(params)
    for name in labelled:
        if name != "train":
            evaluate(params, name)
    summarize(params)


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        yield


def compare(params: Params) -> dict[str, Any]:
    """Top-1 of every arm and set, and BMFL minus each other arm on mean OOD and on cue-conflict."""
    classification = {
        (arm, seed): read_json(SCRATCH / f"seed{seed}" / arm / "metrics" / "classification.json")
        for arm in ARMS
        for seed in SEEDS
    }
    encoder = {seed: read_json(SCRATCH / f"seed{seed}" / "bmfl" / "metrics" / "encoder.json") for seed in SEEDS}
    top1 = {"linear": _top1([classification["bmfl", seed] for seed in SEEDS], "linear")}
    top1 |= {arm: _top1([classification[arm, seed] for seed in SEEDS], "fusion") for arm in ARMS}
    mean_sets = list(params.evaluation.ood_mean)
    differences = {
        other: {
            "ood_mean": _difference(top1["bmfl"], top1[other], "ood_mean", mean_sets, other, params),
            "conflict": _difference(top1["bmfl"], top1[other], "conflict", ["conflict"], other, params),
            "val": _difference(top1["bmfl"], top1[other], "val", ["val"], other, params),
        }
        for other in top1
        if other != "bmfl"
    }
    groups = {
        group: {
            "fraction_of_ceiling": [encoder[seed]["groups"][group]["fraction_of_ceiling"] for seed in SEEDS],
            "pearson": [encoder[seed]["groups"][group]["pearson"]["median"] for seed in SEEDS],
            "ridge": [encoder[seed]["groups"][group]["ridge"]["pearson"]["median"] for seed in SEEDS],
        }
        for group in ("early", "high")
    }
    return {"data": "simulated", "seeds": list(SEEDS), "top1": top1, "bmfl_minus": differences, "encoder": groups}


def _top1(runs: list[dict[str, Any]], model: str) -> dict[str, list[float]]:
    cells = [{**run["id"], **run["ood"], "ood_mean": run["ood_mean"]} for run in runs]
    return {name: [one[name][model]["top1"] for one in cells] for name in cells[0]}


def _difference(
    ours: dict[str, list[float]], theirs: dict[str, list[float]], key: str, sets: list[str], other: str, params: Params
) -> dict[str, Any]:
    """Per-seed differences with a t interval over seeds, and a bootstrap interval over images, seeds averaged."""
    per_seed = np.array(ours[key]) - np.array(theirs[key])
    half = student_t.ppf(0.975, len(SEEDS) - 1) * per_seed.std(ddof=1) / len(SEEDS) ** 0.5
    low, high = _image_interval(other, sets, params)
    return {
        "mean": round(float(per_seed.mean()), 3),
        "per_seed": per_seed.round(3).tolist(),
        "t_interval_over_seeds": [round(float(per_seed.mean() - half), 3), round(float(per_seed.mean() + half), 3)],
        "bootstrap_over_images": [round(low, 3), round(high, 3)],
    }


def _image_interval(other: str, sets: list[str], params: Params) -> tuple[float, float]:
    """Each seed has scenes of its own: sources are resampled within seeds, and the seeds averaged."""
    results = {}
    for seed in SEEDS:
        for name in sets:
            ours = read_predictions(SCRATCH / f"seed{seed}" / "bmfl" / "eval" / name)
            theirs = ours if other == "linear" else read_predictions(SCRATCH / f"seed{seed}" / other / "eval" / name)
            model = "linear" if other == "linear" else "fusion"
            difference = ours.correct("fusion").mean(axis=0) - theirs.correct(model).mean(axis=0)
            results[f"{seed}/{name}"] = PairedResult(
                100 * difference, tuple(f"{seed}/{source}" for source in ours.sources)
            )
    return bootstrap_interval(results, params.evaluation.bootstrap, generator(0, "demo controls", other, *sets))


def page(record: dict[str, Any], seconds: float) -> str:
    """The Markdown page of a comparison."""
    sets = list(record["top1"]["bmfl"])
    lines = [
        "# BMFL against its controls on the demo world (SIMULATED images' brain data)",
        "",
        "Written by `python -m benchmarks.demo_controls`. The world is built so that the effect exists: it tests the",
        "pipeline and its controls, and says nothing about real brains.",
        "",
        f"Top-1 %, mean over {len(record['seeds'])} simulated subjects (per seed in brackets for mean OOD).",
        "",
        "| arm | " + " | ".join(sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    for arm, scores in record["top1"].items():
        cells = [f"{np.mean(scores[name]):.1f}" for name in sets]
        cells[sets.index("ood_mean")] += " (" + " ".join(f"{one:.1f}" for one in scores["ood_mean"]) + ")"
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", "BMFL minus the other arm, points: mean [t interval over seeds] [bootstrap over images]", ""]
    lines += ["| other | mean OOD | cue-conflict | val (in distribution) |", "|---|---|---|---|"]
    for other, differences in record["bmfl_minus"].items():
        lines.append(
            f"| {other} | " + " | ".join(_cell(differences[key]) for key in ("ood_mean", "conflict", "val")) + " |"
        )
    lines += ["", "Encoder (control none), per seed: median r, ridge, fraction of ceiling", ""]
    for group, scores in record["encoder"].items():
        shown = [" ".join(f"{one:.3f}" for one in scores[key]) for key in ("pearson", "ridge", "fraction_of_ceiling")]
        lines.append(f"- {group}: r {shown[0]}; ridge {shown[1]}; fraction of ceiling {shown[2]}")
    cpu = f"{os.cpu_count()} cores, {platform.machine()}"
    return "\n".join([*lines, "", f"{seconds / 60:.1f} minutes on {cpu}.", ""])


def _cell(difference: dict[str, Any]) -> str:
    (t_low, t_high), (low, high) = difference["t_interval_over_seeds"], difference["bootstrap_over_images"]
    return f"{difference['mean']:+.1f} [{t_low:+.1f}, {t_high:+.1f}] [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
