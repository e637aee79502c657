"""What might make the brain encoder better, each tried on the demo: worth a param, or left out.

    python -m benchmarks.encoder_options            # writes benchmarks/encoder_options.md and .json
    python -m benchmarks.encoder_options --short    # one subject, two epochs, into build/ only

Every option changes one thing in the demo's encoder and is trained anew on two simulated subjects; its gain in r on
the test images is paired over images with the demo's encoder. The world is SIMULATED: what helps here may not help on
real fMRI, what does not may.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.reads import clean
from neuralood.base import paths
from neuralood.base.attention import CrossAttention
from neuralood.base.console import console
from neuralood.base.records import read_json, rounded, write_json, write_text
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import Array, open_store
from neuralood.base.training import Schedule, fit
from neuralood.config import Encoder, Params, load_params
from neuralood.data.fmri import TEST, TRAIN, VALIDATION, Measured, prepare_fmri, read_measured, vertices_of
from neuralood.demo.drawing import render_set
from neuralood.demo.subject import simulate_subject
from neuralood.encoder.model import RoiEncoder, RoiReadout, SharedTrunk, encoder_sizes, query_membership
from neuralood.encoder.resampling import draw_counts, resampled_means
from neuralood.encoder.scores import pearson_columns
from neuralood.encoder.train import side_by_side
from neuralood.encoder.viewers import shared_membership
from neuralood.statistics import percentile_interval
from stages.cache_tokens import main as cache_tokens

HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parent / "build" / "encoder_options"

SEEDS, SHORT_SEEDS, SHORT_EPOCHS = (0, 1), (0,), 2
LAYERS = ("blocks.4.0", "blocks.4.1", "blocks.4.2")
"""The blocks of the demo's stage, of which it takes the last."""

Record = dict[str, Any]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of predicted and measured fMRI B V and the noise ceiling V."""


def squared_error(predicted: Tensor, fmri: Tensor, ceiling: Tensor) -> Tensor:
    """The demo's loss."""
    return F.mse_loss(predicted, fmri)


def ceiling_weighted(predicted: Tensor, fmri: Tensor, ceiling: Tensor) -> Tensor:
    """Squared errors weighted by the share of a vertex' variance that can be explained."""
    return (ceiling**2 / (ceiling**2).mean() * (predicted - fmri) ** 2).mean()


def with_correlation(weight: float) -> Loss:
    """Squared error plus 1 - r of each vertex over the batch, so weighted."""

    def loss(predicted: Tensor, fmri: Tensor, ceiling: Tensor) -> Tensor:
        r = F.cosine_similarity(predicted - predicted.mean(0), fmri - fmri.mean(0), dim=0)
        return F.mse_loss(predicted, fmri) + weight * (1 - r).mean()

    return loss


class LowRankReadout(nn.Module):
    """Each vertex reads a few directions of its ROI's token, B Q W, that the whole ROI shares."""

    def __init__(self, membership: Tensor, width: int, rank: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(len(membership), rank, width) * width**-0.5)
        self.readout = RoiReadout(membership, rank)

    def forward(self, roi_tokens: Tensor) -> Tensor:
        """roi_tokens B Q W -> fMRI B V."""
        fmri: Tensor = self.readout(torch.einsum("bqw,qrw->bqr", roi_tokens, self.directions))
        return fmri


