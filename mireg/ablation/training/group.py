"""The processes that train one run together: one, or as many as torchrun started."""

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

from mireg.ablation.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """Processes that share each batch and hold the same weights.

    With one process every method gives back what it is given.

    Attributes:
        rank: of this process; rank 0 writes the files.
        size: number of processes.
        device: of this process.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch's indices, strided: the first rows of every part make up the batch's first."""
        return batch[self.rank :: self.size]

    def join(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes."""
        return DistributedDataParallel(model) if self.size > 1 else model

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes, without gradient."""
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
    """The group that torchrun made this process part of; a group of one without torchrun.

    Source: the environment that https://docs.pytorch.org/docs/stable/elastic/run.html sets.
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
        # torchrun keeps the store through a restart, and in it where the processes listened that are gone
        # (pytorch/pytorch#135712). Only on a single machine do all processes agree on this count.
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)  # type: ignore[attr-defined]
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield Group(device, rank, size)
    finally:
        dist.destroy_process_group()


def check_divides(batch_size: int, size: int) -> None:
    """Refuse a batch that the processes cannot share evenly.

    Raises:
        UserError: if they cannot.
    """
    if batch_size % size:
        raise UserError(f"batch_size={batch_size}: give a multiple of the {size} processes that share each batch")
