"""Token caches measured: reads, writes, memory, mixing, and what smaller tokens cost; one run, side by side.

    python -m benchmarks.token_cache            # about half an hour; writes benchmarks/token_cache.md and .json
    python -m benchmarks.token_cache --short    # minutes; without smaller tokens, and into build/ only

Photos and trained weights come from the sample of real data ($NEURALOOD_REAL or ../shared/real) where it is there;
without it, noise images and random weights stand in, and the PACS table is left out.
"""

import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import smaller_tokens
from benchmarks.reads import BATCH, CHUNK, TOKENS, WIDTH, clean, measure_reads
from benchmarks.timing import Ratio
from benchmarks.writes import class_sorted_accuracy, measure_caching, measure_memory
from neuralood.base.console import console, note
from neuralood.base.records import write_json, write_text
from neuralood.config import Params, load_params

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCRATCH = ROOT / "build" / "token_cache"

FULL = {"reads": 8_192, "photos": 128, "memory": (1_000, 5_000, 20_000), "mixing": (50, 3), "repeats": 7}
SHORT = {"reads": 4_096, "photos": 64, "memory": (1_000, 4_000), "mixing": (50, 3), "repeats": 5}

Record = dict[str, Any]


def main(*, short: bool) -> None:
    """Measure everything and write the page."""
    started, sizes = time.monotonic(), SHORT if short else FULL
    clean(SCRATCH)
    record = measure(sizes, _real(), short=short)
    folder = SCRATCH if short else HERE
    write_json(folder / "token_cache.json", record)
    text = page(record, sizes, time.monotonic() - started)
    write_text(folder / "token_cache.md", text)
    console.print(text, markup=False)


def measure(sizes: Record, real: Path | None, *, short: bool) -> Record:
    """All figures, by section."""
    params, repeats = load_params(), sizes["repeats"]
    note("reads")
    record: Record = {"reads": measure_reads(clean(SCRATCH / "reads"), sizes["reads"], repeats)}
    clean(SCRATCH / "reads")
    note("caching")
    record["caching"] = measure_caching(clean(SCRATCH / "caching"), real, sizes["photos"], max(5, repeats - 2))
    note("memory")
    record["memory"] = measure_memory(SCRATCH, sizes["memory"], runs=3)
    note("mixing")
    images, epochs = sizes["mixing"]
    seeds = [class_sorted_accuracy(images, epochs, seed) for seed in range(repeats)]
    record["mixing"] = {name: [one[name] for one in seeds] for name in seeds[0]}
    record["smaller"] = {} if short else _measure_smaller(params, real)
    return {
        section: {name: asdict(value) if isinstance(value, Ratio) else value for name, value in figures.items()}
        for section, figures in record.items()
    }


def _measure_smaller(params: Params, real: Path | None) -> Record:
    note("smaller tokens")
    found = {"demo": smaller_tokens.measure(SCRATCH / "demo", smaller_tokens.demo_world(params))}
    if real is not None:
        os.environ["NEURALOOD_DATA"] = str(real)
        world = smaller_tokens.photos_world(ROOT / "profiles" / "photos.yaml")
        found["PACS photos"] = smaller_tokens.measure(SCRATCH / "photos", world)
    return found


