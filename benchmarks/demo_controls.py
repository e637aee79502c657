"""BMFL against its controls on the simulated demo world, over three simulated subjects.

    python -m benchmarks.demo_controls          # writes benchmarks/demo_controls.json and .md
    python -m benchmarks.demo_controls --short  # one subject, into build/ only

Three runs of the demo (`seed` 0, 1, 2: each its own subject, scenes and weights) for each arm. In the last two arms the
high-level ROIs are noise that no image predicts: another world. A process runs all arms of one seed and world, which
share their tokens. Per-image predictions stay in build/demo_controls/. The verdict is the study's, for each seed: of
bmfl, of bmfl where the high-level ROIs know nothing, and of the shuffled control as if it were the main arm.

The world is SIMULATED and built so that the effect exists: this tests the pipeline and its controls, not the brain.
"""

import contextlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from neuralood.base import paths
from neuralood.base.console import console
from neuralood.base.records import read_json, write_json, write_text
from neuralood.base.seeding import generator
from neuralood.config import Control, HighRois, Params, Variant, load_params
from neuralood.data.fmri import prepare_fmri
from neuralood.demo.drawing import render_set
from neuralood.demo.subject import simulate_subject
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.train import train_encoder
from neuralood.evaluation import evaluate
from neuralood.fusion.train import train_fusion
from neuralood.predictions import read_predictions
from neuralood.statistics import PairedResult, bootstrap_interval, seed_interval
from neuralood.study.arms import CONTROLS
from neuralood.study.compare import Resampling, difference
from neuralood.study.results import Result
from neuralood.study.verdict import verdict
from neuralood.summary import summarize
from neuralood.synthesis import synthesize
from stages.cache_tokens import main as cache_tokens

SEEDS, SHORT_SEEDS = (0, 1, 2), (0,)


@dataclass(frozen=True)
class Arm:
    """What one arm changes in the demo's params."""

    control: Control = "none"
    variant: Variant = "bmfl"
    high_rois: HighRois = "shape"


ARMS = {
    "bmfl": Arm(),
    "image_only": Arm(variant="image_only"),
    "shuffled": Arm(control="shuffled"),
    "untrained": Arm(control="untrained"),
    "features": Arm(control="features"),
    "bmfl, high ROIs know nothing": Arm(high_rois="noise"),
    "shuffled, high ROIs know nothing": Arm(control="shuffled", high_rois="noise"),
}
PAIRS = [("bmfl", other) for other in ("linear", "image_only", "shuffled", "untrained", "features")]
PAIRS += [("bmfl, high ROIs know nothing", "shuffled, high ROIs know nothing")]
VERDICTS = {
    "bmfl": "shuffled",
    "bmfl, high ROIs know nothing": "shuffled, high ROIs know nothing",
    "shuffled": "shuffled",
}
"""Main arms, and what is shuffled's part. The other controls see no fMRI of the person and serve in every world."""
HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parent / "build" / "demo_controls"


def main(*, short: bool) -> None:
    """Run every arm of every seed, compare, write the two files."""
    started = time.monotonic()
    params, seeds = load_params(), SHORT_SEEDS if short else SEEDS
    shutil.rmtree(SCRATCH, ignore_errors=True)
    params = replace(params, runtime=replace(params.runtime, threads=1))  # a process a core: more would wait in turn
    worlds = [
        replace(params, seed=seed, demo=replace(params.demo, high_rois=high_rois))
        for high_rois in dict.fromkeys(arm.high_rois for arm in ARMS.values())
        for seed in seeds
    ]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        list(pool.map(_run_world, worlds))
    record, folder = compare(params, seeds), SCRATCH if short else HERE
    write_json(folder / "demo_controls.json", record)
    write_text(folder / "demo_controls.md", page(record, time.monotonic() - started))
    console.print((folder / "demo_controls.md").read_text())


def _folder(seed: int, high_rois: HighRois) -> Path:
    return SCRATCH / f"seed{seed}" / high_rois


