"""Cross-attention that never projects the tokens it reads, and can also say where it looks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries over the tokens of another sequence (Vaswani et al. 2017, section 3.2).

    Folded: the projection of the tokens to keys is moved to the queries, q (K x) = (q K) x, and that to values behind
    the weighted mean, V sum(a x). Both are exact. The tokens are read twice and never projected, and where they are
    data no gradient flows back to them. A bias of the keys would add the same to all scores of a query, which softmax
    takes out again: there is none.
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
        kept, scale = dropped(shares, self.dropout if self.training else 0.0)
        read = self._by_head(kept @ context) * scale  # B H Q D
        values = torch.einsum("bhqd,hwd->bqhw", read, self._weight_by_head(self.to_value)).flatten(2)
        merged: Tensor = self.to_output(values + self.to_value.bias)
        return merged

    def weights(self, queries: Tensor, context: Tensor, position: Tensor | None = None) -> Tensor:
        """Where each query looks: B Q N, mean over heads, rows sum to 1."""
        return self._by_head(self._shares(queries, context, position)).mean(dim=1)

    def _shares(self, queries: Tensor, context: Tensor, position: Tensor | None) -> Tensor:
        asked = self._folded(queries)  # B HQ D or 1 HQ D
        scores = asked @ context.transpose(-2, -1)  # B HQ N
        if position is not None:
            scores += asked @ position.T  # in place: fresh memory costs as much as the sum
        return torch.softmax(scores, dim=-1)

    def _folded(self, queries: Tensor) -> Tensor:
        """What each query of each head is compared with a token by: B HQ D, scaled."""
        batch, length, width = queries.shape
        query = self.to_query(queries).view(batch, length, self.heads, width // self.heads)
        folded = torch.einsum("bqhw,hwd->bhqd", query, self._weight_by_head(self.to_key)).flatten(1, 2)
        scaled: Tensor = folded / (width // self.heads) ** 0.5
        return scaled

    def _by_head(self, values: Tensor) -> Tensor:
        """B HQ F -> B H Q F."""
        batch, length, features = values.shape
        return values.view(batch, self.heads, length // self.heads, features)

    def _weight_by_head(self, projection: nn.Linear) -> Tensor:
        """The weight of a projection D -> W as H W/H D."""
        width, features = projection.weight.shape
        return projection.weight.view(self.heads, width // self.heads, features)


def dropped(values: Tensor, share: float) -> tuple[Tensor, float]:
    """Dropout of a share of the values, and what any sum of them has to be multiplied by.

    On the CPU from 16 random bits a value, by which `share` is rounded: to draw a float for each takes several times as
    long, and to multiply fewer sums is cheaper than all values.
    """
    if not share or values.device.type != "cpu":
        return F.dropout(values, share), 1.0
    levels = min(round(share * 2**16), 2**16 - 1)
    random = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    drop = random.view(torch.int16)[: values.numel()] < levels - 2**15
    return values.masked_fill(drop.view(values.shape), 0.0), 2**16 / (2**16 - levels)


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
