"""The batch and channel dimensions of a layer's output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The batch and channel dimensions of a tensor.

    Attributes:
        batch: dimension of the samples.
        channels: dimension of the channels; the others are positions in a map or a sequence.
    """

    batch: int = 0
    channels: int = 1

    def arrange(self, tensor: Tensor) -> Tensor:
        """View the tensor as (samples, channels, positions ...)."""
        return tensor.movedim((self.batch, self.channels), (0, 1)) if self.moves(tensor) else tensor

    def restore(self, tensor: Tensor) -> Tensor:
        """Undo :meth:`arrange`."""
        return tensor.movedim((0, 1), (self.batch, self.channels)) if self.moves(tensor) else tensor

    def moves(self, tensor: Tensor) -> bool:
        """Whether :meth:`arrange` and :meth:`restore` move any dimension of the tensor."""
        return tensor.ndim >= 3 and (self.batch, self.channels) != (0, 1)


@dataclass(frozen=True)
class BatchPlace:
    """Finds the batch dimension of a tensor.

    Attributes:
        size: the batch size; None if unknown.
        is_second: whether some module has the batch second, after the positions of a sequence.
    """

    size: int | None
    is_second: bool

    @classmethod
    def agreed(cls, layers: Iterable[Sequence[Tensor]], sizes: Sequence[int], *, is_second: bool) -> BatchPlace:
        """Choose the batch size that fits the most layers.

        Args:
            layers: the tensors of each layer; one tensor with this batch size is enough.
            sizes: candidate batch sizes, the likeliest first.
            is_second: see the attribute.
        """
        layers = list(layers)
        places = [cls(size, is_second) for size in sizes]
        return max(
            places,
            key=lambda place: sum(any(place.of(tensor) is not None for tensor in layer) for layer in layers),
            default=cls(None, is_second),
        )

    def of(self, tensor: Tensor) -> int | None:
        """The batch dimension, one of the first two; None if neither fits."""
        order = (1, 0) if self.is_second and tensor.ndim == 3 else (0, 1) if tensor.ndim >= 3 else (0,)
        return next((dim for dim in order if dim < tensor.ndim and tensor.shape[dim] == self.size), None)
