"""What is compared: every arm of the study, and the keys of params.yaml that it changes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from neuralood.config import BASELINES, Params
from neuralood.data.rois import LEFT_OUT

Kind = Literal["main", "control", "rois", "setting", "amount", "baseline"]

MAIN = "bmfl"
LINEAR = "linear"
"""The linear probe of the main arm's own run."""
CONTROLS = ("shuffled", "image_only", "untrained", "features")
"""What BMFL must beat before its gain may be called the brain's (Holm-corrected, on mean OOD)."""
BASELINE_ARMS: dict[str, dict[str, Any]] = {
    **{name: {"fusion.variant": name} for name in BASELINES},
    "attentive_smoothed": {"fusion.variant": "attentive", "fusion.label_smoothing": 0.1},
    "attentive_mixup": {"fusion.variant": "attentive", "fusion.mixup": 0.2},
}
"""Classifiers of the same image tokens without a brain, and simple means against shift, at their usual strengths."""
QUICK_GROUPS = ("early", "high")


@dataclass(frozen=True)
class Arm:
    """One run: its name, what it is in the study, and the values it changes, by dotted key."""

    name: str
    kind: Kind
    changes: Mapping[str, Any]


def main_arm() -> Arm:
    """params.yaml as it stands."""
    return Arm(MAIN, "main", {})


def further_arms(params: Params, groups: Sequence[str], with_others: Sequence[str], *, quick: bool) -> list[Arm]:
    """All arms but the main one. groups: those that the encoder has; with_others: those that are not all its vertices.

    An encoder that was trained elsewhere has no controls of its own, and fMRI kept of some ROIs no other ones.
    """
    arms = [*_controls(params), *_single_groups(params, [one for one in groups if one in QUICK_GROUPS or not quick])]
    if not quick:
        arms += [*_without_groups(params, with_others), *_settings(params), *_amounts(params)]
        arms += [Arm(name, "baseline", changes) for name, changes in BASELINE_ARMS.items()]
    return arms


def _controls(params: Params) -> Iterator[Arm]:
    for name in CONTROLS:
        if name == "image_only":
            yield Arm(name, "control", {"fusion.variant": name})
        elif params.fmri.source != "imported":
            yield Arm(name, "control", {"encoder.control": name})


def _single_groups(params: Params, groups: Sequence[str]) -> Iterator[Arm]:
    if params.synthesis.rois == "all":
        yield from (Arm(group, "rois", {"fusion.rois": group}) for group in groups)


def _without_groups(params: Params, groups: Sequence[str]) -> Iterator[Arm]:
    """Every vertex but a group's, which streams contain as well."""
    if params.synthesis.rois == "all":
        yield from (Arm(f"without_{group}", "rois", {"fusion.rois": ["all", LEFT_OUT + group]}) for group in groups)


def _settings(params: Params) -> Iterator[Arm]:
    for weight in params.study.pcc_weights:
        if weight != params.fusion.pcc_weight:
            yield Arm(f"pcc_{weight:g}", "setting", {"fusion.pcc_weight": weight})
    for variant in ("concat", "brain_only"):
        yield Arm(variant, "setting", {"fusion.variant": variant})


def _amounts(params: Params) -> Iterator[Arm]:
    for count in params.study.images if params.fmri.source != "imported" else ():
        yield Arm(f"images_{count}", "amount", {"encoder.images": count})
