"""A made-up study and its neighbours for tests of the page: numbers of no run."""

from typing import Any

import numpy as np

OOD = ["silhouette", "edges", "conflict", "noise", "lowpass", "contrast"]

ARMS = {
    "linear": ("baseline", {}, 33.0),
    "knn": ("baseline", {}, 29.0),
    "attentive": ("baseline", {}, 36.5),
    "mlp": ("baseline", {}, 34.0),
    "bmfl": ("main", {}, 64.9),
    "image_only": ("control", {"fusion.variant": "image_only"}, 37.9),
    "shuffled": ("control", {"encoder.control": "shuffled"}, 38.9),
    "untrained": ("control", {"encoder.control": "untrained"}, 32.1),
    "features": ("control", {"encoder.control": "features"}, 39.4),
    "early": ("rois", {"fusion.rois": "early"}, 40.0),
    "high": ("rois", {"fusion.rois": "high"}, 62.0),
    "without_early": ("rois", {"fusion.rois": ["all", "-early"]}, 63.0),
    "without_high": ("rois", {"fusion.rois": ["all", "-high"]}, 41.0),
    "pcc_0.1": ("setting", {"fusion.pcc_weight": 0.1}, 61.0),
    "images_1000": ("amount", {"encoder.images": 1000}, 55.0),
    "images_200": ("amount", {"encoder.images": 200}, 50.0),
}
"""Kind, changed params and mean OOD of each arm."""


def made_up_study(brain: bool = True) -> dict[str, Any]:
    """metrics/study.json of no run, as neuralood.study writes it; without `brain` BMFL is as good as the controls."""
    rng = np.random.default_rng(5)
    tops = {name: 38.5 if name == "bmfl" and not brain else top for name, (_, _, top) in ARMS.items()}
    arms = {name: _arm(rng, *ARMS[name][:2], top) for name, top in tops.items()}
    arms["bmfl"]["effective_robustness"] = 21.4
    others = [name for name in arms if name != "bmfl"]
    verdict = "Brain information: bmfl stands above all." if brain else "No evidence that the brain helps: at 0.1."
    steps = {"image_network": ("linear", "image_only"), "training_on_fmri": ("image_only", "shuffled")}
    steps |= {"brain": ("shuffled", "bmfl"), "total": ("linear", "bmfl")}
    return {
        "data": "simulated",
        "backbone": "tf_efficientnet_lite0",
        "seeds": 3,
        "quick": False,
        "sets": {"id": ["val"], "ood": OOD, "ood_mean": OOD},
        "arms": arms,
        "comparisons": [
            _comparison(other, where, arms["bmfl"]["top1"][where]["mean"] - arms[other]["top1"][where]["mean"])
            for other in others
            for where in ("val", *OOD, "ood_mean")
        ],
        "decomposition": {
            key: {"name": f"{high} - {low}", **_difference(tops[high] - tops[low])}
            for key, (low, high) in steps.items()
        },
        "verdict": {
            "brain_information": brain,
            "text": f"{verdict} Over seeds it does, too. The fMRI is SIMULATED.",
            "against": {
                name: {"difference": tops["bmfl"] - tops[name], "interval": [18.1, 24.0], "level": 0.9875}
                for name in ("shuffled", "image_only", "untrained", "features")
            },
        },
        "geometry": {},
        "humans": {},
        "best_baseline": {
            "arm": "attentive",
            "difference": {"name": "bmfl - attentive", **_difference(tops["bmfl"] - tops["attentive"])},
        },
        "power": {"images": 1800, "sources": 300, "smallest_gain": 2.1, "text": "The smallest gain shown is 2.1."},
    }


def made_up_robustness() -> dict[str, Any]:
    """metrics/robustness.json of no run: two transforms, one of them at three levels."""
    sets = {
        name: {model: _scores(shift) for model, shift in (("linear", 0.2), ("fusion", 0.0))} for name in ("val", "fog1")
    }
    fog = {f"fog{level}": _level(level) for level in (10, 2, 1)}
    return {
        "id": {"val": sets["val"]},
        "ood": {"fog1": sets["fog1"]},
        "levels": {"val": {"fog": fog, "line_drawing": {"lines": _level(1)}}},
    }


