"""The mean of the logits of two linear probes, one on [CLS] and one on the mean patch, each with its own penalty.

These two: they are the two halves of what the linear probe reads, one drawn from the whole picture and one from its
parts, so that they err on other images. Two probes on the same features differ by next to nothing, as both are solved
to the optimum. The mean of linear classifiers is a linear classifier, of both halves side by side.
"""

from collections.abc import Sequence

import numpy as np

from neuralood.fusion.probe import Probe


def mean_of(probes: Sequence[Probe]) -> Probe:
    """The mean of the logits of probes on features that stand side by side. Its `c` is the first one's."""
    return Probe(
        np.concatenate([probe.mean for probe in probes]),
        np.concatenate([probe.sd for probe in probes]),
        np.concatenate([probe.weight for probe in probes], axis=1) / len(probes),
        np.mean([probe.bias for probe in probes], axis=0),
        probes[0].c,
    )
