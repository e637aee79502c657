"""BERG's files of one subject in their true layout: dicts of arrays that numpy.save pickles."""

from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

VERTICES = 163_842
COMPONENTS = 4
ROIS = {
    "lh": {"V1v": [3, 7, 20], "EBA": [163_841, 20], "FFA-2": [], "early": [3, 7, 9], "OVWFA": [11]},
    "rh": {"V1v": [1], "EBA": [0, 5, 6], "FFA-2": [6, 100_000], "early": [1, 2], "OVWFA": []},
}
"""Of unequal size, one unsorted, some empty; vertices are in two."""
CHOSEN = {"lh": [3, 7, 9, 11, 20, 163_841], "rh": [0, 1, 2, 5, 6, 100_000]}


def small_vit():
    """A ViT-B/32 that is thin: 12 blocks, 50 tokens of 4."""
    return torchvision.models.VisionTransformer(
        image_size=224, patch_size=32, num_layers=12, num_heads=2, hidden_dim=4, mlp_dim=8
    )


class SmallAlexNet(nn.Module):
    """An AlexNet with few channels: its modules have their true numbers."""

    def __init__(self):
        super().__init__()
        relu = lambda: nn.ReLU(inplace=True)  # noqa: E731
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 2, 11, 4, 2), relu(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(2, 3, 5, padding=2), relu(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(3, 4, 3, padding=1), relu(), nn.Conv2d(4, 3, 3, padding=1), relu()),
            *(nn.Conv2d(3, 2, 3, padding=1), relu(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(72, 7), relu(), nn.Dropout(), nn.Linear(7, 6), relu(), nn.Linear(6, 5))
        )

    def forward(self, images):
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


SMALL = {"vit_b_32": small_vit, "alexnet": SmallAlexNet}
FEATURES = {
    "vit_b_32": 12 * 50 * 4,
    "alexnet": 2 * 27**2 + (3 + 4 + 3) * 13**2 + 2 * 6**2 + 7 + 6 + 5,
}


def berg_weights(rng, features):
    """`weights_subject-XX.npy`: scaler in float64, PCA and regressions in float32, as scikit-learn fits them."""

    def draw(*shape, dtype=np.float32):
        return rng.standard_normal(shape).astype(dtype)

    regressions = {
        f"{side}_reg_param": {
            "coef_": draw(VERTICES, COMPONENTS),
            "intercept_": draw(VERTICES),
            "n_features_in_": COMPONENTS,
        }
        for side in ("lh", "rh")
    }
    return {
        "scaler_param": {
            "scale_": rng.uniform(0.5, 2, features),
            "mean_": draw(features, dtype=np.float64),
            "var_": np.ones(features),
            "n_features_in_": features,
            "n_samples_seen_": np.int64(9000),
        },
        "pca_param": {
            "components_": draw(COMPONENTS, features) / np.float32(features**0.5),
            "explained_variance_": draw(COMPONENTS),
            "explained_variance_ratio_": draw(COMPONENTS),
            "singular_values_": draw(COMPONENTS),
            "mean_": draw(features),
            "n_components_": COMPONENTS,
            "n_samples_": 9000,
            "noise_variance_": np.float32(0.5),
            "n_features_in_": features,
        },
        **regressions,
    }


def berg_metadata(rng):
    """`metadata_subject-XX.npy`: ROIs, ncsnr, splits and scores."""
    fmri = {f"{side}_ncsnr": rng.uniform(0, 2, VERTICES).astype(np.float32) for side in ("lh", "rh")}
    fmri |= {
        f"{side}_fsaverage_rois": {name: np.array(its, np.int64) for name, its in ROIS[side].items()} for side in ROIS
    }
    models = {"train_img_num": np.arange(70), "val_img_num": np.arange(9), "test_img_num": np.arange(15)}
    for side in ("lh", "rh"):
        models[f"{side}_correlation_nsdcore"] = rng.uniform(0, 1, VERTICES)
        models[f"{side}_correlation_nsdcore"][::7] = np.nan
        models[f"{side}_r2_nsdcore"] = rng.uniform(0, 1, VERTICES)
    return {"fmri": fmri, "encoding_models": models}


def write_berg(top: Path, network: str, subject: int, weights, metadata) -> Path:
    """Both files where BERG has them; returns the model's folder."""
    folder = top / "encoding_models" / "modality-fmri" / "train_dataset-nsd_fsaverage" / f"model-{network}"
    for name, content in (("encoding_models_weights/weights", weights), ("metadata/metadata", metadata)):
        file = folder / f"{name}_subject-{subject:02d}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, content, allow_pickle=True)
    return folder
