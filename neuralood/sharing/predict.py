"""`neuralood predict`: classes and predicted brain activity of photos, as a table or as JSON."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neuralood.base import console
from neuralood.base.records import rounded, write_whole
from neuralood.given_images import each_image
from neuralood.predictions import MODELS
from neuralood.sharing.model import BMFL, Prediction

STDOUT = "-"

ABOUT = """The five most probable classes of each image, by the fusion classifier and by the linear probe, and the
predicted activity of each region of interest (ROI): the mean over its vertices, in z-scores. Files that cannot be read
are named, all others are done; the exit status is then 1."""


def predict(arguments: Sequence[str]) -> bool:
    """Top-5 of both models and each ROI's predicted activity; returns whether every image could be read.

    Those that cannot are named on stderr, all others are done. Raises UserError for a folder that holds no model, or
    no image.
    """
    asked = _parsed(arguments)
    images = list(each_image(asked.images))
    model = BMFL.load(asked.model, weights=asked.weights)
    bad = 0

    def report(problem: str) -> None:
        nonlocal bad
        bad += 1
        console.fail(problem)

    out = sys.stdout  # before a progress bar takes its place
    tracked = out.isatty() and asked.json in (None, STDOUT)  # rows on the screen show how far it is
    coming = images if tracked else console.track(images, "images", len(images))
    _write(model, model.stream(coming, report), asked.json, out)
    console.note(f"{len(images) - bad:,} of {len(images):,} images predicted" + (f", {bad:,} left out" if bad else ""))
    return not bad


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("neuralood predict", description=ABOUT, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a folder that `neuralood export` wrote")
    parser.add_argument("--json", metavar="OUT", help="a file, or -: a line of JSON an image, in place of the table")
    parser.add_argument("--weights", help="of the backbone: hub, package:NAME or a file; else where training had them")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or a folder of them at any depth")
    return parser.parse_args(arguments)


def _write(model: BMFL, predictions: Iterator[Prediction], to: str | None, out: TextIO) -> None:
    if to is None:
        _show_table(model, predictions, out)
    elif to == STDOUT:
        _write_lines(model, predictions, out)
    else:

        def fill(partial: Path) -> None:
            with partial.open("w", encoding="utf-8") as stream:
                _write_lines(model, predictions, stream)

        write_whole(Path(to), fill)
        console.wrote(Path(to), "a line an image")


def _write_lines(model: BMFL, predictions: Iterator[Prediction], stream: TextIO) -> None:
    for prediction in predictions:
        for row in range(len(prediction)):
            stream.write(json.dumps(as_record(prediction, row, model.trained_on), allow_nan=False) + "\n")


def as_record(prediction: Prediction, row: int, fmri: str) -> dict[str, Any]:
    """One image as JSON has it; `fmri` is what the encoder was trained on."""
    roi = zip(prediction.roi_names, prediction.roi[row].tolist(), strict=True)
    return {
        "image": prediction.images[row],
        **{model: _top(prediction, model, row) for model in MODELS},
        "fmri": fmri,
        "roi": {name: rounded(value) for name, value in roi},
    }


def _top(prediction: Prediction, model: str, row: int) -> list[dict[str, Any]]:
    return [
        {
            "class": prediction.class_ids[index],
            "name": prediction.class_names[index],
            "probability": rounded(getattr(prediction, model)[row, index]),
        }
        for index in prediction.best(model)[row]
    ]


def _show_table(model: BMFL, predictions: Iterator[Prediction], out: TextIO) -> None:
    """A row an image, written batch by batch under one head."""
    screen = Console(file=out, highlight=False)
    simulated = "[bold]SIMULATED[/] fMRI: " if model.trained_on == "simulated" else ""
    screen.print(f"{simulated}predicted activity is the mean of each ROI, left / right hemisphere, in z-scores")
    for number, prediction in enumerate(predictions):
        table = Table(expand=True, show_lines=True, show_header=number == 0)
        for name, ratio in (("image", 2), ("fusion", 2), ("linear probe", 2), ("predicted activity", 5)):
            table.add_column(name, ratio=ratio, overflow="fold")
        for row, image in enumerate(prediction.images):
            guesses = (_guesses(prediction, name, row) for name in ("fusion", "linear"))
            table.add_row(escape(image), *guesses, Columns(_activity(prediction, row), padding=(0, 2)))
        screen.print(table)


def _guesses(prediction: Prediction, model: str, row: int) -> str:
    """The best classes, a line each, with their probabilities in percent."""
    probabilities = getattr(prediction, model)[row]
    best = prediction.best(model)[row]
    return "\n".join(f"{100 * probabilities[one]:5.1f} % {escape(prediction.class_names[one])}" for one in best)


def _activity(prediction: Prediction, row: int) -> list[str]:
    """Of each ROI both hemispheres, `-` where it is in one only."""
    values = dict(zip(prediction.roi_names, prediction.roi[row].tolist(), strict=True))
    names = dict.fromkeys(name.partition(".")[2] for name in prediction.roi_names)
    return [f"{name} {_value(values, 'lh', name)} / {_value(values, 'rh', name)}" for name in names]


def _value(values: dict[str, float], side: str, name: str) -> str:
    value = values.get(f"{side}.{name}")
    return "-" if value is None else f"{value:+.2f}"
