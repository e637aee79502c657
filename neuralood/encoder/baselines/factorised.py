"""Where times what: each vertex reads one spatial mask and one feature vector (Klindt et al. 2017, NeurIPS 30)."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neuralood.base.device import pins_memory
from neuralood.base.reading import (
    HostPatches,
    host_patches,
    read_batches,
    token_statistics,
    training_epochs,
)
from neuralood.base.seeding import generator
from neuralood.base.store import Array, Store
from neuralood.base.training import Schedule, fit
from neuralood.config import Encoder
from neuralood.encoder.baselines.components import SMALLEST_SD


class FactorisedReadout(nn.Module):
    """Prediction of vertex v: sum over positions n and features d of mask(n, v) feature(d, v) x(n, d), plus a bias.

    N + D weights a vertex, V N D products an image. Masks start flat and features at 0, a regression on the mean patch;
    weight decay takes the place of the paper's L1 penalties: our choices. The products of `batch` vertices with all
    positions are in memory at a time, B x N x batch; of several batches they are computed twice, not kept.
    """

    token_mean: Tensor
    token_sd: Tensor

    def __init__(self, mean: Tensor, sd: Tensor, patches: int, vertices: int, batch: int) -> None:
        """mean, sd: of each token feature over the training images, D, by which tokens are scaled."""
        super().__init__()
        self.batch = batch
        self.register_buffer("token_mean", mean)
        self.register_buffer("token_sd", sd.clamp_min(SMALLEST_SD))
        self.mask = nn.Parameter(torch.full((patches, vertices), patches**-0.5))
        self.feature = nn.Parameter(torch.zeros(len(mean), vertices))
        self.bias = nn.Parameter(torch.zeros(vertices))

    def forward(self, patches: Tensor) -> Tensor:
        """patches B N D -> fMRI B V."""
        scaled = (patches - self.token_mean) / self.token_sd
        masks, features = torch.split(self.mask, self.batch, dim=1), torch.split(self.feature, self.batch, dim=1)
        read = _read if len(masks) == 1 else partial(checkpoint, _read, use_reentrant=False)
        parts = [read(scaled, mask, feature) for mask, feature in zip(masks, features, strict=True)]
        fmri: Tensor = torch.cat(parts, dim=1) * len(self.mask) ** -0.5 + self.bias
        return fmri


def factorised_predictions(
    tokens: Store,
    parts: tuple[Array, Array],
    fmri: Array,
    wanted: Array,
    *,
    settings: Encoder,
    vertices: int,
    seed: int,
    device: torch.device,
) -> Array:
    """Predicted fMRI of the images `wanted`: trained on fMRI I V of the rows of `parts`, train and validation.

    By mean squared error, kept at the epoch that is best on validation; `vertices` are computed at a time.
    """
    (train, validation), n_patches = parts, tokens["patches"].shape[2]
    model = FactorisedReadout(*token_statistics(tokens, train), n_patches, fmri.shape[1], vertices).to(device)
    arrays, target, batch_size = (tokens["patches"],), torch.from_numpy(fmri), settings.batch_size

    def load(rows: Array) -> tuple[HostPatches, Tensor]:
        return host_patches(tokens, rows, pin=pins_memory(device)), target[rows]

    def loss_of(batch: tuple[HostPatches, Tensor]) -> Tensor:
        patches, measured = batch
        return F.mse_loss(model(patches.on(device)), measured.to(device))

    def validate() -> float:
        read = read_batches(arrays, validation, batch_size, load)
        return sum(float(loss_of(batch)) * len(rows) for rows, batch in read) / len(validation)

    def epochs_after(steps: int) -> Iterator[Iterable[tuple[Array, tuple[HostPatches, Tensor]]]]:
        rng = generator(seed, "factorised batches")
        return training_epochs(arrays, train, settings.shuffle_buffer, batch_size, load, rng, steps)

    chosen = settings.factorised
    schedule = Schedule(chosen.epochs, batch_size, chosen.lr, settings.warmup, chosen.weight_decay)
    fit(model, len(train), epochs_after, loss_of, validate, schedule, "factorised baseline")
    with torch.inference_mode():
        read = read_batches(arrays, wanted, batch_size, load)
        return torch.cat([model(patches.on(device)).cpu() for _, (patches, _) in read]).numpy()


def _read(patches: Tensor, mask: Tensor, feature: Tensor) -> Tensor:
    """patches B N D, mask N v, feature D v -> B v."""
    return ((patches @ feature) * mask).sum(dim=1)