def _run_world(params: Params) -> None:
    """The arms that are of this seed's and world's params."""
    with _inside(_folder(params.seed, params.demo.high_rois)):
        for name in params.sets:
            render_set(params, name)
            cache_tokens(params, name)
        simulate_subject(params, params.fmri.subject)
        prepare_fmri(params)
        fit_baselines(params)
        for name, arm in ARMS.items():
            if arm.high_rois != params.demo.high_rois:
                continue
            console.rule(f"seed {params.seed}, {name}")
            _run_arm(
                replace(
                    params,
                    encoder=replace(params.encoder, control=arm.control),
                    fusion=replace(params.fusion, variant=arm.variant),
                ),
                reuse=arm.variant == "image_only",
            )
            shutil.copytree(paths.DATA / "eval", Path(name) / "eval")
            shutil.copytree(paths.METRICS, Path(name) / "metrics")


def _run_arm(params: Params, *, reuse: bool) -> None:
    """Train and score one arm; with `reuse`, on the brain encoder and predicted fMRI that lie there."""
    labelled = [name for name, one in params.sets.items() if one.role in ("train", "val", "ood")]
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


def compare(params: Params, seeds: Sequence[int]) -> dict[str, Any]:
    """Top-1 of every arm and set, BMFL minus each other arm on mean OOD and on cue-conflict, and the verdicts."""
    classification = {
        (arm, seed): read_json(_arm_folder(arm, seed) / "metrics" / "classification.json")
        for arm in ARMS
        for seed in seeds
    }
    encoder = {seed: read_json(_arm_folder("bmfl", seed) / "metrics" / "encoder.json") for seed in seeds}
    top1 = {"linear": _top1([classification["bmfl", seed] for seed in seeds], "linear")}
    top1 |= {arm: _top1([classification[arm, seed] for seed in seeds], "fusion") for arm in ARMS}
    keys = {"ood_mean": list(params.evaluation.ood_mean), "conflict": ["conflict"], "val": ["val"]}
    differences = [
        {"arm": arm, "other": other}
        | {key: _difference(top1, arm, other, key, sets, params, seeds) for key, sets in keys.items()}
        for arm, other in PAIRS
    ]
    groups = {
        group: {
            "fraction_of_ceiling": [encoder[seed]["groups"][group]["fraction_of_ceiling"] for seed in seeds],
            "pearson": [encoder[seed]["groups"][group]["pearson"]["median"] for seed in seeds],
            "ridge": [encoder[seed]["groups"][group]["ridge"]["pearson"]["median"] for seed in seeds],
        }
        for group in ("early", "high")
    }
    return {
        "data": "simulated",
        "seeds": list(seeds),
        "top1": top1,
        "differences": differences,
        "encoder": groups,
        "verdicts": {main: [_verdict(main, seed, params) for seed in seeds] for main in VERDICTS},
    }


def _verdict(main: str, seed: int, params: Params) -> dict[str, Any]:
    """What the study says where `main` is its main arm."""
    sets, how = params.evaluation.ood_mean, Resampling(params.evaluation.bootstrap, params.seed)
    others = {control: VERDICTS[main] if control == "shuffled" else control for control in CONTROLS}
    ours = _result(main, seed, sets)
    against = {control: difference(ours, _result(arm, seed, sets), sets, how) for control, arm in others.items()}
    return verdict(against, None, simulated=True)


def _result(arm: str, seed: int, sets: Sequence[str]) -> Result:
    kept = {name: read_predictions(_arm_folder(arm, seed) / "eval" / name) for name in sets}
    correct = {name: one.correct("fusion") for name, one in kept.items()}
    sources = {name: one.sources for name, one in kept.items()}
    return Result(arm, "control", {}, correct, sources, parameters=0, holdout=0.0)  # the verdict reads neither


def _top1(runs: list[dict[str, Any]], model: str) -> dict[str, list[float]]:
    cells = [{**run["id"], **run["ood"], "ood_mean": run["ood_mean"]} for run in runs]
    return {name: [one[name][model]["top1"] for one in cells] for name in cells[0]}


