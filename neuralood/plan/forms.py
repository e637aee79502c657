"""The forms in which predicted fMRI can be kept: what each takes on the disk, and costs whenever it is read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from neuralood.config import Params
from neuralood.plan.probe import Speed, brain_of, expand_seconds
from neuralood.synthesis import fmri_spec

IMPORTED_COMPONENTS = 250
"""Components of an imported encoder: BERG's have so many."""


@dataclass(frozen=True)
class FormCost:
    """A form: K numbers an image, bytes of the sets that are counted, and seconds an image to restore fMRI from it."""

    name: str
    width: int
    nbytes: int
    seconds: float
    chosen: bool


def kept_width(params: Params, vertices: int) -> int:
    """Numbers an image that `synthesis` keeps."""
    if params.synthesis.store == "none":
        return 0
    if params.synthesis.store == "roi_tokens":
        return _tokens_width(params, vertices)
    return len(brain_of(params.synthesis.rois, vertices).chosen)


def form_costs(
    params: Params, counts: Sequence[int], vertices: int, encoder: Speed, device: torch.device
) -> list[FormCost]:
    """All forms that this subject and encoder have, for sets of so many images."""
    chosen, own = params.synthesis, []
    of_rois = params.fusion.rois if chosen.rois == "all" else chosen.rois
    own.append(("vertices", vertices, 0.0, chosen.store == "vertices" and chosen.rois == "all"))
    if of_rois != "all":
        width = len(brain_of(of_rois, vertices).chosen)
        own.append((f"vertices of {_text(of_rois)}", width, 0.0, chosen.store == "vertices" and chosen.rois != "all"))
    expanding = 0.0 if params.fmri.source == "imported" else expand_seconds(params, vertices, device)
    own.append(("roi_tokens", _tokens_width(params, vertices), expanding, chosen.store == "roi_tokens"))
    if params.fmri.source != "imported":
        own.append(("none", 0, encoder.predict, chosen.store == "none"))
    return [
        FormCost(name, width, sum(_nbytes(params, count, width) for count in counts), seconds, taken)
        for name, width, seconds, taken in own
    ]


def _tokens_width(params: Params, vertices: int) -> int:
    if params.fmri.source == "imported":
        return IMPORTED_COMPONENTS
    return len(brain_of("all", vertices).membership) * params.encoder.width * params.encoder.ensemble


def _nbytes(params: Params, count: int, width: int) -> int:
    return fmri_spec(count, width, params.cache).nbytes if width else 0


def _text(rois: str | tuple[str, ...]) -> str:
    return rois if isinstance(rois, str) else ", ".join(rois)
