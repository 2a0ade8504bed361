"""A process with one card's share of a model in it. It does what it is told over its standard input, step for step as
the other ranks do, and the first of them says over its standard output what came of it. The end of its input is its
own, so that it outlives nobody. Knows no requests.

    python -m engine.inference.rank
"""

import gc
import logging
import os
import pickle
import select
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import IO, Literal

import torch

from engine.config import GC_THRESHOLD
from engine.errors import BackendError, ConfigError, StartupError, YiwenError
from engine.inference.checkpoint import load_model, model_config, read_config
from engine.inference.collective import Group
from engine.inference.cuda_runner import LONG_FROM, CudaRunner, keep_below
from engine.inference.int4 import Int4Linear
from engine.inference.rank_messages import Advanced, Begin, Failed, Ready, Start, Step, step_of
from engine.inference.runner import Pending, Runner, TorchRunner
from engine.inference.sharding import Share
from engine.log import start as start_log
from engine.progress import Advance

log = logging.getLogger(__name__)


def serve(incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    """For ever: the process ends here."""
    try:
        start: Start = pickle.load(incoming)
    except EOFError:
        return
    start_log(start.log_level, start.log_format, {"device": start.devices[start.rank]})
    lock = threading.Lock()

    def tell(message: object) -> None:
        try:
            with lock:
                outgoing.write(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
                outgoing.flush()
        except OSError:  # nobody is there any more
            os._exit(0)

    try:
        group = _group(start)
        runner = _runner(start, group, tell)
        work(runner, group, incoming, tell)
    except YiwenError as error:
        tell(Failed(error))
    except torch.OutOfMemoryError:
        device = start.devices[start.rank]
        tell(Failed(ConfigError(f"A share of the model does not fit the memory of {device}; use more cards.")))
    except Exception as error:  # the process ends here, and whoever waits for it is to hear why
        log.exception("a share of the model failed")
        tell(Failed(StartupError(f"A share of the model could not be loaded ({type(error).__name__}); see the log.")))
    os._exit(1)  # the others may wait for this one inside a library; they are ended by who started them


def work(runner: Runner, group: Group, incoming: IO[bytes], tell: Callable[[object], None]) -> None:
    """Steps, until there is an error. All ranks have to do all steps, so there is none that one goes on after."""
    beside = tuple((runner.beside(rows, 0), runner.beside(rows, LONG_FROM)) for rows in range(runner.slots + 1))
    kernel = f"{runner.kernel}; sums of {group.count} by {group.kind}"
    tell(Ready(runner.ahead, kernel, runner.prefill_tokens, beside, runner.memory()))
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    launched: SimpleQueue[Pending] = SimpleQueue()
    first = group.rank == 0
    if first:
        threading.Thread(target=_tell_tokens, args=(launched, tell), name="telling", daemon=True).start()
    try:
        while True:
            told: Step | Begin = pickle.load(incoming)
            if len(told) == 4:
                slot, sampling, ids, made = told
                runner.begin(slot, sampling, ids.tolist(), made)
                continue
            pending = runner.step(*step_of(told))
            if first:
                launched.put(pending)
    except EOFError:
        os._exit(0)
    except Exception as error:  # steps end here, and so does the process
        log.exception("a step failed")
        raise _failed(error) from error


def _tell_tokens(launched: SimpleQueue[Pending], tell: Callable[[object], None]) -> None:
    try:
        while True:
            tell(launched.get().tokens())
    except Exception as error:  # the thread ends here, and so does the process
        log.exception("a step failed")
        tell(Failed(_failed(error)))
        os._exit(1)


def _failed(error: Exception) -> BackendError:
    if isinstance(error, torch.OutOfMemoryError):
        return BackendError("A card had too little memory for a step of the model, which is started again.")
    return BackendError(f"A share of the model failed ({type(error).__name__}) and all are started again.")


def _group(start: Start) -> Group:
    """Waits for the others."""
    device = start.devices[start.rank]
    return Group(
        start.rank, device, start.devices, start.meeting, start.meeting_seconds, start.sums, start.deterministic
    )


def _runner(start: Start, group: Group, tell: Callable[[object], None]) -> Runner:
    plan, device, count = start.plan, group.device, group.count
    config = read_config(start.folder)
    share = Share.of(start.rank, count, model_config(config), config)
    torch.set_num_threads(max(1, min(plan.threads, torch.get_num_threads()) // count))
    if start.ceiling_gb is not None:
        keep_below(start.ceiling_gb, plan, [device])

    def told(step: Literal["weights", "prepare"]) -> Advance:
        return lambda done: tell(Advanced(step, done))

    int4 = Int4Linear if plan.engine == "cuda" and plan.weights != plan.dtype else None
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan.dtype]
    model = load_model(start.folder, config, dtype, device, int4, told=told("weights"), share=share)
    model.join(group)
    tell(Advanced("prepare", 0.0))
    if plan.engine == "torch":
        return TorchRunner(model, plan.slots, plan.pages)
    return CudaRunner.planned(model, plan, start.deterministic, told("prepare"))


def _end_with(descriptor: int) -> None:
    """Nobody is there any more: whatever this process is at, and if it waits for another for ever."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, 0)  # no events but the hang-up, which comes unasked
        poll.poll()
        os._exit(0)


def _own(descriptor: int, instead: int) -> int:
    """A standard file that nobody else in this process, nor a library of it, reads or writes any more."""
    own = os.dup(descriptor)
    os.dup2(instead, descriptor)
    return own


def main() -> None:
    for stopping in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C means all processes; who started this one ends it
        signal.signal(stopping, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDONLY)
    with os.fdopen(_own(0, nothing), "rb") as incoming, os.fdopen(_own(1, 2), "wb") as outgoing:
        threading.Thread(target=_end_with, args=(incoming.fileno(),), name="leaving", daemon=True).start()
        serve(incoming, outgoing)


if __name__ == "__main__":
    main()
