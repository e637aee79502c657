"""metrics/classification.json and what stands beside it: the sets that params.yaml names, side by side."""

from typing import Any

import numpy as np

from neuralood.base import console, paths
from neuralood.base.records import read_json, rounded, write_json
from neuralood.base.seeding import generator
from neuralood.config import Params
from neuralood.predictions import MODELS, read_predictions
from neuralood.robustness import robustness_metrics
from neuralood.statistics import bootstrap_interval


def summarize(params: Params) -> None:
    """data/eval/SET/ of val and every OOD set -> metrics/classification.json and robustness.json.

    data/eval/_geometry/ -> metrics/geometry.json; data/humans/ -> metrics/humans.json.
    """
    fusion, encoder = read_json(paths.FUSION / "fusion.json"), read_json(paths.ENCODER / "encoder.json")
    cells = {
        name: read_json(paths.evaluation(name) / "scores.json")
        for name, image_set in params.sets.items()
        if image_set.role in ("val", "ood")
    }
    record = {
        "backbone": params.backbone.name,
        "fmri": encoder["source"],
        "variant": fusion["variant"],
        "control": encoder["control"],
        "pcc_weight": fusion["pcc_weight"],
        "seeds": fusion["seeds"],
        "parameters": fusion["parameters"],
        "id": {name: cell for name, cell in cells.items() if params.sets[name].role == "val"},
        "ood": {name: cell for name, cell in cells.items() if params.sets[name].role == "ood"},
    }
    if params.evaluation.ood_mean:
        record["ood_mean"] = _ood_mean(params, cells)
    write_json(paths.CLASSIFICATION_METRICS, record)
    write_json(paths.ROBUSTNESS_METRICS, robustness_metrics(params, cells))
    write_json(paths.GEOMETRY_METRICS, _geometry(params))
    write_json(paths.HUMANS_METRICS, _humans(params))
    _show(record, simulated=encoder["trained_on"] == "simulated")
    console.wrote(paths.CLASSIFICATION_METRICS, f"top-1 on {len(cells)} sets")


def summarize_encoder(params: Params) -> None:
    """data/encoder_ood/ -> metrics/encoder_ood.json: each kind of images of sets of role fmri_ood; {} without any."""
    names = [name for name, image_set in params.sets.items() if image_set.role == "fmri_ood"]
    kinds = [read_json(paths.encoder_ood(name) / "scores.json") for name in names]
    if not kinds:
        console.note("no set of role fmri_ood: the encoder is not scored out of distribution")
    write_json(paths.ENCODER_OOD_METRICS, {kind: scores for one in kinds for kind, scores in one.items()})
    console.wrote(paths.ENCODER_OOD_METRICS, f"scores on {len(kinds)} sets")


def _geometry(params: Params) -> dict[str, Any]:
    """Likeness of the models to people on every set of `geometry`."""
    return {name: read_json(paths.geometry(name) / "scores.json") for name in params.geometry}


def _humans(params: Params) -> dict[str, Any]:
    """How much like people both models answer, by set; none where there are no answers of people."""
    return {name: read_json(paths.human_comparison(name) / "scores.json") for name in params.humans}


def _ood_mean(params: Params, cells: dict[str, Any]) -> dict[str, Any]:
    """Unweighted mean over the sets of `evaluation.ood_mean`; versions of one image are resampled together."""
    names = params.evaluation.ood_mean
    mean: dict[str, Any] = {"n_sets": len(names)}
    for model in MODELS:
        mean[model] = {"top1": rounded(np.mean([cells[name][model]["top1"] for name in names]))}
    gains = {name: read_predictions(paths.evaluation(name)).gain() for name in names}
    rng = generator(params.seed, "bootstrap", "ood mean")
    low, high = bootstrap_interval(gains, params.evaluation.bootstrap, rng)
    point = np.mean([gain.difference.mean() for gain in gains.values()])
    mean["gain"] = {"top1": rounded(point), "low": rounded(low), "high": rounded(high)}
    return mean


def _show(record: dict[str, Any], *, simulated: bool) -> None:
    fmri = ", simulated fMRI" if simulated else ""
    rows = {name: _line(cell) for part in ("id", "ood") for name, cell in record[part].items()}
    if "ood_mean" in record:
        rows["mean OOD"] = _line(record["ood_mean"])
    console.results(f"Top-1 %, {record['variant']}, control {record['control']}{fmri}", rows)


def _line(cell: dict[str, Any]) -> str:
    gain = cell["gain"]
    return (
        f"linear {cell['linear']['top1']:5.1f}   fusion {cell['fusion']['top1']:5.1f}   "
        f"gain {gain['top1']:+5.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]"
    )