class LayerMix(CrossAttention):
    """Cross-attention of each query over its own mean of L layers' tokens, with learned shares; context B N LD."""

    def __init__(self, width: int, heads: int, context_width: int, layers: int, queries: int) -> None:
        super().__init__(width, heads, 0.0, context_width // layers)
        self.mix = nn.Parameter(torch.zeros(queries, layers))

    def forward(self, queries: Tensor, context: Tensor, position: Tensor | None = None) -> Tensor:
        """queries B Q W or 1 Q W, context B N LD, position N LD -> B Q W."""
        of_layers = self._by_head(self._shares(queries, context, position) @ context)  # B H Q LD
        of_layers = of_layers.unflatten(-1, (self.mix.shape[1], -1))
        read = torch.einsum("bhqld,ql->bhqd", of_layers, self.mix.softmax(-1))
        values = torch.einsum("bhqd,hwd->bqhw", read, self._weight_by_head(self.to_value)).flatten(2)
        merged: Tensor = self.to_output(values + self.to_value.bias)
        return merged

    def _folded(self, queries: Tensor) -> Tensor:
        share = self.mix.softmax(-1).repeat(self.heads, 1).unsqueeze(-1)  # HQ L 1
        return (super()._folded(queries).unsqueeze(-2) * share).flatten(-2)


def low_rank(rank: int) -> Callable[[RoiEncoder], None]:
    """Gives an encoder a low-rank readout."""

    def change(model: RoiEncoder) -> None:
        model.readout = LowRankReadout(model.membership, model.sizes["width"], rank)  # type: ignore[assignment]

    return change


def mixed_layers(model: RoiEncoder) -> None:
    """Gives an encoder a mix of layers for each query."""
    sizes, first = model.sizes, model.layers[0]
    mix = LayerMix(sizes["width"], sizes["heads"], sizes["token_width"], len(LAYERS), len(model.membership))
    first.cross_attention = mix


def nothing(model: RoiEncoder) -> None:
    """Leaves the demo's encoder as it is."""


@dataclass(frozen=True)
class Option:
    """What is different from the demo."""

    settings: Record = field(default_factory=dict)
    """Of params.encoder."""
    layers: int = 1
    """How many of `LAYERS`, the last ones."""
    further: bool = False
    """Whether a second subject shares the trunk."""
    change: Callable[[RoiEncoder], None] = nothing
    loss: Loss = squared_error
    ema: float = 0.0
    """Decay of the exponential moving average of weights that is validated and kept; 0: the weights themselves."""
    constant_rate: bool = False


DEMO, OTHER_DRAWS, ENSEMBLE = "the demo's encoder", "other random draws", "ensemble of 3 (encoder.ensemble)"
OPTIONS = {
    "a second subject shares the trunk (encoder.more_subjects)": Option(further=True),
    "three layers side by side (backbone.layers)": Option(layers=3),
    "three layers, a learned mix a ROI": Option(layers=3, change=mixed_layers),
    "low-rank readout, 32 of 128 directions a ROI": Option(change=low_rank(32)),
    "noise-ceiling-weighted loss": Option(loss=ceiling_weighted),
    "correlation loss beside MSE, weight 0.1": Option(loss=with_correlation(0.1)),
    "correlation loss beside MSE, weight 0.3": Option(loss=with_correlation(0.3)),
    "EMA of weights, decay 0.99": Option(ema=0.99),
    "dropout 0.1 (encoder.dropout)": Option({"dropout": 0.1}),
    "constant learning rate": Option(constant_rate=True),
    "constant learning rate, 0.003": Option({"lr": 0.003}, constant_rate=True),
    "targets start from zeros (encoder.start)": Option({"start": "zeros"}),
}


@dataclass(frozen=True)
class World:
    """A simulated subject: tokens I L N D of the images seen, and the fMRI I V."""

    patches: Tensor
    fmri: Tensor
    measured: Measured
    grid: tuple[int, ...]

    def tokens(self, layers: int, rows: Array) -> Tensor:
        """Of the last so many layers, side by side: B N LD."""
        return self.patches[rows, -layers:].transpose(1, 2).flatten(2)


def main(*, short: bool) -> None:
    """Train everything, compare, write the page."""
    clean(SCRATCH)
    seeds = SHORT_SEEDS if short else SEEDS
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        list(pool.map(run_seed, seeds, repeat(short)))
    rows = [read_json(SCRATCH / f"seed{seed}.json") for seed in seeds]
    options = {name: [row[name] for row in rows] for name in (DEMO, OTHER_DRAWS, ENSEMBLE, *OPTIONS)}
    record = {"data": "simulated", "seeds": list(seeds), "options": options}
    folder = SCRATCH if short else HERE
    write_json(folder / "encoder_options.json", record)
    write_text(folder / "encoder_options.md", page(record))
    console.print((folder / "encoder_options.md").read_text(), markup=False)


def run_seed(seed: int, short: bool) -> None:
    """All options on one subject; beside it another one, who saw other scenes, for the shared trunk."""
    torch.set_num_threads(1)
    params = replace(load_params(), seed=seed)
    params = replace(params, runtime=replace(params.runtime, threads=1, progress=False))
    if short:
        params = replace(params, encoder=replace(params.encoder, epochs=SHORT_EPOCHS))
    worlds = [make_world(replace(params, seed=one), SCRATCH / f"{seed}" / f"world{one}") for one in (seed, seed + 1)]
    single = [train(worlds, Option(), params, number) for number in range(3)]
    predictions = {DEMO: single[0], OTHER_DRAWS: single[1], ENSEMBLE: np.mean(single, axis=0)}
    for name, option in OPTIONS.items():
        predictions[name] = train(worlds, option, params, 0)
        console.print(f"seed {seed}: {name}")
    write_json(SCRATCH / f"seed{seed}.json", compare(params, worlds[0], predictions))


def make_world(params: Params, folder: Path) -> World:
    """Draw scenes and subject of `params.seed`, and make tokens of all layers."""
    params = replace(params, backbone=replace(params.backbone, layers=LAYERS))
    folder.mkdir(parents=True)
    with contextlib.chdir(folder):
        render_set(params, "nsd")
        simulate_subject(params, params.fmri.subject)
        prepare_fmri(params)
        cache_tokens(params, "nsd")
        tokens, measured = open_store(paths.tokens("nsd")), read_measured()
        patches = torch.from_numpy(np.asarray(tokens["patches"][:], np.float32))
        fmri = torch.from_numpy(np.asarray(measured.fmri[:], np.float32))
    return World(patches, fmri, measured, tuple(tokens.attributes["grid"]))


def train(worlds: Sequence[World], option: Option, params: Params, number: int) -> Array:
    """Predicted fMRI of the test images, J V, of an encoder; `number` tells its random draws from others'."""
    settings = replace(params.encoder, **option.settings)
    seen = worlds if option.further else worlds[:1]
    first, ceiling = worlds[0], [torch.from_numpy(np.asarray(one.measured.ceiling)) for one in seen]
    torch.manual_seed(derived_seed(params.seed, "encoder options", number))
    trunk = build(seen, option, settings)
    average = AveragedModel(trunk, multi_avg_fn=get_ema_multi_avg_fn(option.ema)) if option.ema else None
    kept: dict[str, Any] = {"loss": np.inf, "state": None}

    def loss_of(rows: Sequence[Array]) -> Tensor:
        if average is not None:
            average.update_parameters(trunk)
        predicted = trunk([one.tokens(option.layers, chosen) for one, chosen in zip(seen, rows, strict=True)])
        each = zip(predicted, seen, rows, ceiling, strict=True)
        return torch.stack([option.loss(fmri, one.fmri[chosen], c) for fmri, one, chosen, c in each]).sum()

    def validate() -> float:
        model: Any = average.module if average is not None else trunk
        rows = first.measured.rows(VALIDATION)
        loss = float(F.mse_loss(model.encoder.eval()(first.tokens(option.layers, rows)), first.fmri[rows]))
        if loss < kept["loss"]:
            kept.update(loss=loss, state=deepcopy(model.encoder.state_dict()))
        return loss

    train_rows = [one.measured.rows(TRAIN) for one in seen]
    names = ("encoder options", number)
    orders = [orders_of(rows, settings, generator(params.seed, *names, one)) for one, rows in enumerate(train_rows)]
    schedule = Schedule(settings.epochs, settings.batch_size, settings.lr, settings.warmup, settings.weight_decay)
    with constant_rate() if option.constant_rate else nullcontext():
        epochs = side_by_side(orders[0], [chain.from_iterable(other) for other in orders[1:]])
        fit(trunk, len(train_rows[0]), lambda _: epochs, loss_of, validate, schedule, "encoder")
    trunk.encoder.load_state_dict(kept["state"])
    with torch.inference_mode():
        tested: Tensor = trunk.encoder(first.tokens(option.layers, first.measured.rows(TEST)))
    return tested.numpy()


def build(seen: Sequence[World], option: Option, settings: Encoder) -> SharedTrunk:
    """An encoder of the first subject with random weights, and readouts of the others."""
    first, *further = seen
    measured, tokens = first.measured, first.tokens(option.layers, first.measured.rows(TRAIN)).flatten(0, 1)
    membership = query_membership(torch.tensor(measured.roi), torch.tensor(measured.hemi))
    model = RoiEncoder(membership, **encoder_sizes(settings, first.grid, tokens.shape[1]))
    model.standardise_by(tokens.mean(0), tokens.std(0))
    option.change(model)
    memberships = [torch.from_numpy(shared_membership(measured, one.measured)) for one in further]
    return SharedTrunk(model, [RoiReadout(one, settings.width) for one in memberships])


def orders_of(rows: Array, settings: Encoder, rng: np.random.Generator) -> Iterator[Iterator[tuple[Array, Array]]]:
    """Epochs of batches of the rows, drawn by `rng`."""
    while True:
        order = rng.permutation(rows)
        yield ((batch, batch) for batch in np.split(order, range(settings.batch_size, len(order), settings.batch_size)))


def constant_rate() -> AbstractContextManager[Any]:
    """Training at one learning rate from the first step to the last."""
    return patch("neuralood.base.training.learning_rate_factor", lambda *_: 1.0)


def compare(params: Params, world: World, predictions: dict[str, Array]) -> Record:
    """Mean r over vertices of each group, and its gain over the demo's encoder with a 95 % interval over images."""
    measured, rows = world.measured, world.measured.rows(TEST)
    truth, vertices = world.fmri[rows].numpy(), np.arange(len(measured.hemi))
    of_groups = [vertices_of(group, measured.roi_names, measured.roi) for group in ("early", "high")]
    members = np.array([np.isin(vertices, chosen) for chosen in (vertices, *of_groups)])
    counts = draw_counts(len(rows), params.encoder.bootstrap, generator(params.seed, "encoder options"))
    demo, record = predictions[DEMO], {}
    for name, predicted in predictions.items():
        drawn = resampled_means(counts, (predicted, demo), truth, members, len(vertices))
        r, base = pearson_columns(predicted, truth), pearson_columns(demo, truth)
        record[name] = {
            group: {
                "r": rounded(r[inside].mean()),
                "gain": rounded((r - base)[inside].mean()),
                "interval": [rounded(one) for one in percentile_interval(drawn[0, :, column] - drawn[1, :, column])],
            }
            for column, (group, inside) in enumerate(zip(("all", "early", "high"), members, strict=True))
        }
    return record


def helps(scores: Sequence[Record]) -> bool:
    """Whether the gain over all vertices stands above 0 in every subject, with its interval."""
    return all(one["all"]["interval"][0] > 0 for one in scores)


def page(record: Record) -> str:
    """The Markdown page."""
    options = {name: record["options"][name] for name in (DEMO, OTHER_DRAWS, ENSEMBLE, *OPTIONS)}
    means = ", ".join(f"{group} {_r(options[DEMO], group)}" for group in ("all", "early", "high"))
    lines = [
        "# What might make the brain encoder better, on the demo (SIMULATED)",
        "",
        "Written by `python -m benchmarks.encoder_options`. Mean r over vertices on the test images, one encoder a row",
        "and simulated subject; gains over the demo's encoder with 95 % intervals over images. An option helps where",
        "the interval over all vertices stands above 0 in every subject. What names no param is left out of the code.",
        "",
        f"The demo's encoder, mean r of the vertices in each subject: {means}.",
        "",
        "| option | helps | gain, all vertices | early | high |",
        "|---|---|---|---|---|",
    ]
    for name, scores in options.items():
        if name != DEMO:
            cells = " | ".join("; ".join(_gain(one[group]) for one in scores) for group in ("all", "early", "high"))
            lines.append(f"| {name} | {'yes' if helps(scores) else 'no'} | {cells} |")
    return "\n".join([*lines, ""])


def _r(scores: Sequence[Record], group: str) -> str:
    return ", ".join(f"{one[group]['r']:.3f}" for one in scores)


def _gain(score: Record) -> str:
    low, high = score["interval"]
    return f"{score['gain']:+.3f} [{low:+.3f}, {high:+.3f}]"


if __name__ == "__main__":
    main(short="--short" in sys.argv[1:])
