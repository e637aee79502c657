"""The reference brain encoder, plainly: DETR's decoder, then a dense readout of every vertex from every ROI token.

As Adeli et al. (2023, arXiv 2308.01175; 2025, arXiv 2505.17329) describe it, on DETR's decoder (Carion et al. 2020,
arXiv 2005.12872, appendix A.3), pre-normed. The benchmark times it beside ours and the tests compare outputs, weights
moved by `as_roi_encoder`. As in ours, and unlike the authors' code, the MLP has 4 W hidden units and GELU (theirs 1,024
and ReLU), and dropout acts on attention and on what the MLP puts out.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuralood.base.attention import CrossAttention
from neuralood.encoder.model import DecoderLayer, RoiEncoder


class DenseLayer(nn.Module):
    """One layer of DETR's decoder, pre-normed: targets B Q W, queries Q W, tokens B N W, position N W -> B Q W."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, targets: Tensor, queries: Tensor, tokens: Tensor, position: Tensor) -> Tensor:
        normed = self.self_norm(targets)
        asked = normed + queries
        targets = targets + self.self_attention(asked, asked, normed, need_weights=False)[0]
        asked = self.cross_norm(targets) + queries
        targets = targets + self.cross_attention(asked, tokens + position, tokens, need_weights=False)[0]
        updated: Tensor = targets + self.mlp(self.mlp_norm(targets))
        return updated


class DenseReadout(nn.Module):
    """ROI tokens B Q W -> fMRI B V: in each hemisphere all vertices from all its ROI tokens, masked and summed.

    One weight row and one bias a vertex, shared by its ROIs. Vertices are the left hemisphere's, then the right's.
    """

    def __init__(self, membership: Tensor, lh_vertices: int, width: int) -> None:
        """membership: Q V bool, each query's vertices, all of one hemisphere."""
        super().__init__()
        sides = membership.split([lh_vertices, membership.shape[1] - lh_vertices], dim=1)
        self.queries = [side.any(dim=1).nonzero().flatten() for side in sides]
        for number, (side, queries) in enumerate(zip(sides, self.queries, strict=True)):
            self.register_buffer(f"mask{number}", side[queries].float(), persistent=False)
        self.linears = nn.ModuleList(nn.Linear(width, side.shape[1]) for side in sides)

    def forward(self, roi_tokens: Tensor) -> Tensor:
        sides = zip(self.queries, (self.mask0, self.mask1), self.linears, strict=True)
        return torch.cat([(linear(roi_tokens[:, queries]) * mask).sum(dim=1) for queries, mask, linear in sides], dim=1)


class DenseEncoder(nn.Module):
    """Patch tokens B N W -> fMRI B V."""

    def __init__(
        self,
        membership: Tensor,
        *,
        lh_vertices: int,
        grid: Sequence[int],
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        positions: str,
    ) -> None:
        """membership: Q V bool (see `DenseReadout`); grid: rows and columns of patches; positions: `learned` or
        `sine`."""
        super().__init__()
        self.sizes: dict[str, Any] = {
            "grid": grid,
            "width": width,
            "depth": depth,
            "heads": heads,
            "positions": positions,
        }
        self.dropout = dropout
        self.membership = membership
        self.position = nn.Parameter(
            plain_sine_positions(grid[0], grid[1], width), requires_grad=positions == "learned"
        )
        self.queries = nn.Parameter(torch.randn(len(membership), width))
        self.layers = nn.ModuleList(DenseLayer(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = DenseReadout(membership, lh_vertices, width)

    def forward(self, tokens: Tensor) -> Tensor:
        fmri: Tensor = self.readout(self.roi_tokens(tokens))
        return fmri

    def roi_tokens(self, tokens: Tensor) -> Tensor:
        """tokens B N W -> output token of each query, B Q W."""
        targets = torch.zeros(len(tokens), *self.queries.shape)
        for layer in self.layers:
            targets = layer(targets, self.queries, tokens, self.position)
        normed: Tensor = self.norm(targets)
        return normed


def plain_sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """DETR's positions N W, feature by feature: a row's sines and cosines, then a column's."""
    position = torch.zeros(rows, columns, width)
    for feature in range(width // 2):
        wavelength = 10_000 ** (2 * (feature // 2) / (width // 2))
        wave = math.cos if feature % 2 else math.sin
        for row in range(rows):
            position[row, :, feature] = wave(2 * math.pi * (row + 1) / rows / wavelength)
        for column in range(columns):
            position[:, column, width // 2 + feature] = wave(2 * math.pi * (column + 1) / columns / wavelength)
    return position.flatten(0, 1)


@torch.no_grad()
def as_roi_encoder(reference: DenseEncoder) -> RoiEncoder:
    """Our encoder that computes what `reference` does: the weight row of a vertex goes to all its pairs."""
    sizes = reference.sizes
    model = RoiEncoder(
        reference.membership, token_width=sizes["width"], dropout=reference.dropout, start="zeros", **sizes
    )
    model.position.copy_(reference.position)
    model.queries.copy_(reference.queries)
    layers: Any = zip(model.layers, reference.layers, strict=True)
    for ours, theirs in layers:
        _copy_layer(ours, theirs)
    model.norm.load_state_dict(reference.norm.state_dict())
    linears: Any = reference.readout.linears
    left, right = linears
    vertices = reference.membership.nonzero()[:, 1]
    model.readout.weight.copy_(torch.cat([left.weight, right.weight])[vertices])
    model.readout.bias.copy_(torch.cat([left.bias, right.bias]) * reference.membership.sum(dim=0))
    return model


def _copy_layer(ours: DecoderLayer, theirs: DenseLayer) -> None:
    _copy_attention(ours.cross_attention, theirs.cross_attention)
    ours.cross_norm.load_state_dict(theirs.cross_norm.state_dict())
    for number, part in ((0, theirs.mlp_norm), (1, theirs.mlp[0]), (3, theirs.mlp[2])):
        ours.feed_forward[number].load_state_dict(part.state_dict())
    if ours.self_attention is None:
        _fold_first(ours, theirs)
    else:
        assert ours.self_norm is not None
        _copy_attention(ours.self_attention, theirs.self_attention)
        ours.self_norm.load_state_dict(theirs.self_norm.state_dict())


def _fold_first(ours: DecoderLayer, theirs: DenseLayer) -> None:
    """Self-attention among targets that are all 0: whatever its weights, their mean is one constant, c.

    c is added to the targets by our cross-attention's output bias. Our norm before it sees 0 and gives its bias, which
    is what the reference's gives for c.
    """
    normed = theirs.self_norm(torch.zeros_like(theirs.self_norm.bias))[None]
    constant, _ = theirs.self_attention.eval()(normed, normed, normed)
    theirs.self_attention.train(theirs.training)
    ours.cross_attention.to_output.bias.add_(constant[0])
    ours.cross_norm.bias.copy_(theirs.cross_norm(constant[0]))


def _copy_attention(ours: CrossAttention, theirs: nn.MultiheadAttention) -> None:
    """All but the keys' bias, which softmax takes out."""
    query, key, value = theirs.in_proj_weight.chunk(3)
    query_bias, _, value_bias = theirs.in_proj_bias.chunk(3)
    for linear, weight in ((ours.to_query, query), (ours.to_key, key), (ours.to_value, value)):
        linear.weight.copy_(weight)
    ours.to_query.bias.copy_(query_bias)
    ours.to_value.bias.copy_(value_bias)
    ours.to_output.load_state_dict(theirs.out_proj.state_dict())
