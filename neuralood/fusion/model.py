"""The fusion classifier: a brain transformer on predicted fMRI, cross-attended with image tokens.

After NeuralOOD (arXiv 2408.14950). Where its text is silent the choice is ours: pre-normed layers, residuals
around both cross-attentions, LayerNorm before the classifier, inputs standardised by training statistics.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuralood.base.attention import CrossAttention
from neuralood.base.moments import Scale
from neuralood.encoder.model import RoiEncoders

FMRI_SD_FLOOR = 1e-3
"""Smallest sd, in units of the measured fMRI, by which a predicted vertex is standardised."""
SD_FLOOR = 0.1
"""Smallest sd, as a share of the median, by which an image feature is standardised.

Some of a CNN's features hardly vary in training and do elsewhere: divided by next to nothing they would drown all else.
"""


class FusionOutput(NamedTuple):
    """Logits B C, and the two features B W whose correlation the loss raises.

    A baseline has what its classifier reads as `image`, B F, and an empty `brain`, B 0.
    """

    logits: Tensor
    image: Tensor
    brain: Tensor


@dataclass(frozen=True)
class FusionSizes:
    """What a FusionClassifier is built from; `vertices` counts those that fusion reads."""

    variant: str
    cls_width: int
    patch_width: int
    vertices: int
    classes: int
    patch: int
    depth: int
    heads: int
    width: int
    dropout: float
    token_dropout: float


class Standardise(nn.Module):
    """Scale features by a fixed mean and sd, kept with the model."""

    mean: Tensor
    sd: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))

    def set(self, mean: Tensor, sd: Tensor) -> None:
        """Take these statistics, mean and sd F; no sd may be 0."""
        self.mean.copy_(mean)
        self.sd.copy_(sd)

    def forward(self, values: Tensor) -> Tensor:
        """... F -> ... F."""
        return (values - self.mean) / self.sd


class BrainTransformer(nn.Module):
    """Predicted fMRI cut into patches by convolution, with [CLS] and learned positions, through encoder layers."""

    def __init__(self, vertices: int, *, patch: int, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.padding = -vertices % patch
        self.cut = nn.Conv1d(1, width, kernel_size=patch, stride=patch)
        self.cls = nn.Parameter(torch.randn(width) * 0.02)
        self.position = nn.Parameter(torch.randn(1 + (vertices + self.padding) // patch, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, fmri: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised fMRI B V -> [CLS] B W and patch tokens B P W."""
        patches = self.cut(F.pad(fmri, (0, self.padding)).unsqueeze(1)).transpose(1, 2)  # B P W
        cls = self.cls.expand(len(fmri), 1, -1)
        tokens = self.norm(self.layers(torch.cat([cls, patches], dim=1) + self.position))
        return tokens[:, 0], tokens[:, 1:]


