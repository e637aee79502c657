"""What follows from a study: where the gain comes from, and whether it may be called the brain's."""

from collections.abc import Mapping
from typing import Any

from neuralood.base.records import rounded
from neuralood.statistics import bootstrap_p, holm, holm_levels, percentile_interval, seed_interval, smallest_gain
from neuralood.study.arms import CONTROLS, LINEAR, MAIN
from neuralood.study.compare import Difference

TERMS = {
    "total": (MAIN, LINEAR),
    "image_network": ("image_only", LINEAR),
    "training_on_fmri": ("shuffled", "image_only"),
    "brain": (MAIN, "shuffled"),
}
"""bmfl - linear = (image_only - linear) + (shuffled - image_only) + (bmfl - shuffled)."""


def verdict(against: Mapping[str, Difference], features_gain: Difference | None, *, simulated: bool) -> dict[str, Any]:
    """'Brain information' only where BMFL minus each control lies above 0 on mean OOD, intervals corrected by Holm.

    against: differences to those of CONTROLS that were run; without one of them there is no evidence either.
    features_gain: features minus shuffled, where both were run.
    """
    p_values = [bootstrap_p(one.means) for one in against.values()]
    rows: dict[str, dict[str, Any]] = {
        name: {
            "difference": rounded(one.point),
            "interval": [rounded(end) for end in percentile_interval(one.means, level)],
            "level": rounded(level),
            "holm_p": rounded(p),
        }
        for (name, one), level, p in zip(against.items(), holm_levels(p_values), holm(p_values), strict=True)
    }
    found = set(against) == set(CONTROLS) and all(row["interval"][0] > 0 for row in rows.values())
    text = " ".join([_finding(rows, found=found), *_over_seeds(against), *_features(features_gain), *_world(simulated)])
    return {"brain_information": found, "against": rows, "text": text}


def power(brain: Difference, images: int, sources: int) -> dict[str, Any]:
    """The smallest gain over `shuffled` on mean OOD that so many images show: 5 %, two-sided, 80 % power."""
    gain = rounded(smallest_gain(brain.means))
    return {
        "images": images,
        "sources": sources,
        "smallest_gain": gain,
        "text": (
            f"{images:,} OOD images of {sources:,} source images show a true difference of {gain:.1f} points on mean "
            "OOD in four of five studies; a smaller one would often be missed. Trained models are taken as they are."
        ),
    }


def _finding(rows: Mapping[str, Any], *, found: bool) -> str:
    if found:
        names = _listed([f"{name} ({_points(row)})" for name, row in rows.items()])
        return (
            f"Brain information: on mean OOD bmfl stands above each of {names}, intervals corrected for four questions."
        )
    missing = [name for name in CONTROLS if name not in rows]
    if missing:
        return (
            f"No evidence that the brain helps: {_listed(missing)} could not be run, and without it nothing is shown."
        )
    level = [f"{name} ({_points(row)})" for name, row in rows.items() if row["interval"][0] <= 0]
    return f"No evidence that the brain helps: on mean OOD bmfl does not stand above {_listed(level)}."


def _over_seeds(against: Mapping[str, Difference]) -> list[str]:
    """Where training anew could change the sign."""
    intervals = {name: seed_interval(one.per_seed.tolist()) for name, one in against.items()}
    open_ones = [name for name, interval in intervals.items() if interval is None or interval[0] <= 0]
    if not open_ones:
        return ["Over seeds, too, every difference lies above 0 (t intervals)."]
    return [f"Over seeds, the t interval of the difference to {_listed(open_ones)} does not lie above 0."]


def _features(gain: Difference | None) -> list[str]:
    """What extra supervision without a brain gives."""
    if gain is None:
        return []
    low, high = percentile_interval(gain.means)
    what = "gains over shuffled as well, which needs no brain" if low > 0 else "shows no gain over shuffled"
    return [
        "The features arm, with another network's features in place of fMRI, "
        f"{what}: {gain.point:+.1f} [{low:+.1f}, {high:+.1f}]."
    ]


def _world(simulated: bool) -> list[str]:
    if not simulated:
        return []
    return [
        "The fMRI is SIMULATED, in a world built so that the effect exists: this tests the pipeline, not the brain."
    ]


def _points(row: Mapping[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
