"""Cross-attention that can also say where it looks."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries over the tokens of another sequence (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.to_output = nn.Linear(width, width)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """queries B Q W, context B N W -> B Q W."""
        key, value = self.to_key_value(context).chunk(2, dim=-1)
        attended = F.scaled_dot_product_attention(
            self._split(self.to_query(queries)),
            self._split(key),
            self._split(value),
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged: Tensor = self.to_output(attended.transpose(1, 2).flatten(2))
        return merged

    def weights(self, queries: Tensor, context: Tensor) -> Tensor:
        """Where each query looks: B Q N, mean over heads, rows sum to 1."""
        key, _ = self.to_key_value(context).chunk(2, dim=-1)
        query, key = self._split(self.to_query(queries)), self._split(key)
        return torch.softmax(query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5, dim=-1).mean(dim=1)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self.heads, width // self.heads).transpose(1, 2)  # B H T W/H


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
