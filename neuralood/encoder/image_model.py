"""A brain encoder that reads images, not tokens: features of a fixed network, mapped linearly onto fMRI.

The form of the linear models of the Brain Encoding Response Generator (BERG, github.com/gifale95/BERG): several
layers of a torchvision network, flattened and joined, standardised, reduced to principal components, regressed.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """The layers of a torchvision network that are read, and the file of its first ImageNet-1k weights."""

    layers: tuple[str, ...]
    file: str
    """As torchvision names it: its last part is the beginning of its SHA-256."""


NETWORKS = {
    "vit_b_32": Network(tuple(f"encoder.layers.encoder_layer_{block}" for block in range(12)), "vit_b_32-d86f8d99.pth"),
    "alexnet": Network(
        (
            *("features.2", "features.5", "features.7", "features.9", "features.12"),
            *("classifier.2", "classifier.5", "classifier.6"),
        ),
        "alexnet-owt-7be5be79.pth",
    ),
}
"""torchvision networks by name. ViT-B/32: the output of each block, all 50 tokens, [CLS] first: 460,800 features.
AlexNet: the three poolings, the ReLUs of convolutions 3 and 4, and those of the two hidden layers, and the logits:
205,672 features."""


class FeatureNetwork(nn.Module):
    """The outputs of several layers of a torchvision network, flattened and joined in order: images B 3 H W -> B F."""

    def __init__(self, name: str) -> None:
        import torchvision.models  # type: ignore[import-untyped]  # takes a second, and few encoders need it

        super().__init__()
        self.model = getattr(torchvision.models, name)()
        self._outputs: list[Tensor] = []
        for layer in NETWORKS[name].layers:
            self.model.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._outputs.append(output.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """images B 3 H W, as the network wants them -> features B F."""
        self._outputs.clear()
        self.model(images)
        features = torch.cat(self._outputs, dim=1)
        self._outputs.clear()
        return features


class ImageEncoder(nn.Module):
    """Images B 3 H W -> predicted fMRI B V of both hemispheres."""

    feature_mean: Tensor
    membership: Tensor

    def __init__(self, network: str, membership: Tensor, *, features: int, components: int) -> None:
        """network: a name of NETWORKS; membership: R V bool, the vertices of each ROI; of no ROI, some may be."""
        super().__init__()
        self.register_buffer("membership", membership)
        self.network = FeatureNetwork(network)
        self.register_buffer("feature_mean", torch.zeros(features))
        self.project = nn.Linear(features, components)
        self.readout = nn.Linear(components, membership.shape[1])

    def forward(self, images: Tensor) -> Tensor:
        """images B 3 H W, as the network wants them -> B V."""
        return self.expand(self.compact(images))

    def compact(self, images: Tensor) -> Tensor:
        """images B 3 H W -> what all vertices are a linear readout of: the principal components, B K."""
        components: Tensor = self.project(self.network(images) - self.feature_mean)
        return components

    def expand(self, compact: Tensor) -> Tensor:
        """compact B K -> fMRI B V."""
        fmri: Tensor = self.readout(compact)
        return fmri
