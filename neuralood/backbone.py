"""The frozen image encoder: pixels to a [CLS] token and patch tokens, for any timm ViT or CNN."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import timm.data.config
import timm.data.transforms_factory
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT as HUB_ENDPOINT
from PIL import Image
from torch import Tensor, nn

from neuralood.base.errors import UserError
from neuralood.base.weights import fingerprint, read_weights

Layers = tuple[int | str, ...]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes pixels: resize so that the centre crop keeps `crop_pct`, crop, normalise."""

    image_size: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def transform(self, *, cropped: bool = False, margin_px: int = 0) -> Callable[[Image.Image], Tensor]:
        """PIL image -> 3 H W float tensor.

        `cropped` images, as those of ImageNet-C, are seen whole: they are only resized, where their size differs.
        `margin_px` pixels are cut off each side before anything else, as ObjectNet's red border.
        """
        made: Callable[[Image.Image], Tensor] = timm.data.transforms_factory.create_transform(
            input_size=(3, self.image_size, self.image_size),
            crop_pct=1.0 if cropped else self.crop_pct,
            crop_mode="squash" if cropped else "center",
            crop_border_pixels=margin_px or None,
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
        )
        return made


@dataclass(frozen=True)
class TokenShape:
    """Sizes of a backbone's tokens: [CLS] width D', layers L, patch grid (rows, columns), patch width D."""

    cls_width: int
    layers: int
    grid: tuple[int, int]
    width: int

    @property
    def patches(self) -> int:
        """Patch tokens of an image, N."""
        return self.grid[0] * self.grid[1]


