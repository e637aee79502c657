"""The weights of the frozen networks: are they here, do they fit, can they be fetched?"""

import socket
from collections.abc import Iterator
from dataclasses import asdict
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub.constants import ENDPOINT

from neuralood.backbone import load_backbone, to_be_fetched
from neuralood.base import paths
from neuralood.config import Backbone, Params
from neuralood.doctor.findings import Check, Finding

HTTPS, WAIT_S = 443, 5.0


def weights_checks(params: Params) -> Iterator[Check]:
    """Of the backbone, and of the network whose features a control learns."""
    yield Check("weights", lambda: _look_at(params.backbone, "backbone"))
    if params.encoder.control == "features":
        yield Check("weights of the control", lambda: _look_at(params.encoder.control_features, "control_features"))


def _look_at(settings: Backbone, key: str) -> Iterator[Finding]:
    check = f"weights: {key}"
    if settings.weights == "hub" and to_be_fetched(settings.name):
        yield _fetchable(check, settings.name)
        return
    backbone = load_backbone(**asdict(settings), data_root=paths.data_root())
    parameters = sum(one.numel() for one in backbone.parameters())
    text = f"{settings.name} from {settings.weights}: {parameters / 1e6:.1f} M parameters, loaded"
    yield Finding(check, text)


def _fetchable(check: str, name: str) -> Finding:
    """Whether the hub answers; nothing is fetched."""
    text, host = f"{name} is not here yet", urlsplit(ENDPOINT).hostname or ""
    if getproxies():
        return Finding(check, f"{text}; it will be fetched through a proxy, which was not tried", "note")
    try:
        socket.create_connection((host, HTTPS), WAIT_S).close()
    except OSError as error:
        remedy = "copy its model.safetensors below NEURALOOD_DATA, and let backbone.weights be that path"
        return Finding(check, f"{text}, and {host} does not answer ({error.strerror or error})", "red", remedy)
    return Finding(check, f"{text}; {host} answers and will be asked for it")
