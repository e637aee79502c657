"""What is kept of predicted fMRI on the disk, and how all vertices come back from it.

Every vertex is a linear readout of few numbers: of the ROI tokens, or of an imported encoder's components. To keep
those loses nothing, and takes less where they are fewer than the vertices. To keep nothing costs the encoder's time in
each epoch instead.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from neuralood.base.errors import UserError
from neuralood.base.store import Store
from neuralood.config import Synthesis
from neuralood.data.fmri import vertices_of
from neuralood.encoder.image_model import ImageEncoder
from neuralood.encoder.trained import EncoderModel

ARRAYS = {"vertices": "fmri", "roi_tokens": "roi_tokens"}
"""The array of a store of predicted fMRI, by `synthesis.store`; none is kept with `none`."""


@dataclass(frozen=True)
class Form:
    """`store` as in params, K values an image; `chosen` are the vertices kept where not all of V are."""

    store: Literal["vertices", "roi_tokens", "none"]
    width: int
    n_vertices: int
    chosen: Tensor | None = None

    def keep(self, model: EncoderModel, inputs: Tensor) -> Tensor:
        """Patches B N D (pixels for an encoder that reads images) -> what is kept, B K."""
        if self.store == "roi_tokens":
            return model.compact(inputs)
        fmri: Tensor = model(inputs)
        return fmri if self.chosen is None else fmri[:, self.chosen.to(fmri.device)]

    def restore(self, model: EncoderModel | None, kept: Tensor | None, patches: Tensor) -> Tensor:
        """What was kept B K (None where nothing was) and patches B N D -> fMRI B V; 0 at vertices left out.

        Where vertices were kept the model is not asked.
        """
        if self.store != "vertices" or kept is None:
            assert model is not None
            fmri: Tensor = model(patches) if kept is None else model.expand(kept)
            return fmri
        if self.chosen is None:
            return kept
        return kept.new_zeros(len(kept), self.n_vertices).index_copy_(1, self.chosen.to(kept.device), kept)


def form_of(settings: Synthesis, model: EncoderModel, record: dict[str, Any]) -> Form:
    """The form that params.synthesis asks for. Raises UserError where the encoder does not have it."""
    vertices = model.membership.shape[1]
    if settings.store == "none":
        if isinstance(model, ImageEncoder):
            raise UserError(
                "synthesis.store: none predicts fMRI from tokens as it is wanted, and the imported encoder reads "
                "images: choose vertices or roi_tokens"
            )
        return Form("none", 0, vertices)
    if settings.store == "roi_tokens":
        return Form("roi_tokens", compact_width(model), vertices)
    if settings.rois == "all":
        return Form("vertices", vertices, vertices)
    roi = model.membership[: len(record["roi_names"])].cpu().numpy()
    chosen = torch.from_numpy(vertices_of(settings.rois, record["roi_names"], roi))
    return Form("vertices", len(chosen), vertices, chosen)


def compact_width(model: EncoderModel) -> int:
    """Numbers an image that all vertices are a linear readout of."""
    if isinstance(model, ImageEncoder):
        return model.project.out_features
    queries, members = len(model.membership), model.sizes.get("ensemble", 1)
    return int(queries * model.sizes["width"] * members)


def as_attributes(settings: Synthesis) -> dict[str, Any]:
    """The form as a store's attributes have it."""
    rois = settings.rois if isinstance(settings.rois, str) else list(settings.rois)
    return {"store": settings.store, "rois": rois}


def kept_as(store: Store) -> Synthesis:
    """The form of a store of predicted fMRI."""
    form = store.attributes["form"]
    return Synthesis(form["store"], form["rois"] if isinstance(form["rois"], str) else tuple(form["rois"]))
