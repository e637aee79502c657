"""Token caches of a few small images: a backbone without a network, and runs in processes that can be killed."""

import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from neuralood.backbone import FrozenBackbone, Preprocessing, TokenShape
from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.config import Cache
from neuralood.data.manifest import Manifest
from neuralood.tokens.cache import cache_tokens

CLASSES = ("cat", "dog", "kiwi")
CPU = torch.device("cpu")
SETTINGS = Cache(dtype="float16", pool=1, autocast="none", compile=False, batch_size=2, chunk=3)
GRID, WIDTH, CLS_WIDTH = 4, 6, 5
PREPROCESSING = Preprocessing(16, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Stub(FrozenBackbone):
    """Linear features of squares of pixels; counts images, and calls `before(batch number)` before each batch."""

    def __init__(self, before=None, layers=1, weights=0):
        nn.Module.__init__(self)
        self.before = before
        self.counted, self.batches = 0, 0
        self.layers = tuple(range(layers))
        self.features, self.preprocessing = "tokens", PREPROCESSING
        self.shape = TokenShape(CLS_WIDTH, layers, (GRID, GRID), WIDTH)
        self.model = nn.Linear(3, layers * WIDTH).requires_grad_(False)
        source = torch.Generator().manual_seed(weights)
        for value in self.model.parameters():
            value.copy_(torch.randn(value.shape, generator=source))

    @torch.inference_mode()
    def tokens(self, images):
        self.batches += 1
        if self.before:
            self.before(self.batches)
        self.counted += int(images.flatten(1).any(dim=1).sum())  # blank ones fill up a batch
        squares = nn.functional.adaptive_avg_pool2d(images, GRID).flatten(2).transpose(1, 2)  # B N 3
        patches = self.model(squares).unflatten(2, (len(self.layers), WIDTH)).transpose(1, 2)  # B L N D
        return patches[:, 0].mean(dim=1)[:, :CLS_WIDTH], patches


def write_image(file, rng, width=16, height=16):
    """Random pixels."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(file)


def write_images(rng, count):
    """So many images of three classes in the project's folder; returns their names."""
    names = [f"{CLASSES[row % 3]}/{row:02d}é.png" for row in range(count)]
    for row, name in enumerate(names):
        write_image(Path("data/images", name), rng, 8 + row % 9, 32 - row % 7)
    return names


def make_manifest(names):
    """As an index stage makes it: the fingerprint hashes names and contents."""
    files = [Path("data/images", name) for name in names]
    digest = sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()
    labels = tuple(CLASSES.index(name.split("/")[0]) for name in names)
    return Manifest("train", "project", "data/images", True, CLASSES, tuple(names), labels, tuple(names), digest)


def cache(manifest, backbone, workers=0, **changes):
    """The set's token store."""
    return cache_tokens(manifest, "stub", backbone, replace(SETTINGS, **changes), CPU, workers)


def contents(store):
    """Every file of a store and its bytes."""
    return {str(file.relative_to(store)): file.read_bytes() for file in sorted(store.rglob("*")) if file.is_file()}


def unfinished():
    """Where the set's store grows."""
    return paths.partial(paths.tokens("train"))


# Runs in processes of their own


class Run:
    """`cache` in another process that starts with `fault()`."""

    def __init__(self, manifest, fault=None, workers=0, before=None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["neuralood.tokens.cache"])
        self.started = context.Event()
        self.process = context.Process(target=_run, args=(manifest, fault, workers, before, os.getcwd(), self.started))
        self.process.start()
        assert self.started.wait(120)

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        return self.end()

    def is_alive(self):
        """Whether the process is there; its own children do not count, as they do when its end is waited for."""
        try:
            os.kill(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def end(self):
        """Wait for its end; returns its exit status: 0, 1 or minus the signal."""
        self.process.join(120)
        status = self.process.exitcode
        self.process.close()
        return status


ERROR = Path("error.txt")


def _run(manifest, fault, workers, before, folder, started):
    os.chdir(folder)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked itself
    console.show_progress(False)
    started.set()
    if fault:
        fault()
    try:
        cache(manifest, Stub(before), workers=workers)
    except UserError as error:
        ERROR.write_text(str(error))
        sys.exit(1)


def kill_self():
    """SIGKILL to this very process."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_operation(number):
    """A fault: SIGKILL just before the given operation on the files of unfinished stores, counted from 1."""
    return partial(_at_operation, number, kill_self)


CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")


def _at_operation(number, act):
    left = [number]

    def hook(event, args):
        if event in CHANGES or (event == "open" and ".partial" in str(args[0])):
            left[0] -= 1
            if left[0] == 0:
                act()

    sys.addaudithook(hook)


def count_operations(file):
    """A fault that only counts: leaves a byte in `file` for each operation."""
    return partial(_count_operations, os.path.abspath(file))


def _count_operations(file):
    handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def hook(event, args):
        if event in CHANGES or (event == "open" and ".partial" in str(args[0])):
            os.write(handle, b".")

    sys.addaudithook(hook)


def limit_file_size(nbytes, batch):
    """Called before each batch: from `batch` on, no file may grow beyond so many bytes, as on a disk that is full."""
    return partial(_limit_file_size, nbytes, batch)


def _limit_file_size(nbytes, from_batch, batch):
    import resource

    if batch == from_batch:
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


def wait_for(file, batch):
    """Called before each batch: in `batch`, touch FILE.waiting, and wait until `file` is there."""
    return partial(_wait_for, Path(file).absolute(), batch)


def _wait_for(file, in_batch, batch):
    import time

    if batch == in_batch:
        file.with_suffix(".waiting").touch()
        while not file.exists():
            time.sleep(0.01)