def _difference(
    top1: dict[str, dict[str, list[float]]],
    arm: str,
    other: str,
    key: str,
    sets: list[str],
    params: Params,
    seeds: Sequence[int],
) -> dict[str, Any]:
    """Per-seed differences with a t interval over seeds, and a bootstrap interval over images, seeds averaged."""
    per_seed = np.array(top1[arm][key]) - np.array(top1[other][key])
    results = {f"{seed}/{name}": _paired(seed, arm, other, name) for seed in seeds for name in sets}
    over_seeds = seed_interval(per_seed.tolist())
    rng = generator(0, "demo controls", arm, other, key)
    low, high = bootstrap_interval(results, params.evaluation.bootstrap, rng)
    return {
        "mean": round(float(per_seed.mean()), 3),
        "per_seed": per_seed.round(3).tolist(),
        "t_interval_over_seeds": over_seeds and [round(one, 3) for one in over_seeds],
        "bootstrap_over_images": [round(low, 3), round(high, 3)],
    }


def _paired(seed: int, arm: str, other: str, set_name: str) -> PairedResult:
    """Arm minus other on the images of one set and seed; each seed has scenes of its own."""
    model, folder = ("linear", arm) if other == "linear" else ("fusion", other)
    ours = read_predictions(_arm_folder(arm, seed) / "eval" / set_name)
    theirs = read_predictions(_arm_folder(folder, seed) / "eval" / set_name)
    difference = ours.correct("fusion").mean(axis=0) - theirs.correct(model).mean(axis=0)
    return PairedResult(100 * difference, tuple(f"{seed}/{source}" for source in ours.sources))


def _arm_folder(arm: str, seed: int) -> Path:
    return _folder(seed, ARMS[arm].high_rois) / arm


def page(record: dict[str, Any], seconds: float) -> str:
    """The Markdown page of a comparison."""
    sets = list(record["top1"]["bmfl"])
    lines = [
        "# BMFL against its controls on the demo world (SIMULATED)",
        "",
        "Written by `python -m benchmarks.demo_controls`. The world is built so that the effect exists: it tests the",
        "pipeline and its controls, and says nothing about real brains.",
        "",
        f"Top-1 %, mean over {len(record['seeds'])} simulated subject(s) (per seed in brackets for mean OOD).",
        "",
        "| arm | " + " | ".join(sets) + " |",
        "|---|" + "---|" * len(sets),
    ]
    for arm, scores in record["top1"].items():
        cells = [f"{np.mean(scores[name]):.1f}" for name in sets]
        cells[sets.index("ood_mean")] += " (" + " ".join(f"{one:.1f}" for one in scores["ood_mean"]) + ")"
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += ["", "Differences in points: mean [t interval over seeds] [bootstrap over images]", ""]
    lines += ["| arm minus other | mean OOD | cue-conflict | val (in distribution) |", "|---|---|---|---|"]
    for one in record["differences"]:
        row = " | ".join(_cell(one[key]) for key in ("ood_mean", "conflict", "val"))
        lines.append(f"| {one['arm']} minus {one['other']} | {row} |")
    lines += ["", "Verdict of the study, per seed: brain information or no evidence", ""]
    for main, found in record["verdicts"].items():
        said = ["brain information" if one["brain_information"] else "no evidence" for one in found]
        lines.append(f"- {main} as the main arm: {', '.join(said)}")
    lines += ["", "Encoder (control none), per seed: median r, ridge, fraction of ceiling", ""]
    for group, scores in record["encoder"].items():
        shown = [" ".join(f"{one:.3f}" for one in scores[key]) for key in ("pearson", "ridge", "fraction_of_ceiling")]
        lines.append(f"- {group}: r {shown[0]}; ridge {shown[1]}; fraction of ceiling {shown[2]}")
    cpu = f"{os.cpu_count()} cores, {platform.machine()}"
    return "\n".join([*lines, "", f"{seconds / 60:.1f} minutes on {cpu}.", ""])


def _cell(difference: dict[str, Any]) -> str:
    over_seeds, (low, high) = difference["t_interval_over_seeds"], difference["bootstrap_over_images"]
    shown = "[one seed]" if over_seeds is None else f"[{over_seeds[0]:+.1f}, {over_seeds[1]:+.1f}]"
    return f"{difference['mean']:+.1f} {shown} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main(short="--short" in sys.argv[1:])
