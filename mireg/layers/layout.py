"""Where a layer's output has its samples and its channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where a layer's output has its samples and its channels.

    Attributes:
        batch: dimension of the samples.
        channels: dimension of the channels; the others are positions in a map or a sequence.
        overwritten: whether the network goes on to change the output in place, so that a tap must copy it.
    """

    batch: int = 0
    channels: int = 1
    overwritten: bool = False

    def arrange(self, tensor: Tensor) -> Tensor:
        """The tensor viewed as (samples, channels, positions ...)."""
        if tensor.ndim < 3 or (self.batch, self.channels) == (0, 1):
            return tensor
        return tensor.movedim((self.batch, self.channels), (0, 1))