def page(record: Record, sizes: Record, seconds: float) -> str:
    """The Markdown page."""
    lines = [
        "# Token caches: what they cost and save",
        "",
        "Written by `python -m benchmarks.token_cache`. A ratio above 1 means that ours is faster; it is the median of",
        f"{sizes['repeats']} alternating repeats (caching: {max(5, sizes['repeats'] - 2)}), its range in brackets.",
        "",
        "## Reading",
        "",
        f"{sizes['reads']:,} images of {TOKENS} x {WIDTH} float16 (random normals), chunks of {CHUNK}, batches of",
        f"{BATCH}, page cache warm unless it says otherwise; copying into the batch is included on both sides. zarr,",
        "zarrs and tensorstore read fewer batches, and their time is scaled. From the disk, ours includes opening the",
        "store and comparing every checksum; the plain read fills one buffer again and again.",
        "",
        *_ratios(record["reads"]),
        "",
        "## Caching",
        "",
        f"ViT-S/14 at 224 px, float32 on the CPU, {sizes['photos']} photos; one process decodes, one thread writes.",
        "The probe is a linear classifier trained by SGD; with the backbone in the loop it was timed on one batch.",
        "",
        *_ratios(record["caching"]),
        "",
        "## Memory",
        "",
        "Peak anonymous memory (RssAnon), MB, the highest of three processes each, random tokens of",
        f"{TOKENS} x {WIDTH}.",
        "",
        *_memory(record["memory"]),
        "",
        "## Mixing",
        "",
        "Top-1 % of a linear probe trained on a store sorted by class (1,000 Gaussian classes, chunks of a fifth of a",
        "class, a buffer of 64 chunks, as ImageNet-1k has with `chunk: 256` and `shuffle_buffer: 16384`), by the order",
        "in which it is read; mean and range over seeds.",
        "",
        *_mixing(record["mixing"]),
    ]
    for world, found in record["smaller"].items():
        lines += ["", f"## Smaller tokens: {world}", "", *_smaller(world, found)]
    cpu = f"{os.cpu_count()} cores, {platform.machine()}"
    return "\n".join([*lines, "", f"{seconds / 60:.1f} minutes on {cpu}.", ""])


def _ratios(figures: Record) -> list[str]:
    rows = [
        f"| {name} | {Ratio(**one).__str__() if one['low'] < one['high'] else format(one['median'], '.2f')} |"
        for name, one in figures.items()
    ]
    return ["| what | ratio |", "|---|---|", *rows]


def _memory(figures: Record) -> list[str]:
    counts = list(next(iter(figures.values())))
    head = "| | " + " | ".join(f"{int(count):,} images" for count in counts) + " | growth |"
    rows = [
        f"| {what} | "
        + " | ".join(f"{peaks[count]:.0f}" for count in counts)
        + f" | {100 * (peaks[counts[-1]] / peaks[counts[0]] - 1):+.1f} % |"
        for what, peaks in figures.items()
    ]
    return [head, "|---|" + "---|" * (len(counts) + 1), *rows]


def _mixing(figures: Record) -> list[str]:
    full = np.array(figures["full shuffle"])
    rows = []
    for name, scores in figures.items():
        apart = np.array(scores) - full
        rows.append(
            f"| {name} | {np.mean(scores):.2f} | {apart.mean():+.2f} [{apart.min():+.2f}, {apart.max():+.2f}] |"
        )
    return ["| order | top-1 | minus full shuffle |", "|---|---|---|", *rows]


def _smaller(world: str, figures: Record) -> list[str]:
    said = {
        "demo": "The demo's images and fMRI are SIMULATED; tf_efficientnet_lite0 at 96 px, three maps of one size.",
        "PACS photos": "ViT-S/14 at 224 px, blocks 5, 8 and 11; the encoder's fMRI is SIMULATED, on the demo's scenes.",
    }[world]
    keys = list(next(iter(figures.values())))
    digits = {"kB an image": 1, "probe val": 1, "probe mean OOD": 1, "encoder r": 3}
    rows = [
        f"| {name} | " + " | ".join(format(found[key], f".{digits[key]}f") for key in keys) + " |"
        for name, found in figures.items()
    ]
    return [said, "", "| tokens | " + " | ".join(keys) + " |", "|---|" + "---|" * len(keys), *rows]


def _real() -> Path | None:
    folder = Path(os.environ.get("NEURALOOD_REAL") or ROOT.parent / "shared" / "real")
    return folder.resolve() if folder.is_dir() else None


if __name__ == "__main__":
    main(short="--short" in sys.argv[1:])
