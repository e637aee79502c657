"""The ROI-query brain encoder (Adeli et al. 2023, arXiv 2308.01175; 2025, arXiv 2505.17329).

Learned queries, one a region of interest (ROI) and hemisphere, cross-attend to position-embedded patch tokens;
every vertex is read out linearly from the output tokens of the ROIs that it belongs to.
"""

from typing import Any

import torch
from torch import Tensor, nn

from neuralood.base.attention import CrossAttention, FeedForward


class DecoderLayer(nn.Module):
    """Self-attention among the queries (not in the first layer, where they are constants), cross-attention, MLP.

    Pre-normed (Xiong et al. 2020): our choice.
    """

    def __init__(self, width: int, token_width: int, heads: int, dropout: float, *, first: bool) -> None:
        super().__init__()
        self.self_norm = None if first else nn.LayerNorm(width)
        self.self_attention = None if first else CrossAttention(width, heads, dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, heads, dropout, token_width)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, queries: Tensor, patches: Tensor, position: Tensor) -> Tensor:
        """queries B Q W (1 Q W into the first layer), patches B N D, position N D -> B Q W."""
        queries = self.mixed(queries)
        queries = queries + self.cross_attention(self.cross_norm(queries), patches, position)
        updated: Tensor = queries + self.feed_forward(queries)
        return updated

    def mixed(self, queries: Tensor) -> Tensor:
        """The queries after self-attention, B Q W."""
        if self.self_attention is None or self.self_norm is None:
            return queries
        normed = self.self_norm(queries)
        updated: Tensor = queries + self.self_attention(normed, normed)
        return updated


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
        parts = [
            roi_tokens[:, query] @ weight.T for query, weight in enumerate(torch.split(self.weight, self.pair_counts))
        ]  # one B x (vertices of the ROI) each
        read = torch.cat(parts, dim=1)  # B P
        return self.bias.repeat(len(read), 1).index_add(1, self.pairs_vertex, read)


class RoiEncoder(nn.Module):
    """Patch tokens B N D -> predicted fMRI B V of both hemispheres, in the units of the measured fMRI."""

    token_mean: Tensor
    token_sd: Tensor
    membership: Tensor

    def __init__(
        self,
        membership: Tensor,
        *,
        patches: int,
        token_width: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
    ) -> None:
        """membership: Q V bool, the queries' vertices (see `query_membership`)."""
        super().__init__()
        self.sizes: dict[str, Any] = {
            "patches": patches,
            "token_width": token_width,
            "width": width,
            "depth": depth,
            "heads": heads,
            "dropout": dropout,
        }
        self.register_buffer("membership", membership)
        self.register_buffer("token_mean", torch.zeros(token_width))
        self.register_buffer("token_sd", torch.ones(token_width))
        self.position = nn.Parameter(torch.randn(patches, token_width) * 0.02)
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
        fmri: Tensor = self.readout(self.roi_tokens(patches))
        return fmri

    def roi_tokens(self, patches: Tensor) -> Tensor:
        """patches B N D -> output token of each query, B Q W."""
        patches = self._standardised(patches)
        queries = self.queries.unsqueeze(0)
        for layer in self.layers:
            queries = layer(queries, patches, self.position)
        normed: Tensor = self.norm(queries)
        return normed

    def attention(self, patches: Tensor) -> Tensor:
        """Where each query of the last layer looks: B Q N, mean over heads."""
        patches = self._standardised(patches)
        queries = self.queries.unsqueeze(0)
        for layer in self.layers[:-1]:
            queries = layer(queries, patches, self.position)
        last: Any = self.layers[-1]
        queries = last.cross_norm(last.mixed(queries))
        weights: Tensor = last.cross_attention.weights(queries, patches, self.position)
        return weights

    def _standardised(self, patches: Tensor) -> Tensor:
        return (patches - self.token_mean) / self.token_sd


def query_membership(roi: Tensor, hemi: Tensor) -> Tensor:
    """ROIs R V and hemisphere of each vertex V -> queries Q V: the ROIs, then a rest query for each hemisphere
    that has vertices in no ROI."""
    outside = ~roi.any(dim=0)
    rest = torch.stack([outside & (hemi == side) for side in (0, 1)])
    return torch.cat([roi, rest[rest.any(dim=1)]])
