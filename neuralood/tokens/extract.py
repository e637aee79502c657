"""Pixels to tokens as they are stored: the forward pass in batches that fit, pooling, rounding."""

import torch
from torch import Tensor

from neuralood.backbone import FrozenBackbone, TokenShape
from neuralood.base import console
from neuralood.base.device import autocast, release_memory
from neuralood.base.errors import UserError
from neuralood.base.writing import ArraySpec
from neuralood.config import Cache

INT8_MOST = 127
"""An int8 token's largest feature becomes this, or minus this."""

AUTO_BATCH_CPU = 32
"""`cache.batch_size: auto` on the CPU, which more does not make faster; where the search starts on others."""


def token_specs(count: int, shape: TokenShape, settings: Cache) -> dict[str, ArraySpec]:
    """The arrays of a token store of so many images. Raises UserError where `cache.pool` does not divide the grid."""
    pool = settings.pool
    if any(side % pool for side in shape.grid):
        raise UserError(f"cache.pool: {pool} does not divide the patch grid {shape.grid[0]} x {shape.grid[1]}")
    by_token = (count, shape.layers, shape.patches // pool**2)
    plain = "float16" if settings.dtype == "int8" else settings.dtype
    specs = {
        "cls": ArraySpec((count, shape.cls_width), plain, settings.chunk),
        "patches": ArraySpec((*by_token, shape.width), settings.dtype, settings.chunk),
    }
    if settings.dtype == "int8":
        specs["patches_scale"] = ArraySpec(by_token, "float32", settings.chunk)
    return specs


class TokenEncoder:
    """Pixels B 3 H W to tokens as they are stored, by array name, on the device; in batches that fit its memory.

    Every forward pass has the same shape: kernels are chosen by shape, and so tokens do not depend on how images fall
    into batches. Where memory runs out, the shape is halved for the rest of the run.
    """

    def __init__(self, backbone: FrozenBackbone, settings: Cache, device: torch.device) -> None:
        self.backbone = backbone
        self.settings = settings
        self.device = device
        self._forward = torch.compile(backbone.tokens) if settings.compile else backbone.tokens
        self._limit = self._find_limit() if settings.batch_size == "auto" else settings.batch_size
        self.batch_size = self._limit

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """Raises UserError where not even one image fits into the device's memory."""
        while True:
            try:
                parts = [self._encode(part) for part in torch.split(pixels, self._limit)]
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._halve(error)
            else:
                if len(parts) == 1:
                    return parts[0]
                return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        blank = pixels.new_zeros(self._limit - len(pixels), *pixels.shape[1:])
        filled = torch.cat([pixels, blank]) if len(blank) else pixels
        with torch.inference_mode(), autocast(self.device, self.settings.autocast):
            cls, patches = self._forward(filled.to(self.device, non_blocking=True))
        return stored_form(cls[: len(pixels)], patches[: len(pixels)], self.backbone.shape.grid, self.settings)

    def _halve(self, error: Exception) -> None:
        if self._limit == 1:
            raise UserError(
                f"{self.device} has no memory for one image ({' '.join(str(error).split())[:100]}): "
                "make backbone.image_size smaller, take a smaller backbone or another runtime.device"
            ) from None
        self._limit = max(1, self._limit // 2)
        console.warn(f"{self.device} is out of memory: going on with batches of {self._limit}")
        release_memory(self.device)

    def _find_limit(self) -> int:
        """The largest power of two, up to a chunk, whose forward pass fits into the memory of an accelerator."""
        if self.device.type == "cpu":
            return min(AUTO_BATCH_CPU, self.settings.chunk)
        self._limit, size = min(AUTO_BATCH_CPU, self.settings.chunk), self.backbone.preprocessing.image_size
        while 2 * self._limit <= self.settings.chunk:
            try:
                self._limit *= 2
                self._encode(torch.zeros(self._limit, 3, size, size))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                self._limit //= 2
                release_memory(self.device)
                break
        console.note(f"batches of {self._limit} images fit {self.device}")
        return self._limit


def stored_form(cls: Tensor, patches: Tensor, grid: tuple[int, int], settings: Cache) -> dict[str, Tensor]:
    """[CLS] B D' and patches B L N D as they are stored: pooled, and rounded to the store's dtype."""
    if settings.pool > 1:
        batch, layers, _, width = patches.shape
        (rows, columns), pool = grid, settings.pool
        squares = patches.reshape(batch, layers, rows // pool, pool, columns // pool, pool, width)
        patches = squares.mean(dim=(3, 5)).flatten(2, 3)
    if settings.dtype != "int8":
        dtype = getattr(torch, settings.dtype)
        return {"cls": cls.to(dtype), "patches": patches.to(dtype)}
    scale = patches.float().abs().amax(dim=-1) / INT8_MOST  # B L N
    whole = (patches.float() / scale.clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(-1)).round()
    whole = whole.nan_to_num(0, 0, 0).clamp(-INT8_MOST, INT8_MOST)  # what is not finite shows in the scale
    return {"cls": cls.half(), "patches": whole.to(torch.int8), "patches_scale": scale}


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
