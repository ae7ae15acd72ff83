"""The batch and channel dimensions of a layer's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The batch and channel dimensions of a tensor.

    Attributes:
        batch: dimension of the samples.
        channels: dimension of the channels; the others are positions in a map or a sequence.
        outer: size of what is merged with the samples in their dimension as a slower index, such as several views.
        inner: size of what is merged with them as a faster index, such as the variables of a time series.
        averaged: whether the tensor is a mean over the calls of a module in a loop over time.
    """

    batch: int = 0
    channels: int = 1
    outer: int = 1
    inner: int = 1
    averaged: bool = False

    def arrange(self, tensor: Tensor, samples: int | None = None) -> Tensor:
        """View the tensor as (samples, channels, positions ...); what is merged with the samples is positions.

        Args:
            tensor: the network's tensor.
            samples: number of samples, by default as many as ``outer`` and ``inner`` leave.

        Raises:
            RuntimeError: if the rows are not a multiple of the samples.
        """
        rows = tensor.shape[self.batch]
        if samples is None:
            samples = rows // (self.outer * self.inner)
        if self.is_split:  # what is merged as the fastest index may vary in size, as the length of a sequence does
            fastest = [-1] if self.inner > 1 else []
            slowest = [self.outer if fastest else -1] if self.outer > 1 else []
            tensor = tensor.unflatten(self.batch, (*slowest, samples, *fastest))
        return tensor.movedim(self._dims, (0, 1)) if self._permutes(tensor) else tensor

    def restore(self, tensor: Tensor) -> Tensor:
        """Undo :meth:`arrange`."""
        if self._permutes(tensor):
            tensor = tensor.movedim((0, 1), self._dims)
        return tensor.flatten(self.batch, self.batch + self._merged) if self.is_split else tensor

    def views(self, tensor: Tensor) -> int:
        """How many views :meth:`arrange` takes one after the other to make such a tensor; 0 if it is the network's."""
        return self.is_split + self._permutes(tensor)

    @property
    def _merged(self) -> int:
        """Number of dimensions that merging the samples with others saved."""
        return (self.outer > 1) + (self.inner > 1)

    @property
    def _dims(self) -> tuple[int, int]:
        """The batch and channel dimensions after what was merged has been split."""
        return self.batch + (self.outer > 1), self.channels + self._merged * (self.channels > self.batch)

    def _permutes(self, tensor: Tensor) -> bool:
        return tensor.ndim >= 2 and self._dims != (0, 1)

    @property
    def is_split(self) -> bool:
        """Whether what is merged with the samples has to be split off."""
        return self._merged > 0


def arranged(layers: Mapping[str, tuple[Layout, Tensor]]) -> dict[str, Tensor]:
    """View the layers of one pass as (samples, channels, positions ...); a layer with other samples is left out.

    The number of samples is that of the first layer whose rows are samples.

    >>> import torch
    >>> pass_of_6 = {"image": (Layout(), torch.zeros(6, 3)), "views": (Layout(inner=2), torch.zeros(18, 5))}
    >>> {name: tuple(layer.shape) for name, layer in arranged(pass_of_6).items()}  # here with 3 views
    {'image': (6, 3), 'views': (6, 5, 3)}
    """
    plain = [tensor.shape[layout.batch] for layout, tensor in layers.values() if not layout.is_split]
    samples = plain[0] if plain else None
    return {
        name: layout.arrange(tensor, samples)
        for name, (layout, tensor) in layers.items()
        if tensor.shape[layout.batch] % ((samples or 1) * layout.outer) == 0
    }
