"""Where a layer's output has its samples and its channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where a tensor has its samples and its channels.

    Attributes:
        batch: dimension of the samples.
        channels: dimension of the channels; the others are positions in a map or a sequence.
    """

    batch: int = 0
    channels: int = 1

    def arrange(self, tensor: Tensor) -> Tensor:
        """The tensor viewed as (samples, channels, positions ...)."""
        return tensor.movedim((self.batch, self.channels), (0, 1)) if self.moves(tensor) else tensor

    def restore(self, tensor: Tensor) -> Tensor:
        """The reverse of :meth:`arrange`."""
        return tensor.movedim((0, 1), (self.batch, self.channels)) if self.moves(tensor) else tensor

    def moves(self, tensor: Tensor) -> bool:
        """Whether a tensor, as the network or the estimate has it, has these dimensions elsewhere."""
        return tensor.ndim >= 3 and (self.batch, self.channels) != (0, 1)


@dataclass(frozen=True)
class BatchPlace:
    """Tells which dimension of a tensor is the batch.

    Attributes:
        size: of the batch; None where nothing tells it.
        is_second: whether some module has the batch second, after the positions of a sequence.
    """

    size: int | None
    is_second: bool

    @classmethod
    def agreed(cls, layers: Iterable[Sequence[Tensor]], sizes: Sequence[int], *, is_second: bool) -> BatchPlace:
        """The place that most layers have.

        Args:
            layers: the tensors of each; one with the batch in it is enough.
            sizes: that the batch may have, the likeliest first.
            is_second: as in the attribute.
        """
        layers = list(layers)
        places = [cls(size, is_second) for size in sizes]
        return max(
            places,
            key=lambda place: sum(any(place.of(tensor) is not None for tensor in layer) for layer in layers),
            default=cls(None, is_second),
        )

    def of(self, tensor: Tensor) -> int | None:
        """The dimension of the batch, one of the first two; None if neither is."""
        order = (1, 0) if self.is_second and tensor.ndim == 3 else (0, 1) if tensor.ndim >= 3 else (0,)
        return next((dim for dim in order if dim < tensor.ndim and tensor.shape[dim] == self.size), None)
