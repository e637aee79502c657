"""Classifiers that read image tokens alone, which fusion has to beat: called as it is, on the same tokens.

`dinov2_probe`, `probe_ensemble` and `wise` each end as one linear head, found in other ways; `mlp` and `attentive` are
trained as fusion is; `knn` (see `neighbours`) compares images.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from neuralood.base.attention import CrossAttention
from neuralood.base.moments import Scale
from neuralood.fusion.model import FusionClassifier, FusionOutput, FusionSizes, Standardise, floored, thinned
from neuralood.fusion.probe import Probe


class Baseline(nn.Module):
    """[CLS] B D', patches B N (L D), and an empty B 0 in place of fMRI -> FusionOutput."""

    encoder: None = None

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__()
        self.sizes = sizes

    def vertices_of(self, patches: Tensor, fmri: Tensor) -> Tensor:
        """The fMRI that is read, B 0."""
        return fmri[:, :0]

    def standardise(self, features: Scale, patches: Scale, fmri: Scale) -> None:
        """Scale the inputs by these: of concat([CLS], GAP), or of patch tokens. Nothing, for a LinearHead."""


class LinearHead(Baseline):
    """A linear classifier of concat([CLS], GAP), GAP being the mean patch of the last layers, `gap_width` numbers."""

    def __init__(self, sizes: FusionSizes, gap_width: int) -> None:
        super().__init__(sizes)
        self.unread = sizes.patch_width - gap_width
        self.scale = Standardise(sizes.cls_width + gap_width)
        self.classify = nn.Linear(sizes.cls_width + gap_width, sizes.classes)

    def take(self, probe: Probe) -> None:
        """Be a probe of all features."""
        self.scale.set(torch.from_numpy(probe.mean), torch.from_numpy(probe.sd))
        with torch.no_grad():
            self.classify.weight.copy_(torch.from_numpy(probe.weight))
            self.classify.bias.copy_(torch.from_numpy(probe.bias))

    def forward(self, cls: Tensor, patches: Tensor, fmri: Tensor) -> FusionOutput:
        """cls B D', patches B N (L D)."""
        features = self.scale(self._read(torch.cat([cls, patches.mean(dim=1)], dim=1)))
        return FusionOutput(self.classify(features), features, fmri[:, :0])

    def _read(self, features: Tensor) -> Tensor:
        """What the head reads of ... F features."""
        width = self.sizes.cls_width
        return torch.cat([features[..., :width], features[..., width + self.unread :]], dim=-1)


class Mlp(Baseline):
    """One hidden layer on concat([CLS], GAP), of the width at which it has as many parameters as bmfl, or nearest."""

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        features = sizes.cls_width + sizes.patch_width
        hidden = hidden_width(_bmfl_parameters(sizes), features, sizes.classes)
        self.scale = Standardise(features)
        self.hidden = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Dropout(sizes.dropout))
        self.classify = nn.Linear(hidden, sizes.classes)

    def standardise(self, features: Scale, patches: Scale, fmri: Scale) -> None:
        """Scale the inputs by those of the features."""
        width = self.sizes.cls_width
        self.scale.set(features.mean, torch.cat([floored(features.sd[:width]), floored(features.sd[width:])]))

    def forward(self, cls: Tensor, patches: Tensor, fmri: Tensor) -> FusionOutput:
        """cls B D', patches B N (L D)."""
        hidden = self.hidden(self.scale(torch.cat([cls, patches.mean(dim=1)], dim=1)))
        return FusionOutput(self.classify(hidden), hidden, fmri[:, :0])


class AttentiveProbe(Baseline):
    """One learned query looks at the patch tokens; a linear classifier reads, through LayerNorm, what it saw.

    After the attentive probes of V-JEPA (arXiv 2404.08471) and CAPI (arXiv 2502.08769), without an MLP. As wide as the
    tokens, up to a multiple of the heads.
    """

    def __init__(self, sizes: FusionSizes) -> None:
        super().__init__(sizes)
        width = sizes.patch_width + -sizes.patch_width % sizes.heads
        self.scale = Standardise(sizes.patch_width)
        self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.look = CrossAttention(width, sizes.heads, sizes.dropout, sizes.patch_width)
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, sizes.classes)

    def standardise(self, features: Scale, patches: Scale, fmri: Scale) -> None:
        """Scale the inputs by those of the patch tokens."""
        self.scale.set(patches.mean, floored(patches.sd))

    def forward(self, cls: Tensor, patches: Tensor, fmri: Tensor) -> FusionOutput:
        """patches B N (L D); [CLS] is not read."""
        kept = thinned(patches, self.sizes.token_dropout) if self.training else patches
        seen = self.norm(self.look(self.query, self.scale(kept)).squeeze(1))
        return FusionOutput(self.classify(seen), seen, fmri[:, :0])


TRAINED: dict[str, type[Mlp | AttentiveProbe]] = {"mlp": Mlp, "attentive": AttentiveProbe}
"""Baselines that are trained as fusion is."""


def hidden_width(parameters: int, features: int, classes: int) -> int:
    """Of an MLP of one hidden layer, so that it has about so many parameters: H (F + 1) + C (H + 1)."""
    return max(1, round((parameters - classes) / (features + 1 + classes)))


def _bmfl_parameters(sizes: FusionSizes) -> int:
    with torch.device("meta"):
        model = FusionClassifier(replace(sizes, variant="bmfl"), torch.arange(sizes.vertices))
    return sum(value.numel() for value in model.parameters())
