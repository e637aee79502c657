"""Nearest neighbours: weighted votes of the training images whose [CLS] is most like an image's own, after DINOv2.

Its recipe (facebookresearch/dinov2, dinov2/eval/knn.py): features of length 1, votes exp(cosine / 0.07), k from 10, 20,
100 and 200. Training images are read block by block, so that memory does not grow with them.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neuralood.base import collectives, console, ranks
from neuralood.base.reading import batches
from neuralood.base.store import Array, Rows, open_store
from neuralood.base.writing import ArraySpec, complete_store, create_store, require_space, write_rows
from neuralood.fusion.baselines import Baseline
from neuralood.fusion.model import FusionOutput, FusionSizes

TEMPERATURE = 0.07
COUNTS = (10, 20, 100, 200)
"""Counts of neighbours to choose from."""
BLOCK = 8_192
"""Training images that are compared with at a time."""
QUERIES = 1_024
"""Images of the holdout that are compared at a time."""
NO_VOTE = 1e-6
"""Share of the votes that a class without any is taken to have, so that its logit is finite."""
CLS = "cls"


class NearestNeighbours(Baseline):
    """Logits are logarithms of each class's share of the votes of the k training images of largest cosine.

    `labels` I has the classes of all images in the store, -1 for those that are not to be compared with.
    """

    labels: Tensor
    k: Tensor

    def __init__(self, sizes: FusionSizes, images: int, store: Path) -> None:
        super().__init__(sizes)
        self.store = store
        self.register_buffer("labels", torch.full((images,), -1))
        self.register_buffer("k", torch.tensor(0))

    def forward(self, cls: Tensor, patches: Tensor, fmri: Tensor) -> FusionOutput:
        """cls B D'; patches are not read."""
        near, labels = self.nearest(cls, int(self.k))
        return FusionOutput(log_votes(near, labels, self.sizes.classes), F.normalize(cls, dim=1), fmri[:, :0])

    def nearest(self, cls: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """cls B D' -> cosines B K with the `most` nearest training images, falling, and their classes B K."""
        queries = F.normalize(cls, dim=1)
        cosines, labels = queries.new_zeros(len(queries), 0), self.labels.new_zeros(len(queries), 0)
        for block, own in self._blocks():
            found = (queries @ block.T).masked_fill_(own < 0, -torch.inf)
            cosines = torch.cat([cosines, found], dim=1)
            labels = torch.cat([labels, own.expand(len(queries), -1)], dim=1)
            cosines, places = cosines.topk(min(most, cosines.shape[1]), dim=1)
            labels = labels.gather(1, places)
        return cosines, labels

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """[CLS] B D' of length 1, and classes B."""
        for start in range(0, len(self.labels), BLOCK):
            own = self.labels[start : start + BLOCK]
            yield torch.tensor(self._rows[start : start + BLOCK], device=own.device).float(), own

    @cached_property
    def _rows(self) -> Rows:
        return open_store(self.store)[CLS]


def log_votes(cosines: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Cosines B K and classes B K of neighbours -> logarithms of the classes' shares of the votes B C."""
    votes = (cosines / TEMPERATURE).softmax(dim=1)
    return votes.new_zeros(len(votes), classes).scatter_add_(1, labels, votes).clamp_min(NO_VOTE).log()


def write_neighbours(features: Rows, width: int, store: Path) -> None:
    """Write [CLS], the first `width` features, of every image, made to length 1, as float16: I D'.

    Raises UserError where the disk is too small.
    """
    spec = ArraySpec((len(features), width), "float16", BLOCK)
    partial = store.with_suffix(".unfinished")
    require_space(store, spec.nbytes)
    create_store(partial, {CLS: spec}, {"kind": "neighbours"})
    for start in console.track(range(0, len(features), BLOCK), "neighbours (blocks)", spec.chunks):
        cls = torch.tensor(features[start : start + BLOCK][:, :width])
        write_rows(partial, CLS, spec, start, F.normalize(cls, dim=1).half().numpy())
    complete_store(partial, store)


def choose_neighbours(
    model: NearestNeighbours, features: Rows, labels: Array, rows: Array, holdout: Array
) -> tuple[int, float]:
    """Let the model compare with `rows`, and with as many neighbours as give the lowest cross-entropy on the holdout.

    Returns that count, the smaller of equals, and the cross-entropy.
    """
    model.labels[torch.from_numpy(rows)] = torch.from_numpy(labels[rows]).to(model.labels)
    counts = [k for k in COUNTS if k <= len(rows)] or [len(rows)]
    total = [0.0] * len(counts)
    own = ranks.share(list(batches(holdout, QUERIES)))
    for chosen in console.track(own, "neighbours of the holdout (batches)", len(own)):
        found = model.nearest(_cls(model, features, chosen), max(counts))
        for number, loss in enumerate(_losses(found, counts, labels[chosen], model.sizes.classes)):
            total[number] += loss
    losses = [loss / len(holdout) for loss in collectives.sums(total)]
    best = int(np.argmin(losses))
    model.k.fill_(counts[best])
    return counts[best], losses[best]


def _cls(model: NearestNeighbours, features: Rows, rows: Array) -> Tensor:
    return torch.tensor(features[rows][:, : model.sizes.cls_width], device=model.labels.device)


def _losses(found: tuple[Tensor, Tensor], counts: Sequence[int], labels: Array, classes: int) -> Iterator[float]:
    """Cross-entropy, summed over images, with so many of the neighbours that were found."""
    (cosines, near), truth = found, torch.from_numpy(labels.astype(np.int64)).to(found[1].device)
    for count in counts:
        yield float(F.cross_entropy(log_votes(cosines[:, :count], near[:, :count], classes), truth, reduction="sum"))
