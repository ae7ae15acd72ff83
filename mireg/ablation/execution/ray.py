"""Runs as tasks of a Ray cluster whose machines share the study's folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mireg.ablation.errors import Stopped, UserError
from mireg.ablation.events import EventHandler, ShouldStop
from mireg.ablation.execution.job import RETRIES, Execute, Failures, Setup, attempt, crashed
from mireg.ablation.study.config import RunSpec
from mireg.ablation.training.group import Group
from mireg.ablation.training.loop import Trainer


def on_ray(setup: Setup, address: str | None, group: Group, tell: EventHandler, stop: ShouldStop) -> Execute:
    """What trains runs on a Ray cluster."""
    if group.size > 1:
        raise UserError("--executor ray does not go with torchrun: start it by itself")
    return partial(_run, setup=setup, address=address, tell=tell, stop=stop)


def _run(specs: Sequence[RunSpec], setup: Setup, address: str | None, tell: EventHandler, stop: ShouldStop) -> Failures:
    """Run each as a Ray task; a run whose process or machine is lost continues from its checkpoint elsewhere.

    A task requests the setup's threads as CPUs and, on CUDA, one GPU. Folders must have the same path on every machine.
    Without an address, ``RAY_ADDRESS`` is that of the cluster or, if not set, this machine is the only one.

    Raises:
        Stopped: if ``stop`` returned True, after every running task has saved its state.
        UserError: if Ray is not installed or cannot be reached, data are missing, or a file cannot be written.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--executor ray needs Ray: pip install 'mireg[ray]'") from None
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"no Ray cluster at {address or 'the address in RAY_ADDRESS'} ({error})") from error
    try:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        mailbox: Any = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=here).remote()
        gpus = 1 if setup.device.type == "cuda" else 0
        task = ray.remote(num_cpus=setup.threads or 1, num_gpus=gpus, max_retries=RETRIES)(_perform)
        shared = replace(setup, out=setup.out.absolute())
        if isinstance(shared.train, Trainer):
            shared = replace(shared, train=replace(shared.train, data_dir=shared.train.data_dir.absolute()))
        waiting = {task.options(name=spec.path).remote(spec, shared, mailbox): spec for spec in specs}
        failures: Failures = {}
        stopping = False
        while waiting:
            if stop() and not stopping:
                stopping = True
                ray.get(mailbox.stop.remote())
            done, _ = ray.wait(list(waiting), timeout=0.2)
            for event in ray.get(mailbox.take.remote()):
                tell(event)
            for reference in done:
                spec = waiting.pop(reference)
                try:
                    kind, content = ray.get(reference)
                except ray.exceptions.RayError as error:
                    lost = f"its process or machine was lost {RETRIES + 1} times: {error}"
                    kind, content = "crashed", (lost, lost)
                if kind == "refused":
                    raise UserError(content)
                if kind == "crashed":
                    failures[spec.path] = crashed(spec, content, tell), None
    finally:
        ray.shutdown()
    if stopping:
        raise Stopped
    return failures


class _Mailbox:
    """An actor on the driver's machine that passes events to the driver and the request to stop to the tasks."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._stopping = False

    def put(self, event: dict[str, Any]) -> bool:
        """Store an event, and return whether to stop."""
        self._events.append(event)
        return self._stopping

    def take(self) -> list[dict[str, Any]]:
        """Return and clear the stored events."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        self._stopping = True


def _perform(spec: RunSpec, setup: Setup, mailbox: Any) -> tuple[str, Any]:
    """The task: train a run and return how it ended."""
    import ray

    stopping = False

    def tell(event: dict[str, Any]) -> None:
        nonlocal stopping
        stopping = ray.get(mailbox.put.remote(event))

    tell({"event": "start", "run": spec.path, "step": 0, "steps": spec.cell.steps})
    return ("done", None) if stopping else attempt(spec, setup, Group(setup.device), tell, lambda: stopping)
