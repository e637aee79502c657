"""PROJECTION: the paper's run on ImageNet-1k with ViT-B/14 and one GPU, from bytes, counted operations and rates."""

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.encoder import membership
from benchmarks.fusion_world import FULL_SHAPES, ROOT
from neuralood.config import Params, load_params
from neuralood.encoder.model import encoder_sizes, roi_encoder
from neuralood.fusion.model import FusionClassifier, FusionSizes
from neuralood.plan.times import PROBE_STEPS

TRAIN, OTHERS, SUBJECT = 1_281_167, 248_389, 9_000
"""Images of train; of val, its two made versions and the paper profile's four OOD sets; of one subject's training."""
HALF_FLOPS, FLOPS = 60e12, 10e12
"""ASSUMED: operations that a GPU sustains in a second, in bfloat16 and in float32 (about a fifth of a card's peak)."""
DISKS = {"SATA SSD": 0.5e9, "NVMe": 3e9}
"""ASSUMED: bytes that a disk reads or writes in a second."""
WORKERS = 8
"""ASSUMED: processes that decode, each as fast as one here."""
NIGHT_H = 10.0

Record = dict[str, Any]


def project(decode_seconds: float, features_rate: float, form_bytes: float) -> Record:
    """Hours of each stage for each disk; the longest of reading, decoding and computing counts, as they overlap.

    decode_seconds: an image by one process, measured; features_rate: bytes of the probe's features a second that are
    read from memory, measured; form_bytes: of an image's predicted fMRI.
    """
    params = load_params(ROOT / "profiles" / "paper.yaml", check_paths=False)
    operations = count_operations(params)
    stages = _stages(params, operations, decode_seconds, features_rate, form_bytes)
    hours = {
        disk: {name: max(nbytes / rate, seconds) / 3600 for name, (nbytes, seconds) in stages.items()}
        for disk, rate in DISKS.items()
    }
    return {
        "operations": operations,
        "bytes": {name: nbytes for name, (nbytes, _) in stages.items()},
        "computing hours": {name: seconds / 3600 for name, (_, seconds) in stages.items()},
        "hours": hours,
        "all": {disk: sum(of_stage.values()) for disk, of_stage in hours.items()},
        "stores": (TRAIN + OTHERS) * (FULL_SHAPES.token_bytes + form_bytes),
        "decode seconds": decode_seconds,
        "features rate": features_rate,
    }


def _stages(
    params: Params, operations: Record, decode_seconds: float, features_rate: float, form_bytes: float
) -> dict[str, tuple[float, float]]:
    """Bytes that pass the disk, and seconds without it."""
    images, tokens = TRAIN + OTHERS, FULL_SHAPES.token_bytes
    held = params.fusion.holdout
    features = 4 * 2 * FULL_SHAPES.width
    probes = len(params.fusion.probe_c)
    vit, encode, fuse = operations["ViT"], operations["encoder"], operations["fusion"]
    decoding = images * decode_seconds / WORKERS
    each_epoch = TRAIN * ((1 - held) * 3 + held) * fuse / HALF_FLOPS
    solving = TRAIN * PROBE_STEPS * (features / features_rate + probes * operations["probe"] / FLOPS)
    return {
        "cache_tokens": (images * tokens, max(decoding, images * vit / HALF_FLOPS)),
        "train_encoder": (SUBJECT * tokens, params.encoder.epochs * SUBJECT * 3 * encode / FLOPS),
        "synthesize": (images * (tokens + form_bytes), images * encode / FLOPS),
        "train_fusion: scales and features": (TRAIN * (tokens + form_bytes + features), 0.0),
        f"train_fusion: {probes} probes": (0.0, solving),
        f"train_fusion: {params.fusion.epochs} epochs": (
            params.fusion.epochs * TRAIN * (tokens + form_bytes),
            params.fusion.epochs * each_epoch,
        ),
        "evaluate": (OTHERS * (tokens + form_bytes), OTHERS * fuse / FLOPS),
    }


def count_operations(params: Params) -> Record:
    """Floating-point operations of matrix products an image, forward; a training step takes three times as many."""
    shapes, fusion = FULL_SHAPES, params.fusion
    member = membership()
    with torch.device("meta"):
        vit = timm.create_model(params.backbone.name, img_size=params.backbone.image_size, num_classes=0)
        sizes = FusionSizes(
            fusion.variant, shapes.width, shapes.width, shapes.vertices, shapes.classes, fusion.patch, fusion.depth,
            fusion.heads, fusion.width, 0.0, 0.0,
        )  # fmt: skip
        model = FusionClassifier(sizes, torch.arange(shapes.vertices))
        pixels = torch.empty(1, 3, params.backbone.image_size, params.backbone.image_size)
        patches, cls = torch.empty(1, shapes.patches, shapes.width), torch.empty(1, shapes.width)
        fmri = torch.empty(1, shapes.vertices)
    encoder = roi_encoder(member, **encoder_sizes(params.encoder, shapes.grid, shapes.width))
    tokens = torch.zeros(1, shapes.patches, shapes.width)
    return {
        "ViT": _counted(lambda: vit(pixels)),
        "encoder": _counted(lambda: encoder(tokens)),
        "fusion": _counted(lambda: model(cls, patches, fmri).logits),
        "probe": 4 * 2 * shapes.width * shapes.classes,
    }


def _counted(work: Callable[[], Tensor]) -> float:
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
