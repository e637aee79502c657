"""Cross-attention that never projects the tokens it reads, and can also say where it looks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries over the tokens of another sequence (Vaswani et al. 2017, section 3.2).

    Folded: the projection of the tokens to keys is moved to the queries, q (K x) = (q K) x, and that to values behind
    the weighted mean, V sum(a x). Both are exact. There are far fewer queries and heads than features, so that the
    tokens are read twice and never copied, and no gradient flows to tokens that are data. A bias of the keys would
    add the same to all scores of a query, which softmax takes out again: there is none.
    """

    def __init__(self, width: int, heads: int, dropout: float, context_width: int | None = None) -> None:
        """width: of queries and output, W; context_width: of the tokens, D, W where left out."""
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(context_width or width, width, bias=False)
        self.to_value = nn.Linear(context_width or width, width)
        self.to_output = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor, position: Tensor | None = None) -> Tensor:
        """queries B Q W (or 1 Q W, the same for all images), context B N D, position N D -> B Q W.

        `position` is added to the tokens for the keys, not for the values, as in DETR (Carion et al. 2020).
        """
        shares = self._shares(queries, context, position)  # B HQ N
        read = F.dropout(shares, self.dropout, self.training) @ context  # B HQ D
        read = read.unflatten(1, (self.heads, -1))
        value = self.to_value.weight.unflatten(0, (self.heads, -1))  # H W/H D
        values = torch.einsum("bhqd,hwd->bqhw", read, value).flatten(2) + self.to_value.bias
        merged: Tensor = self.to_output(values)
        return merged

    def weights(self, queries: Tensor, context: Tensor, position: Tensor | None = None) -> Tensor:
        """Where each query looks: B Q N, mean over heads, rows sum to 1."""
        return self._shares(queries, context, position).unflatten(1, (self.heads, -1)).mean(dim=1)

    def _shares(self, queries: Tensor, context: Tensor, position: Tensor | None) -> Tensor:
        asked = self._folded(queries)  # B HQ D or 1 HQ D
        scores = context @ asked.squeeze(0).transpose(-2, -1)  # B N HQ
        if position is not None:
            scores = scores + position @ asked.transpose(-2, -1)
        return torch.softmax(scores.transpose(-2, -1), dim=-1)

    def _folded(self, queries: Tensor) -> Tensor:
        """What each query of each head is compared with a token by: B HQ D, scaled."""
        query = self.to_query(queries).unflatten(-1, (self.heads, -1))  # B Q H W/H
        key = self.to_key.weight.unflatten(0, (self.heads, -1))  # H W/H D
        folded = torch.einsum("bqhw,hwd->bhqd", query, key).flatten(1, 2)
        return folded / query.shape[-1] ** 0.5


class FeedForward(nn.Sequential):
    """The position-wise network of a transformer layer, pre-normed."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
