"""Runs on this machine: in this process, or in worker processes, which may die."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
from collections import Counter
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from mireg.ablation.errors import Stopped, UserError
from mireg.ablation.events import EventHandler, ShouldStop, note
from mireg.ablation.execution.job import RETRIES, Execute, Failures, Setup, attempt, crashed, described, perform
from mireg.ablation.execution.signals import graceful
from mireg.ablation.storage.files import WriteError
from mireg.ablation.study.config import RunSpec
from mireg.ablation.training.group import Group


def locally(setup: Setup, workers: int | None, group: Group, tell: EventHandler, stop: ShouldStop) -> Execute:
    """What trains runs on this machine: this process or group, or workers, by default as many as have cores."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(1, cores // (setup.threads or 1))
    if workers == 1 or group.size > 1:
        return partial(_here, setup=setup, group=group, tell=tell, stop=stop)
    return partial(_in_workers, setup=setup, workers=workers, tell=tell, stop=stop)


def _here(specs: Sequence[RunSpec], setup: Setup, group: Group, tell: EventHandler, stop: ShouldStop) -> Failures:
    """:func:`perform` the runs one after another in this process, or in this group of processes."""
    failures: Failures = {}
    for spec in specs:
        try:
            perform(spec, setup, group, tell, stop)
        except (Stopped, UserError, WriteError):
            raise
        except Exception as error:
            if group.size > 1:
                raise  # the other processes wait for this one: all of them must restart
            failures[spec.path] = crashed(spec, described(error), tell), error
    return failures


def _in_workers(specs: Sequence[RunSpec], setup: Setup, workers: int, tell: EventHandler, stop: ShouldStop) -> Failures:
    """Distribute the runs over worker processes; a run whose worker dies continues in another.

    Raises:
        Stopped: if ``stop`` returned True, after every worker has saved its run.
        UserError: if data are missing or damaged, or a file cannot be written.
    """
    failures: Failures = {}
    deaths = Counter[str]()
    waiting = list(reversed(specs))
    pool = [_Worker(setup, index, waiting.pop()) for index in range(min(workers, len(specs)))]
    stopping = False
    try:
        while pool:
            if stop() and not stopping:
                stopping = True
                waiting.clear()
                for worker in pool:
                    worker.stop()
            ready = wait([worker.connection for worker in pool], timeout=0.2)
            for worker in [worker for worker in pool if worker.connection in ready]:
                spec, (kind, content) = worker.spec, worker.receive()
                match kind:
                    case "event":
                        tell(content)
                        continue
                    case "refused":
                        raise UserError(content)
                    case "crashed":
                        failures[spec.path] = crashed(spec, content, tell), None
                    case "died" if not stopping:
                        deaths[spec.path] += 1
                        if deaths[spec.path] <= RETRIES:
                            tell(note(f"its worker process died ({content}): going on in another", spec.path))
                            waiting.append(spec)
                        else:
                            lost = f"its worker process died {deaths[spec.path]} times, last of {content}"
                            failures[spec.path] = lost, None
                            tell({"event": "finish", "run": spec.path, "failure": lost})
                if not waiting:
                    pool.remove(worker)
                    worker.kill()  # its files are closed; an orderly exit takes seconds
                elif kind == "died":
                    pool[pool.index(worker)] = _Worker(setup, worker.index, waiting.pop())
                else:
                    worker.start(waiting.pop())
    finally:
        for worker in pool:
            worker.kill()
    if stopping:
        raise Stopped
    return failures


def _processes() -> Any:
    """What starts workers: on Linux, forks of a server that has imported PyTorch and nothing else.

    A fork of this process could use neither CUDA nor torch's thread pool, and a process from nothing imports for
    seconds, the compiler at the first optimizer.
    """
    if platform.system() != "Linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    return context


class _Worker:
    """A process that trains the runs sent to it, and the parent's end of its pipe."""

    def __init__(self, setup: Setup, index: int, spec: RunSpec) -> None:
        context = _processes()
        self.index = index
        self.connection, theirs = context.Pipe()
        # Not a daemon: a loop may have worker processes of its own, as a DataLoader has.
        self._process = context.Process(target=_serve, args=(theirs, setup, index, dict(os.environ)))
        self._process.start()
        theirs.close()
        self.start(spec)

    def start(self, spec: RunSpec) -> None:
        self.spec = spec
        self.connection.send(spec)

    def receive(self) -> tuple[str, Any]:
        """The next message from the process: its kind and content."""
        try:
            message: tuple[str, Any] = self.connection.recv()
            return message
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            return "died", signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def stop(self) -> None:
        """Ask the process to save its run and exit."""
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, setup: Setup, index: int, environment: dict[str, str]) -> None:
    """Main function of a worker process, whose server may have begun in another environment."""
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    parent = os.getppid()
    device = setup.device
    if device.type == "cuda":
        device = torch.device("cuda", index % torch.cuda.device_count())

    def tell(event: dict[str, Any]) -> None:
        connection.send(("event", event))

    with graceful(signal.SIGTERM) as asked:

        def stop() -> bool:
            if os.getppid() != parent:
                os._exit(1)  # another process may already own the study
            return asked()

        while not asked():
            try:
                spec = connection.recv()
                connection.send(attempt(spec, setup, Group(device), tell, stop))
            except (EOFError, BrokenPipeError):  # nobody sends or listens any more
                return
