"""The whole study, from params.yaml to metrics/study.json."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.records import read_json, rounded, write_json
from neuralood.config import Params, load_params
from neuralood.data.fmri import groups_with_others, present_groups
from neuralood.encoder.trained import encoder_rois
from neuralood.study.arms import CONTROLS, LINEAR, MAIN, further_arms, main_arm
from neuralood.study.baselines import above_the_line, best_baseline
from neuralood.study.compare import Difference, Resampling, compare, compared_sets, difference
from neuralood.study.people import errors_of_arms, geometry_of_arms
from neuralood.study.results import OOD_MEAN, Result, cell, read_linear, read_result
from neuralood.study.runs import ARMS, run_arms
from neuralood.study.verdict import TERMS, power, verdict


def study(*, quick: bool) -> None:
    """Run all arms that are not there yet, compare them, and write metrics/study.json and the page that shows it.

    params.yaml as it stands is the main arm. Raises UserError for another variant than bmfl, for no set in
    `evaluation.ood_mean`, and where an arm fails.
    """
    params = load_params()
    _require_a_question(params)
    console.heading("params.yaml as it stands")
    if dvc("repro", "summarize", "summarize_encoder"):
        raise UserError("study: `dvc repro` failed, as said above")
    console.heading("the arms")
    names = run_all(params, quick=quick)
    write_json(paths.STUDY_METRICS, study_record(params, names, quick=quick))
    show(read_json(paths.STUDY_METRICS))
    if dvc("repro", "--force", "--single-item", "report"):
        raise UserError(f"{paths.STUDY_METRICS} is written, but its page failed, as said above")
    console.wrote(paths.STUDY_METRICS, f"{len(names)} arms, {params.study.seeds} seeds each")
    console.wrote(paths.REPORT, "the page with the verdict")


def run_all(params: Params, *, quick: bool) -> list[str]:
    """Run what is not kept yet; the names of all arms, the main one first."""
    rois = encoder_rois()
    further = further_arms(params, present_groups(rois[0]), groups_with_others(*rois), quick=quick)
    run_arms([main_arm(), *further], params.study.seeds, params.runtime.arms)
    return [MAIN, *(arm.name for arm in further)]


def study_record(params: Params, names: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """metrics/study.json: arms, comparisons, decomposition, verdict and power, from what is kept of the arms."""
    ood = [name for name, one in params.sets.items() if one.role == "ood"]
    sets, how = compared_sets(ood, params.evaluation.ood_mean), Resampling(params.evaluation.bootstrap, params.seed)
    scored = ["val", *ood]
    results = {name: read_result(name, scored) for name in names}
    results[LINEAR] = read_linear(scored)
    main, main_record = results[MAIN], read_json(ARMS / MAIN / "classification.json")
    simulated = main_record["fmri"] == "simulated"
    others = [one for name, one in results.items() if name != MAIN]

    @cache
    def on_ood(one: str, other: str) -> Difference:
        return difference(results[one], results[other], sets[OOD_MEAN], how)

    against = {name: on_ood(MAIN, name) for name in CONTROLS if name in results}
    best, above = best_baseline(list(results.values())), above_the_line(list(results.values()), sets)
    features_gain = on_ood("features", "shuffled") if {"features", "shuffled"} <= set(results) else None
    record = {
        "data": main_record["fmri"],
        "backbone": main_record["backbone"],
        "seeds": params.study.seeds,
        "quick": quick,
        "sets": {"id": ["val"], "ood": ood, "ood_mean": list(params.evaluation.ood_mean)},
        "arms": {name: _arm(one, sets, above["arms"].get(name)) for name, one in results.items()},
        "comparisons": compare(main, others, sets, how),
        "best_baseline": {"arm": best.name, "difference": on_ood(MAIN, best.name).record()},
        "effective_robustness": {name: one for name, one in above.items() if name != "arms"},
        "verdict": verdict(against, features_gain, simulated=simulated),
        "geometry": geometry_of_arms(params, names),
        "humans": errors_of_arms(params, names),
        "decomposition": {
            name: on_ood(one, other).record()
            for name, (one, other) in TERMS.items()
            if one in results and other in results
        },
    }
    if "shuffled" in against:
        record["power"] = power(against["shuffled"], main.images(sets[OOD_MEAN]), _sources(main, sets[OOD_MEAN]))
    return record


def dvc(*arguments: str) -> int:
    """Run DVC in the project, and return its exit status. Ctrl-C reaches it too, and it may end in its own time."""
    with subprocess.Popen([sys.executable, "-m", "dvc", *arguments]) as process:  # noqa: S603, no shell
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def show(record: Mapping[str, Any]) -> None:
    """One table, and the verdict."""
    simulated = ", simulated fMRI" if record["data"] == "simulated" else ""
    rows = {one["other"]: one for one in record["comparisons"] if one["set"] == OOD_MEAN}
    lines = {
        name: _line(arm, rows.get(name))
        for name, arm in sorted(record["arms"].items(), key=lambda item: item[0] != MAIN)
    }
    title = f"Top-1 %, {record['seeds']} seeds{simulated}; bmfl minus each arm [over images] [over seeds]"
    console.results(title, lines)
    console.note(record["verdict"]["text"])
    best = record["best_baseline"]["difference"]
    low, high = best["image_interval"]
    console.note(
        f"The best baseline is {record['best_baseline']['arm']}, by the holdout; bmfl lies {best['difference']:+.1f} "
        f"[{low:+.1f}, {high:+.1f}] from it on mean OOD."
    )
    if "power" in record:
        console.note(record["power"]["text"])


def _line(arm: Mapping[str, Any], row: Mapping[str, Any] | None) -> str:
    top1 = f"val {arm['top1']['val']['mean']:5.1f}   mean OOD {arm['top1'][OOD_MEAN]['mean']:5.1f}"
    if row is None:
        return top1
    (low, high), (seed_low, seed_high) = row["image_interval"], row["seed_interval"]
    return f"{top1}   {row['difference']:+5.1f} [{low:+.1f}, {high:+.1f}] [{seed_low:+.1f}, {seed_high:+.1f}]"


def _arm(result: Result, sets: Mapping[str, Sequence[str]], above: float | None) -> dict[str, Any]:
    """above: points above the baselines' line, where there is one."""
    return {
        **({} if above is None else {"effective_robustness": above}),
        "kind": result.kind,
        "changes": dict(result.changes),
        "parameters": result.parameters,
        "holdout": rounded(result.holdout),
        "top1": {name: cell(result.top1(members)) for name, members in sets.items()},
    }


def _sources(result: Result, sets: Sequence[str]) -> int:
    """Source images that the images of these sets are versions of."""
    return len({source for name in sets for source in result.sources[name]})


def _require_a_question(params: Params) -> None:
    if params.fusion.variant != "bmfl":
        raise UserError(f"fusion.variant: the study compares bmfl with everything else, got {params.fusion.variant}")
    if not params.evaluation.ood_mean:
        raise UserError("evaluation.ood_mean: the study is about mean OOD; name at least one set")
