"""The own classifier of a timm model beside people: no fMRI, no training."""

from pathlib import Path
from typing import get_args

import numpy as np
import torch

from neuralood.backbone import load_classifier
from neuralood.base import console
from neuralood.base.device import prepare_torch
from neuralood.base.errors import UserError
from neuralood.base.reading import groups_of
from neuralood.base.records import write_json
from neuralood.base.seeding import generator
from neuralood.base.store import Array
from neuralood.config import Experiment, FileSet, Params
from neuralood.data.human_stimuli import list_images
from neuralood.data.imagenet.categories import MEMBERS
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.images import read_image
from neuralood.data.listing import Exclusion, Request
from neuralood.given_images import REMEDY
from neuralood.humans.categories import answers_of
from neuralood.humans.comparison import compare, shown_alike
from neuralood.humans.tables import show

IMAGE_SIZE = 224
"""Pixels of the stimuli: people and networks saw them as they are."""

BATCH = 32
"""Images in a forward pass."""


def compare_head(
    model: str, weights: str, experiment: str, stimuli: Path, answers: Path, out: Path, params: Params
) -> None:
    """Show how much like people a timm model of ImageNet's 1000 classes answers, and write it to `out` as JSON.

    `stimuli` are laid out as format human_stimuli wants, `answers` is the folder of people's CSV files. Raises
    UserError for an experiment, model, weights, images or answers that are not there or do not go together.
    """
    if experiment not in get_args(Experiment):
        raise UserError(f"no experiment {experiment}: there are {', '.join(get_args(Experiment))}")
    request = Request("stimuli", FileSet("human_stimuli", str(stimuli)), stimuli, Exclusion(()), "the stimuli")
    files = [stimuli / image.path for image in list_images(request).images]
    said = _answers(model, weights, files, params)
    models, people = shown_alike({"head": said[None]}, list(map(str, files)), answers, experiment, MEMBERS)
    rng = generator(params.seed, "bootstrap", "head", model, experiment)
    record = compare(models, people, experiment, params.evaluation.bootstrap, rng)
    write_json(out, record | {"model": model})
    show(model, record)
    console.wrote(out, f"answers of {model} to {record['n']} images, beside those of {len(people)} people")


def _answers(name: str, weights: str, files: list[Path], params: Params) -> Array:
    """What the model's own classifier answers to each image: I, indices of categories."""
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    model, preprocessing = load_classifier(name, weights, image_size=IMAGE_SIZE, crop_pct=None, data_root=Path())
    if model.num_classes != len(WNIDS):
        raise UserError(f"{name} has {model.num_classes} classes, not ImageNet's {len(WNIDS)}: take a model of these")
    model.eval().to(device)
    see = preprocessing.transform(cropped=True)
    answers = []
    groups = groups_of(files, BATCH)
    for group in console.track(groups, f"answers of {name} (batches)", -(-len(files) // BATCH)):
        pixels = torch.stack([see(read_image(file, REMEDY)) for file in group])
        with torch.inference_mode():
            probabilities = model(pixels.to(device)).float().softmax(-1)
        answers.append(answers_of(probabilities.cpu().numpy(), MEMBERS))
    return np.concatenate(answers)