def _arm(rng: np.random.Generator, kind: str, changes: dict[str, Any], top: float) -> dict[str, Any]:
    shifts = np.linspace(-12, 12, len(OOD))
    means = {"val": 99.0, **{name: top + shift for name, shift in zip(OOD, shifts, strict=True)}, "ood_mean": top}
    cells = {}
    for name, mean in means.items():
        seeds = mean + np.array([-1.0, 0.25, 0.75]) * rng.uniform(0.2, 1.2)
        cells[name] = {"mean": mean, "per_seed": seeds.tolist(), "sd": float(seeds.std(ddof=1))}
    return {"kind": kind, "changes": changes, "top1": cells, "parameters": 12345}


def _difference(value: float) -> dict[str, Any]:
    return {"difference": value, "image_interval": [value - 2, value + 2], "seed_interval": [value - 8, value + 8]}


def _comparison(other: str, where: str, value: float) -> dict[str, Any]:
    """Holm's correction is over OOD sets: rows of val and of the mean have none."""
    p = 0.0002 if value > 8 else 0.03 if value > 2 else 0.4
    seeds = {"per_seed": [value - 1, value, value + 1], "p": p, "cohens_h": value / 50}
    holm = {} if where in ("val", "ood_mean") else {"holm_p": min(1.0, 6 * p)}
    return {"arm": "bmfl", "other": other, "set": where, **_difference(value), **seeds, **holm}


def _scores(shift: float) -> dict[str, Any]:
    worst = {"class": "bolt", "n": 30, "top1": 20.0}
    return {"ece": 10 + shift, "nll": 1.5 + shift, "brier": 0.5 + shift, "worst_class": worst}


def _level(level: int) -> dict[str, Any]:
    linear, fusion = 80.0 - 5 * level, 90.0 - 2 * level
    gain = {"top1": fusion - linear, "low": fusion - linear - 3, "high": fusion - linear + 3}
    return {"level": level, "linear": {"top1": linear}, "fusion": {"top1": fusion}, "gain": gain}


def made_up_humans() -> dict[str, Any]:
    """metrics/humans.json of no run: one set compared, one that the classes do not reach."""

    def number(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.06}

    def observer(accuracy: float, kappa: dict[str, float], bias: dict[str, float]) -> dict[str, Any]:
        return {"accuracy": accuracy, "consistency": 0.612, "kappa": kappa, "shape_bias": {**bias, "either": 0.8}}

    return {
        "cue": {
            "applicable": True,
            "experiment": "cue-conflict",
            "n": 1200,
            "categories": 16,
            "fmri": "simulated",
            "people": {"count": 10, **observer(80.0, {"value": 0.331}, {"value": 0.959})},
            "linear": observer(20.0, number(0.08), number(0.21)),
            "fusion": observer(30.0, number(0.15), number(0.42)),
            "gain": {"kappa": number(0.07)},
        },
        "edges": {"applicable": False, "reason": "classes map onto 3 of 16 categories"},
    }


def made_up_geometry() -> dict[str, Any]:
    """metrics/geometry.json of no run."""
    values = {"cls": 0.15, "gap": 0.17, "patches": 0.22, "fmri": 0.2, "fmri_high": 0.24, "fused": 0.19}
    measures = {name: {"spearman": r, "tau_a": r - 0.05, "whitened": r + 0.1} for name, r in values.items()}
    ends = {"lower": 0.379, "upper": 0.661}
    lead = {
        other: {"spearman": 0.19 - values[other], "low": -0.04, "high": 0.05} for other in ("cls", "gap", "patches")
    }
    return {
        "objects92": {
            "fmri": "simulated",
            "n_images": 92,
            "n_people": 4,
            "ceiling": {measure: ends for measure in ("spearman", "tau_a", "whitened")},
            "representations": {
                name: {**one, "low": one["spearman"] - 0.06, "high": one["spearman"] + 0.07}
                for name, one in measures.items()
            },
            "lead": {"fused": lead, "fmri_high": lead},
        }
    }
