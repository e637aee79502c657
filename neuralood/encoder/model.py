"""The ROI-query brain encoder (Adeli et al. 2023, arXiv 2308.01175; 2025, arXiv 2505.17329).

A transformer decoder as in DETR (Carion et al. 2020, arXiv 2005.12872): learned queries, one a region of interest (ROI)
and hemisphere, cross-attend to position-embedded patch tokens; every vertex is read out linearly from the output tokens
of the ROIs that it belongs to.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from neuralood.base.attention import CrossAttention, FeedForward
from neuralood.config import Encoder


class DecoderLayer(nn.Module):
    """Self-attention among the targets, cross-attention to the patch tokens, MLP: pre-normed (Xiong et al. 2020).

    Before the first layer the targets are the same for all images, where self-attention could only exchange constants
    for constants: there is none in it.
    """

    def __init__(self, width: int, token_width: int, heads: int, dropout: float, *, first: bool) -> None:
        super().__init__()
        self.self_norm = None if first else nn.LayerNorm(width)
        self.self_attention = None if first else CrossAttention(width, heads, dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, heads, dropout, token_width)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, targets: Tensor, queries: Tensor, patches: Tensor, position: Tensor) -> Tensor:
        """targets B Q W (1 Q W into the first layer), queries Q W, patches B N D, position N D -> targets B Q W."""
        targets = self._mixed(targets, queries)
        targets = targets + self.cross_attention(self.cross_norm(targets) + queries, patches, position)
        updated: Tensor = targets + self.feed_forward(targets)
        return updated

    def weights(self, targets: Tensor, queries: Tensor, patches: Tensor, position: Tensor) -> Tensor:
        """Where each query looks: B Q N, mean over heads."""
        asked = self.cross_norm(self._mixed(targets, queries)) + queries
        return self.cross_attention.weights(asked, patches, position)

    def _mixed(self, targets: Tensor, queries: Tensor) -> Tensor:
        """The targets after self-attention, B Q W."""
        if self.self_attention is None or self.self_norm is None:
            return targets
        normed = self.self_norm(targets)
        mixed: Tensor = targets + self.self_attention(normed + queries, normed, queries)
        return mixed


class RoiReadout(nn.Module):
    """Linear readout of each vertex from the tokens of its own ROIs, summed, plus one bias a vertex.

    One weight row a (query, vertex) pair of `membership`; no other pair is ever computed.
    """

    pairs_vertex: Tensor

    def __init__(self, membership: Tensor, width: int) -> None:
        """membership: Q V, true where a vertex belongs to a query's ROI; every vertex belongs to at least one."""
        super().__init__()
        query, vertex = membership.nonzero(as_tuple=True)
        self.pair_counts = torch.bincount(query, minlength=len(membership)).tolist()
        self.n_vertices = membership.shape[1]
        self.register_buffer("pairs_vertex", vertex, persistent=False)
        self.weight = nn.Parameter(torch.randn(len(vertex), width) * width**-0.5)
        self.bias = nn.Parameter(torch.zeros(self.n_vertices))

    def forward(self, roi_tokens: Tensor) -> Tensor:
        """roi_tokens B Q W -> fMRI B V."""
        read: Tensor = _PairReadout.apply(roi_tokens, self.weight, self.pair_counts)
        return self.bias.repeat(len(read), 1).index_add_(1, self.pairs_vertex, read)


class _PairReadout(torch.autograd.Function):
    """Each query's tokens times the weight rows of its pairs: B Q W, P W -> B P, query after query.

    With a backward of its own, as autograd would make the gradient of each query's rows apart, then copy all of them.
    """

    @staticmethod
    def forward(ctx: Any, roi_tokens: Tensor, weight: Tensor, pair_counts: list[int]) -> Tensor:
        ctx.save_for_backward(roi_tokens, weight)
        ctx.pair_counts = pair_counts
        read = roi_tokens.new_empty(len(roi_tokens), len(weight))
        pieces = zip(torch.split(read, pair_counts, dim=1), torch.split(weight, pair_counts), strict=True)
        for query, (to_fill, rows) in enumerate(pieces):
            torch.mm(roi_tokens[:, query], rows.T, out=to_fill)
        return read

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        roi_tokens, weight = ctx.saved_tensors
        of_tokens, of_weight = torch.empty_like(roi_tokens), torch.empty_like(weight)
        split = (torch.split(values, ctx.pair_counts) for values in (upstream.T, weight, of_weight))
        for query, (wanted, rows, to_fill) in enumerate(zip(*split, strict=True)):
            torch.mm(wanted.T, rows, out=of_tokens[:, query])
            torch.mm(wanted, roi_tokens[:, query], out=to_fill)
        return of_tokens, of_weight, None


