"""The processes that train one run together: one, or all that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Processes that share each batch and have the same weights; with one, every method returns its argument."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch's indices, strided: the first rows of all parts are the batch's first rows."""
        return batch[self.rank :: self.size]

    def join(self, model: nn.Module) -> nn.Module:
        """Wrap the model so that its gradients are averaged over the processes."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes, without a gradient."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(flags)
        return flags.item() > 0

    def first(self, value: T | None) -> T | None:
        """The value of the lowest rank that has one."""
        if self.size == 1:
            return value
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return next((found for found in values if found is not None), None)


@contextmanager
def launched(device: torch.device) -> Iterator[Group]:
    """Join the group of processes that torchrun started; without torchrun, a group of one.

    Source: the environment variables in https://docs.pytorch.org/docs/stable/elastic/run.html.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Group(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    store, rank, _ = next(rendezvous("env://"))
    if size == int(os.environ["LOCAL_WORLD_SIZE"]):
        # torchrun keeps the store through a restart, including the addresses of processes that are gone
        # (pytorch/pytorch#135712). All processes agree on this count only on a single machine.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)  # type: ignore[attr-defined]
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield Group(device, rank, size)
    finally:
        dist.destroy_process_group()
