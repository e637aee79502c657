"""The page of benchmarks/fusion.py: every number in it is from its record."""

import os
import platform
from typing import Any

import torch

from benchmarks.fusion_forms import BATCH as FORM_BATCH
from benchmarks.fusion_forms import FULL, LOW_RANK, SOME, WHOLE
from benchmarks.fusion_projection import DISKS, FLOPS, HALF_FLOPS, NIGHT_H, OTHERS, SUBJECT, TRAIN, WORKERS
from benchmarks.fusion_training import BATCH, PROMISED, SEEDS, SMALL_BATCH, THREADS
from benchmarks.fusion_world import FULL_SHAPES, SMALL_SHAPES
from benchmarks.timing import Ratio
from neuralood.plan.times import PROBE_STEPS

Record = dict[str, Any]


def page(record: Record) -> str:
    """The Markdown page."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    lines = [
        "# Fusion: what it costs",
        "",
        f"Written by `python -m benchmarks.fusion`, on {THREADS} threads, float32, page cache warm. Tokens, fMRI and",
        "the brain encoder are random; the project's own stages and functions run. Full shapes:",
        f"{FULL_SHAPES.patches} patch tokens of width {FULL_SHAPES.width} and [CLS] (ViT-B/14 at 224 px, float16),",
        f"{FULL_SHAPES.vertices:,} vertices (float16), {FULL_SHAPES.classes:,} classes, the paper profile's fusion",
        f"classifier ({record['step']['parameters'] / 1e6:.1f} M parameters).",
        "",
        *_step(record),
        *_probes(record["probes"]),
        *_seeds(record["seeds"]),
        *_forms(record["forms"]),
        *_processes(record["processes"], record["sizes"]["images"]),
        *_growth(record["growth"]),
        *_projection(record["projection"], record["step"], record["rates"]),
        f"{record['minutes']:.1f} minutes on {machine}, PyTorch {torch.__version__}.",
        "",
    ]
    return "\n".join(lines)


def _step(record: Record) -> list[str]:
    step, peak = record["step"], record["peak"]
    low, high = step["range"]
    return [
        "## A step",
        "",
        f"The median of {step['steps']} steps of `train_fusion`'s loop, after an epoch that warms up, and their range.",
        "Waiting: time blocked while the next batch is asked for, over the whole. Memory: the most anonymous memory",
        "(RssAnon) of a process that opens the stores, scales the inputs, trains an epoch and validates.",
        "",
        "| what | measured | promised |",
        "|---|---|---|",
        f"| a step, batch {BATCH} | {step['seconds']:.2f} s [{low:.2f}, {high:.2f}] | |",
        f"| waiting for data | {100 * step['waiting']:.2f} % | < 5 % |",
        f"| memory, batch {SMALL_BATCH} | {peak[str(SMALL_BATCH)]:,.0f} MB | < {PROMISED:,} MB |",
        f"| memory, batch {BATCH} | {peak[str(BATCH)]:,.0f} MB | |",
        "",
    ]


def _probes(found: Record) -> list[str]:
    rows = [
        f"| {int(count):,} | {one['one probe']:.1f} s | {one['ten probes']:.1f} s | {one['ten over one']:.2f} | "
        f"{one['ten passes over one pass']:.1f} | {min(one['passes alone'])} to {max(one['passes alone'])} | "
        f"{one['ten over one at usual passes']:.2f} |"
        for count, one in found["classes"].items()
    ]
    holds = [f"{int(count):,}" for count, one in found["classes"].items() if one["ten over one"] < 2]
    fails = [f"{int(count):,}" for count, one in found["classes"].items() if one["ten over one"] >= 2]
    usual = [f"{int(count):,}" for count, one in found["classes"].items() if one["ten over one at usual passes"] < 2]
    not_usual = [f"{int(count):,}" for count in found["classes"] if f"{int(count):,}" not in usual]
    return [
        "## Ten probes from one pass over the tokens",
        "",
        f"{found['images']:,} images, whose classes can be learned; from tokens to chosen probes. The pass over the",
        f"tokens, which writes what the probe reads and finds all scales, takes {found['survey']:.1f} s of it. Ten:",
        f"penalties of {found['penalties'][0]:g} to {found['penalties'][-1]:g}; one: the mean over each of them alone.",
        "With fewer images than ImageNet has, solvers need few passes over the features; the last column has the ratio",
        f"for {PROBE_STEPS} passes, as `neuralood plan` takes it, from the time of one pass.",
        "",
        "| classes | one probe | ten probes, one pass | ten over one | ten passes over one | solver's passes | "
        f"ten over one at {PROBE_STEPS} |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "Promised: ten cost less than 2 times one, where reading the tokens is what costs. Counts of classes",
        f"where that holds as measured: {_list(holds)}, and where not: {_list(fails)}; with {PROBE_STEPS} passes",
        f"where it holds: {_list(usual)}, and where not: {_list(not_usual)}. Where it does not, products of",
        "matrices cost most on this CPU, and ten probes have ten times as many.",
        "",
    ]


def _seeds(found: Record) -> list[str]:
    seconds = found["seconds"]
    return [
        f"## {SEEDS} seeds of fusion in one pass",
        "",
        "| one pass for all | a pass for each | ratio |",
        "|---|---|---|",
        f"| {seconds['one pass']:.1f} s | {seconds['a pass each']:.1f} s | {Ratio(**found['ratio'])} |",
        "",
        f"Tokens are read once in place of {SEEDS} times. On this CPU computing is what costs, the same for both; the",
        "gain is on a GPU, or where tokens come from a disk.",
        "",
    ]


def _forms(found: Record) -> list[str]:
    full = found[FULL]["bytes"]
    names = [name for name in found if name != "logits sd"]
    rows = [
        f"| {name} | {found[name]['bytes']:,.0f} | {found[name]['bytes'] / full:.3f} | "
        f"{found[name]['milliseconds']:.1f} ms | {found[name]['from float16']:.1e} | "
        f"{found[name]['from float32']:.1e} |"
        for name in names
    ]
    whole = 2 * 50 * 768
    return [
        "## Forms of predicted fMRI (`synthesis`)",
        "",
        f"An encoder of 50 queries and width {FULL_SHAPES.encoder_width}. Time: reading and restoring a batch of",
        f"{FORM_BATCH}, whose tokens are there. Logits: of the model that was trained above, whose logits have a sd of",
        f"{found['logits sd']:.2f}; the largest difference to those from float16 and from float32 vertices.",
        f"'{SOME}': of a model that reads those alone, compared with itself on all vertices.",
        "",
        "| form | bytes an image | share | read and restore | from float16 | from float32 |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        f"Promised: `{LOW_RANK}` gives the logits of `{FULL}` to 1e-3 at less than a tenth of the bytes. That is so",
        f"for narrow encoders: 50 queries of width 768, as the paper profile has them, take {whole:,} bytes, as much",
        f"as {FULL_SHAPES.vertices:,} vertices ({2 * FULL_SHAPES.vertices:,}).",
        f"('{WHOLE}' is here for comparison only.)",
        "",
    ]


def _processes(found: Record, images: int) -> list[str]:
    first = next(iter(found.values()))
    rows = [
        f"| {name} | {one['seconds']:.1f} s | {'yes' if one['contents'] == first['contents'] else 'no'} |"
        for name, one in found.items()
    ]
    return [
        "## One process and two (`runtime.nproc`)",
        "",
        f"`python -m stages.synthesize train` of {images:,} images, Python's start included; same: as the first wrote.",
        "",
        "| what | time | same bytes |",
        "|---|---|---|",
        *rows,
        "",
        "On 2 cores, which one process already uses, no gain is to be expected: processes are for several GPUs.",
        "",
    ]


def _growth(found: Record) -> list[str]:
    counts = list(next(iter(found.values())))
    rows = [
        f"| {stage} | "
        + " | ".join(f"{peaks[count]:.0f}" for count in counts)
        + f" | {100 * (peaks[counts[-1]] / peaks[counts[0]] - 1):+.1f} % |"
        for stage, peaks in found.items()
    ]
    return [
        "## Memory by count of images",
        "",
        f"Peak anonymous memory (RssAnon), MB, each stage in a process of its own; {SMALL_SHAPES.patches} tokens of",
        f"{SMALL_SHAPES.width}, {SMALL_SHAPES.vertices} vertices, {SMALL_SHAPES.classes} classes.",
        "Promised: growth below 10 %.",
        "",
        "| stage | " + " | ".join(f"{int(count):,} images" for count in counts) + " | growth |",
        "|---|" + "---|" * (len(counts) + 1),
        *rows,
        "",
    ]


def _projection(found: Record, step: Record, rates: Record) -> list[str]:
    operations, hours = found["operations"], found["hours"]
    stages = list(found["bytes"])
    rows = [
        f"| {name} | {found['bytes'][name] / 1e9:,.0f} | {found['computing hours'][name]:.2f} | "
        + " | ".join(f"{hours[disk][name]:.2f}" for disk in hours)
        + " |"
        for name in stages
    ]
    enough = ", ".join(
        f"{disk}: {total:.1f} h, {'less' if total < NIGHT_H else 'more'} than a night of {NIGHT_H:.0f} h"
        for disk, total in found["all"].items()
    )
    epoch = TRAIN * step["seconds"] / BATCH / 3600
    return [
        "## PROJECTION: ImageNet-1k and ViT-B/14 on one GPU",
        "",
        "Nothing in this table was run. The paper profile:",
        f"{TRAIN:,} images of train, {OTHERS:,} of val, made and OOD sets, {SUBJECT:,} of a subject's.",
        "A stage takes the longest of reading and writing, decoding, and computing, which go on side by side.",
        "",
        f"- ASSUMED of the GPU: {HALF_FLOPS / 1e12:.0f} TFLOP/s in bfloat16 (ViT, fusion), {FLOPS / 1e12:.0f} in",
        "  float32 (the rest); of the disk: "
        + ", ".join(f"{name} {rate / 1e9:g} GB/s" for name, rate in DISKS.items())
        + ";",
        f"  of the machine: {WORKERS} processes that decode, memory for the probe's features but not for the tokens.",
        f"- Counted, matrix products an image, forward: ViT {operations['ViT'] / 1e9:.1f} GFLOP, brain encoder",
        f"  {operations['encoder'] / 1e9:.2f}, fusion {operations['fusion'] / 1e9:.2f}; a probe's step",
        f"  {operations['probe'] / 1e6:.1f} MFLOP. {PROBE_STEPS} passes a probe.",
        f"- Measured here: {1000 * found['decode seconds']:.1f} ms to decode an image in one process, "
        f"{found['features rate'] / 1e9:.1f} GB/s of the probe's",
        "  features from memory.",
        "",
        "| stage | GB through the disk | computing, h | " + " | ".join(f"{disk}, h" for disk in hours) + " |",
        "|---|---|---|" + "---|" * len(hours),
        *rows,
        "| all | | | " + " | ".join(f"{total:.1f}" for total in found["all"].values()) + " |",
        "",
        f"{enough}.",
        f"Tokens and predicted fMRI take {found['stores'] / 1e12:.2f} TB. Not in it: DVC's hashing of the stores,",
        "the ridge baselines, the pass over memory that small operations cost.",
        "",
        f"On this CPU (products at {rates['products'] / 1e9:.0f} GFLOP/s) one epoch of fusion alone would take",
        f"{epoch:.0f} h.",
        "",
    ]


def _list(names: list[str]) -> str:
    return " and ".join(names) if names else "none"
