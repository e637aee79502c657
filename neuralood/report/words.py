"""The sentences of the report that depend on the numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from neuralood import config

EXISTS = "built so that the effect exists; it tests the pipeline and its controls, not the brain."

CONTROLS = {
    "none": "none (the encoder learns the measured fMRI)",
    "shuffled": "shuffled (fMRI of other images)",
    "untrained": "untrained (an encoder with random weights)",
    "features": "features (another network's features in place of fMRI)",
}

VARIANTS = {
    "bmfl": "bmfl (cross-attention both ways)",
    "concat": "concat (no cross-attention)",
    "image_only": "image_only (the same network, never trained on fMRI)",
    "brain_only": "brain_only (reads predicted fMRI only)",
    "dinov2_probe": "dinov2_probe (linear probe by DINOv2's recipe)",
    "knn": "knn (nearest neighbours)",
    "attentive": "attentive (one learned query looks at the patches)",
    "mlp": "mlp (as many parameters as bmfl)",
    "probe_ensemble": "probe_ensemble (mean of two linear probes)",
    "wise": "wise (weights between class means and linear probe)",
}


BASELINES = {
    "ridge": "ridge",
    "ridge_gap": "ridge, mean of patches",
    "factorised": "factorised",
    "banded_ridge": "banded ridge",
}
"""What the baselines of metrics/encoder.json are called."""


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, a true minus, and no -0."""
    text = f"{round(value, digits) + 0.0:+.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def banner(fmri_simulated: bool, simulated: Sequence[str], scored: Sequence[str]) -> str | None:
    """What of the run is simulated; None where nothing is."""
    if fmri_simulated and len(simulated) == len(scored):
        return f"SIMULATED: images and fMRI of this run are simulated and {EXISTS}"
    if fmri_simulated:
        real = f"simulated images are {', '.join(simulated)}" if simulated else "the images classified are real"
        return f"PARTLY SIMULATED: the fMRI of this run is simulated and {EXISTS} Of the sets, {real}."
    if simulated:
        return (
            f"PARTLY SIMULATED: the images of {', '.join(simulated)} are simulated, the fMRI is not. "
            "Scores on drawn images say nothing about photos."
        )
    return None


def verdict(where: str, result: dict[str, Any]) -> str:
    """One plain sentence: both accuracies, and what the interval of their difference allows to say."""
    gain = result["gain"]
    between = f"95 % interval {signed(gain['low'])} to {signed(gain['high'])}"
    scores = f"{where}, fusion is right on {result['fusion']['top1']:.1f} % and the linear probe on "
    scores += f"{result['linear']['top1']:.1f} %: "
    if gain["low"] > 0:
        return f"{scores}a gain of {gain['top1']:.1f} points ({between})."
    if gain["high"] < 0:
        return f"{scores}a loss of {-gain['top1']:.1f} points ({between})."
    return f"{scores}no clear difference ({signed(gain['top1'])} points, {between}, which includes 0)."


def verdicts(classification: dict[str, Any]) -> list[str]:
    """The result on mean OOD, or on each OOD set where no mean was asked for; then in distribution."""
    mean, sentences = classification.get("ood_mean"), []
    if mean is not None:
        count = mean["n_sets"]
        sentences.append(verdict(f"On average over {count} OOD sets" if count > 1 else "On the OOD set", mean))
    else:
        sentences += [verdict(f"On OOD set {name}", cell) for name, cell in classification["ood"].items()]
    return sentences + [verdict(f"In distribution ({name})", cell) for name, cell in classification["id"].items()]


def own_control(control: str, variant: str) -> str | None:
    """A sentence where the run is itself a control."""
    if variant == "image_only":
        return "This run is itself a control (fusion.variant = image_only): its fusion never saw fMRI."
    if variant in config.BASELINES:
        return f"This run is a baseline (fusion.variant = {variant}): what is called fusion reads image tokens alone."
    if control != "none":
        return f"This run is itself a control (encoder.control = {CONTROLS.get(control, control)})."
    return None


NO_STUDY = (
    "No study yet: a gain over the linear probe is no evidence that the brain helps. "
    "Run `neuralood study`, which compares with the controls, then write the page again."
)


def of_another(study: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    """A sentence where the study that is there is not of this run's backbone."""
    if study and study["backbone"] != run["backbone"]:
        return f"The study is of another backbone, {study['backbone']}: run `neuralood study` again."
    return None


EXTRA = (
    "Top-1 above is among the classes that a set has. Among all training classes it is the share of images whose true "
    "class is the best of them all (for ObjectNet, its authors' protocol). The mean corruption error is top-1 error "
    "relative to AlexNet's: lower is better."
)

TERMS = {
    "top-1, top-5": "Share of images whose true class is the model's first guess, or among its first five.",
    "linear": "Logistic regression on the frozen backbone's tokens: the [CLS] vector and the mean of the patches.",
    "fusion": "The classifier that reads the same tokens and the fMRI that the brain encoder predicts from them.",
    "gain": "Fusion minus linear on the same images, in percentage points. Its interval is a 95 % bootstrap over "
    "source images with the trained models fixed: it does not cover retraining.",
    "mean OOD": "Unweighted mean over the OOD sets that evaluation.ood_mean names.",
    "r": "Pearson correlation of predicted and measured fMRI over test images that the encoder never saw. Means and "
    "medians are over vertices; an interval is a 95 % bootstrap over test images.",
    "ridge": "A linear encoder on the same tokens and images: PCA, then ridge regression, of all patches, of their "
    "mean, or (banded) with a penalty for each layer. The best ridge is chosen on validation images.",
    "factorised": "Each vertex reads the tokens by one spatial mask and one vector of features (Klindt et al. 2017).",
    "noise ceiling": "The largest r that a perfect model could reach, given the noise of the measurement.",
    "fraction of ceiling": "Median over vertices of r divided by the noise ceiling.",
    "noise-normalised": "Median over vertices of r|r| over the squared ceiling: the share of explainable variance.",
}
