"""The model card of an exported model: what it is, how good, made of what, under which terms, and how it is used."""

from html import escape
from typing import Any

from neuralood.encoder.exported import TERMS
from neuralood.report.words import CONTROLS, EXISTS, VARIANTS, signed
from neuralood.sharing.record import ENCODER, MODEL, ModelRecord

CARD = "README.md"

MOST_NAMED = 20
"""Classes that the card lists; more are in model.json."""

NSD_TERMS = (
    "The encoder learned fMRI of the Natural Scenes Dataset (Allen et al. 2022, Nature Neuroscience 25, 116-126): the "
    "terms that you agree to at [naturalscenesdataset.org](https://naturalscenesdataset.org) hold for whoever passes "
    "this folder on (research only, no redistribution of the data), and it is to be cited."
)
OF_NSD = ("nsd", "algonauts2023")
"""Sources of fMRI that are NSD's."""

USES = """\
For research into whether knowledge from the visual cortex helps classifiers out of distribution: to repeat the
results above, and to apply the same models to other images. Not for decisions about people, and not as a measurement:
predicted activity is a model's guess of the average response of one person's brain to an image. The classes above are
all it knows; it names one of them for any image."""


def model_card(record: ModelRecord, encoder: dict[str, Any], scores: dict[str, Any]) -> str:
    """README.md of the folder: `encoder` is encoder.json, `scores` metrics/encoder.json."""
    sections = {
        "What it is": _what(record, encoder),
        "Results": _results(record, scores),
        "Intended use": USES,
        "How to use it": _how(record, encoder),
        "Training data": _data(record, encoder),
        "Licence and terms": _terms(encoder),
        "What it was made with": _provenance(record, encoder),
    }
    title = f"# Brain-machine fusion classifier, {len(record.classes):,} classes\n"
    parts = [title, *_banner(record, encoder), *(f"## {name}\n\n{text}\n" for name, text in sections.items())]
    return "\n".join(parts)


def _banner(record: ModelRecord, encoder: dict[str, Any]) -> list[str]:
    """What is simulated, or a control, before all else."""
    lines = []
    if encoder["trained_on"] == "simulated":
        images = " and so are the images" if record.provenance["train"]["simulated"] else ""
        lines.append(f"> **SIMULATED.** The fMRI of this model is simulated{images}. The simulated world is {EXISTS}\n")
    if encoder["control"] != "none" or record.variant == "image_only":
        lines.append("> **A CONTROL**, made to be compared with: no model of the brain.\n")
    return lines


def _what(record: ModelRecord, encoder: dict[str, Any]) -> str:
    tokens = encoder["tokens"]
    of_each = "one of each" if record.seeds == 1 else f"{record.seeds} of each, whose probabilities are averaged"
    named = ", ".join(escape(name) for name in record.names[:MOST_NAMED])
    more = f", and more (`classes` of {MODEL})" if len(record.names) > MOST_NAMED else ""
    return f"""\
Brain-machine fusion learning after NeuralOOD ([arXiv 2408.14950](https://arxiv.org/abs/2408.14950)), by `neuralood`.

- A frozen backbone, `{tokens["backbone"]}` at {tokens["preprocessing"]["image_size"]} px, turns an image into tokens.
  Its weights are not in this folder.
- A brain encoder (`{ENCODER}/`) predicts fMRI from them: {len(encoder["hemi"]):,} vertices,
  {len(encoder["roi_names"])} regions of interest (ROIs), subject {encoder["subject"]}.
  Control: {CONTROLS.get(encoder["control"], encoder["control"])}.
- A fusion classifier reads tokens and predicted fMRI, variant {VARIANTS.get(record.variant, record.variant)};
  a linear probe, the baseline, reads the tokens alone. Here: {of_each}.

Classes: {named}{more}."""