class FusionClassifier(nn.Module):
    """Image [CLS] B D', image patches B N D and predicted fMRI B V -> logits B C.

    Variants: `bmfl`, `concat` (no cross-attention), `brain_only` (the brain's [CLS] alone), `image_only` (as bmfl,
    with an encoder of its own that starts from random weights and learns from the labels, never from fMRI).
    """

    order: Tensor

    def __init__(self, sizes: FusionSizes, order: Tensor, encoder: RoiEncoders | None = None) -> None:
        """order: indices of the vertices that fusion reads, lined up as they are cut into patches."""
        super().__init__()
        self.sizes = sizes
        self.register_buffer("order", order.clone())  # seeds that are trained together may share no memory
        self.encoder = encoder
        width = sizes.width
        self.scale_cls = Standardise(sizes.cls_width)
        self.scale_patches = Standardise(sizes.patch_width)
        self.scale_fmri = Standardise(sizes.vertices)
        self.brain = BrainTransformer(
            sizes.vertices,
            patch=sizes.patch,
            width=width,
            depth=sizes.depth,
            heads=sizes.heads,
            dropout=sizes.dropout,
        )
        if sizes.variant == "brain_only":
            self.classify = nn.Linear(width, sizes.classes)
            return
        self.project_cls = nn.Linear(sizes.cls_width, width)
        self.project_patches = nn.Linear(sizes.patch_width, width)
        if sizes.variant != "concat":
            self.look_at_brain = CrossAttention(width, sizes.heads, sizes.dropout)
            self.look_at_image = CrossAttention(width, sizes.heads, sizes.dropout)
        self.norm_image = nn.LayerNorm(width)
        self.norm_brain = nn.LayerNorm(width)
        self.classify = nn.Linear(2 * width + sizes.patch_width, sizes.classes)

    def forward(self, cls: Tensor, patches: Tensor, fmri: Tensor) -> FusionOutput:
        """cls B D', patches B N D, fmri B V (raw, all vertices; not read by `image_only`)."""
        brain_cls, brain_patches = self.brain(self.scale_fmri(self.vertices_of(patches, fmri)))
        if self.sizes.variant == "brain_only":
            return FusionOutput(self.classify(brain_cls), brain_cls, brain_cls)
        patches = self.scale_patches(self._kept(patches))
        image = self.project_cls(self.scale_cls(cls))  # B W
        brain = brain_cls
        if self.sizes.variant != "concat":
            image_patches = self.project_patches(patches)
            fused = self.look_at_brain(image.unsqueeze(1), brain_patches).squeeze(1)
            brain = self.look_at_image(brain_cls.unsqueeze(1), image_patches).squeeze(1) + brain_cls
            image = fused + image
        image, brain = self.norm_image(image), self.norm_brain(brain)
        logits = self.classify(torch.cat([image, brain, patches.mean(dim=1)], dim=1))
        return FusionOutput(logits, image, brain)

    def standardise(self, features: Scale, patches: Scale, fmri: Scale) -> None:
        """Scale the inputs by these: of concat([CLS], GAP), of patch tokens, of the fMRI that fusion reads."""
        width = self.sizes.cls_width
        self.scale_cls.set(features.mean[:width], floored(features.sd[:width]))
        self.scale_patches.set(patches.mean, floored(patches.sd))
        self.scale_fmri.set(fmri.mean, fmri.sd.clamp_min(FMRI_SD_FLOOR))

    def _kept(self, patches: Tensor) -> Tensor:
        """In training, a random share of each image's patch tokens: B N D -> B N' D."""
        return thinned(patches, self.sizes.token_dropout) if self.training else patches

    def vertices_of(self, patches: Tensor, fmri: Tensor) -> Tensor:
        """The fMRI that fusion reads, in its order, not yet standardised: B V'."""
        if self.encoder is not None:
            fmri = self.encoder(patches)
        return fmri[:, self.order]


def floored(sd: Tensor) -> Tensor:
    """The sd of image features, none below SD_FLOOR x the median, nor below 1e-6: F -> F."""
    return sd.clamp_min(max(SD_FLOOR * float(sd.median()), 1e-6))


def thinned(patches: Tensor, dropout: float) -> Tensor:
    """Patch tokens less a random share of them, other ones for each image: B N D -> B N' D."""
    count = patches.shape[1]
    kept = max(1, round((1 - dropout) * count))
    if kept == count:
        return patches
    chosen = torch.rand(patches.shape[:2], device=patches.device).argsort(dim=1)[:, :kept]  # B N'
    return patches.gather(1, chosen.unsqueeze(-1).expand(-1, -1, patches.shape[2]))


def vertex_order(roi: Tensor, hemi: Tensor, chosen: Tensor, by: str) -> Tensor:
    """The chosen vertices lined up, lh then rh: within a hemisphere `by` first ROI, then index; or native.

    roi R V bool, hemi V, chosen: indices. Vertices in no ROI come last in their hemisphere.
    """
    first = torch.where(roi.any(dim=0), roi.int().argmax(dim=0), len(roi))
    rank = first if by == "roi" else torch.zeros_like(first)
    key = (hemi.long() * (len(roi) + 1) + rank) * roi.shape[1] + torch.arange(roi.shape[1])
    return chosen[key[chosen].argsort()]