class RoiEncoder(nn.Module):
    """Patch tokens B N D -> predicted fMRI B V of both hemispheres, in the units of the measured fMRI."""

    token_mean: Tensor
    token_sd: Tensor
    membership: Tensor

    def __init__(
        self,
        membership: Tensor,
        *,
        grid: Sequence[int],
        token_width: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        positions: str,
        start: str,
    ) -> None:
        """membership: Q V bool, the queries' vertices (see `query_membership`); grid: rows and columns of patches;
        positions: `learned`, or `sine`, which are fixed (see `sine_positions`); start: what the targets are before the
        first layer, `zeros`, the queries being added wherever targets ask (DETR), or the `queries` themselves."""
        super().__init__()
        self.sizes: dict[str, Any] = {
            "grid": list(grid),
            "token_width": token_width,
            "width": width,
            "depth": depth,
            "heads": heads,
            "dropout": dropout,
            "positions": positions,
            "start": start,
        }
        self.register_buffer("membership", membership)
        self.register_buffer("token_mean", torch.zeros(token_width))
        self.register_buffer("token_sd", torch.ones(token_width))
        if positions == "sine":
            self.register_buffer("position", sine_positions(grid, token_width))
        else:
            self.position = nn.Parameter(torch.randn(math.prod(grid), token_width) * 0.02)
        self.queries = nn.Parameter(torch.randn(len(membership), width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, token_width, heads, dropout, first=number == 0) for number in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.readout = RoiReadout(membership, width)

    def standardise_by(self, mean: Tensor, sd: Tensor) -> None:
        """Set the per-feature mean and sd (D) of the training tokens, by which inputs are scaled."""
        self.token_mean.copy_(mean)
        self.token_sd.copy_(sd.clamp_min(1e-6))

    def forward(self, patches: Tensor) -> Tensor:
        """patches B N D -> B V."""
        return self.expand(self.compact(patches))

    def compact(self, patches: Tensor) -> Tensor:
        """patches B N D -> what all vertices are a linear readout of: the queries' output tokens, B (Q W)."""
        return self.roi_tokens(patches).flatten(1)

    def expand(self, compact: Tensor) -> Tensor:
        """compact B (Q W) -> fMRI B V."""
        fmri: Tensor = self.readout(compact.view(-1, *self.queries.shape))
        return fmri

    def roi_tokens(self, patches: Tensor) -> Tensor:
        """patches B N D -> output token of each query, B Q W."""
        normed: Tensor = self.norm(self._decoded(self._standardised(patches), self.layers))
        return normed

    def attention(self, patches: Tensor) -> Tensor:
        """Where each query of the last layer looks: B Q N, mean over heads."""
        patches = self._standardised(patches)
        *others, last = self.layers
        assert isinstance(last, DecoderLayer)
        return last.weights(self._decoded(patches, others), self._start()[1], patches, self.position)

    def _decoded(self, patches: Tensor, layers: Iterable[nn.Module]) -> Tensor:
        """Standardised patches B N D -> the targets after these layers, B Q W (1 Q W after none)."""
        targets, added = self._start()
        for layer in layers:
            targets = layer(targets, added, patches, self.position)
        return targets

    def _start(self) -> tuple[Tensor, Tensor]:
        """The targets before the first layer, 1 Q W, and what is added to targets that ask, Q W."""
        zeros = torch.zeros_like(self.queries)
        start, added = (zeros, self.queries) if self.sizes["start"] == "zeros" else (self.queries, zeros)
        return start.unsqueeze(0), added

    def _standardised(self, patches: Tensor) -> Tensor:
        return (patches - self.token_mean).div_(self.token_sd)


class EncoderEnsemble(nn.Module):
    """Encoders of one subject that differ in their random draws: what they predict on average."""

    membership: Tensor

    def __init__(self, members: Iterable[RoiEncoder]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("membership", self._first.membership.clone())

    @property
    def sizes(self) -> dict[str, Any]:
        """What `roi_encoder` makes such an ensemble of."""
        return {**self._first.sizes, "ensemble": len(self.members)}

    @property
    def token_mean(self) -> Tensor:
        """Per-feature mean of the training tokens, D."""
        return self._first.token_mean

    @property
    def token_sd(self) -> Tensor:
        """Per-feature sd of the training tokens, D."""
        return self._first.token_sd

    @property
    def _first(self) -> RoiEncoder:
        return next(self._encoders())

    def standardise_by(self, mean: Tensor, sd: Tensor) -> None:
        """As of a single encoder."""
        for encoder in self._encoders():
            encoder.standardise_by(mean, sd)

    def forward(self, patches: Tensor) -> Tensor:
        """patches B N D -> B V."""
        return self.expand(self.compact(patches))

    def compact(self, patches: Tensor) -> Tensor:
        """As of a single encoder, the members' side by side: B (M Q W)."""
        return torch.cat([encoder.compact(patches) for encoder in self._encoders()], dim=1)

    def expand(self, compact: Tensor) -> Tensor:
        """compact B (M Q W) -> fMRI B V."""
        parts = compact.chunk(len(self.members), dim=1)
        return torch.stack([encoder.expand(part) for encoder, part in zip(self._encoders(), parts, strict=True)]).mean(
            0
        )

    def attention(self, patches: Tensor) -> Tensor:
        """Where each query looks: B Q N, mean over members and heads."""
        return torch.stack([encoder.attention(patches) for encoder in self._encoders()]).mean(0)

    def _encoders(self) -> Iterator[RoiEncoder]:
        for member in self.members:
            assert isinstance(member, RoiEncoder)
            yield member


RoiEncoders = RoiEncoder | EncoderEnsemble
"""What predicts fMRI from patch tokens."""


def encoder_sizes(settings: Encoder, grid: Sequence[int], token_width: int) -> dict[str, Any]:
    """What a RoiEncoder of such tokens is made of, by params.encoder."""
    chosen = ("width", "depth", "heads", "dropout", "positions", "start")
    return {"grid": list(grid), "token_width": token_width, **{name: getattr(settings, name) for name in chosen}}


def roi_encoder(membership: Tensor, *, ensemble: int = 1, **sizes: Any) -> RoiEncoders:
    """A RoiEncoder with random weights, or so many of them as one."""
    members = [RoiEncoder(membership.clone(), **sizes) for _ in range(ensemble)]
    return members[0] if ensemble == 1 else EncoderEnsemble(members)


class SharedTrunk(nn.Module):
    """An encoder while it trains, and readouts of further subjects from its trunk, which is all but its own readout."""

    def __init__(self, encoder: RoiEncoder, readouts: Iterable[RoiReadout]) -> None:
        super().__init__()
        self.encoder = encoder
        self.readouts = nn.ModuleList(readouts)

    def forward(self, patches: Sequence[Tensor]) -> list[Tensor]:
        """Patches B N D of each subject, the encoder's own first -> predicted fMRI of each, B V.

        Of the first subjects alone where there are patches of no more.
        """
        readouts = (self.encoder.readout, *self.readouts)
        return [readout(self.encoder.roi_tokens(one)) for readout, one in zip(readouts, patches, strict=False)]


def sine_positions(grid: Sequence[int], width: int) -> Tensor:
    """Fixed positions N D of a grid (rows, columns): sine and cosine of each row, then of each column.

    As in DETR (Carion et al. 2020, appendix A.4): for each of the two, D/2 features at D/4 wavelengths from 2 pi to
    10,000 times that, of places scaled to 2 pi. Raises ValueError where 4 does not divide D.
    """
    if width % 4:
        raise ValueError(f"sine positions want a token width that 4 divides, got {width}")
    wavelength = 10_000 ** (torch.arange(width // 4) / (width // 4))
    sides = []
    for length in grid:
        place = 2 * math.pi * torch.arange(1, length + 1) / length
        angle = place[:, None] / wavelength  # length D/4
        sides.append(torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1))  # length D/2
    rows, columns = sides
    return torch.cat([rows.repeat_interleave(len(columns), 0), columns.repeat(len(rows), 1)], dim=1)


def query_membership(roi: Tensor, hemi: Tensor) -> Tensor:
    """ROIs R V and hemisphere of each vertex V -> queries Q V: the ROIs, then a rest query for each hemisphere
    that has vertices in no ROI."""
    outside = ~roi.any(dim=0)
    rest = torch.stack([outside & (hemi == side) for side in (0, 1)])
    return torch.cat([roi, rest[rest.any(dim=1)]])