def _results(record: ModelRecord, scores: dict[str, Any]) -> str:
    metrics = record.classification
    cells = {**metrics["id"], **metrics["ood"]}
    rows = [(name, f"{cell['n']:,}", cell) for name, cell in cells.items()]
    if "ood_mean" in metrics:
        rows.append((f"mean of {metrics['ood_mean']['n_sets']} OOD sets", "", metrics["ood_mean"]))
    lines = [
        "Top-1 in percent, mean over seeds; gain is fusion minus linear probe, with its 95 % interval over images.",
        f"In distribution: {', '.join(metrics['id'])}; all others are out of distribution (OOD).\n",
        "| images | n | linear | fusion | gain |",
        "|---|---:|---:|---:|---:|",
        *(_row(*row) for row in rows),
    ]
    if "pearson" in scores:
        lines.append(f"\nBrain encoder, test images: median r over vertices {scores['pearson']['median']:.3f}")
        if "fraction_of_ceiling" in scores:
            lines[-1] += f", {100 * scores['fraction_of_ceiling']:.0f} % of the noise ceiling"
        lines[-1] += "."
    lines.append("\nA gain over the linear probe alone is no evidence that the brain helps: controls decide that.")
    return "\n".join(lines)


def _row(name: str, count: str, cell: dict[str, Any]) -> str:
    gain = cell["gain"]
    interval = f"{signed(gain['top1'])} [{signed(gain['low'])}, {signed(gain['high'])}]"
    return f"| {name} | {count} | {cell['linear']['top1']:.1f} | {cell['fusion']['top1']:.1f} | {interval} |"


def _how(record: ModelRecord, encoder: dict[str, Any]) -> str:
    source = encoder["extraction"]["weights_source"]
    if record.weights_file is not None:
        file = record.weights_file
        where = (
            f"The backbone's weights were the file `{file.name}`, SHA-256 `{file.sha256}`: name it, `--weights FILE` "
            "or `load(..., weights=FILE)`."
        )
    elif source == "hub":
        where = "The backbone's weights are fetched by timm."
    else:
        where = f"The backbone's weights are in the pip package `{source.removeprefix('package:').replace('_', '-')}`."
    return f"""\
{where} Weights that differ from those of training are refused.

```bash
neuralood predict --model FOLDER photos/             # a table
neuralood predict --model FOLDER --json out.jsonl photos/
```

```python
from neuralood import BMFL

bmfl = BMFL.load("FOLDER")
result = bmfl("photos")  # result.fusion, result.linear: probabilities I x C; result.roi: predicted activity I x R
```

Predicted activity is the mean over an ROI's vertices, in the units of the fMRI that the encoder learned: responses
z-scored a vertex, averaged over presentations. No file here is a pickle; `{MODEL}` has the SHA-256 of each."""


def _data(record: ModelRecord, encoder: dict[str, Any]) -> str:
    train, source = record.provenance["train"], encoder["trained_on"]
    drawn = "simulated: drawn by a program" if train["simulated"] else "with labels"
    fmri = "simulated: no brain was measured" if source == "simulated" else f"source {source}"
    return f"""\
- Classifiers: {train["images"]:,} images, {drawn}. Fingerprint `{train["fingerprint"]}`.
- Brain encoder: fMRI of subject {encoder["subject"]}, {fmri}."""


def _terms(encoder: dict[str, Any]) -> str:
    lines = ["The code is Apache-2.0. " + TERMS]
    if encoder["trained_on"] in OF_NSD:
        lines.append(NSD_TERMS)
    lines.append("Terms of the images that the classifiers learned from, and of the backbone's weights, hold as well.")
    return "\n\n".join(lines)


def _provenance(record: ModelRecord, encoder: dict[str, Any]) -> str:
    made = record.provenance
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    return f"""\
- Commit: {f"`{made['commit']}`" if made["commit"] else "none"}. Seed: {made["params"]["seed"]}.
- Versions: {versions}.
- Backbone's weights as they ran: SHA-256 `{encoder["tokens"]["weights"]}`.
- Every parameter and metric: `provenance` and `classification` of `{MODEL}`, `scores` of `{ENCODER}/encoder.json`."""
