"""What the numbers on the page mean, and what the run was made of: data, weights, libraries, params."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from neuralood.base import paths
from neuralood.base.records import read_json
from neuralood.base.store import open_store
from neuralood.config import Params
from neuralood.data.manifest import read_manifest
from neuralood.report import page, words
from neuralood.report.outputs import Outputs

LIBRARIES = ("neuralood", "torch", "timm", "numpy", "scipy", "scikit-learn", "pillow", "matplotlib")
DIGITS = 12
"""Of a fingerprint, a SHA-256, that are shown."""


def provenance(outputs: Outputs, params: Params) -> str:
    """What each number means, and what the run was made of."""
    return "".join(
        [
            page.text("h2", "What each number means"),
            page.terms(words.TERMS, "terms"),
            page.text("h2", "What the run was made of"),
            page.terms(_made_of(outputs, params), "terms"),
            page.text("h3", "Images"),
            _images(params),
            page.text("h3", "params.yaml"),
            page.text("p", "Every value that can change a result."),
            page.terms(_settings(params), "terms"),
        ]
    )


def _made_of(outputs: Outputs, params: Params) -> dict[str, str]:
    tokens, run = open_store(paths.tokens("val")).attributes, outputs.classification
    rows, columns = tokens["grid"]
    fmri = f"{run['fmri']}, {outputs.encoder['subject']}, {outputs.encoder['n_vertices']:,} vertices"
    made_with = ", ".join(f"{name} {number}" for name, number in tokens["versions"].items())
    return {
        "backbone": f"{run['backbone']}, {tokens['features']} of layer {', '.join(map(str, tokens['layers']))}",
        "weights": f"{tokens['weights_source']}, SHA-256 {tokens['weights'][:DIGITS]}",
        "patch tokens": f"{rows} x {columns}, images of {tokens['preprocessing']['image_size']} px",
        "fMRI": f"{fmri}, fingerprint {read_json(paths.FMRI_MANIFEST)['fingerprint'][:DIGITS]}",
        "brain encoder": f"fingerprint {outputs.encoder_record['fingerprint'][:DIGITS]}",
        "ROIs that fusion reads": _value(params.fusion.rois),
        "trained numbers": ", ".join(f"{name} {count:,}" for name, count in run["parameters"].items()),
        "seeds": f"{params.seed}; probe and fusion trained {run['seeds']} times",
        "libraries": f"{', '.join(f'{name} {version(name)}' for name in LIBRARIES)}; tokens made with {made_with}",
    }


def _images(params: Params) -> str:
    rows = []
    for name, image_set in params.sets.items():
        manifest = read_manifest(name)
        kind = "simulated" if manifest.simulated else manifest.format
        counts = (f"{len(manifest):,}", f"{len(manifest.classes):,}")
        rows.append([name, image_set.role, kind, *counts, manifest.fingerprint[:DIGITS]])
    return page.table(["set", "role", "kind", "images", "classes", "fingerprint"], rows)


def _settings(params: Params) -> dict[str, str]:
    """Every section of params.yaml but runtime, its values in one line."""
    sections = {name: section for name, section in asdict(params).items() if name != "runtime"}
    return {name: "; ".join(_flat(section)) or "none" for name, section in sections.items()}


def _flat(section: Any, key: str = "") -> Sequence[str]:
    """Leaves of nested mappings as `key.key value`; options that were left out are not there."""
    if not isinstance(section, Mapping):
        return [f"{key} {_value(section)}".strip()]
    return [
        line for name, part in section.items() if part is not None for line in _flat(part, f"{key}.{name}".strip("."))
    ]


def _value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
