"""One stage as `runtime.nproc` processes on this machine, by the engine that is behind PyTorch's torchrun.

For several machines, or under a batch system, the user starts torchrun:
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 -m stages.cache_tokens train
"""

import logging
import os
import runpy
import signal
import sys
import time
from tempfile import TemporaryDirectory
from threading import Thread

from neuralood.base.errors import UserError

LOOK_S = 0.1
"""Seconds between two looks at whether all processes live."""


def launch(count: int) -> None:
    """Run this process's own command `count` times, side by side, and wait for all of them.

    Where one fails, the others are ended; it has said why, and this process exits with its status. Raises UserError
    for one that was killed, KeyboardInterrupt after Ctrl-C.
    """
    logging.disable(logging.CRITICAL)  # the engine's long reports of what is said in one line here
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # and of names of hosts that cannot be resolved
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with TemporaryDirectory(prefix="neuralood_") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="neuralood",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=LOOK_S,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "neuralood.launch", _own_module(), *sys.argv[1:])
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            _explain(number, count, failure.exitcode)
        except SignalException as signalled:  # all processes have got it as well
            if signalled.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            sys.exit(128 + signalled.sigval)


def _explain(number: int, count: int, status: int) -> None:
    if status >= 0:
        sys.exit(status)
    raise UserError(
        f"worker {number + 1} of {count} was killed (signal {-status}): finished work is kept, "
        "run the stage again to go on"
    )


def _own_module() -> str:
    """The module, or the file, that Python was started with."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


def _run_module() -> None:
    """In a process that was launched: run the module, or the file, that the first argument names."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the launching process says that it was interrupted
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    del sys.argv[0]
    if sys.argv[0].endswith(".py"):
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    if "neuralood.base.collectives" in sys.modules:  # else it had nothing to do, and torch takes seconds to import
        from neuralood.base.collectives import leave

        leave()


def _end_with(starter: int) -> None:
    """End this process, and those that decode for it, when the launching one is gone, though it was killed."""
    while os.getppid() == starter:
        time.sleep(1)
    os.killpg(0, signal.SIGTERM)  # they are a session of their own


if __name__ == "__main__":
    _run_module()
