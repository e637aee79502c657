"""How long `neuralood study` will take: the stages that each of its arms runs anew."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from neuralood.backbone import FrozenBackbone
from neuralood.base import paths
from neuralood.config import Params
from neuralood.data.fmri import groups_with_others, present_groups, read_measured
from neuralood.data.rois import ROI_NAMES
from neuralood.plan.sizes import SetSize, StoreSize
from neuralood.plan.times import LINEAR_PROBE, stage_times
from neuralood.plan.words import duration_text
from neuralood.plan.work import Work
from neuralood.study.arms import Arm, further_arms, main_arm

FUSION_STAGES = ("train_fusion", LINEAR_PROBE, "evaluate")
ENCODER_STAGES = ("train_encoder", "synthesize")


def study_text(work: Work, backbone: FrozenBackbone) -> str | None:
    """How many arms there are, and how long they take one after the other; None where that is not known yet."""
    shown = []
    for command, quick in (("neuralood study --quick", True), ("neuralood study", False)):
        arms = [main_arm(), *further_arms(work.params, *_groups(), quick=quick)]
        seconds = study_seconds(work, backbone, arms)
        if seconds is None:
            return None
        shown.append(f"`{command}`: {len(arms)} arms, about {duration_text(seconds)}")
    return f"{'; '.join(shown)}, one arm after the other; baselines are counted as fusion, and take less"


def study_seconds(work: Work, backbone: FrozenBackbone, arms: Sequence[Arm]) -> float | None:
    """Seconds of all arms, each with `study.seeds` models; None where those of a stage are not known yet."""
    total = 0.0
    for arm in arms:
        params = with_changes(work.params, {**arm.changes, "fusion.seeds": work.params.study.seeds})
        anew = any(key.startswith("encoder.") for key in arm.changes)
        stages = (*FUSION_STAGES, *ENCODER_STAGES) if anew else FUSION_STAGES
        sets = {name: _without_fmri(one) for name, one in work.sets.items()}
        for line in stage_times(replace(work, params=params, sets=sets), backbone):
            if line.stage in stages:
                if line.seconds is None or line.least:
                    return None
                total += line.seconds
    return total


def with_changes(params: Params, changes: Mapping[str, Any]) -> Params:
    """The same params with these values, by dotted key of a section and an entry."""
    for key, value in changes.items():
        section, entry = key.split(".")
        value = tuple(value) if isinstance(value, list) else value
        params = replace(params, **{section: replace(getattr(params, section), **{entry: value})})
    return params


def _without_fmri(one: SetSize) -> SetSize:
    """The set before its fMRI was predicted."""
    return one if one.fmri is None else replace(one, fmri=StoreSize(one.fmri.nbytes, one.fmri.nbytes))


def _groups() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of the fMRI and those outside of which it has vertices; all that there can be where it is not there."""
    if not paths.MEASURED.exists():
        every = present_groups([f"lh.{name}" for name in ROI_NAMES])
        return every, every
    measured = read_measured()
    return present_groups(measured.roi_names), groups_with_others(measured.roi_names, measured.roi)