class FrozenBackbone(nn.Module):
    """A timm model in eval mode whose tokens are read from the given layers.

    ViT: `layers` are block numbers (-1 is the last), patches have the final norm applied, [CLS] is the normalised
    class token of the last block. CNN: `layers` are names of feature maps of one size, patches their positions,
    [CLS] the pooled vector that the network's own head reads (so too for a ViT without a class token).
    With `features='queries'`, a ViT's patches are the queries of each block's attention.
    """

    weights_source: str | None = None
    """What `load_backbone` took the weights from."""

    def __init__(self, model: Any, layers: Layers, features: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.layers = layers
        self.features = features
        self.preprocessing = preprocessing
        self.is_vit = hasattr(model, "num_prefix_tokens")
        self._channels_last_maps = getattr(model, "output_fmt", "NCHW") == "NHWC"  # such as Swin
        self._check_layers()
        if not self.is_vit:
            self.model.to(memory_format=torch.channels_last)  # convolutions run up to twice as fast
        self.shape = self._probe_shape()

    @torch.inference_mode()
    def tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B 3 H W -> [CLS] tokens B D' and patch tokens B L N D."""
        if self.is_vit and self.features == "queries":
            return self._query_tokens(images)
        return self._vit_tokens(images) if self.is_vit else self._cnn_tokens(images)

    @torch.inference_mode()
    def class_logits(self, images: Tensor) -> Tensor:
        """B 3 H W -> B C of the model's own classifier. Raises UserError where it has none."""
        if self.model.num_classes == 0:
            raise UserError(f"backbone {self.model.pretrained_cfg['architecture']} has no classifier")
        logits: Tensor = self.model(images)
        return logits

    def _vit_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self._block_numbers()
        in_depth_order = sorted(set(numbers))
        final, layers = self.model.forward_intermediates(images, indices=in_depth_order, norm=True, output_fmt="NLC")
        return self._cls(final), torch.stack([layers[in_depth_order.index(number)] for number in numbers], dim=1)

    def _query_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        prefix = self.model.num_prefix_tokens
        with _outputs_of(self.model, [f"blocks.{layer}.attn.qkv" for layer in self._block_numbers()]) as outputs:
            final = self.model.forward_features(images)
        queries = [qkv[:, prefix:].chunk(3, dim=-1)[0] for qkv in outputs]
        return self._cls(final), torch.stack(queries, dim=1)

    def _cnn_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.contiguous(memory_format=torch.channels_last)
        with _outputs_of(self.model, [str(layer) for layer in self.layers]) as maps:
            final = self.model.forward_features(images)
        return self._cls(final), torch.stack([self._rows_first(one).flatten(1, 2) for one in maps], dim=1)

    def _rows_first(self, feature_map: Tensor) -> Tensor:
        """A feature map as B H W D, whichever way round the model has it."""
        return feature_map if self._channels_last_maps else feature_map.permute(0, 2, 3, 1)

    def _cls(self, final: Tensor) -> Tensor:
        if getattr(self.model, "cls_token", None) is not None:
            return final[:, 0]
        pooled: Tensor = self.model.forward_head(final, pre_logits=True)
        return pooled

    def _block_numbers(self) -> list[int]:
        depth = len(self.model.blocks)
        return [int(layer) % depth for layer in self.layers]

    def _check_layers(self) -> None:
        if self.is_vit:
            depth, patch = len(self.model.blocks), self.model.patch_embed.patch_size[0]
            size = self.preprocessing.image_size
            if size % patch:
                near = max(patch, size - size % patch)
                raise UserError(f"backbone.image_size: {size} is no multiple of the patch size {patch}; {near} is")
            for layer in self.layers:
                if not isinstance(layer, int) or not -depth <= layer < depth:
                    raise UserError(f"backbone.layers: a ViT of {depth} blocks has no block {layer!r}")
            return
        if self.features == "queries":
            raise UserError("backbone.features: queries are a ViT's; a CNN has tokens")
        names = {name for name, _ in self.model.named_modules()}
        maps = [info["module"] for info in self.model.feature_info]
        for layer in self.layers:
            if layer not in names:
                raise UserError(f"backbone.layers: no feature map {layer!r}; usual ones are {', '.join(maps)}")

    def _probe_shape(self) -> TokenShape:
        size = self.preprocessing.image_size
        first = next(self.model.parameters())
        blank = torch.zeros(1, 3, size, size, dtype=first.dtype, device=first.device)
        if not self.is_vit:
            with (
                torch.inference_mode(),
                _outputs_of(self.model, [str(layer) for layer in self.layers]) as maps,
            ):
                self.model.forward_features(blank)
            if len(maps) < len(self.layers):
                raise UserError(f"backbone.layers: no feature map comes out of {', '.join(map(str, self.layers))}")
            sizes = {tuple(one.shape[1:]) for one in maps}
            if len(sizes) > 1 or any(one.ndim != 4 for one in maps):
                raise UserError(f"backbone.layers: feature maps must have one size, got {sorted(sizes)}")
            _, rows, columns, _ = self._rows_first(maps[0]).shape
            grid = (rows, columns)
        else:
            grid = tuple(self.model.patch_embed.dynamic_feat_size((size, size)))
        cls, patches = self.tokens(blank)
        return TokenShape(cls.shape[1], patches.shape[1], grid, patches.shape[3])


def load_backbone(
    name: str,
    weights: str | None,
    *,
    image_size: int,
    crop_pct: float | None,
    layers: Layers,
    features: str,
    data_root: Path,
) -> FrozenBackbone:
    """A frozen backbone: timm model `name`, weights from `hub`, `package:NAME` or a file below `data_root`.

    `weights` None leaves them random: shapes and speed are the same. `crop_pct` None takes timm's value for the
    model. Raises UserError for an unknown model, weights that do not fit or cannot be fetched, an image size that
    the patch size does not divide, layers that are not there.
    """
    model, preprocessing = load_classifier(name, weights, image_size=image_size, crop_pct=crop_pct, data_root=data_root)
    backbone = FrozenBackbone(model, layers, features, preprocessing)
    backbone.weights_source = weights
    return backbone


def load_classifier(
    name: str, weights: str | None, *, image_size: int, crop_pct: float | None, data_root: Path
) -> tuple[Any, Preprocessing]:
    """A timm model as it is, its own classifier included, and how it sees images; arguments as load_backbone's.

    Raises UserError for an unknown model, weights that do not fit or cannot be fetched, an unsuitable image size.
    """
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        raise UserError(f"backbone.name: timm has no model {name}" + (f"; near: {', '.join(near)}" if near else ""))
    model = _create(name, weights, image_size, data_root)
    config = timm.data.config.resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    return model, Preprocessing(
        image_size=image_size,
        crop_pct=config["crop_pct"] if crop_pct is None else crop_pct,
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def weights_fingerprint(backbone: FrozenBackbone) -> str:
    """SHA-256 of the weights as they run, position embeddings resampled."""
    return fingerprint(backbone.model)


def _create(name: str, weights: str | None, image_size: int, data_root: Path) -> Any:
    options: dict[str, Any] = {"pretrained": weights is not None}
    if weights == "hub":
        _require_hub(name)
    elif weights is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": read_weights(weights, data_root)}
    try:
        return _create_sized(name, image_size, options)
    except AssertionError as error:
        raise UserError(f"backbone.image_size: {image_size} does not suit {name} ({error})") from None
    except (RuntimeError, KeyError, ValueError, OSError) as error:
        _require_patches(name, image_size)
        reason = " ".join(str(error).split())[:200]
        if weights is None:
            raise UserError(f"backbone: {name} cannot be made at {image_size} px: {reason}") from None
        if weights != "hub":
            raise UserError(f"backbone.weights: {weights} does not fit {name}: {reason}") from None
        raise UserError(_no_hub(name, reason)) from None


def _require_patches(name: str, image_size: int) -> None:
    """Say so where a model fails because its patch size does not divide the image size."""
    with torch.device("meta"):
        embed = getattr(timm.create_model(name), "patch_embed", None)
    patch = getattr(embed, "patch_size", (1,))[0]
    if image_size % patch:
        raise UserError(f"backbone.image_size: {image_size} is no multiple of the patch size {patch} of {name}")


def to_be_fetched(name: str) -> bool:
    """Whether the hub has weights of a timm model that are not on this machine yet."""
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    repository = config.hf_hub_id if config else None
    return repository is not None and not any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    )


def _require_hub(name: str) -> None:
    """Stop at once, not after a minute of retries, where the weights are to be fetched and the hub has no address."""
    if not to_be_fetched(name):
        return
    host = urlsplit(HUB_ENDPOINT).hostname
    if getproxies():
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise UserError(_no_hub(name, f"{host}: {error.strerror}")) from None


def _no_hub(name: str, reason: str) -> str:
    return (
        f"backbone.weights: cannot fetch {name} from the hub ({reason}); offline, copy its model.safetensors "
        "below NEURALOOD_DATA and set backbone.weights to that path"
    )


def _create_sized(name: str, image_size: int, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, img_size=image_size, **options)
    except TypeError:  # networks that take any size have no such argument
        return timm.create_model(name, **options)


@contextmanager
def _outputs_of(model: nn.Module, names: list[str]) -> Iterator[list[Tensor]]:
    """Collect what the named modules put out while the context lasts, in the order of the names."""
    outputs: dict[str, Tensor] = {}
    collected: list[Tensor] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            outputs[name] = output
            if len(outputs) == len(set(names)):
                collected[:] = [outputs[one] for one in names]

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield collected
    finally:
        for handle in handles:
            handle.remove()
